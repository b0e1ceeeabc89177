//! Which pieces the text can spare: by how much its likelihood falls when a piece is replaced by
//! the best way to write it with others.

use super::corpus::{BLOCK, Chunk, Corpus};
use super::jobs::{Jobs, Stop};
use super::pieces::{Lists, Pieces, UNKNOWN};
use crate::error::Result;

/// How often each piece is on the best path of the corpus.
///
/// # Errors
/// `Interrupted`.
pub(super) fn best_paths(
    corpus: &Corpus,
    pieces: &Pieces,
    lists: &Lists,
    jobs: &Jobs<'_>,
    tell: impl Fn() -> Result<()>,
) -> Result<Vec<u64>> {
    let mut total = vec![0u64; pieces.count() + 1];
    jobs.in_order(
        corpus.chunks(),
        Path::default,
        |path, number, stop| {
            let mut counts = vec![0u64; pieces.count() + 1];
            path.count(&corpus.chunk(number), lists, &mut counts, stop)?;
            Ok(counts)
        },
        |_, part| {
            total.iter_mut().zip(&part).for_each(|(sum, count)| *sum = sum.saturating_add(*count));
            tell()
        },
    )?;
    Ok(total)
}

/// Keeps about `size` pieces; gives which, by number. `counts` are those of the best paths.
pub(super) fn keep(pieces: &Pieces, lists: &Lists, counts: &[u64], size: usize) -> Vec<bool> {
    let mut keep = vec![false; pieces.count() + 1];
    let mut candidates: Vec<(f64, u32)> = Vec::new();
    let total = counts.iter().map(|c| *c as f64).sum::<f64>();
    let mut path = Path::default();
    for piece in pieces.numbers() {
        match path.alternative(pieces, lists, piece) {
            Alternative::None => keep[piece as usize] = true,
            Alternative::Better => {}
            Alternative::Worse if counts[piece as usize] == 0 => {}
            Alternative::Worse => candidates.push((loss(piece, &path.taken, counts, total), piece)),
        }
    }
    let unconditional = keep.iter().filter(|k| **k).count();
    let room = size.saturating_sub(unconditional);
    // By loss; of equal ones the more frequent piece stays.
    candidates.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    candidates.iter().take(room).for_each(|(_, piece)| keep[*piece as usize] = true);
    keep
}

/// How much less likely the text, per piece of it, when `others` stand for `piece`.
fn loss(piece: u32, others: &[u32], counts: &[u64], total: f64) -> f64 {
    let count = counts[piece as usize] as f64;
    let new_total = (total + count * (others.len() as f64 - 1.0)).ln();
    let written = others.iter().map(|p| (counts[*p as usize] as f64 + count).ln() - new_total).sum::<f64>();
    count / total * ((count / total).ln() - written)
}

/// The best way to write a piece with others.
#[derive(Debug, PartialEq)]
enum Alternative {
    /// There is none without unknown characters.
    None,
    /// More likely than the piece itself.
    Better,
    Worse,
}

/// The buffers of a search for the best path.
#[derive(Default)]
struct Path {
    best: Vec<f64>,
    /// The last piece of the best path to each character, and its length.
    last: Vec<(u32, u32)>,
    /// The pieces of the path that was asked for, last first.
    taken: Vec<u32>,
}

impl Path {
    fn count(&mut self, chunk: &Chunk, lists: &Lists, counts: &mut [u64], stop: &Stop<'_>) -> Result<()> {
        let mut unchecked = 0;
        for (part, freq) in chunk.parts() {
            unchecked += part.len();
            if unchecked > BLOCK {
                stop.check()?;
                unchecked = 0;
            }
            self.start(part.len());
            for (number, block) in part.chunks(BLOCK).enumerate() {
                if number > 0 {
                    stop.check()?;
                }
                block.iter().enumerate().for_each(|(at, piece)| self.step(number * BLOCK + at + 1, *piece, lists));
            }
            let mut end = part.len();
            while end > 0 {
                let (piece, length) = self.last[end];
                counts[piece as usize] = counts[piece as usize].saturating_add(freq);
                end -= length as usize;
            }
        }
        Ok(())
    }

    fn start(&mut self, length: usize) {
        self.best.clear();
        self.last.clear();
        self.best.resize(length + 1, 0.0);
        self.last.resize(length + 1, (UNKNOWN, 0));
    }

    /// The best path to `end`; of equals the one whose last piece is longer.
    #[inline(always)]
    fn step(&mut self, end: usize, longest: u32, lists: &Lists) {
        let best = &mut self.best[..=end];
        let (mut high, mut last) = (f64::NEG_INFINITY, (UNKNOWN, 1));
        for found in lists.of(longest) {
            let length = found.packed.length();
            let score = best[end - length] + f64::from(found.score);
            if score > high {
                (high, last) = (score, (found.packed.id(), length as u32));
            }
        }
        best[end] = high;
        self.last[end] = last;
    }

    /// Leaves the best path of other pieces in `taken` where it is worse than `piece`.
    fn alternative(&mut self, pieces: &Pieces, lists: &Lists, piece: u32) -> Alternative {
        let inner = pieces.inner(piece);
        let length = inner.len();
        self.start(length);
        for (at, longest) in inner[..length - 1].iter().enumerate() {
            self.step(at + 1, *longest, lists);
        }
        // The first piece of the list at the end is the whole.
        let (mut high, mut last) = (f64::NEG_INFINITY, (UNKNOWN, 0));
        for found in &lists.of(piece)[1..] {
            let score = self.best[length - found.packed.length()] + f64::from(found.score);
            if score > high {
                (high, last) = (score, (found.packed.id(), found.packed.length() as u32));
            }
        }
        self.taken.clear();
        let mut end = length;
        while end > 0 {
            let (other, taken) = if end == length { last } else { self.last[end] };
            if other == UNKNOWN {
                return Alternative::None;
            }
            self.taken.push(other);
            end -= taken as usize;
        }
        if high > f64::from(lists.of(piece)[0].score) { Alternative::Better } else { Alternative::Worse }
    }
}
