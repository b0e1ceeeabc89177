//! The pieces as a trie over character codes, with the longest proper suffix of every node.

/// Nodes in order of depth; the children of a node stand side by side, by rising code.
pub(super) struct Trie {
    nodes: Vec<TrieNode>,
}

struct TrieNode {
    code: u16,
    depth: u16,
    first_child: u32,
    children: u32,
    /// The node of the longest proper suffix that is in the trie; 0 is the empty one.
    fail: u32,
    /// The entry that ends here, or `NONE`.
    entry: u32,
}

const NONE: u32 = u32::MAX;

impl Trie {
    /// `entries`: different, not empty sequences of codes.
    pub(super) fn new(entries: Vec<Box<[u16]>>) -> Self {
        let order = sorted(&entries);
        let mut trie = Self { nodes: vec![TrieNode::new(0, 0)] };
        let mut ranges = vec![(0usize, entries.len())];
        let mut node = 0;
        while node < trie.nodes.len() {
            trie.expand(node, &entries, &order, &mut ranges);
            node += 1;
        }
        trie.link();
        trie
    }

    /// Adds the children of `node`; `ranges` holds for each node the entries that start with it.
    fn expand(&mut self, node: usize, entries: &[Box<[u16]>], order: &[u32], ranges: &mut Vec<(usize, usize)>) {
        let (mut low, high) = ranges[node];
        let depth = self.depth(node);
        // A sequence sorts before its extensions, so only the first of the range can end here.
        if low < high && entries[order[low] as usize].len() == depth {
            self.nodes[node].entry = order[low];
            low += 1;
        }
        self.nodes[node].first_child = self.nodes.len() as u32;
        while low < high {
            let code = entries[order[low] as usize][depth];
            let same = order[low..high].partition_point(|e| entries[*e as usize][depth] <= code);
            self.nodes.push(TrieNode::new(code, depth as u16 + 1));
            ranges.push((low, low + same));
            self.nodes[node].children += 1;
            low += same;
        }
    }

    fn link(&mut self) {
        for node in 0..self.nodes.len() {
            for child in self.children(node) {
                self.nodes[child].fail = self.suffix_of_child(node, self.code(child));
            }
        }
    }

    fn suffix_of_child(&self, parent: usize, code: u16) -> u32 {
        let mut at = parent;
        while at != 0 {
            at = self.fail(at);
            if let Some(child) = self.child(at, code) {
                return child as u32;
            }
        }
        0
    }

    fn child(&self, node: usize, code: u16) -> Option<usize> {
        let range = self.children(node);
        let start = range.start;
        self.nodes[range].binary_search_by_key(&code, |n| n.code).ok().map(|i| start + i)
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn children(&self, node: usize) -> std::ops::Range<usize> {
        let node = &self.nodes[node];
        node.first_child as usize..(node.first_child + node.children) as usize
    }

    pub(super) fn code(&self, node: usize) -> u16 {
        self.nodes[node].code
    }

    pub(super) fn depth(&self, node: usize) -> usize {
        usize::from(self.nodes[node].depth)
    }

    pub(super) fn fail(&self, node: usize) -> usize {
        self.nodes[node].fail as usize
    }

    pub(super) fn entry(&self, node: usize) -> Option<usize> {
        let entry = self.nodes[node].entry;
        (entry != NONE).then_some(entry as usize)
    }
}

impl TrieNode {
    fn new(code: u16, depth: u16) -> Self {
        Self { code, depth, first_child: 0, children: 0, fail: 0, entry: NONE }
    }
}

/// The entries by their codes. The first four decide nearly always and are compared as one number
/// (codes start at 1, so a shorter sequence comes first).
fn sorted(entries: &[Box<[u16]>]) -> Vec<u32> {
    let head = |codes: &[u16]| (0..4).fold(0, |key, at| key << 16 | u64::from(codes.get(at).copied().unwrap_or(0)));
    let mut order: Vec<(u64, u32)> = entries.iter().enumerate().map(|(i, e)| (head(e), i as u32)).collect();
    order.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| entries[a.1 as usize].cmp(&entries[b.1 as usize])));
    order.into_iter().map(|(_, entry)| entry).collect()
}
