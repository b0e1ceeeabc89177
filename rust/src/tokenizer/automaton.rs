//! All pieces that end at a character, in one step a character: an Aho-Corasick automaton over
//! characters in a double array.
//!
//! A state stands for the longest suffix of the text read so far that begins some piece. Its list
//! holds the pieces that end here, longest first, and the unknown piece where no piece of one
//! character does. States without children continue as their nearest suffix with children, so no
//! step looks for a child that cannot be there.

use super::codes::Codes;
use super::trie::Trie;
use crate::error::{Error, Result};

/// Bits of `Packed`: what the length in characters lacks to the highest, id, and the highest bit
/// where more matches follow than are always there.
const LENGTH_BITS: u32 = 8;
const ID_BITS: u32 = 23;
const MORE: u32 = 1 << 31;
pub(super) const MAX_LENGTH: usize = (1 << LENGTH_BITS) - 1;
/// The id that stands for the unknown piece.
const UNKNOWN: u32 = (1 << ID_BITS) - 1;

/// A piece that can end at some character.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Match<S> {
    pub(super) score: S,
    pub(super) packed: Packed,
}

/// Id and length of a match in four bytes: what the best path keeps for each character.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(super) struct Packed(u32);

impl Packed {
    pub(super) fn new(id: u32, length: usize) -> Self {
        Self((MAX_LENGTH - length) as u32 | id << LENGTH_BITS)
    }

    /// The unknown piece, as it stands in a list of its own: one character, no id.
    pub(super) const UNKNOWN: Self = Self((MAX_LENGTH - 1) as u32 | UNKNOWN << LENGTH_BITS);

    /// In characters.
    #[inline(always)]
    pub(super) fn length(self) -> usize {
        (!self.0 & MAX_LENGTH as u32) as usize
    }

    #[inline(always)]
    pub(super) fn id(self) -> u32 {
        self.0 >> LENGTH_BITS & UNKNOWN
    }

    #[inline(always)]
    pub(super) fn is_unknown(self) -> bool {
        self.id() == UNKNOWN
    }

    /// On the first match of a list: whether it has more than `ALWAYS`; on a later one, whether
    /// another follows.
    #[inline(always)]
    pub(super) fn has_more(self) -> bool {
        self.0 & MORE != 0
    }
}

/// One slot of the double array: base (24 bits), label (16), list of matches (24). A child by
/// `code` of a state with base `b` lies at `b ^ code` and carries the label `code`: bases are
/// unique, so the base is the state and the label tells whose child it is. The root's base is 0
/// and it has a child by every code, which stands for the root where no piece begins so.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node(u64);

impl Node {
    /// Nobody's child: no code is its label.
    pub(super) const EMPTY: Self = Self::new(ROOT, u16::MAX, List::UNKNOWN);
    const FIELD: u64 = (1 << 24) - 1;

    pub(super) const fn new(base: u32, label: u16, list: List) -> Self {
        Self(base as u64 | (label as u64) << 24 | (list.0 as u64) << 40)
    }

    #[inline(always)]
    fn base(self) -> u32 {
        (self.0 & Self::FIELD) as u32
    }

    #[inline(always)]
    fn is_child_by(self, code: u16) -> bool {
        (self.0 >> 24) as u16 == code
    }

    #[inline(always)]
    fn list(self) -> List {
        List((self.0 >> 40) as u32)
    }
}

/// Every list of matches has so many: the match of one character, then the others, longest first,
/// then ones that never win. Longer lists are rare.
pub(super) const ALWAYS: usize = 3;

/// Where a run of the automaton's matches starts.
#[derive(Debug, Clone, Copy)]
pub(super) struct List(u32);

/// Bases and lists are below it.
pub(super) const MAX_PLACES: usize = 1 << 24;

impl List {
    /// The unknown piece alone.
    pub(super) const UNKNOWN: Self = Self(0);

    #[inline(always)]
    pub(super) fn start(self) -> usize {
        self.0 as usize
    }
}

/// The base of the root.
pub(super) const ROOT: u32 = 0;

pub(super) struct Automaton<S> {
    pub(super) codes: Codes,
    nodes: Vec<Node>,
    /// For each base of a state the base of its longest proper suffix that has children.
    fails: Vec<u32>,
    pub(super) matches: Vec<Match<S>>,
    /// Characters of the longest piece.
    longest: usize,
    /// A power of two that `nodes` has a multiple of: a base and a code below it give a node.
    block: usize,
}

/// The score of a piece, in the width that the rule adds it in.
pub(super) trait Score: Copy {
    /// For comparing likelihoods where nothing depends on it.
    fn rough(self) -> f32;
    /// Less than any sum.
    const NEVER: Self;
}

impl Score for f32 {
    const NEVER: Self = Self::NEG_INFINITY;
    fn rough(self) -> f32 {
        self
    }
}

/// Where only the pieces are asked for.
impl Score for () {
    const NEVER: Self = ();
    fn rough(self) -> f32 {
        0.0
    }
}

impl Score for f64 {
    const NEVER: Self = Self::NEG_INFINITY;
    fn rough(self) -> f32 {
        self as f32
    }
}

/// A piece as the automaton takes it.
pub(super) struct Entry<'a, S> {
    pub(super) text: &'a str,
    pub(super) id: u32,
    pub(super) score: S,
}

/// Texts are read at this many places at once: a step waits for memory, and the steps of one place
/// wait for each other.
const LANES: usize = 8;

impl<S: Score> Automaton<S> {
    /// # Errors
    /// `UnsupportedModel` where ids, lengths or characters are beyond what the tables hold.
    pub(super) fn new(entries: &[Entry<'_, S>], unknown_score: S) -> Result<Self> {
        check(entries)?;
        let codes = Codes::new(entries.iter().map(|e| e.text))?;
        let trie = Trie::new(entries.iter().map(|e| codes.of(e.text)).collect());
        let (matches, lists) = lists(&trie, entries, unknown_score);
        let (nodes, fails) = super::double_array::place(&trie, codes.count(), &lists);
        if nodes.len().max(matches.len()) > MAX_PLACES {
            let text = "the pieces are too many and too long: their suffixes give more than 2^24 matches";
            return Err(Error::UnsupportedModel(text.to_owned()));
        }
        let longest = (0..trie.len()).map(|node| trie.depth(node)).max().unwrap_or(0).max(1);
        let block = codes.count().next_power_of_two();
        // `advance` and `always` read without a check what is checked here.
        let is_state = |base: u32| (base as usize) < fails.len();
        assert!(nodes.len() == fails.len() && nodes.len().is_multiple_of(block));
        assert!(nodes.iter().all(|n| is_state(n.base()) && n.list().start() + ALWAYS <= matches.len()));
        assert!(fails.iter().all(|base| is_state(*base)));
        Ok(Self { codes, nodes, fails, matches, longest, block })
    }

    /// The matches that the list of a scan by this automaton always has.
    #[inline(always)]
    pub(super) fn always(&self, list: List) -> &[Match<S>; ALWAYS] {
        debug_assert!(list.start() + ALWAYS <= self.matches.len());
        // SAFETY: `new` has checked that the list of every node begins so far before the end.
        unsafe { &*self.matches.as_ptr().add(list.start()).cast() }
    }

    /// Begins to fetch a list into the cache.
    #[inline(always)]
    pub(super) fn prefetch(&self, list: List) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch is a hint and reads nothing, whatever the address.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(self.matches.as_ptr().wrapping_add(list.start()).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = list;
    }

    /// Reads `codes` on from `state` and gives for each the matches that end at it.
    ///
    /// A state depends on no more characters than the longest piece has, so several places are
    /// read side by side, each from as many characters before it.
    pub(super) fn scan(&self, state: &mut u32, codes: &[u16], lists: &mut [List]) {
        assert_eq!(codes.len(), lists.len());
        assert!((*state as usize) < self.fails.len(), "a state of another automaton");
        let bits = codes.iter().fold(0, |bits, code| bits | code);
        assert!(usize::from(bits) < self.block, "a code of another automaton");
        let length = codes.len() / LANES;
        let mut lanes = [Lane { at: 0, base: *state }; LANES];
        // A lane writes its first lists, which want characters before it, well before the
        // neighbour comes to write them right.
        if length >= 4 * self.longest {
            for lane in 1..LANES {
                lanes[lane] = Lane { at: lane * length - self.longest, base: ROOT };
            }
            let ends: [usize; LANES] =
                std::array::from_fn(|k| if k + 1 < LANES { (k + 1) * length } else { codes.len() });
            loop {
                let steps = (0..LANES).map(|k| ends[k] - lanes[k].at).min().unwrap_or(0);
                if steps < 4 {
                    break;
                }
                for _ in 0..steps {
                    for lane in &mut lanes {
                        // SAFETY: no lane moves further in a step than one character, so none is at its end; state
                        // and codes have been checked.
                        unsafe { self.advance(lane, codes, lists) };
                    }
                }
            }
            for k in 0..LANES {
                self.advance_to(&mut lanes[k], ends[k], codes, lists);
            }
            *state = lanes[LANES - 1].base;
        } else {
            self.advance_to(&mut lanes[0], codes.len(), codes, lists);
            *state = lanes[0].base;
        }
    }

    fn advance_to(&self, lane: &mut Lane, end: usize, codes: &[u16], lists: &mut [List]) {
        while lane.at < end.min(codes.len()) {
            // SAFETY: the lane is before the end, and its state and the codes have been checked by `scan`.
            unsafe { self.advance(lane, codes, lists) };
        }
    }

    /// Reads one character from `state` on (at first `ROOT`) and gives the matches that end at it,
    /// longest first.
    pub(super) fn step(&self, state: &mut u32, character: char) -> impl Iterator<Item = &Match<S>> {
        let mut lists = [List::UNKNOWN];
        self.scan(state, &[self.codes.get(character) as u16], &mut lists);
        let matches = longest_first(&self.matches[lists[0].start()..]);
        matches.filter(|found| found.packed.length() == 1 || !found.packed.is_unknown())
    }

    /// Reads a character, or falls back to a suffix without reading; never branches.
    ///
    /// # Safety
    /// `lane.at` is below the lengths of `codes` and `lists`, which are equal; `lane.base` is that of a state of this
    /// automaton, and every code is below its `block`.
    #[inline(always)]
    unsafe fn advance(&self, lane: &mut Lane, codes: &[u16], lists: &mut [List]) {
        // SAFETY: the caller's promise; base and code differ only in bits below `block`, of which `nodes` has a
        // multiple. The base that comes out is of a state: `new` has checked those of all nodes and fails.
        let (code, child, fail, list) = unsafe {
            let code = *codes.get_unchecked(lane.at);
            let child = *self.nodes.get_unchecked((lane.base ^ u32::from(code)) as usize);
            (code, child, *self.fails.get_unchecked(lane.base as usize), lists.get_unchecked_mut(lane.at))
        };
        *list = child.list();
        let found = child.is_child_by(code);
        lane.base = std::hint::select_unpredictable(found, child.base(), fail);
        lane.at += usize::from(found);
    }
}

#[derive(Clone, Copy)]
struct Lane {
    at: usize,
    base: u32,
}

/// The matches of the list that `matches` begins with; the one of one character comes last.
pub(super) fn longest_first<S>(matches: &[Match<S>]) -> impl Iterator<Item = &Match<S>> {
    let mut length = ALWAYS;
    if matches[0].packed.has_more() {
        while matches[length].packed.has_more() {
            length += 1;
        }
        length += 1;
    }
    matches[1..length].iter().chain(&matches[..1])
}

fn check<S>(entries: &[Entry<'_, S>]) -> Result<()> {
    for entry in entries {
        let length = entry.text.chars().count();
        if length > MAX_LENGTH {
            let text =
                format!("piece {} has {length} characters; unigram models are supported up to {MAX_LENGTH}", entry.id);
            return Err(Error::UnsupportedModel(text));
        }
        if entry.id >= UNKNOWN {
            return Err(Error::UnsupportedModel(format!(
                "ids from {UNKNOWN} on are not supported, the model has {}",
                entry.id
            )));
        }
    }
    Ok(())
}

/// The matches of every trie node and where each node's list starts: first the match of one
/// character (there always is one), then the others, longest first. A node at which no piece ends
/// shares the list of its longest proper suffix. Lists of likely pieces stand together, so that
/// they stay near.
fn lists<S: Score>(trie: &Trie, entries: &[Entry<'_, S>], unknown_score: S) -> (Vec<Match<S>>, Vec<List>) {
    // As if of two characters, so that nobody waits for the character just before.
    let never = Match { score: S::NEVER, packed: Packed::new(UNKNOWN, 2) };
    let mut matches = vec![Match { score: unknown_score, packed: Packed::UNKNOWN }, never, never];
    let mut lists = vec![List::UNKNOWN; trie.len()];
    let entry = |node| trie.entry(node).map(|entry| &entries[entry]);
    let mut order: Vec<(f32, u32)> =
        (1..trie.len()).filter_map(|node| Some((entry(node)?.score.rough(), node as u32))).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (_, node) in order {
        let (start, mut at) = (matches.len(), node as usize);
        matches.push(matches[0]);
        while at != 0 {
            if let Some(entry) = entry(at) {
                let found = Match { score: entry.score, packed: Packed::new(entry.id, trie.depth(at)) };
                if found.packed.length() == 1 { matches[start] = found } else { matches.push(found) }
            }
            at = trie.fail(at);
        }
        let end = matches.len();
        if end > start + ALWAYS {
            matches[start].packed.0 |= MORE;
            matches[start + ALWAYS..end - 1].iter_mut().for_each(|found| found.packed.0 |= MORE);
        }
        matches.resize(end.max(start + ALWAYS), never);
        lists[node as usize] = List(start as u32);
    }
    for node in 1..trie.len() {
        if entry(node).is_none() {
            lists[node] = lists[trie.fail(node)];
        }
    }
    (matches, lists)
}
