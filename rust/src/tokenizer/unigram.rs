//! The best path of a unigram model: the segmentation with the highest sum of piece scores.
//!
//! Sums run in floating point from the start of the text, so their rounding decides near ties.
//! The rules of rounding, ties and resets are those of a named version of a named library
//! (`Rule`), never "equal up to rounding"; cutting a text in two would change ids.

use super::automaton::{Automaton, Match, Packed, State};

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

/// The buffers of one search, reused from text to text.
pub(super) struct Search<R: Rule> {
    /// The best sums of the last characters: as many as the longest piece, in a ring.
    sums: Vec<R::Sum>,
    /// For each character the last piece of the best path that ends with it.
    last: Vec<Packed>,
    /// The characters whose best last piece is the unknown one: number (from 1) and character.
    unknowns: Vec<(usize, char)>,
    /// Recent resets: the character and what was subtracted.
    resets: Vec<(usize, R::Sum)>,
}

impl<R: Rule> Search<R> {
    pub(super) fn new(automaton: &Automaton<R::Score>) -> Self {
        let ring = (automaton.longest() + 1).next_power_of_two();
        Self { sums: vec![R::Sum::default(); ring], last: Vec::new(), unknowns: Vec::new(), resets: Vec::new() }
    }

    /// Finds the best path of `text`. Starts are taken from left to right and a later candidate
    /// must be strictly better, so of equal paths the one with the longest last piece stays.
    #[inline(always)]
    pub(super) fn run(&mut self, automaton: &Automaton<R::Score>, text: impl Iterator<Item = char>) {
        self.last.clear();
        self.unknowns.clear();
        self.resets.clear();
        self.sums[0] = R::Sum::default();
        let mut state = Automaton::<R::Score>::root();
        text.for_each(|character| state = self.step(automaton, state, character));
    }

    #[inline(always)]
    fn step(&mut self, automaton: &Automaton<R::Score>, state: State, character: char) -> State {
        let (state, matches) = automaton.step(state, character);
        let end = self.last.len() + 1;
        let (sum, last) =
            if self.resets.is_empty() { self.best(matches, end) } else { self.best_after_reset(matches, end) };
        let mask = self.sums.len() - 1;
        self.sums[end & mask] = sum;
        self.last.push(last);
        if last.is_unknown() {
            self.unknowns.push((end, character));
        }
        if let Some(by) = R::reset(sum) {
            self.sums[end & mask] = R::Sum::default();
            self.resets.push((end, by));
        }
        state
    }

    #[inline(always)]
    fn best(&self, matches: &[Match<R::Score>], end: usize) -> (R::Sum, Packed) {
        let mask = self.sums.len() - 1;
        let mut best: Option<(R::Sum, Packed)> = None;
        Automaton::for_each(matches, |found| {
            let candidate = R::add(self.sums[end.wrapping_sub(found.packed.length()) & mask], found);
            if best.is_none_or(|(sum, _)| candidate > R::widen(sum)) {
                best = Some((R::keep(candidate), found.packed));
            }
        });
        best.unwrap_or((R::Sum::default(), Packed::UNKNOWN))
    }

    /// As `best`, near a reset: the candidates of starts before it are compared before the
    /// subtraction, the winner is lowered, then come the later starts.
    #[cold]
    fn best_after_reset(&mut self, matches: &[Match<R::Score>], end: usize) -> (R::Sum, Packed) {
        let mask = self.sums.len() - 1;
        let mut best: Option<(R::Sum, Packed)> = None;
        let mut resets = self.resets.iter().peekable();
        Automaton::for_each(matches, |found| {
            let start = end - found.packed.length();
            while let Some((_, by)) = resets.next_if(|(at, _)| *at <= start) {
                best = best.map(|(sum, last)| (R::lower(sum, *by), last));
            }
            let candidate = R::add(self.sums[start & mask], found);
            if best.is_none_or(|(sum, _)| candidate > R::widen(sum)) {
                best = Some((R::keep(candidate), found.packed));
            }
        });
        for (_, by) in resets {
            best = best.map(|(sum, last)| (R::lower(sum, *by), last));
        }
        let window = self.sums.len();
        self.resets.retain(|(at, _)| end - at < window);
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

/// One piece of a best path.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Known { id: u32 },
    Unknown(char),
}
