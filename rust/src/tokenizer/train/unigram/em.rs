//! Expectation maximisation: how often each piece is expected in the text, over all ways to cut
//! it, and new scores from that.
//!
//!   a[j] = sum over pieces that end at j of  p(piece) a[start]              a[0] = 1
//!   b[i] = sum over pieces that start at i of  p(piece) b[end]              b[n] = freq / a[n]
//!   expected[piece] += a[start] p(piece) b[end]
//!
//! Probabilities, not logarithms: no exponential and no logarithm an edge. Where `a` becomes small
//! it goes on 2^256 times larger; the way back undoes that at the same character.

use super::corpus::{BLOCK, Chunk, Corpus};
use super::jobs::{Jobs, Stop};
use super::pieces::{Lists, Pieces};
use crate::error::Result;

/// Below this `a` is lifted. A character lowers it by less than 2^-300, so it never vanishes.
const SMALL: f64 = 1.0 / LIFT;
const LIFT: f64 = (1u128 << 64) as f64 * (1u128 << 64) as f64 * (1u128 << 64) as f64 * (1u128 << 64) as f64;

/// Pieces expected less often are dropped.
const MIN_EXPECTED: f64 = 0.5;

/// What a text expects of the pieces.
#[derive(Debug)]
pub(super) struct Expected {
    /// By number; 0 is the unknown character.
    pub(super) counts: Vec<f64>,
    /// Sum over sentences of the logarithm of their probability.
    pub(super) log_likelihood: f64,
}

/// How often each piece is expected in the corpus.
///
/// # Errors
/// `Interrupted`.
pub(super) fn expect(
    corpus: &Corpus,
    pieces: &Pieces,
    jobs: &Jobs<'_>,
    tell: impl Fn() -> Result<()>,
) -> Result<Expected> {
    let (lists, longest) = (pieces.lists(f64::exp), pieces.longest());
    let mut total = Expected { counts: vec![0.0; pieces.count() + 1], log_likelihood: 0.0 };
    jobs.in_order(
        corpus.chunks(),
        || Lattice::new(longest),
        |lattice, number, stop| {
            let mut expected = Expected { counts: vec![0.0; pieces.count() + 1], log_likelihood: 0.0 };
            lattice.add(&corpus.chunk(number), &lists, &mut expected, stop)?;
            Ok(expected)
        },
        |_, part| {
            total.counts.iter_mut().zip(&part.counts).for_each(|(sum, count)| *sum += count);
            total.log_likelihood += part.log_likelihood;
            tell()
        },
    )?;
    Ok(total)
}

/// New scores from expected counts, with a prior that prefers few pieces; gives which to keep.
pub(super) fn maximise(pieces: &mut Pieces, expected: &Expected) -> Vec<bool> {
    let keep: Vec<bool> = expected.counts.iter().enumerate().map(|(i, c)| i > 0 && *c >= MIN_EXPECTED).collect();
    let sum: f64 = expected.counts.iter().zip(&keep).filter(|(_, keep)| **keep).map(|(count, _)| count).sum();
    let log_sum = digamma(sum);
    for (piece, count) in expected.counts.iter().enumerate().filter(|(piece, _)| keep[*piece]) {
        pieces.scores[piece] = digamma(*count) - log_sum;
    }
    keep
}

/// New scores of a vocabulary that stays as it is; a piece expected less often than `MIN_EXPECTED`
/// is taken to be expected so often. Gives the score of `absent` more pieces that the text cannot have.
pub(super) fn rescore(pieces: &mut Pieces, expected: &Expected, absent: usize) -> f64 {
    let counts = expected.counts[1..].iter().map(|count| count.max(MIN_EXPECTED));
    let log_sum = digamma(counts.clone().sum::<f64>() + absent as f64 * MIN_EXPECTED);
    for (score, count) in pieces.scores[1..].iter_mut().zip(counts) {
        *score = digamma(count) - log_sum;
    }
    digamma(MIN_EXPECTED) - log_sum
}

/// The derivative of the logarithm of the gamma function, x > 0: recurrence up to 7, then its
/// asymptotic series at x - 1/2.
pub(super) fn digamma(mut x: f64) -> f64 {
    let mut result = 0.0;
    while x < 7.0 {
        result -= 1.0 / x;
        x += 1.0;
    }
    let x = x - 0.5;
    let inverse = 1.0 / (x * x);
    let series = [1.0 / 24.0, -7.0 / 960.0, 31.0 / 8064.0, -127.0 / 30720.0, 511.0 / 67584.0];
    result + x.ln() + series.iter().rev().fold(0.0, |sum, term| (sum + term) * inverse)
}

/// One thread's buffers.
struct Lattice {
    a: Vec<f64>,
    b: Vec<f64>,
    /// Characters of the longest piece.
    longest: usize,
    lifts: Vec<Lift>,
    /// The `a` before each lift, up to `longest` of them.
    before: Vec<f64>,
}

/// From this character on `a` is larger.
struct Lift {
    at: usize,
    saved: usize,
}

impl Lattice {
    fn new(longest: usize) -> Self {
        Self { a: Vec::new(), b: Vec::new(), longest, lifts: Vec::new(), before: Vec::new() }
    }

    fn add(&mut self, chunk: &Chunk, lists: &Lists, expected: &mut Expected, stop: &Stop<'_>) -> Result<()> {
        let mut unchecked = 0;
        for (part, freq) in chunk.parts() {
            unchecked += part.len();
            if unchecked > BLOCK {
                stop.check()?;
                unchecked = 0;
            }
            let freq = freq as f64;
            expected.log_likelihood += freq * self.forward(part, lists, stop)?;
            self.backward(part, freq, lists, &mut expected.counts, stop)?;
        }
        Ok(())
    }

    /// Fills `a`; gives the logarithm of the probability of the part.
    fn forward(&mut self, part: &[u32], lists: &Lists, stop: &Stop<'_>) -> Result<f64> {
        self.lifts.clear();
        self.before.clear();
        self.a.clear();
        self.a.resize(part.len() + 1, 0.0);
        self.a[0] = 1.0;
        for (number, block) in part.chunks(BLOCK).enumerate() {
            if number > 0 {
                stop.check()?;
            }
            for (at, piece) in block.iter().enumerate() {
                let end = number * BLOCK + at + 1;
                let a = &mut self.a[..=end];
                let mut sum = 0.0;
                for found in lists.of(*piece) {
                    sum += f64::from(found.score) * a[end - found.packed.length()];
                }
                a[end] = sum;
                if sum < SMALL {
                    self.lift(end);
                }
            }
        }
        Ok(self.a[part.len()].ln() - self.lifts.len() as f64 * LIFT.ln())
    }

    /// Lifts the `a` that later pieces can start from.
    #[cold]
    fn lift(&mut self, at: usize) {
        let window = &mut self.a[(at + 1).saturating_sub(self.longest)..=at];
        self.before.extend_from_slice(window);
        self.lifts.push(Lift { at, saved: window.len() });
        // A far larger `a` in the window is one that no piece leads on from.
        window.iter_mut().for_each(|a| *a = (*a * LIFT).min(f64::MAX));
    }

    /// Undoes the last lift for pieces that end up to its character.
    #[cold]
    fn unlift(&mut self) -> usize {
        let Some(lift) = self.lifts.pop() else { return 0 };
        let (from, first) = (self.before.len() - lift.saved, lift.at + 1 - lift.saved);
        self.a[first..=lift.at].copy_from_slice(&self.before[from..]);
        self.before.truncate(from);
        self.b[first..=lift.at].iter_mut().for_each(|b| *b *= LIFT);
        self.lifts.last().map_or(0, |l| l.at)
    }

    fn backward(&mut self, part: &[u32], freq: f64, lists: &Lists, counts: &mut [f64], stop: &Stop<'_>) -> Result<()> {
        self.b.clear();
        self.b.resize(part.len() + 1, 0.0);
        self.b[part.len()] = freq / self.a[part.len()];
        let mut lift = self.lifts.last().map_or(0, |l| l.at);
        for (number, block) in part.chunks(BLOCK).enumerate().rev() {
            stop.check()?;
            for (at, piece) in block.iter().enumerate().rev() {
                let end = number * BLOCK + at + 1;
                if end == lift {
                    lift = self.unlift();
                }
                let (a, b) = (&self.a[..end], &mut self.b[..=end]);
                let after = b[end];
                for found in lists.of(*piece) {
                    let start = end - found.packed.length();
                    let share = f64::from(found.score) * after;
                    b[start] += share;
                    counts[found.packed.id() as usize] += a[start] * share;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tokenizer::train::Progress;

    const NEVER: Jobs<'static> = Jobs { threads: 2, progress: Progress::SILENT };

    /// Every way to cut `text` into pieces, unknown where no piece of one character matches.
    fn paths(text: &[u32], pieces: &Pieces, path: &mut Vec<u32>, each: &mut impl FnMut(&[u32])) {
        if text.is_empty() {
            return each(path);
        }
        let mut known = false;
        for piece in pieces.numbers().filter(|p| text.starts_with(pieces.text(*p))) {
            known |= pieces.length(piece) == 1;
            path.push(piece);
            paths(&text[pieces.length(piece)..], pieces, path, each);
            path.pop();
        }
        if !known {
            path.push(0);
            paths(&text[1..], pieces, path, each);
            path.pop();
        }
    }

    fn brute_force(sentences: &[(Vec<u32>, u64)], pieces: &Pieces) -> Expected {
        let mut total = Expected { counts: vec![0.0; pieces.count() + 1], log_likelihood: 0.0 };
        for (sentence, freq) in sentences {
            for part in sentence.split(|c| *c < 2) {
                let (mut sum, mut counts) = (0.0, vec![0.0; pieces.count() + 1]);
                paths(part, pieces, &mut Vec::new(), &mut |path| {
                    let score = |p: &u32| if *p == 0 { pieces.unknown_score() } else { pieces.scores[*p as usize] };
                    let probability = path.iter().map(score).sum::<f64>().exp();
                    sum += probability;
                    path.iter().for_each(|p| counts[*p as usize] += probability);
                });
                let freq = *freq as f64;
                total.counts.iter_mut().zip(&counts).for_each(|(t, c)| *t += freq * c / sum);
                total.log_likelihood += freq * sum.ln();
            }
        }
        total
    }

    const CHARS: [char; 6] = ['\t', '▅', 'a', 'b', 'c', 'd'];

    fn ours(
        sentences: &[(Vec<u32>, u64)],
        texts: &[Vec<u32>],
        scores: &[f64],
        drop: Option<u32>,
    ) -> (Pieces, Expected) {
        let ends = |lengths: Vec<usize>| -> Vec<usize> {
            let add = |end: &mut usize, length| {
                *end += length;
                Some(*end)
            };
            lengths.into_iter().scan(0, add).collect()
        };
        let piece_ends = ends(texts.iter().map(Vec::len).collect());
        let (mut pieces, matcher) = Pieces::new(texts.concat(), &piece_ends, scores, &CHARS).unwrap();
        let codes: Vec<u32> = sentences.iter().flat_map(|s| s.0.clone()).collect();
        let freqs: Vec<u64> = sentences.iter().map(|s| s.1).collect();
        let sentence_ends = ends(sentences.iter().map(|s| s.0.len()).collect());
        let corpus = Corpus::new(&codes, &sentence_ends, &freqs, &matcher, &NEVER).unwrap();
        if let Some(drop) = drop {
            let keep: Vec<bool> = (0..=texts.len() as u32).map(|p| p != 0 && p % 3 != drop).collect();
            let map = pieces.retain(&keep);
            corpus.renumber(&map, &NEVER).unwrap();
        }
        let expected = expect(&corpus, &pieces, &NEVER, || Ok(())).unwrap();
        (pieces, expected)
    }

    proptest! {
        #[test]
        fn expected_counts_are_those_of_every_path(
            sentences in prop::collection::vec((prop::collection::vec(0u32..6, 0..11), 1u64..4), 1..5),
            texts in prop::collection::btree_set(prop::collection::vec(2u32..6, 1..5), 1..25),
            scores in prop::collection::vec(-12.0..-1.0, 25),
            drop in prop::option::of(0u32..3),
        ) {
            let texts: Vec<Vec<u32>> = texts.into_iter().collect();
            let (pieces, found) = ours(&sentences, &texts, &scores[..texts.len()], drop);
            let exact = brute_force(&sentences, &pieces);
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-6 * b.abs() + 1e-12;
            prop_assert!(near(found.log_likelihood, exact.log_likelihood), "{found:?} {exact:?}");
            for (a, b) in found.counts.iter().zip(&exact.counts) {
                prop_assert!(near(*a, *b), "{found:?} {exact:?}");
            }
        }
    }

    /// Long enough that probabilities leave the range of f64 many times over: the counts of a
    /// repeated text are those of one repetition, except near its two ends.
    #[test]
    fn long_and_unlikely_sentences_do_not_underflow() {
        let texts = [vec![2], vec![3], vec![2, 3], vec![3, 3, 2], vec![4, 4, 4, 4]];
        let scores = [-20.0, -30.0, -45.0, -70.0, -80.0];
        // 5 is in no piece: a path through it is e^-90 times as likely.
        let unit = [2, 3, 3, 2, 3, 5, 5, 5, 5, 5, 4, 4, 4, 4, 5, 2];
        let of = |times: usize| ours(&[(unit.repeat(times), 1)], &texts, &scores, None).1;
        let (few, many) = (of(40), of(4000));
        let per_unit = |e: &Expected, n: usize| e.counts.iter().map(|c| c / n as f64).collect::<Vec<_>>();
        for (a, b) in per_unit(&few, 40).into_iter().zip(per_unit(&many, 4000)) {
            assert!((a - b).abs() <= 1e-9 * b, "{few:?} {many:?}");
        }
        assert!((few.log_likelihood * 100.0 / many.log_likelihood - 1.0).abs() < 1e-12);
        assert!(many.log_likelihood < -2_000_000.0);
    }

    #[test]
    fn digamma_is_exact() {
        // Abramowitz and Stegun, table 6.1, and -γ - 2 ln 2.
        let known = [(1.0, -0.577_215_664_901_532_9), (0.5, -1.963_510_026_021_423_5), (2.0, 0.422_784_335_098_467_1)];
        for (x, want) in known {
            assert!((digamma(x) - want).abs() < 1e-10, "{x}: {}", digamma(x));
        }
        assert!((digamma(1e9) - (1e9f64.ln() - 0.5e-9)).abs() < 1e-14);
    }
}
