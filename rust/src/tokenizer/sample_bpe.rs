//! BPE dropout: merging in which each merge may be left out.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::bpe::{Bpe, FROZEN, Symbol};
use super::sample::Random;
use super::unigram::Step;
use super::vocab::Vocab;

const NONE: usize = usize::MAX;

pub(super) struct Dropout<'m> {
    model: &'m Bpe,
    links: Vec<Link>,
    /// Pairs that wait: rank, place, and the lengths by which to tell whether they are still there.
    agenda: BinaryHeap<Reverse<(u32, usize, usize, usize)>>,
}

struct Link {
    symbol: Symbol,
    /// What comes out where the symbol is no piece.
    step: Step,
    /// Characters; 0 once it is merged into its left neighbour.
    length: usize,
    prev: usize,
    next: usize,
}

impl<'m> Dropout<'m> {
    pub(super) fn new(model: &'m Bpe, vocab: &Vocab, text: &str) -> Self {
        let mut dropout = Self { model, links: Vec::new(), agenda: BinaryHeap::new() };
        let mut at = 0;
        while let Some(character) = text[at..].chars().next() {
            let fixed = model.symbols.longest(&text.as_bytes()[at..]).map(|length| &text[at..at + length]);
            let (symbol, step) = match fixed.and_then(|symbol| vocab.id(symbol)) {
                Some(id) => (FROZEN, Step::Known { id }),
                None => (model.character(character), Step::Unknown(character)),
            };
            at += fixed.map_or(character.len_utf8(), str::len);
            let number = dropout.links.len();
            let prev = number.checked_sub(1).unwrap_or(NONE);
            if let Some(last) = dropout.links.last_mut() {
                last.next = number;
            }
            dropout.links.push(Link { symbol, step, length: 1, prev, next: NONE });
        }
        dropout
    }

    /// Steps, last first.
    pub(super) fn run(mut self, alpha: f64, random: &mut Random) -> Vec<Step> {
        for left in 0..self.links.len() {
            self.wait(left);
        }
        while let Some(Reverse((_, left, length, right_length))) = self.agenda.pop() {
            let right = self.links[left].next;
            if self.links[left].length != length || right == NONE || self.links[right].length != right_length {
                continue;
            }
            if random.uniform() < alpha {
                continue;
            }
            self.join(left, right);
            let prev = self.links[left].prev;
            if prev != NONE {
                self.wait(prev);
            }
            self.wait(left);
        }
        let left = self.links.iter().rev().filter(|link| link.length > 0);
        left.map(|link| self.model.piece(link.symbol).map_or(link.step, |id| Step::Known { id })).collect()
    }

    fn wait(&mut self, left: usize) {
        let (link, right) = (&self.links[left], self.links[left].next);
        if right == NONE {
            return;
        }
        if let Some(merge) = self.model.merge(link.symbol, self.links[right].symbol) {
            self.agenda.push(Reverse((merge.rank, left, link.length, self.links[right].length)));
        }
    }

    fn join(&mut self, left: usize, right: usize) {
        let Some(merge) = self.model.merge(self.links[left].symbol, self.links[right].symbol) else { return };
        let (length, next) = (self.links[right].length, self.links[right].next);
        self.links[right].length = 0;
        let link = &mut self.links[left];
        link.symbol = merge.id;
        link.length += length;
        link.next = next;
        if next != NONE {
            self.links[next].prev = left;
        }
    }
}
