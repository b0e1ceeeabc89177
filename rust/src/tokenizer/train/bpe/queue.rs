//! The pairs by count: a binary heap whose order needs the strings of the pairs.

use super::inventory::Inventory;

/// A pair of neighbours.
pub(super) struct Candidate {
    pub(super) left: u32,
    pub(super) right: u32,
    /// At least the number of occurrences; never too low.
    pub(super) count: u64,
    /// Where the left one starts, rising. Some of them may be stale.
    pub(super) places: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Entry {
    count: u64,
    /// The beginning of the string, which decides nearly always.
    head: u64,
    /// In characters.
    length: u32,
    /// In `pairs`.
    index: u32,
}

#[derive(Default)]
pub(super) struct Queue {
    heap: Vec<Entry>,
    pairs: Vec<Candidate>,
    free: Vec<u32>,
}

impl Queue {
    pub(super) fn push(&mut self, pair: Candidate, inventory: &Inventory) {
        let length = inventory.length(pair.left) + inventory.length(pair.right);
        let (count, head) = (pair.count, inventory.head(pair.left, pair.right));
        let index = if let Some(index) = self.free.pop() {
            self.pairs[index as usize] = pair;
            index
        } else {
            self.pairs.push(pair);
            self.pairs.len() as u32 - 1
        };
        self.heap.push(Entry { count, head, length: length as u32, index });
        self.rise(self.heap.len() - 1, inventory);
    }

    /// The pair with the highest count and that count; then the shorter, then the smaller string.
    pub(super) fn pop(&mut self, inventory: &Inventory) -> Option<(Candidate, u64)> {
        let last = self.heap.len().checked_sub(1)?;
        self.heap.swap(0, last);
        let top = self.heap.pop()?;
        self.sink(inventory);
        self.free.push(top.index);
        let gone = Candidate { left: 0, right: 0, count: 0, places: Vec::new() };
        Some((std::mem::replace(&mut self.pairs[top.index as usize], gone), top.count))
    }

    /// Two ways to the same string with the same count have no order in the reference; here the
    /// pair whose left half is older comes first.
    fn comes_before(&self, a: Entry, b: Entry, inventory: &Inventory) -> bool {
        let halves = |entry: Entry| {
            let pair = &self.pairs[entry.index as usize];
            (pair.left, pair.right)
        };
        let known = (b.count, a.length, a.head).cmp(&(a.count, b.length, b.head));
        known.then_with(|| inventory.compare(halves(a), halves(b)).then(halves(a).cmp(&halves(b)))).is_lt()
    }

    fn rise(&mut self, mut at: usize, inventory: &Inventory) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if !self.comes_before(self.heap[at], self.heap[parent], inventory) {
                break;
            }
            self.heap.swap(at, parent);
            at = parent;
        }
    }

    fn sink(&mut self, inventory: &Inventory) {
        let mut at = 0;
        loop {
            let mut first = at;
            for child in [2 * at + 1, 2 * at + 2] {
                if child < self.heap.len() && self.comes_before(self.heap[child], self.heap[first], inventory) {
                    first = child;
                }
            }
            if first == at {
                break;
            }
            self.heap.swap(at, first);
            at = first;
        }
    }
}
