//! Merging the symbols of one text, with buffers that one thread owns.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::bpe::{Bpe, FROZEN, Symbol};
use super::unigram::Step;
use crate::interrupt::Interrupt;

/// Up to this many symbols the best pair is found by looking at all of them.
const SCAN: usize = 24;
/// Bytes between two questions whether to stop.
const PATIENCE: usize = 1 << 15;
/// As deep as the reference takes unused pieces apart.
const MAX_DEPTH: usize = 100;
const NONE: u32 = u32::MAX;

/// A link of the chain of symbols.
#[derive(Debug, Clone, Copy)]
struct Link {
    symbol: Symbol,
    prev: u32,
    next: u32,
    /// Characters; 0 once it is merged into its left neighbour.
    length: u32,
    /// The first character: what comes out where the symbol is no piece.
    character: char,
    /// The id of a user-defined symbol, which takes no part in merging.
    fixed: u32,
    /// Rank of the merge with the next link, `NONE` without one, and what it gives.
    rank: u32,
    merged: Symbol,
}

/// A pair that waits: by rank, then place; the lengths tell whether it is still what it was.
type Waiting = Reverse<(u32, u32, u32, u32)>;

#[derive(Default)]
pub(super) struct Merger {
    links: Vec<Link>,
    agenda: BinaryHeap<Waiting>,
    /// How unused pieces came about, the latest way of each.
    parts: HashMap<u32, (Part, Part)>,
    pub(super) steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    symbol: Symbol,
    character: char,
}

impl Merger {
    /// Cuts normalised text; the pieces are in `steps`, first to last. An interruption leaves some out.
    pub(super) fn run(&mut self, model: &Bpe, vocab: &super::vocab::Vocab, text: &str, interrupt: Interrupt<'_>) {
        self.steps.clear();
        self.links.clear();
        self.parts.clear();
        let (mut at, mut ask) = (0, PATIENCE);
        let mut before = None;
        while let Some(character) = text[at..].chars().next() {
            let fixed = model.symbols.longest(&text.as_bytes()[at..]).map(|length| &text[at..at + length]);
            let joins = fixed.is_none() && before.is_some_and(|before| model.may_join(before, character));
            if !joins && !model.has_unused {
                self.flush(model);
                if at > ask {
                    ask = at + PATIENCE;
                    if interrupt.check().is_err() {
                        return;
                    }
                }
            }
            self.push(model, character, fixed.and_then(|symbol| vocab.id(symbol)));
            at += fixed.map_or(character.len_utf8(), str::len);
            before = fixed.is_none().then_some(character);
        }
        self.flush(model);
    }

    fn push(&mut self, model: &Bpe, character: char, fixed: Option<u32>) {
        let at = self.links.len() as u32;
        if let Some(last) = self.links.last_mut() {
            last.next = at;
        }
        let symbol = if fixed.is_some() { FROZEN } else { model.character(character) };
        let prev = if at == 0 { NONE } else { at - 1 };
        let fixed = fixed.unwrap_or(NONE);
        self.links.push(Link { symbol, prev, next: NONE, length: 1, character, fixed, rank: NONE, merged: 0 });
    }

    /// Merges what stands in the chain, gives its pieces out and empties it.
    fn flush(&mut self, model: &Bpe) {
        if self.links.len() > 1 {
            for left in 0..self.links.len() - 1 {
                self.meet(model, left as u32);
            }
            if self.links.len() <= SCAN && !model.has_unused { self.scan(model) } else { self.drain(model) }
        }
        let mut at = if self.links.is_empty() { NONE } else { 0 };
        while at != NONE {
            let link = self.links[at as usize];
            if link.fixed == NONE {
                self.give(model, Part { symbol: link.symbol, character: link.character }, 0);
            } else {
                self.steps.push(Step::Known { id: link.fixed });
            }
            at = link.next;
        }
        self.links.clear();
    }

    /// Looks the pair of `left` and its neighbour up.
    #[inline]
    fn meet(&mut self, model: &Bpe, left: u32) {
        let link = self.links[left as usize];
        let found =
            if link.next == NONE { None } else { model.merge(link.symbol, self.links[link.next as usize].symbol) };
        let slot = &mut self.links[left as usize];
        match found {
            Some(merge) => (slot.rank, slot.merged) = (merge.rank, merge.id),
            None => slot.rank = NONE,
        }
        if let Some(merge) = found.filter(|m| model.has_unused && model.is_unused(m.id)) {
            let part = |link: &Link| Part { symbol: link.symbol, character: link.character };
            let parts = (part(&link), part(&self.links[link.next as usize]));
            self.parts.insert(merge.id, parts);
        }
    }

    /// Replaces `left` and its neighbour by their merge.
    #[inline]
    fn join(&mut self, left: u32) {
        let right = self.links[left as usize].next;
        let gone = self.links[right as usize];
        self.links[right as usize].length = 0;
        self.links[right as usize].rank = NONE;
        let link = &mut self.links[left as usize];
        link.symbol = link.merged;
        link.length += gone.length;
        link.next = gone.next;
        if gone.next != NONE {
            self.links[gone.next as usize].prev = left;
        }
    }

    fn scan(&mut self, model: &Bpe) {
        loop {
            let mut best = (NONE, 0);
            for (at, link) in self.links.iter().enumerate() {
                if link.rank < best.0 {
                    best = (link.rank, at as u32);
                }
            }
            if best.0 == NONE {
                return;
            }
            self.join(best.1);
            self.meet_both(model, best.1);
        }
    }

    fn meet_both(&mut self, model: &Bpe, left: u32) {
        let prev = self.links[left as usize].prev;
        if prev != NONE {
            self.meet(model, prev);
        }
        self.meet(model, left);
    }

    fn drain(&mut self, model: &Bpe) {
        self.agenda.clear();
        for left in 0..self.links.len() as u32 {
            self.wait(left);
        }
        while let Some(Reverse((_, left, left_length, right_length))) = self.agenda.pop() {
            let link = self.links[left as usize];
            let current = link.length == left_length
                && link.next != NONE
                && self.links[link.next as usize].length == right_length;
            if !current {
                continue;
            }
            self.join(left);
            self.meet_both(model, left);
            let prev = self.links[left as usize].prev;
            if prev != NONE {
                self.wait(prev);
            }
            self.wait(left);
        }
    }

    fn wait(&mut self, left: u32) {
        let link = self.links[left as usize];
        if link.rank != NONE {
            let right = self.links[link.next as usize].length;
            self.agenda.push(Reverse((link.rank, left, link.length, right)));
        }
    }

    /// Gives a symbol out: a piece, the parts of an unused piece, or an unknown character.
    fn give(&mut self, model: &Bpe, part: Part, depth: usize) {
        match model.piece(part.symbol) {
            None => self.steps.push(Step::Unknown(part.character)),
            Some(id) if depth > MAX_DEPTH || !model.is_unused(id) => self.steps.push(Step::Known { id }),
            Some(id) => match self.parts.get(&id).copied() {
                Some((left, right)) => {
                    self.give(model, left, depth + 1);
                    self.give(model, right, depth + 1);
                }
                None => self.steps.push(Step::Unknown(part.character)),
            },
        }
    }
}
