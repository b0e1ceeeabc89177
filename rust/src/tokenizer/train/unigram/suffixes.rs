//! Every repeated substring that two different characters follow, with its number of occurrences.
//!
//! These are the inner nodes of the text's suffix tree down to a depth: pieces are short, so no
//! suffix has to be compared further than that. Positions are put into buckets by their first
//! character; a large bucket is split by one character after the other (counting sort), a small
//! one by three at a time (comparison of packed keys). Each split shows the nodes at its depth.
//! A bucket is sorted alone and forgotten, so besides the text this takes four bytes a character.

use super::jobs::Stop;
use crate::error::{Error, Result};
use crate::tokenizer::train::Text;
use crate::tokenizer::train::text::FIRST;

/// What a code looks like where a sentence ends or a character stands that no piece may contain.
const END: u32 = 0;
/// Buckets up to this size are sorted by packed keys.
const SMALL: usize = 1 << 14;
/// Codes in a key, and bits of each: any `char` fits.
const PACKED: usize = 3;
const CODE_BITS: u32 = 21;

/// A substring of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Substring {
    pub(super) start: u32,
    pub(super) length: u32,
    /// Occurrences, each as often as its sentence counts.
    pub(super) count: u64,
}

/// The text with an `END` after each sentence.
pub(super) struct Suffixes {
    codes: Vec<u32>,
    alphabet: usize,
    longest: usize,
    weights: Option<Weights>,
}

/// How often each sentence counts.
struct Weights {
    ends: Vec<u32>,
    freqs: Vec<u64>,
}

/// Which substrings are wanted.
pub(super) trait Wanted: Sync {
    /// Whether a substring counted so often is reported.
    fn wants(&self, codes: &[u32], count: u64) -> bool;
    /// Whether nothing that starts so is wanted, whatever its count.
    fn excludes_all(&self, prefix: &[u32]) -> bool;
}

impl Suffixes {
    /// Substrings of up to `longest` characters.
    ///
    /// # Errors
    /// `UnsupportedInput` where positions do not fit 32 bits.
    pub(super) fn new(text: &Text, longest: usize) -> Result<Self> {
        let length = text.codes.len() + text.ends.len();
        if u32::try_from(length).is_err() {
            let (found, most) = (text.codes.len(), u32::MAX);
            return Err(Error::UnsupportedInput(format!(
                "the training text has {found} characters; up to {most} are supported: set input_sentence_size to train on a sample"
            )));
        }
        let mut marked = Vec::with_capacity(length);
        for (sentence, _) in text.sentences() {
            marked.extend(sentence.iter().map(|c| if *c < FIRST { END } else { *c }));
            marked.push(END);
        }
        let weighted = text.freqs.iter().any(|f| *f != 1);
        let weights = weighted.then(|| Weights {
            ends: text.ends.iter().enumerate().map(|(i, end)| (end + i) as u32).collect(),
            freqs: text.freqs.clone(),
        });
        Ok(Self { codes: marked, alphabet: text.chars.len(), longest, weights })
    }

    pub(super) fn text(&self, found: &Substring) -> &[u32] {
        &self.codes[found.start as usize..(found.start + found.length) as usize]
    }

    /// The positions of all characters by their code, and where each code's begin.
    pub(super) fn buckets(&self, mut go_on: impl FnMut() -> Result<()>) -> Result<(Vec<u32>, Vec<usize>)> {
        const STEP: usize = 1 << 20;
        let mut bounds = vec![0usize; self.alphabet + 1];
        for part in self.codes.chunks(STEP) {
            go_on()?;
            part.iter().filter(|c| **c != END).for_each(|c| bounds[*c as usize + 1] += 1);
        }
        (0..self.alphabet).for_each(|c| bounds[c + 1] += bounds[c]);
        let (mut next, mut positions) = (bounds.clone(), vec![0u32; bounds[self.alphabet]]);
        for (number, part) in self.codes.chunks(STEP).enumerate() {
            go_on()?;
            for (at, &code) in part.iter().enumerate().filter(|(_, c)| **c != END) {
                positions[next[code as usize]] = (number * STEP + at) as u32;
                next[code as usize] += 1;
            }
        }
        Ok((positions, bounds))
    }

    fn code(&self, position: u32, depth: usize) -> u32 {
        self.codes[position as usize + depth]
    }

    fn weight_of(&self, position: u32) -> u64 {
        let Some(weights) = &self.weights else { return 1 };
        weights.freqs[weights.ends.partition_point(|end| *end <= position)]
    }

    fn weight(&self, positions: impl ExactSizeIterator<Item = u32>) -> u64 {
        match self.weights {
            None => positions.len() as u64,
            Some(_) => positions.map(|p| self.weight_of(p)).sum(),
        }
    }
}

/// One thread's buffers.
pub(super) struct Sorter<'a, W> {
    suffixes: &'a Suffixes,
    wanted: &'a W,
    /// Keys and positions of the small buckets being worked on, one behind the other.
    keys: Vec<(u64, u32)>,
    pub(super) found: Vec<Substring>,
}

impl<'a, W: Wanted> Sorter<'a, W> {
    pub(super) fn new(suffixes: &'a Suffixes, wanted: &'a W) -> Self {
        Self { suffixes, wanted, keys: Vec::new(), found: Vec::new() }
    }

    /// Finds the substrings that start at `positions`, which agree in their first `depth` characters.
    pub(super) fn split(&mut self, positions: &mut [u32], depth: usize, stop: &Stop<'_>) -> Result<()> {
        if positions.is_empty() || depth > self.suffixes.longest || self.is_dead(positions[0], depth) {
            return Ok(());
        }
        stop.check()?;
        if positions.len() <= SMALL {
            self.keys.clear();
            self.split_small(positions.iter().copied(), depth);
            return Ok(());
        }
        let mut bounds = vec![0u32; self.suffixes.alphabet + 1];
        positions.iter().for_each(|p| bounds[self.suffixes.code(*p, depth) as usize + 1] += 1);
        (0..self.suffixes.alphabet).for_each(|c| bounds[c + 1] += bounds[c]);
        let (mut next, unsorted) = (bounds.clone(), positions.to_vec());
        for position in unsorted {
            let slot = &mut next[self.suffixes.code(position, depth) as usize];
            positions[*slot as usize] = position;
            *slot += 1;
        }
        let mut followers = Followers::default();
        let filled = |c: &usize| bounds[*c] < bounds[c + 1];
        for code in (0..self.suffixes.alphabet).filter(filled) {
            let same = bounds[code] as usize..bounds[code + 1] as usize;
            followers.add(code as u32, self.suffixes, positions[same].iter().copied());
        }
        self.report(positions[0], depth, followers);
        for code in (1..self.suffixes.alphabet).filter(filled) {
            self.split(&mut positions[bounds[code] as usize..bounds[code + 1] as usize], depth + 1, stop)?;
        }
        Ok(())
    }

    fn is_dead(&self, position: u32, depth: usize) -> bool {
        let start = position as usize;
        self.wanted.excludes_all(&self.suffixes.codes[start..start + depth])
    }

    /// Sorts by the next `PACKED` characters, behind the keys that are in use.
    fn split_small(&mut self, positions: impl Iterator<Item = u32>, depth: usize) {
        let from = self.keys.len();
        for position in positions {
            let key = self.key(position, depth);
            self.keys.push((key, position));
        }
        self.sorted(from, depth);
    }

    fn sorted(&mut self, from: usize, depth: usize) {
        match self.keys.len() - from {
            1 => self.single(from),
            _ => {
                self.keys[from..].sort_unstable();
                self.node(from..self.keys.len(), depth, 0);
            }
        }
        self.keys.truncate(from);
    }

    /// A substring that is there once, in a sentence that counts several times, goes on alike
    /// each time until the sentence ends.
    fn single(&mut self, at: usize) {
        let position = self.keys[at].1;
        let count = self.suffixes.weight_of(position);
        if count > 1 {
            let rest = &self.suffixes.codes[position as usize..];
            let within = rest.iter().take(self.suffixes.longest + 1).position(|c| *c == END);
            if let Some(length) = within.filter(|l| *l > 1) {
                self.push(Substring { start: position, length: length as u32, count });
            }
        }
    }

    fn key(&self, position: u32, depth: usize) -> u64 {
        let start = position as usize + depth;
        let (mut key, mut ended) = (0, false);
        for place in 0..PACKED {
            let code = if ended { END } else { self.suffixes.codes[start + place] };
            ended |= code == END;
            key = key << CODE_BITS | u64::from(code);
        }
        key
    }

    /// The sorted `keys[range]` agree in `depth` characters, of which the last `level` are in the keys.
    fn node(&mut self, range: std::ops::Range<usize>, depth: usize, level: usize) {
        if depth > self.suffixes.longest {
            return;
        }
        let shift = CODE_BITS * (PACKED - 1 - level) as u32;
        let code_at = |keys: &[(u64, u32)], at: usize| (keys[at].0 >> shift) as u32 & ((1 << CODE_BITS) - 1);
        let (mut followers, mut start) = (Followers::default(), range.start);
        while start < range.end {
            let code = code_at(&self.keys, start);
            let mut end = start + 1;
            while end < range.end && code_at(&self.keys, end) == code {
                end += 1;
            }
            followers.add(code, self.suffixes, self.keys[start..end].iter().map(|k| k.1));
            if code != END {
                self.child(start..end, depth + 1, level + 1);
            }
            start = end;
        }
        self.report(self.keys[range.start].1, depth, followers);
    }

    fn child(&mut self, range: std::ops::Range<usize>, depth: usize, level: usize) {
        if range.len() == 1 {
            self.single(range.start);
        } else if level < PACKED {
            self.node(range, depth, level);
        } else if depth <= self.suffixes.longest && !self.is_dead(self.keys[range.start].1, depth) {
            let from = self.keys.len();
            for at in range {
                let position = self.keys[at].1;
                let key = self.key(position, depth);
                self.keys.push((key, position));
            }
            self.sorted(from, depth);
        }
    }

    fn report(&mut self, start: u32, depth: usize, followers: Followers) {
        if depth > 1 && followers.differ() {
            self.push(Substring { start, length: depth as u32, count: followers.count });
        }
    }

    fn push(&mut self, found: Substring) {
        if self.wanted.wants(self.suffixes.text(&found), found.count) {
            self.found.push(found);
        }
    }
}

/// What follows the occurrences of a substring. Each end of a sentence is another follower.
#[derive(Default)]
struct Followers {
    characters: usize,
    ends: u64,
    count: u64,
}

impl Followers {
    fn add(&mut self, code: u32, suffixes: &Suffixes, positions: impl ExactSizeIterator<Item = u32>) {
        let count = suffixes.weight(positions);
        self.count += count;
        if code == END {
            self.ends += count;
        } else {
            self.characters += 1;
        }
    }

    fn differ(&self) -> bool {
        self.characters as u64 + self.ends > 1
    }
}
