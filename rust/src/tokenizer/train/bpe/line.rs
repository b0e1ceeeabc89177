//! All words in one line of symbols, a boundary between each two.
//!
//! A symbol stands in the cell of its first character. Its last cell says how far back that is, so
//! that neighbours on both sides are found without links: 4 bytes a character in all.

use crate::error::{Error, Result};
use crate::tokenizer::train::text::{BOUNDARY, Text};

/// Marks a cell inside a symbol; the rest of the last one is the way back to the first.
const INSIDE: u32 = 1 << 31;

pub(super) struct Line {
    cells: Vec<u32>,
    /// Where words of another frequency begin, and that frequency.
    ranges: Vec<(u32, u64)>,
}

impl Line {
    pub(super) fn new(words: &Text) -> Result<Self> {
        let length = words.codes.len() + words.ends.len() + 1;
        if u32::try_from(length).is_err() {
            return Err(Error::Tokenizer(format!(
                "{length} characters are too many for BPE (at most 4,294,967,295); set input_sentence_size"
            )));
        }
        let mut line = Self { cells: Vec::with_capacity(length), ranges: Vec::new() };
        line.cells.push(BOUNDARY);
        for (word, freq) in words.sentences() {
            if line.ranges.last().is_none_or(|(_, last)| *last != freq) {
                line.ranges.push((line.cells.len() as u32, freq));
            }
            line.cells.extend_from_slice(word);
            line.cells.push(BOUNDARY);
        }
        Ok(line)
    }

    pub(super) fn len(&self) -> usize {
        self.cells.len()
    }

    /// The length when each word counts as often as it occurs.
    pub(super) fn weight(&self) -> u64 {
        let ends = self.ranges.iter().skip(1).map(|(start, _)| *start).chain([self.cells.len() as u32]);
        self.ranges.iter().zip(ends).map(|((start, freq), end)| u64::from(end - start) * freq).sum()
    }

    /// The symbol that starts at `place`.
    #[inline]
    pub(super) fn symbol(&self, place: u32) -> u32 {
        self.cells[place as usize]
    }

    /// Whether `left` starts at `place` and `right` follows, `half` cells later.
    #[inline]
    pub(super) fn is_pair(&self, place: u32, half: usize, left: u32, right: u32) -> bool {
        let place = place as usize;
        self.cells[place] == left && self.cells.get(place + half) == Some(&right)
    }

    /// Where the symbol before `place` starts. The first cell of all is a boundary.
    #[inline]
    pub(super) fn start_before(&self, place: u32) -> u32 {
        let cell = self.cells[place as usize - 1];
        place - 1 - if cell & INSIDE == 0 { 0 } else { cell & !INSIDE }
    }

    #[inline]
    pub(super) fn merge(&mut self, place: u32, half: usize, length: usize, symbol: u32) {
        let place = place as usize;
        self.cells[place] = symbol;
        self.cells[place + half] = INSIDE;
        self.cells[place + length - 1] = INSIDE | (length as u32 - 1);
    }

    /// For places that do not fall.
    pub(super) fn weights(&self) -> Weights<'_> {
        Weights { ranges: &self.ranges, at: 0 }
    }
}

/// How often the word at a place occurs.
pub(super) struct Weights<'a> {
    ranges: &'a [(u32, u64)],
    at: usize,
}

impl Weights<'_> {
    #[inline]
    pub(super) fn at(&mut self, place: u32) -> u64 {
        while self.ranges.get(self.at + 1).is_some_and(|(start, _)| *start <= place) {
            self.at += 1;
        }
        self.ranges[self.at].1
    }
}
