//! The longest token that bytes begin with, by a double array over bytes.

/// A child by `byte` of a node with base `b` lies at `b ^ byte` and carries `check == b`: bases are
/// unique.
#[derive(Debug, Clone, Copy)]
struct Node {
    base: u32,
    check: u32,
    /// The token that ends here, or `NONE`.
    token: u32,
}

const NONE: u32 = u32::MAX;
const FREE: Node = Node { base: NONE, check: NONE, token: NONE };
/// Bases are looked for among this many free slots before the array grows.
const TRIES: usize = 64;

pub(super) struct Trie {
    nodes: Vec<Node>,
    root: u32,
}

impl Default for Trie {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl Trie {
    /// `entries`: sorted, different, not empty.
    pub(super) fn new(entries: &[(&[u8], u32)]) -> Self {
        let mut builder = Builder { nodes: Vec::new(), is_base: Vec::new(), open: Vec::new() };
        let root = builder.add(entries, 0);
        Self { nodes: builder.nodes, root: root.unwrap_or(NONE) }
    }

    #[inline]
    pub(super) fn longest(&self, bytes: &[u8]) -> Option<u32> {
        let (mut base, mut found) = (self.root, NONE);
        for byte in bytes {
            let Some(node) = self.nodes.get((base ^ u32::from(*byte)) as usize) else { break };
            if node.check != base {
                break;
            }
            if node.token != NONE {
                found = node.token;
            }
            base = node.base;
        }
        (found != NONE).then_some(found)
    }
}

struct Builder {
    nodes: Vec<Node>,
    is_base: Vec<bool>,
    /// Free slots, the latest last.
    open: Vec<u32>,
}

impl Builder {
    /// The base of the node whose entries share their first `depth` bytes; without children none.
    /// Goes as deep as a token is long, by a list of its own.
    fn add(&mut self, entries: &[(&[u8], u32)], depth: usize) -> Option<u32> {
        let mut root = None;
        // The slot to write the base into, and the node's entries.
        let mut todo = vec![(None, entries, depth)];
        while let Some((slot, entries, depth)) = todo.pop() {
            let deeper = entries.partition_point(|(text, _)| text.len() <= depth);
            let groups: Vec<_> = entries[deeper..].chunk_by(|a, b| a.0[depth] == b.0[depth]).collect();
            let Some(first) = groups.first() else { continue };
            let labels: Vec<u8> = groups.iter().map(|group| group[0].0[depth]).collect();
            let base = self.base(first[0].0[depth], &labels);
            match slot {
                None => root = Some(base),
                Some(slot) => self.nodes[slot as usize].base = base,
            }
            for (group, label) in groups.into_iter().zip(labels) {
                let at = base ^ u32::from(label);
                let token = if group[0].0.len() == depth + 1 { group[0].1 } else { NONE };
                self.nodes[at as usize] = Node { base: NONE, check: base, token };
                todo.push((Some(at), group, depth + 1));
            }
        }
        root
    }

    fn base(&mut self, first: u8, labels: &[u8]) -> u32 {
        let is_free = |nodes: &[Node], at: u32| nodes[at as usize].check == NONE;
        // Only the slots that are looked at are kept clean; the others wait.
        let tail = self.open.split_off(self.open.len().saturating_sub(TRIES));
        self.open.extend(tail.into_iter().filter(|at| self.nodes[*at as usize].check == NONE));
        let fits = |at: &u32| {
            let base = at ^ u32::from(first);
            !self.is_base[base as usize] && labels.iter().all(|l| is_free(&self.nodes, base ^ u32::from(*l)))
        };
        let base = self.open.iter().rev().take(TRIES).find(|at| fits(at)).map(|at| at ^ u32::from(first));
        let base = base.unwrap_or_else(|| {
            let start = self.nodes.len() as u32;
            self.nodes.resize(self.nodes.len() + 256, FREE);
            self.is_base.resize(self.nodes.len(), false);
            self.open.extend(start..start + 256);
            start
        });
        self.is_base[base as usize] = true;
        base
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_of_many() {
        let mut entries: Vec<(Vec<u8>, u32)> = Vec::new();
        for a in 0..=255_u8 {
            for b in 0..40_u8 {
                entries.push((vec![a, b.wrapping_mul(97), a ^ b], u32::from(a) * 64 + u32::from(b)));
            }
        }
        entries.push((vec![7], 1_000_000));
        entries.sort();
        let borrowed: Vec<(&[u8], u32)> = entries.iter().map(|(text, id)| (text.as_slice(), *id)).collect();
        let trie = Trie::new(&borrowed);
        for (text, id) in &entries {
            assert_eq!(trie.longest(text), Some(*id));
            let longer: Vec<u8> = text.iter().copied().chain([255, 2]).collect();
            assert_eq!(trie.longest(&longer), Some(*id));
        }
        assert_eq!(trie.longest(&[7, 255]), Some(1_000_000));
        assert_eq!(trie.longest(&[8, 255]), None);
        assert_eq!(trie.longest(&[]), None);
        assert_eq!(Trie::default().longest(b"a"), None);
    }
}
