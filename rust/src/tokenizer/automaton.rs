//! All pieces that end at a character, in one step a character: an Aho-Corasick automaton over
//! characters in a double array.
//!
//! A state stands for the longest suffix of the text read so far that begins some piece. Its list
//! holds the pieces that end here, longest first, and the unknown piece where no piece of one
//! character does. States without children continue as their nearest suffix with children, so no
//! step looks for a child that cannot be there.

use super::trie::Trie;
use crate::error::{Error, Result};

/// Bits of `Packed`: length in characters, id, and the highest for the unknown piece.
const LENGTH_BITS: u32 = 8;
const ID_BITS: u32 = 22;
const UNKNOWN: u32 = 1 << 31;
pub(super) const MAX_LENGTH: usize = (1 << LENGTH_BITS) - 1;
const MAX_ID: usize = (1 << ID_BITS) - 1;

/// A piece that can end at some character.
#[derive(Debug, Clone, Copy)]
pub(super) struct Match<S> {
    pub(super) score: S,
    pub(super) packed: Packed,
}

/// Id and length of a match in four bytes: what the best path keeps for each character.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packed(u32);

impl Packed {
    pub(super) fn new(id: u32, length: usize) -> Self {
        Self(length as u32 | id << LENGTH_BITS)
    }

    /// The unknown piece: one character, no id.
    pub(super) const UNKNOWN: Self = Self(1 | UNKNOWN);

    /// In characters.
    #[inline(always)]
    pub(super) fn length(self) -> usize {
        (self.0 & MAX_LENGTH as u32) as usize
    }

    #[inline(always)]
    pub(super) fn id(self) -> u32 {
        self.0 >> LENGTH_BITS & MAX_ID as u32
    }

    #[inline(always)]
    pub(super) fn is_unknown(self) -> bool {
        self.0 & UNKNOWN != 0
    }
}

/// One slot of the double array. A child by `code` of a state with base `b` lies at `b ^ code`
/// and carries `check == b`: bases are unique, so the base is the state.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    pub(super) base: u32,
    pub(super) check: u32,
    /// The longest proper suffix that has children; 0 is the empty one.
    pub(super) fail: u32,
    /// Where the matches of this state stand.
    pub(super) matches: List,
}

/// A run of the automaton's matches: its start and, in the low byte, its length.
#[derive(Debug, Clone, Copy)]
pub(super) struct List(u32);

const MAX_MATCHES: usize = 1 << 24;

impl List {
    /// The unknown piece alone.
    pub(super) const UNKNOWN: Self = Self(1);

    #[inline(always)]
    fn range(self) -> std::ops::Range<usize> {
        let start = (self.0 >> 8) as usize;
        start..start + (self.0 & 0xff) as usize
    }
}

/// No state has this base.
pub(super) const NO_BASE: u32 = u32::MAX;

pub(super) struct Automaton<S> {
    codes: Codes,
    /// The state after one character, by its code; 0 where no piece starts with it.
    starts: Vec<u32>,
    nodes: Vec<Node>,
    matches: Vec<Match<S>>,
}

/// A piece as the automaton takes it.
pub(super) struct Entry<'a, S> {
    pub(super) text: &'a str,
    pub(super) id: u32,
    pub(super) score: S,
}

/// Where reading stands: what is needed of the current node.
#[derive(Debug, Clone, Copy)]
pub(super) struct State {
    base: u32,
    fail: u32,
}

impl<S: Copy> Automaton<S> {
    /// # Errors
    /// `Tokenizer` where ids or lengths are beyond what four bytes hold.
    pub(super) fn new(entries: &[Entry<'_, S>], unknown_score: S) -> Result<Self> {
        check(entries)?;
        let codes = Codes::new(entries.iter().map(|e| e.text))?;
        let trie = Trie::new(entries.iter().map(|e| codes.of(e.text)).collect());
        let (matches, lists) = lists(&trie, entries, unknown_score)?;
        let (nodes, places) = super::double_array::place(&trie, codes.count(), &lists);
        let mut starts = vec![0; codes.count()];
        for child in trie.children(0) {
            starts[usize::from(trie.code(child))] = places[child];
        }
        Ok(Self { codes, starts, nodes, matches })
    }

    pub(super) fn root() -> State {
        State { base: NO_BASE, fail: 0 }
    }

    /// Reads one character; gives the state after it and the matches that end at it.
    #[inline(always)]
    pub(super) fn step(&self, state: State, character: char) -> (State, &[Match<S>]) {
        let code = self.codes.get(character);
        let node = if code == 0 { 0 } else { self.longest_from(state, code) };
        let node = &self.nodes[node as usize];
        (State { base: node.base, fail: node.fail }, &self.matches[node.matches.range()])
    }

    /// The child by `code` of the longest suffix that has one, the empty suffix included.
    #[inline(always)]
    fn longest_from(&self, mut state: State, code: u32) -> u32 {
        while state.base != NO_BASE {
            let child = state.base ^ code;
            if self.nodes[child as usize].check == state.base {
                return child;
            }
            let fail = &self.nodes[state.fail as usize];
            state = State { base: fail.base, fail: fail.fail };
        }
        self.starts[code as usize]
    }
}

fn check<S>(entries: &[Entry<'_, S>]) -> Result<()> {
    for entry in entries {
        let length = entry.text.chars().count();
        if length > MAX_LENGTH {
            let text = format!("piece {} has {length} characters; up to {MAX_LENGTH} are supported", entry.id);
            return Err(Error::Tokenizer(text));
        }
        if entry.id as usize > MAX_ID {
            return Err(Error::Tokenizer(format!("ids above {MAX_ID} are not supported, the model has {}", entry.id)));
        }
    }
    Ok(())
}

/// The matches of every trie node, longest first, and where each node's list starts. A node at
/// which no piece ends shares the list of its longest proper suffix.
fn lists<S: Copy>(trie: &Trie, entries: &[Entry<'_, S>], unknown_score: S) -> Result<(Vec<Match<S>>, Vec<List>)> {
    let mut matches = vec![Match { score: unknown_score, packed: Packed::UNKNOWN }];
    let mut lists = vec![List::UNKNOWN; trie.len()];
    for node in 1..trie.len() {
        let suffix = lists[trie.fail(node)];
        let Some(entry) = trie.entry(node) else {
            lists[node] = suffix;
            continue;
        };
        let (start, depth, entry) = (matches.len(), trie.depth(node), &entries[entry]);
        matches.push(Match { score: entry.score, packed: Packed::new(entry.id, depth) });
        if depth > 1 {
            matches.extend_from_within(suffix.range());
        }
        // Lengths differ within a list, so it has at most `MAX_LENGTH` of them.
        lists[node] = List((start as u32) << 8 | (matches.len() - start) as u32);
        if matches.len() > MAX_MATCHES {
            let text = "the pieces are too many and too long: their suffixes give more than 2^24 matches";
            return Err(Error::Tokenizer(text.to_owned()));
        }
    }
    Ok((matches, lists))
}

/// Characters to dense codes; frequent characters get small ones. 0: in no piece.
pub(super) struct Codes {
    /// The basic plane by character, the others in pages of 256 behind it.
    table: Vec<u16>,
    pages: Vec<u32>,
    count: usize,
}

const PLANE: usize = 1 << 16;

impl Codes {
    fn new<'a>(pieces: impl Iterator<Item = &'a str>) -> Result<Self> {
        let mut counts = vec![0u32; char::MAX as usize + 1];
        pieces.flat_map(str::chars).for_each(|c| counts[c as usize] += 1);
        let used = ('\0'..=char::MAX).filter(|c| counts[*c as usize] > 0);
        let mut order: Vec<char> = used.collect();
        order.sort_by_key(|c| std::cmp::Reverse(counts[*c as usize]));
        if order.len() >= PLANE {
            let text = format!("pieces with {} different characters; fewer than {PLANE} are supported", order.len());
            return Err(Error::Tokenizer(text));
        }
        // Page 0 behind the plane stays empty: characters of other planes that are in no piece.
        let mut codes = Self { table: vec![0; PLANE + 256], pages: vec![PLANE as u32; 0x1100], count: order.len() + 1 };
        for (rank, character) in order.iter().enumerate() {
            codes.set(*character, rank as u16 + 1);
        }
        Ok(codes)
    }

    fn set(&mut self, character: char, code: u16) {
        let at = character as usize;
        if at < PLANE {
            self.table[at] = code;
            return;
        }
        if self.pages[at >> 8] == PLANE as u32 {
            self.pages[at >> 8] = self.table.len() as u32;
            self.table.resize(self.table.len() + 256, 0);
        }
        self.table[self.pages[at >> 8] as usize + (at & 255)] = code;
    }

    #[inline(always)]
    pub(super) fn get(&self, character: char) -> u32 {
        let at = character as usize;
        if at < PLANE { u32::from(self.table[at]) } else { self.get_above(at) }
    }

    fn get_above(&self, at: usize) -> u32 {
        u32::from(self.table[self.pages[at >> 8] as usize + (at & 255)])
    }

    fn of(&self, piece: &str) -> Box<[u16]> {
        piece.chars().map(|c| self.get(c) as u16).collect()
    }

    fn count(&self) -> usize {
        self.count
    }
}
