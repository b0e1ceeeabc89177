//! Trie nodes into double-array slots.

use super::automaton::{List, Node, ROOT};
use super::trie::Trie;

/// After this many failed places the slots before are given up.
const TRIES: usize = 32;

/// No state has this base.
const NO_BASE: u32 = u32::MAX;

/// Places every node of `trie`; gives the slots, and for each base that of the longest proper
/// suffix with children.
pub(super) fn place(trie: &Trie, codes: usize, lists: &[List]) -> (Vec<Node>, Vec<u32>) {
    let mut placer = Placer::new(codes);
    let mut bases = vec![NO_BASE; trie.len()];
    bases[0] = ROOT;
    let mut order: Vec<u32> = (1..trie.len() as u32).filter(|n| !trie.children(*n as usize).is_empty()).collect();
    // The widest first, while there is room; nodes with one child fit anywhere.
    order.sort_by_key(|n| std::cmp::Reverse(trie.children(*n as usize).len()));
    let mut child_codes = Vec::new();
    for node in order {
        child_codes.clear();
        child_codes.extend(trie.children(node as usize).map(|c| u32::from(trie.code(c))));
        bases[node as usize] = placer.find_base(&child_codes);
    }
    fill(trie, lists, &bases, codes, placer.len())
}

fn fill(trie: &Trie, lists: &[List], bases: &[u32], codes: usize, slots: usize) -> (Vec<Node>, Vec<u32>) {
    let (mut nodes, mut fails) = (vec![Node::EMPTY; slots], vec![ROOT; slots]);
    for code in 0..codes {
        nodes[code] = Node::new(ROOT, code as u16, List::UNKNOWN);
    }
    // The node whose base each node has: itself, or its longest suffix with children. A suffix
    // stands before what it is a suffix of.
    let mut acts_as = vec![0u32; trie.len()];
    for node in 1..trie.len() {
        acts_as[node] = if bases[node] == NO_BASE { acts_as[trie.fail(node)] } else { node as u32 };
    }
    let base_of = |node: usize| bases[acts_as[node] as usize];
    for node in 0..trie.len() {
        for child in trie.children(node) {
            let label = trie.code(child);
            nodes[(bases[node] ^ u32::from(label)) as usize] = Node::new(base_of(child), label, lists[child]);
        }
        if bases[node] != NO_BASE {
            fails[bases[node] as usize] = base_of(trie.fail(node));
        }
    }
    (nodes, fails)
}

/// Which slots and bases are taken. The root's children have the slots of their codes.
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
        placer.taken[..codes].fill(true);
        placer.used_bases[ROOT as usize] = true;
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
