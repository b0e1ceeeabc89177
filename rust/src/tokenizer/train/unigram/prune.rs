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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tokenizer::train::Progress;

    const CHARS: [char; 5] = ['\t', '▅', 'a', 'b', 'c'];
    const JOBS: Jobs<'static> = Jobs { threads: 2, progress: Progress::SILENT };

    /// All ways to cut `text` into pieces, the likeliest first; none with unknown characters.
    fn paths(text: &[u32], pieces: &Pieces) -> Vec<(f64, Vec<u32>)> {
        if text.is_empty() {
            return vec![(0.0, Vec::new())];
        }
        let mut all = Vec::new();
        for piece in pieces.numbers().filter(|p| text.starts_with(pieces.text(*p))) {
            for (score, mut path) in paths(&text[pieces.length(piece)..], pieces) {
                path.insert(0, piece);
                all.push((score + pieces.scores[piece as usize], path));
            }
        }
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        all
    }

    fn pieces(texts: &[Vec<u32>], scores: &[f64]) -> (Pieces, super::super::pieces::Matcher<'static>) {
        let mut end = 0;
        let mut add = |text: &Vec<u32>| {
            end += text.len();
            end
        };
        let ends: Vec<usize> = texts.iter().map(&mut add).collect();
        Pieces::new(texts.concat(), &ends, &scores[..texts.len()], &CHARS).expect("few and short")
    }

    proptest! {
        #[test]
        fn best_paths_and_alternatives_are_those_of_every_path(
            texts in prop::collection::btree_set(prop::collection::vec(2u32..5, 1..6), 1..20),
            scores in prop::collection::vec(-12.0..-1.0, 20),
            sentence in prop::collection::vec(2u32..5, 1..10),
        ) {
            let texts: Vec<Vec<u32>> = texts.into_iter().collect();
            let (pieces, matcher) = pieces(&texts, &scores);
            let lists = pieces.lists(|score| score);
            for piece in pieces.numbers() {
                let others: Vec<_> = paths(pieces.text(piece), &pieces).into_iter().filter(|(_, p)| p.len() > 1).collect();
                let mut path = Path::default();
                let found = path.alternative(&pieces, &lists, piece);
                // A path through an unknown character is never better, and is none.
                let want = match others.first() {
                    None => Alternative::None,
                    Some((score, _)) if *score > pieces.scores[piece as usize] => Alternative::Better,
                    Some(_) => Alternative::Worse,
                };
                prop_assert_eq!(&found, &want);
                if found == Alternative::Worse {
                    path.taken.reverse();
                    let score: f64 = path.taken.iter().map(|p| pieces.scores[*p as usize]).sum();
                    prop_assert!((score - others[0].0).abs() < 1e-5);
                }
            }
            let corpus = Corpus::new(&sentence, &[sentence.len()], &[3], &matcher, &JOBS).expect("not interrupted");
            let counts = best_paths(&corpus, &pieces, &lists, &JOBS, || Ok(())).expect("not interrupted");
            if let Some((best, _)) = paths(&sentence, &pieces).first() {
                let score: f64 = pieces.numbers().map(|p| counts[p as usize] as f64 * pieces.scores[p as usize]).sum();
                prop_assert!(counts[0] > 0 || (score - 3.0 * best).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn the_text_keeps_what_it_cannot_spare() {
        let texts = [vec![2], vec![3], vec![2, 3], vec![3, 2], vec![4, 4], vec![2, 2]];
        let (pieces, _) = pieces(&texts, &[-2.0, -2.0, -3.0, -3.5, -9.0, -5.0]);
        let lists = pieces.lists(|score| score);
        // "aa" is likelier as two pieces; "cc" has no other way; "ba" is never used.
        let counts = [0, 10, 10, 50, 0, 0, 0];
        let kept = |size| -> Vec<u32> {
            let keep = keep(&pieces, &lists, &counts, size);
            pieces.numbers().filter(|p| keep[*p as usize]).collect()
        };
        assert_eq!(kept(6), [1, 2, 3, 5]);
        assert_eq!(kept(3), [1, 2, 5]);
        // 50 of 70 pieces; written with "a" and "b" they are 60 of 120 each.
        let want = 50.0 / 70.0 * ((50.0f64 / 70.0).ln() - 2.0 * (60.0f64 / 120.0).ln());
        assert!((loss(3, &[1, 2], &counts, 70.0) - want).abs() < 1e-12);
    }
}
