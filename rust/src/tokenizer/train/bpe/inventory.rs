//! The symbols: first the characters by their codes, then what was merged.

use std::cmp::Ordering;

use crate::tokenizer::train::Trained;

pub(super) struct Inventory {
    chars: Vec<char>,
    codes: Vec<u32>,
    /// Where each symbol ends in `codes`.
    ends: Vec<usize>,
    lengths: Vec<u16>,
}

impl Inventory {
    pub(super) fn new(chars: Vec<char>) -> Self {
        let count = chars.len();
        Self { chars, codes: (0..count as u32).collect(), ends: (1..=count).collect(), lengths: vec![1; count] }
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// In characters.
    #[inline]
    pub(super) fn length(&self, symbol: u32) -> usize {
        usize::from(self.lengths[symbol as usize])
    }

    pub(super) fn codes(&self, symbol: u32) -> &[u32] {
        let end = self.ends[symbol as usize];
        &self.codes[end - self.length(symbol)..end]
    }

    pub(super) fn joined(&self, left: u32, right: u32) -> Vec<u32> {
        [self.codes(left), self.codes(right)].concat()
    }

    pub(super) fn push(&mut self, left: u32, right: u32) -> u32 {
        let codes = self.joined(left, right);
        self.codes.extend_from_slice(&codes);
        self.ends.push(self.codes.len());
        self.lengths.push(codes.len() as u16);
        self.ends.len() as u32 - 1
    }

    /// Compares the strings of two pairs, by code points (which is the order of UTF-8, too).
    pub(super) fn compare(&self, a: (u32, u32), b: (u32, u32)) -> Ordering {
        let string = |(left, right): (u32, u32)| self.codes(left).iter().chain(self.codes(right));
        let char = |code: &u32| self.chars[*code as usize];
        string(a).map(char).cmp(string(b).map(char))
    }

    /// The first three characters of a pair as one number, in the order of `compare`.
    pub(super) fn head(&self, left: u32, right: u32) -> u64 {
        let mut codes = self.codes(left).iter().chain(self.codes(right));
        (0..3).fold(0, |head, _| head << 21 | codes.next().map_or(0, |code| u64::from(self.chars[*code as usize])))
    }

    fn string(&self, symbol: u32) -> String {
        self.codes(symbol).iter().map(|code| self.chars[*code as usize]).collect()
    }

    pub(super) fn chars(&self) -> &[char] {
        &self.chars
    }

    /// The merged pieces, then the characters; each scores one less than the one before.
    pub(super) fn trained(&self, merged: &[u32], characters: impl Iterator<Item = u32>) -> Trained {
        let symbols = merged.iter().copied().chain(characters);
        Trained { pieces: symbols.enumerate().map(|(rank, symbol)| (self.string(symbol), -(rank as f32))).collect() }
    }
}
