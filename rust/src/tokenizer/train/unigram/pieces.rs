//! The pieces of a round, and for each piece all pieces that end where it ends.
//!
//! The pieces that end at a character of the text are the longest of them and those of its
//! suffixes that are pieces. So the text is kept as one number a character, the longest piece
//! that ends there, found once; when pieces are dropped, each number changes to that of the
//! piece's longest remaining suffix. No round has to match strings again.

use crate::error::Result;
use crate::tokenizer::automaton::{Automaton, Entry, Match, Packed, ROOT};

/// No piece ends at a character: it is unknown.
pub(super) const UNKNOWN: u32 = 0;

/// How much less likely than the least likely piece an unknown character is, as a logarithm.
const UNKNOWN_PENALTY: f64 = 10.0;

/// Pieces are numbered from 1, the more frequent first.
pub(super) struct Pieces {
    codes: Vec<u32>,
    ends: Vec<usize>,
    /// For each of `codes` the longest piece that ends there inside the same text.
    inner: Vec<u32>,
    /// The longest proper suffix that is a piece.
    suffix: Vec<u32>,
    /// Logarithms of probabilities.
    pub(super) scores: Vec<f64>,
}

/// Reads characters, says which piece is the longest that ends at each.
pub(super) struct Matcher<'a> {
    automaton: Automaton<()>,
    chars: &'a [char],
}

impl<'a> Matcher<'a> {
    fn new(codes: &[u32], ends: &[usize], chars: &'a [char]) -> Result<Self> {
        let (mut text, mut text_ends, mut start) = (String::new(), Vec::with_capacity(ends.len()), 0);
        for end in ends {
            text.extend(codes[start..*end].iter().map(|c| chars[*c as usize]));
            text_ends.push(text.len());
            start = *end;
        }
        let mut start = 0;
        let entry = |(at, end): (usize, &usize)| {
            let text = &text[std::mem::replace(&mut start, *end)..*end];
            Entry { text, id: at as u32 + 1, score: () }
        };
        let entries: Vec<Entry<'_, ()>> = text_ends.iter().enumerate().map(entry).collect();
        Ok(Self { automaton: Automaton::new(&entries, ())?, chars })
    }

    /// Calls `each` for every code of `text` with the longest piece that ends there and those of its suffixes.
    #[inline]
    pub(super) fn read(&self, text: &[u32], mut each: impl FnMut(&[Match<()>])) {
        let (mut state, mut matches) = (ROOT, Vec::new());
        for code in text {
            matches.clear();
            matches.extend(self.automaton.step(&mut state, self.chars[*code as usize]));
            each(&matches);
        }
    }
}

#[inline]
pub(super) fn number(found: Match<()>) -> u32 {
    if found.packed.is_unknown() { UNKNOWN } else { found.packed.id() }
}

impl Pieces {
    /// The pieces whose texts end at `ends`, all of them different.
    ///
    /// # Errors
    /// `Tokenizer` where they are too long or too many.
    pub(super) fn new<'a>(
        codes: Vec<u32>,
        ends: &[usize],
        scores: &[f64],
        chars: &'a [char],
    ) -> Result<(Self, Matcher<'a>)> {
        let matcher = Matcher::new(&codes, ends, chars)?;
        let mut pieces = Self {
            inner: Vec::with_capacity(codes.len()),
            suffix: vec![UNKNOWN],
            ends: [0].iter().chain(ends).copied().collect(),
            scores: [0.0].iter().chain(scores).copied().collect(),
            codes,
        };
        for piece in 1..pieces.ends.len() as u32 {
            let mut suffix = UNKNOWN;
            matcher.read(&pieces.codes[pieces.range(piece)], |matches| {
                pieces.inner.push(number(matches[0]));
                suffix = matches.get(1).map_or(UNKNOWN, |m| number(*m));
            });
            pieces.suffix.push(suffix);
        }
        Ok((pieces, matcher))
    }

    fn range(&self, piece: u32) -> std::ops::Range<usize> {
        self.ends[piece as usize - 1]..self.ends[piece as usize]
    }

    pub(super) fn text(&self, piece: u32) -> &[u32] {
        &self.codes[self.range(piece)]
    }

    /// For each character of the piece the longest piece that ends there; the last is the piece itself.
    pub(super) fn inner(&self, piece: u32) -> &[u32] {
        &self.inner[self.range(piece)]
    }

    pub(super) fn count(&self) -> usize {
        self.ends.len() - 1
    }

    pub(super) fn numbers(&self) -> std::ops::RangeInclusive<u32> {
        1..=self.count() as u32
    }

    pub(super) fn length(&self, piece: u32) -> usize {
        self.range(piece).len()
    }

    /// Characters of the longest piece.
    pub(super) fn longest(&self) -> usize {
        self.numbers().map(|p| self.length(p)).max().unwrap_or(1).max(1)
    }

    /// Of an unknown character.
    pub(super) fn unknown_score(&self) -> f64 {
        self.scores[1..].iter().copied().fold(0.0, f64::min) - UNKNOWN_PENALTY
    }

    /// Drops the pieces not to keep (`keep` by number). Gives for each old number the new one of the
    /// longest suffix that remains.
    pub(super) fn retain(&mut self, keep: &[bool]) -> Vec<u32> {
        let remaining = |mut piece: u32| {
            while piece != UNKNOWN && !keep[piece as usize] {
                piece = self.suffix[piece as usize];
            }
            piece
        };
        let mut numbers = vec![UNKNOWN; self.ends.len()];
        let kept: Vec<u32> = self.numbers().filter(|p| keep[*p as usize]).collect();
        kept.iter().enumerate().for_each(|(at, old)| numbers[*old as usize] = at as u32 + 1);
        let map: Vec<u32> = (0..self.ends.len() as u32).map(|p| numbers[remaining(p) as usize]).collect();
        let mut fresh =
            Self { codes: Vec::new(), ends: vec![0], inner: Vec::new(), suffix: vec![UNKNOWN], scores: vec![0.0] };
        for old in kept {
            fresh.codes.extend_from_slice(self.text(old));
            fresh.ends.push(fresh.codes.len());
            fresh.inner.extend(self.inner(old).iter().map(|p| map[*p as usize]));
            fresh.suffix.push(map[self.suffix[old as usize] as usize]);
            fresh.scores.push(self.scores[old as usize]);
        }
        *self = fresh;
        map
    }

    /// All pieces that end where a piece ends, with a value each.
    pub(super) fn lists(&self, value: impl Fn(f64) -> f64) -> Lists {
        let unknown = Match { score: value(self.unknown_score()) as f32, packed: Packed::new(UNKNOWN, 1) };
        let mut lists = Lists { bounds: vec![0], matches: vec![unknown] };
        for piece in self.numbers() {
            lists.bounds.push(lists.matches.len() as u32);
            let (mut at, mut length) = (piece, 0);
            while at != UNKNOWN {
                length = self.length(at);
                let score = value(self.scores[at as usize]) as f32;
                lists.matches.push(Match { score, packed: Packed::new(at, length) });
                at = self.suffix[at as usize];
            }
            if length != 1 {
                lists.matches.push(unknown);
            }
        }
        lists.bounds.push(lists.matches.len() as u32);
        lists
    }
}

/// For each piece all pieces that end where it ends, longest first.
pub(super) struct Lists {
    bounds: Vec<u32>,
    matches: Vec<Match<f32>>,
}

impl Lists {
    #[inline(always)]
    pub(super) fn of(&self, longest: u32) -> &[Match<f32>] {
        let at = longest as usize;
        &self.matches[self.bounds[at] as usize..self.bounds[at + 1] as usize]
    }
}
