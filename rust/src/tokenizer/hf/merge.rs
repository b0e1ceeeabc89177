//! Merging as `tokenizers` does it: of all pairs in the list the first, and of its places the
//! leftmost, until no pair of the list is left.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What a pair becomes, and its place in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Merge {
    pub(super) rank: u32,
    pub(super) id: u32,
}

/// Pairs to merges, by open addressing.
pub(super) struct Merges {
    slots: Vec<(u64, Merge)>,
    shift: u32,
}

/// No pair: ids stay far below.
const EMPTY: u64 = u64::MAX;

#[inline]
fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl Merges {
    /// Of two rules for one pair the later one counts.
    pub(super) fn new(rules: impl ExactSizeIterator<Item = (u32, u32, u32)>) -> Self {
        let slots = (rules.len() * 2).next_power_of_two().max(16);
        let none = (EMPTY, Merge { rank: 0, id: 0 });
        let mut table = Self { slots: vec![none; slots], shift: 64 - slots.trailing_zeros() };
        for (rank, (left, right, id)) in rules.enumerate() {
            let at = table.slot(key(left, right));
            table.slots[at] = (key(left, right), Merge { rank: rank as u32, id });
        }
        table
    }

    /// Where the pair is, or would be.
    #[inline]
    fn slot(&self, key: u64) -> usize {
        let mut at = ((key ^ key >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize;
        while self.slots[at].0 != key && self.slots[at].0 != EMPTY {
            at = (at + 1) & (self.slots.len() - 1);
        }
        at
    }

    #[inline]
    pub(super) fn get(&self, left: u32, right: u32) -> Option<Merge> {
        let (found, merge) = self.slots[self.slot(key(left, right))];
        (found != EMPTY).then_some(merge)
    }
}

/// A symbol of the word, in a chain with its neighbours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) id: u32,
    /// Bytes; 0 once it is merged into its left neighbour.
    pub(super) length: u32,
    prev: u32,
    next: u32,
    /// The merge with the next link; rank `NONE` without one.
    merge: Merge,
}

const NONE: u32 = u32::MAX;
const NO_MERGE: Merge = Merge { rank: NONE, id: 0 };
/// Up to this many symbols the best pair is found by looking at all of them.
const SCAN: usize = 32;

#[derive(Default)]
pub(super) struct Chain {
    links: Vec<Link>,
    /// Pairs that wait, by rank, then place.
    agenda: BinaryHeap<Reverse<(u32, u32)>>,
    /// The last merge that was done: the ids and the rank.
    pub(super) last: Option<(u32, u32, u32)>,
    /// Whether the ranks of the merges done so far never fell.
    pub(super) rising: bool,
}

impl Chain {
    pub(super) fn clear(&mut self) {
        self.links.clear();
    }

    pub(super) fn push(&mut self, id: u32, length: usize) {
        let at = self.links.len() as u32;
        if let Some(last) = self.links.last_mut() {
            last.next = at;
        }
        let prev = at.checked_sub(1).unwrap_or(NONE);
        self.links.push(Link { id, length: length as u32, prev, next: NONE, merge: NO_MERGE });
    }

    /// What is left of the chain, first to last.
    pub(super) fn symbols(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(|link| link.length != 0)
    }

    /// Merges until nothing merges.
    pub(super) fn run(&mut self, merges: &Merges) {
        (self.last, self.rising) = (None, true);
        for left in 0..self.links.len() as u32 {
            self.meet(merges, left);
        }
        if self.links.len() <= SCAN { self.scan(merges) } else { self.drain(merges) }
    }

    #[inline]
    fn meet(&mut self, merges: &Merges, left: u32) {
        let Link { id, next, .. } = self.links[left as usize];
        let merge = if next == NONE { None } else { merges.get(id, self.links[next as usize].id) };
        self.links[left as usize].merge = merge.unwrap_or(NO_MERGE);
    }

    /// Replaces `left` and its neighbour by their merge.
    #[inline]
    fn join(&mut self, merges: &Merges, left: u32) {
        let link = self.links[left as usize];
        let gone = self.links[link.next as usize];
        self.rising &= self.last.is_none_or(|(_, _, rank)| rank <= link.merge.rank);
        self.last = Some((link.id, gone.id, link.merge.rank));
        let slot = &mut self.links[link.next as usize];
        (slot.length, slot.merge) = (0, NO_MERGE);
        let slot = &mut self.links[left as usize];
        (slot.id, slot.length, slot.next) = (link.merge.id, link.length + gone.length, gone.next);
        if gone.next != NONE {
            self.links[gone.next as usize].prev = left;
        }
        if link.prev != NONE {
            self.meet(merges, link.prev);
        }
        self.meet(merges, left);
    }

    fn scan(&mut self, merges: &Merges) {
        loop {
            let (mut rank, mut best) = (NONE, 0);
            for (at, link) in self.links.iter().enumerate() {
                if link.merge.rank < rank {
                    (rank, best) = (link.merge.rank, at as u32);
                }
            }
            if rank == NONE {
                return;
            }
            self.join(merges, best);
        }
    }

    fn drain(&mut self, merges: &Merges) {
        self.agenda.clear();
        for left in 0..self.links.len() as u32 {
            self.wait(left);
        }
        while let Some(Reverse((rank, left))) = self.agenda.pop() {
            // What waits under another rank than the pair has now is out of date.
            if self.links[left as usize].merge.rank != rank {
                continue;
            }
            self.join(merges, left);
            let prev = self.links[left as usize].prev;
            if prev != NONE {
                self.wait(prev);
            }
            self.wait(left);
        }
    }

    fn wait(&mut self, left: u32) {
        let rank = self.links[left as usize].merge.rank;
        if rank != NONE {
            self.agenda.push(Reverse((rank, left)));
        }
    }
}
