//! Trie nodes into double-array slots.

use super::automaton::{List, NO_BASE, Node};
use super::trie::Trie;

/// After this many failed places the slots before are given up.
const TRIES: usize = 32;

/// Places every node of `trie`; gives the slots and the slot of each trie node (0 for the root).
pub(super) fn place(trie: &Trie, codes: usize, lists: &[List]) -> (Vec<Node>, Vec<u32>) {
    let mut placer = Placer::new(codes);
    let mut places = vec![0u32; trie.len()];
    let mut bases = vec![NO_BASE; trie.len()];
    // The root needs no base: the state after one character is looked up by its code.
    for child in trie.children(0) {
        places[child] = placer.take_any();
    }
    let mut order: Vec<u32> = (1..trie.len() as u32).filter(|n| !trie.children(*n as usize).is_empty()).collect();
    // The widest first, while there is room; nodes with one child fit anywhere.
    order.sort_by_key(|n| std::cmp::Reverse(trie.children(*n as usize).len()));
    let mut child_codes = Vec::new();
    for node in order {
        child_codes.clear();
        child_codes.extend(trie.children(node as usize).map(|c| u32::from(trie.code(c))));
        let base = placer.find_base(&child_codes);
        bases[node as usize] = base;
        for child in trie.children(node as usize) {
            places[child] = base ^ u32::from(trie.code(child));
        }
    }
    (fill(trie, lists, &places, &bases, placer.len()), places)
}

fn fill(trie: &Trie, lists: &[List], places: &[u32], bases: &[u32], slots: usize) -> Vec<Node> {
    let empty = Node { base: NO_BASE, check: NO_BASE, fail: 0, matches: List::UNKNOWN };
    let mut nodes = vec![empty; slots];
    // A parent stands before its children, and a suffix before what it is a suffix of.
    let mut alive = vec![0u32; trie.len()];
    for node in 1..trie.len() {
        let fail = trie.fail(node);
        let inner_fail = alive[fail];
        alive[node] = if bases[node] == NO_BASE { inner_fail } else { node as u32 };
        let acts_as = alive[node] as usize;
        let fail_of = alive[trie.fail(acts_as)] as usize;
        let slot = &mut nodes[places[node] as usize];
        slot.base = bases[acts_as];
        slot.fail = if acts_as == 0 { 0 } else { places[fail_of] };
        slot.matches = lists[node];
    }
    for node in 1..trie.len() {
        for child in trie.children(node) {
            nodes[places[child] as usize].check = bases[node];
        }
    }
    nodes
}

/// Which slots and bases are taken. Slot 0 is the root's.
struct Placer {
    /// Slots come in blocks of a power of two that holds every code, so that `base ^ code` stays
    /// inside the array for any code.
    block: usize,
    taken: Vec<bool>,
    used_bases: Vec<bool>,
    /// No slot below it is free.
    first_free: usize,
    /// Where nodes with several children start to look.
    from: usize,
}

impl Placer {
    fn new(codes: usize) -> Self {
        let block = codes.next_power_of_two().max(256);
        let mut placer = Self { block, taken: Vec::new(), used_bases: Vec::new(), first_free: 0, from: 0 };
        placer.grow();
        placer.taken[0] = true;
        placer
    }

    fn len(&self) -> usize {
        self.taken.len()
    }

    fn grow(&mut self) {
        let len = self.len() + self.block;
        self.taken.resize(len, false);
        self.used_bases.resize(len, false);
    }

    fn take_any(&mut self) -> u32 {
        let slot = self.next_free(self.first_free);
        self.first_free = slot;
        self.taken[slot] = true;
        slot as u32
    }

    fn next_free(&mut self, from: usize) -> usize {
        while from >= self.len() {
            self.grow();
        }
        let mut slot = from;
        while self.taken[slot] {
            slot += 1;
            if slot == self.len() {
                self.grow();
            }
        }
        slot
    }

    /// A base no other state has, with a free slot for each code; takes them.
    fn find_base(&mut self, codes: &[u32]) -> u32 {
        let single = codes.len() == 1;
        let start = if single { self.first_free } else { self.from };
        let mut slot = self.next_free(start);
        let mut tries = 0;
        while !self.fits(slot as u32 ^ codes[0], codes) {
            slot = self.next_free(slot + 1);
            tries += 1;
        }
        // Where a place was hard to find, later nodes (none is wider) do not look again; nodes
        // with one child fill the holes.
        match single {
            true if tries == 0 || tries > TRIES => self.first_free = slot,
            false if tries > TRIES => self.from = slot,
            _ => {}
        }
        let base = slot as u32 ^ codes[0];
        codes.iter().for_each(|c| self.taken[(base ^ c) as usize] = true);
        self.used_bases[base as usize] = true;
        base
    }

    fn fits(&self, base: u32, codes: &[u32]) -> bool {
        !self.used_bases[base as usize] && codes.iter().all(|c| !self.taken[(base ^ c) as usize])
    }
}
