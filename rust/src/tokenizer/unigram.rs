//! The best path of a unigram model: the segmentation with the highest sum of piece scores.
//!
//! Sums run in floating point from the start of the text, so their rounding decides near ties.
//! The rules of rounding, ties and resets are those of a named version of a named library
//! (`Rule`), never "equal up to rounding"; cutting a text in two would change ids.

use super::automaton::{Automaton, MAX_LENGTH, Match, Packed};

/// How scores add up and what replaces what.
pub(super) trait Rule {
    /// The score of a piece.
    type Score: Copy;
    /// The best score of a path that ends at a character, as it is kept.
    type Sum: Copy + Default;
    /// A sum before it is kept.
    type Candidate: Copy + PartialOrd;
    fn add(best: Self::Sum, found: &Match<Self::Score>) -> Self::Candidate;
    fn keep(candidate: Self::Candidate) -> Self::Sum;
    fn widen(sum: Self::Sum) -> Self::Candidate;
    /// What sums are lowered by from a character on whose best sum is `sum`.
    fn reset(sum: Self::Sum) -> Option<Self::Sum>;
    fn lower(sum: Self::Sum, by: Self::Sum) -> Self::Sum;
}

/// sentencepiece 0.2.2 and later: f32 throughout; a sum beyond 100,000 becomes the new zero.
pub(super) struct Current;

impl Rule for Current {
    type Score = f32;
    type Sum = f32;
    type Candidate = f32;
    #[inline(always)]
    fn add(best: f32, found: &Match<f32>) -> f32 {
        found.score + best
    }
    #[inline(always)]
    fn keep(candidate: f32) -> f32 {
        candidate
    }
    #[inline(always)]
    fn widen(sum: f32) -> f32 {
        sum
    }
    #[inline(always)]
    fn reset(sum: f32) -> Option<f32> {
        (sum.abs() > 100_000.0).then_some(sum)
    }
    fn lower(sum: f32, by: f32) -> f32 {
        sum - by
    }
}

/// sentencepiece up to 0.2.1: f64 sums compared with, and kept as, f32; unknown pieces in f32.
pub(super) struct Classic;

impl Rule for Classic {
    type Score = f64;
    type Sum = f32;
    type Candidate = f64;
    #[inline(always)]
    fn add(best: f32, found: &Match<f64>) -> f64 {
        if found.packed.is_unknown() { f64::from(found.score as f32 + best) } else { found.score + f64::from(best) }
    }
    #[inline(always)]
    fn keep(candidate: f64) -> f32 {
        candidate as f32
    }
    #[inline(always)]
    fn widen(sum: f32) -> f64 {
        f64::from(sum)
    }
    #[inline(always)]
    fn reset(_: f32) -> Option<f32> {
        None
    }
    fn lower(sum: f32, _: f32) -> f32 {
        sum
    }
}

/// Hugging Face tokenizers: f64 throughout.
pub(super) struct HuggingFace;

impl Rule for HuggingFace {
    type Score = f64;
    type Sum = f64;
    type Candidate = f64;
    #[inline(always)]
    fn add(best: f64, found: &Match<f64>) -> f64 {
        found.score + best
    }
    #[inline(always)]
    fn keep(candidate: f64) -> f64 {
        candidate
    }
    #[inline(always)]
    fn widen(sum: f64) -> f64 {
        sum
    }
    #[inline(always)]
    fn reset(_: f64) -> Option<f64> {
        None
    }
    fn lower(sum: f64, _: f64) -> f64 {
        sum
    }
}

/// One more than the characters of the longest piece; a place in it fits a byte.
const RING: usize = MAX_LENGTH + 1;
const _: () = assert!(RING == 1 << u8::BITS);

#[inline(always)]
fn slot(end: usize) -> usize {
    usize::from(end as u8)
}

/// The buffers of one search, reused from text to text.
pub(super) struct Search<R: Rule> {
    /// For each character the last piece of the best path that ends with it.
    last: Vec<Packed>,
    /// The characters whose best last piece is the unknown one: number (from 1) and character.
    unknowns: Vec<(usize, char)>,
    /// Recent resets: the character and what was subtracted.
    resets: Vec<(usize, R::Sum)>,
}

impl<R: Rule> Default for Search<R> {
    fn default() -> Self {
        Self { last: Vec::new(), unknowns: Vec::new(), resets: Vec::new() }
    }
}

impl<R: Rule> Search<R> {
    /// Finds the best path of `text`. Starts are taken from left to right and a later candidate
    /// must be strictly better, so of equal paths the one with the longest last piece stays.
    #[inline(always)]
    pub(super) fn run(&mut self, automaton: &Automaton<R::Score>, text: impl Iterator<Item = char>) {
        self.last.clear();
        self.unknowns.clear();
        self.resets.clear();
        // The best sums of the last characters.
        let mut sums = [R::Sum::default(); RING];
        let mut state = Automaton::<R::Score>::root();
        let mut end = 0;
        let mut after_reset = false;
        text.for_each(|character| {
            let (next, matches) = automaton.step(state, character);
            state = next;
            end += 1;
            let (sum, last) =
                if after_reset { self.best_after_reset(&sums, matches, end) } else { best::<R>(&sums, matches, end) };
            sums[slot(end)] = sum;
            self.last.push(last);
            if last.is_unknown() {
                self.unknowns.push((end, character));
            }
            if let Some(by) = R::reset(sum) {
                sums[slot(end)] = R::Sum::default();
                self.resets.push((end, by));
            }
            after_reset = !self.resets.is_empty();
        });
    }

    /// As `best`, near a reset: the candidates of starts before it are compared before the
    /// subtraction, the winner is lowered, then come the later starts.
    #[cold]
    #[inline(never)]
    fn best_after_reset(&mut self, sums: &[R::Sum; RING], matches: &[Match<R::Score>], end: usize) -> (R::Sum, Packed) {
        let mut best: Option<(R::Sum, Packed)> = None;
        let mut resets = self.resets.iter().peekable();
        for found in matches {
            let start = end - found.packed.length();
            while let Some((_, by)) = resets.next_if(|(at, _)| *at <= start) {
                best = best.map(|(sum, last)| (R::lower(sum, *by), last));
            }
            let candidate = R::add(sums[slot(start)], found);
            if best.is_none_or(|(sum, _)| candidate > R::widen(sum)) {
                best = Some((R::keep(candidate), found.packed));
            }
        }
        for (_, by) in resets {
            best = best.map(|(sum, last)| (R::lower(sum, *by), last));
        }
        self.resets.retain(|(at, _)| end - at < RING);
        best.unwrap_or((R::Sum::default(), Packed::UNKNOWN))
    }

    /// The pieces of the best path, last first.
    #[inline(always)]
    pub(super) fn backwards(&self, mut each: impl FnMut(Step)) {
        let mut end = self.last.len();
        let mut unknowns = self.unknowns.iter().rev();
        while end > 0 {
            let last = self.last[end - 1];
            if last.is_unknown() {
                // Every unknown piece of the path is in the list; the others were given up.
                let character = unknowns.find(|(at, _)| *at == end).map_or('\u{fffd}', |(_, c)| *c);
                each(Step::Unknown(character));
            } else {
                each(Step::Known { id: last.id() });
            }
            end -= last.length();
        }
    }
}

/// The best path that ends with one of `matches` (never empty) at character `end`.
#[inline(always)]
fn best<R: Rule>(sums: &[R::Sum; RING], matches: &[Match<R::Score>], end: usize) -> (R::Sum, Packed) {
    let candidate = |found: &Match<R::Score>| R::add(sums[slot(end.wrapping_sub(found.packed.length()))], found);
    let Some((first, rest)) = matches.split_first() else { return (R::Sum::default(), Packed::UNKNOWN) };
    let (mut sum, mut last) = (R::keep(candidate(first)), first.packed);
    for found in rest {
        let candidate = candidate(found);
        if candidate > R::widen(sum) {
            (sum, last) = (R::keep(candidate), found.packed);
        }
    }
    (sum, last)
}

/// One piece of a best path.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Known { id: u32 },
    Unknown(char),
}
