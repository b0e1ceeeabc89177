//! The training text as lattices: for each character the longest piece that ends there.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::jobs::{Jobs, Stop};
use super::pieces::{Matcher, number};
use crate::error::Result;
use crate::tokenizer::train::text::FIRST;

/// The text is cut into at most so many chunks, which depend on the text alone.
const CHUNKS: usize = 64;
/// No chunk is smaller, in characters.
const CHUNK: usize = 1 << 17;

/// Sentences, or parts of them that no piece joins.
#[derive(Default)]
pub(super) struct Chunk {
    /// For each character the longest piece that ends there.
    pub(super) longest: Vec<u32>,
    ends: Vec<u32>,
    freqs: Vec<u64>,
}

impl Chunk {
    /// The parts, each with how often it counts.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&[u32], u64)> {
        let mut start = 0;
        self.ends.iter().zip(&self.freqs).map(move |(end, freq)| {
            let part = &self.longest[start..*end as usize];
            start = *end as usize;
            (part, *freq)
        })
    }
}

pub(super) struct Corpus {
    chunks: Vec<Mutex<Chunk>>,
}

impl Corpus {
    /// Matches the sentences of `codes` that end at `ends`. Codes below 2 are in no piece.
    ///
    /// # Errors
    /// `Interrupted`.
    pub(super) fn new(
        codes: &[u32],
        ends: &[usize],
        freqs: &[u64],
        matcher: &Matcher<'_>,
        jobs: &Jobs<'_>,
    ) -> Result<Self> {
        let cuts = cuts(codes.len(), ends);
        let mut corpus = Self { chunks: Vec::with_capacity(cuts.len()) };
        let sentences = |number: usize| cuts[number]..cuts.get(number + 1).copied().unwrap_or(ends.len());
        jobs.in_order(
            cuts.len(),
            || (),
            |(), number, stop| {
                let mut chunk = Chunk::default();
                for sentence in sentences(number) {
                    let start = if sentence == 0 { 0 } else { ends[sentence - 1] };
                    chunk.add(&codes[start..ends[sentence]], freqs[sentence], matcher, stop)?;
                }
                Ok(chunk)
            },
            |_, chunk| {
                corpus.chunks.push(Mutex::new(chunk));
                Ok(())
            },
        )?;
        Ok(corpus)
    }

    pub(super) fn chunks(&self) -> usize {
        self.chunks.len()
    }

    pub(super) fn chunk(&self, number: usize) -> MutexGuard<'_, Chunk> {
        self.chunks[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces each piece by what `map` says of it.
    ///
    /// # Errors
    /// `Interrupted`; the corpus is of no use then.
    pub(super) fn renumber(&self, map: &[u32], jobs: &Jobs<'_>) -> Result<()> {
        let renumber = |(): &mut (), number: usize, stop: &Stop<'_>| {
            for block in self.chunk(number).longest.chunks_mut(BLOCK) {
                stop.check()?;
                block.iter_mut().for_each(|piece| *piece = map[*piece as usize]);
            }
            Ok(())
        };
        jobs.in_order(self.chunks(), || (), renumber, |_, ()| Ok(()))
    }
}

/// Characters between two looks at whether to stop.
pub(super) const BLOCK: usize = 1 << 16;

impl Chunk {
    fn add(&mut self, sentence: &[u32], freq: u64, matcher: &Matcher<'_>, stop: &Stop<'_>) -> Result<()> {
        stop.check()?;
        for part in sentence.split(|code| *code < FIRST).filter(|part| !part.is_empty()) {
            matcher.read(part, |matches| self.longest.push(number(matches[0])));
            self.ends.push(self.longest.len() as u32);
            self.freqs.push(freq);
        }
        Ok(())
    }
}

/// The first sentence of each chunk.
fn cuts(characters: usize, ends: &[usize]) -> Vec<usize> {
    let size = characters.div_ceil(CHUNKS).max(CHUNK);
    let (mut cuts, mut full) = (Vec::new(), 0);
    for sentence in 0..ends.len() {
        let start = if sentence == 0 { 0 } else { ends[sentence - 1] };
        if start >= full {
            cuts.push(sentence);
            full = start + size;
        }
    }
    cuts
}
