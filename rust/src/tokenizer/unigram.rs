//! The best path of a unigram model: the segmentation with the highest sum of piece scores.
//!
//! Sums run in floating point from the start of the text, so their rounding decides near ties.
//! The rules of rounding, ties and resets are those of a named version of a named library
//! (`Rule`), never "equal up to rounding"; cutting a text in two would change ids.

use std::hint::select_unpredictable;

use super::automaton::{ALWAYS, Automaton, List, MAX_LENGTH, Match, Packed, ROOT, Score, longest_first};
use super::codes::Codes;

/// How scores add up and what replaces what.
pub(super) trait Rule: Sized {
    /// The score of a piece.
    type Score: Score;
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

/// One more than the characters of the longest piece.
const REACH: usize = MAX_LENGTH + 1;
/// Characters that are read at a time.
const BLOCK: usize = 4096;
/// Characters between two looks for resets.
const STRETCH: usize = 512;
/// Lists of matches are fetched so many characters before they are wanted.
const AHEAD: usize = 24;

/// The buffers of one search, reused from text to text.
///
/// Texts are read one after the other into a block of characters; a long text goes on in the next
/// block. Each block is first matched with the pieces, then cut.
pub(super) struct Search<R: Rule> {
    block: Block,
    lists: Vec<List>,
    state: u32,
    /// The best sums of the characters of the block, and of `REACH` before it.
    sums: Vec<R::Sum>,
    /// For each character of the text the last piece of the best path that ends with it.
    last: Vec<Packed>,
    /// The characters whose best last piece is the unknown one: number (from 1) and character.
    unknowns: Vec<(usize, char)>,
    /// Recent resets: the character and what was subtracted.
    resets: Vec<(usize, R::Sum)>,
}

/// Characters of texts, each text followed by code 0.
#[derive(Default)]
pub(super) struct Block {
    /// As many as there ever were; the first `len` count.
    codes: Vec<u16>,
    characters: Vec<char>,
    len: usize,
    /// Where texts end.
    ends: Vec<usize>,
}

impl Block {
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn codes(&self) -> &[u16] {
        &self.codes[..self.len]
    }

    pub(super) fn last(&self) -> Option<char> {
        self.len.checked_sub(1).map(|at| self.characters[at])
    }

    #[inline(always)]
    pub(super) fn push(&mut self, code: u16, character: char) {
        let (codes, characters) = self.room(1);
        (codes[0], characters[0]) = (code, character);
        self.len += 1;
    }

    /// The next `count` places; what is written there counts once it is `taken`.
    #[inline(always)]
    pub(super) fn room(&mut self, count: usize) -> (&mut [u16], &mut [char]) {
        let end = self.len + count;
        if end > self.codes.len() {
            self.codes.resize(end, 0);
            self.characters.resize(end, '\0');
        }
        (&mut self.codes[self.len..end], &mut self.characters[self.len..end])
    }

    pub(super) fn take(&mut self, count: usize) {
        self.len += count;
        debug_assert!(self.len <= self.codes.len());
    }

    pub(super) fn pop(&mut self) {
        self.len = self.len.saturating_sub(1);
    }

    fn clear(&mut self) {
        self.len = 0;
        self.ends.clear();
    }
}

impl<R: Rule> Default for Search<R> {
    fn default() -> Self {
        let sums = vec![R::Sum::default(); REACH];
        let (block, lists, last, unknowns, resets) = Default::default();
        Self { block, lists, state: ROOT, sums, last, unknowns, resets }
    }
}

impl<R: Rule> Search<R> {
    /// Reads a text and hands the best path of each text that is done to `each`, in order: it may
    /// wait for more texts, or `finish`.
    #[inline(always)]
    pub(super) fn add(&mut self, automaton: &Automaton<R::Score>, mut text: impl Source, each: &mut impl FnMut(&Self)) {
        while !text.read(&automaton.codes, &mut self.block, BLOCK) {
            self.cut(automaton, each);
        }
        self.block.ends.push(self.block.len());
        self.block.push(0, '\0');
        if self.block.len() >= BLOCK {
            self.cut(automaton, each);
        }
    }

    /// The best path of one text.
    pub(super) fn run(&mut self, automaton: &Automaton<R::Score>, text: impl Source, mut each: impl FnMut(&Self)) {
        self.add(automaton, text, &mut each);
        self.finish(automaton, &mut each);
    }

    /// The best paths of the texts that wait.
    pub(super) fn finish(&mut self, automaton: &Automaton<R::Score>, each: &mut impl FnMut(&Self)) {
        self.cut(automaton, each);
    }

    /// Matches and cuts what stands in the block, and empties it.
    #[inline(always)]
    fn cut(&mut self, automaton: &Automaton<R::Score>, each: &mut impl FnMut(&Self)) {
        let length = self.block.len();
        self.lists.resize(length, List::UNKNOWN);
        automaton.scan(&mut self.state, self.block.codes(), &mut self.lists);
        self.sums.resize(REACH + length, R::Sum::default());
        let mut from = 0;
        for text in 0..self.block.ends.len() {
            let end = self.block.ends[text];
            self.best_paths(automaton, from, end);
            each(self);
            self.begin(end);
            from = end + 1;
        }
        self.best_paths(automaton, from, length);
        self.sums.copy_within(length..length + REACH, 0);
        self.block.clear();
    }

    /// A text starts behind `place`.
    fn begin(&mut self, place: usize) {
        self.last.clear();
        self.unknowns.clear();
        self.resets.clear();
        self.sums[REACH + place] = R::Sum::default();
    }

    /// Continues the best paths of a text. Starts are taken from left to right and a later
    /// candidate must be strictly better, so of equal paths the one with the longest last piece
    /// stays.
    fn best_paths(&mut self, automaton: &Automaton<R::Score>, mut from: usize, to: usize) {
        while from < to {
            if self.resets.is_empty() {
                // A reset changes what comes after it, which is then done again.
                from = self.stretch(automaton, from, to.min(from + STRETCH));
                continue;
            }
            let number = self.last.len() + 1;
            let matches = &automaton.matches[self.lists[from].start()..];
            let (sum, last) = self.best_after_reset(from, matches, number);
            self.sums[REACH + from] = sum;
            self.last.push(last);
            self.note(from);
            from += 1;
        }
    }

    /// The best paths up to the first reset or to `to`; gives where it stopped.
    #[inline(always)]
    fn stretch(&mut self, automaton: &Automaton<R::Score>, from: usize, to: usize) -> usize {
        let before = self.last.len();
        self.last.resize(before + to - from, Packed::UNKNOWN);
        let sums = &mut self.sums[from..to + REACH];
        let mut newest = sums[REACH - 1];
        let ahead = &self.lists[(from + AHEAD).min(to)..to];
        for (place, (list, last)) in self.lists[from..to].iter().zip(&mut self.last[before..]).enumerate() {
            if let Some(list) = ahead.get(place) {
                automaton.prefetch(*list);
            }
            let Some((here, _)) = sums[place..].split_first_chunk_mut() else { break };
            (newest, *last) = best::<R>(automaton, here, newest, *list);
            here[REACH] = newest;
        }
        let to = match first(&self.sums[REACH + from..REACH + to], |sum| R::reset(*sum).is_some()) {
            Some(place) => from + place + 1,
            None => to,
        };
        self.last.truncate(before + to - from);
        let mut number = before;
        while let Some(place) = first(&self.last[number..], |last| last.is_unknown()) {
            number += place + 1;
            self.unknowns.push((number, self.block.characters[number - 1 - before + from]));
        }
        if let Some(by) = R::reset(self.sums[REACH + to - 1]) {
            self.sums[REACH + to - 1] = R::Sum::default();
            self.resets.push((self.last.len(), by));
        }
        to
    }

    /// Notes an unknown piece or a reset at the last character so far.
    fn note(&mut self, place: usize) {
        let number = self.last.len();
        if self.last[number - 1].is_unknown() {
            self.unknowns.push((number, self.block.characters[place]));
        }
        if let Some(by) = R::reset(self.sums[REACH + place]) {
            self.sums[REACH + place] = R::Sum::default();
            self.resets.push((number, by));
        }
    }

    /// As `best`, near a reset: the candidates of starts before it are compared before the
    /// subtraction, the winner is lowered, then come the later starts.
    #[cold]
    #[inline(never)]
    fn best_after_reset(&mut self, place: usize, matches: &[Match<R::Score>], end: usize) -> (R::Sum, Packed) {
        let mut best: Option<(R::Sum, Packed)> = None;
        let mut resets = self.resets.iter().peekable();
        for found in longest_first(matches) {
            let start = end - found.packed.length();
            while let Some((_, by)) = resets.next_if(|(at, _)| *at <= start) {
                best = best.map(|(sum, last)| (R::lower(sum, *by), last));
            }
            let candidate = R::add(self.sums[place + REACH - found.packed.length()], found);
            if best.is_none_or(|(sum, _)| candidate > R::widen(sum)) {
                best = Some((R::keep(candidate), found.packed));
            }
        }
        for (_, by) in resets {
            best = best.map(|(sum, last)| (R::lower(sum, *by), last));
        }
        self.resets.retain(|(at, _)| end - at < REACH);
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

/// The place of the first item that `is` holds for. Most often there is none, so many are asked at once.
#[inline(always)]
fn first<T>(items: &[T], is: impl Fn(&T) -> bool) -> Option<usize> {
    const MANY: usize = 64;
    let holds = |chunk: &&[T]| chunk.iter().fold(false, |any, item| any | is(item));
    let (number, chunk) = items.chunks(MANY).enumerate().find(|(_, chunk)| holds(chunk))?;
    Some(number * MANY + chunk.iter().position(&is)?)
}

/// The best path that ends with a match of `list`. `sums`: of the `REACH` characters before, and a place behind them;
/// `before`: the last of them. Choices are selected, not jumped to: they cannot be foreseen.
#[inline(always)]
fn best<R: Rule>(
    automaton: &Automaton<R::Score>,
    sums: &[R::Sum; REACH + 1],
    before: R::Sum,
    list: List,
) -> (R::Sum, Packed) {
    let candidate = |found: &Match<R::Score>| R::add(sums[REACH - found.packed.length()], found);
    let better = |best: (R::Sum, Packed), candidate: R::Candidate, packed: Packed| {
        let wins = candidate > R::widen(best.0);
        (select_unpredictable(wins, R::keep(candidate), best.0), select_unpredictable(wins, packed, best.1))
    };
    let always = automaton.always(list);
    let mut best = (R::keep(candidate(&always[1])), always[1].packed);
    best = better(best, candidate(&always[2]), always[2].packed);
    if always[0].packed.has_more() {
        for found in &automaton.matches[list.start() + ALWAYS..] {
            best = better(best, candidate(found), found.packed);
            if !found.packed.has_more() {
                break;
            }
        }
    }
    better(best, R::add(before, &always[0]), always[0].packed)
}

/// Where the characters of a text come from.
pub(super) trait Source {
    /// Reads until the text is used up (`true`) or the block has `full` characters.
    fn read(&mut self, codes: &Codes, block: &mut Block, full: usize) -> bool;
}

/// Text that is normalised.
pub(super) struct Plain<'t>(pub(super) &'t str);

impl Source for Plain<'_> {
    fn read(&mut self, codes: &Codes, block: &mut Block, full: usize) -> bool {
        let mut rest = self.0.chars();
        while block.len() < full {
            let Some(character) = rest.next() else { break };
            block.push(codes.get(character) as u16, character);
        }
        self.0 = rest.as_str();
        self.0.is_empty()
    }
}

/// One piece of a best path.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Known { id: u32 },
    Unknown(char),
}
