//! Which keys a query sees. They follow one another, and neither end goes back from one query to the next.

use std::ops::Range;

use super::super::math::LANES;
use super::{KEYS, NR};

/// What hides keys from queries; a query always sees its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mask<'a> {
    /// Keys before its own that a query sees; None: all.
    pub left: Option<usize>,
    /// Keys after its own; 0 is causal.
    pub right: Option<usize>,
    /// The first token of each token's document and the end of it, (B, T); none: a sequence is one document.
    pub documents: Option<&'a [Document]>,
}

/// Where the document of a token begins, and where it ends, in its sequence.
pub type Document = (usize, usize);

impl Mask<'_> {
    /// All keys up to its own.
    pub const CAUSAL: Self = Self { left: None, right: Some(0), documents: None };
    /// All keys.
    pub const NONE: Self = Self { left: None, right: None, documents: None };

    /// That of sequence b.
    pub(super) fn of(&self, b: usize, time: usize) -> Sight<'_> {
        let documents = self.documents.map_or(&[][..], |all| &all[b * time..][..time]);
        Sight { left: self.left.unwrap_or(time), right: self.right.unwrap_or(time), documents, time }
    }
}

/// The mask of one sequence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sight<'a> {
    left: usize,
    right: usize,
    documents: &'a [Document],
    time: usize,
}

impl Sight<'_> {
    #[inline(always)]
    fn within(&self, before: usize, t: usize, after: usize) -> Range<usize> {
        let (begin, end) = self.documents.get(t).copied().unwrap_or((0, self.time));
        t.saturating_sub(before).max(begin)..t.saturating_add(after).saturating_add(1).min(end)
    }

    /// The keys that query t sees.
    #[inline(always)]
    fn keys(&self, t: usize) -> Range<usize> {
        self.within(self.left, t, self.right)
    }

    /// The queries that see key k.
    #[inline(always)]
    fn queries(&self, k: usize) -> Range<usize> {
        self.within(self.right, k, self.left)
    }

    /// Blocks of keys that hold all that the queries `first..first + rows` see.
    pub(super) fn blocks(&self, first: usize, rows: usize) -> impl Iterator<Item = Block<'_>> {
        // Panels of keys begin at whole multiples.
        let begin = self.keys(first).start / NR * NR;
        let end = self.keys(first + rows - 1).end;
        (begin..end).step_by(KEYS).map(move |from| Block { first, rows, from, keys: KEYS.min(end - from), sight: self })
    }
}

/// Hides the scores of a row that are not in `seen`: as `value` up to whole vectors, the range of which is returned,
/// then as 0 up to `end`. To work on whole vectors is faster than to leave out what is hidden at their ends.
#[inline(always)]
pub(super) fn hide(row: &mut [f32], seen: &Range<usize>, end: usize, value: f32) -> Range<usize> {
    if seen.is_empty() {
        row[..end].fill(0.0);
        return 0..0;
    }
    let wide = seen.start / LANES * LANES..seen.end.next_multiple_of(LANES).min(KEYS);
    row[..wide.start].fill(0.0);
    row[wide.start..seen.start].fill(value);
    row[seen.end..wide.end].fill(value);
    row[wide.end.min(end)..end].fill(0.0);
    wide
}

/// A block of queries `first..first + rows` against keys `from..from + keys`.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    pub first: usize,
    pub rows: usize,
    pub from: usize,
    pub keys: usize,
    sight: &'a Sight<'a>,
}

impl Block<'_> {
    /// The part of `range` that lies in `n` places from `from` on, counted from there.
    #[inline(always)]
    fn part(range: Range<usize>, from: usize, n: usize) -> Range<usize> {
        let inside = |x: usize| x.saturating_sub(from).min(n);
        inside(range.start)..inside(range.end)
    }

    /// The keys of the block that row i sees; none for rows beyond the last.
    #[inline(always)]
    pub(super) fn seen(&self, i: usize) -> Range<usize> {
        if i < self.rows { Self::part(self.sight.keys(self.first + i), self.from, self.keys) } else { 0..0 }
    }

    /// The keys that any of the `n` rows from i on sees.
    #[inline(always)]
    pub(super) fn seen_by_rows(&self, i: usize, n: usize) -> Range<usize> {
        let last = self.rows.min(i + n) - 1;
        let range = self.sight.keys(self.first + i).start..self.sight.keys(self.first + last).end;
        Self::part(range, self.from, self.keys)
    }

    /// The rows that see any of the `n` keys from k on.
    #[inline(always)]
    pub(super) fn seeing(&self, k: usize, n: usize) -> Range<usize> {
        let last = self.keys.min(k + n) - 1;
        let range = self.sight.queries(self.from + k).start..self.sight.queries(self.from + last).end;
        Self::part(range, self.first, self.rows)
    }
}
