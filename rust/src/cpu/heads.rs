//! Where the heads of queries, keys and values stand, and how kernels read and write them there.

use std::marker::PhantomData;

use super::matmul::Mat;

/// Heads inside a fused projection: head a of token t begins at t·row + offset + a·stride.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    pub offset: usize,
    pub stride: usize,
    pub count: usize,
    pub dim: usize,
}

impl Heads {
    /// One past the last element in a row.
    pub fn end(&self) -> usize {
        if self.count == 0 { 0 } else { self.offset + (self.count - 1) * self.stride + self.dim }
    }
}

/// Whether no element of a row belongs to two of these heads.
pub fn disjoint(all: [Heads; 3]) -> bool {
    let starts = |h: Heads| (0..h.count).map(move |a| h.offset + a * h.stride);
    let mut ranges: Vec<_> = all.into_iter().flat_map(|h| starts(h).map(move |at| (at, at + h.dim))).collect();
    ranges.sort_unstable();
    ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0)
}

/// Heads anywhere: head a of token t of sequence b is the `dim` elements from b·sequence + t·token + a·head on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    pub batch: usize,
    pub time: usize,
    pub count: usize,
    pub dim: usize,
    pub sequence: usize,
    pub token: usize,
    pub head: usize,
}

impl Grid {
    /// (B, T, A·d), nothing but heads.
    pub fn rows(batch: usize, time: usize, count: usize, dim: usize) -> Self {
        let token = count * dim;
        Self { batch, time, count, dim, sequence: time * token, token, head: dim }
    }

    /// Heads of rows of `row` elements, from their offset on.
    pub fn fused(heads: Heads, row: usize, batch: usize, time: usize) -> Self {
        let Heads { stride, count, dim, .. } = heads;
        Self { batch, time, count, dim, sequence: time.saturating_mul(row), token: row, head: stride }
    }

    /// (extent, stride) of sequences, tokens, heads.
    fn axes(&self) -> [(usize, usize); 3] {
        [(self.batch, self.sequence), (self.time, self.token), (self.count, self.head)]
    }

    /// One past the last element; the largest number where that is beyond what can be addressed.
    pub fn end(&self) -> usize {
        if self.is_empty() {
            return 0;
        }
        let last = |(extent, stride): (usize, usize)| (extent - 1).saturating_mul(stride);
        self.axes().into_iter().map(last).fold(self.dim, usize::saturating_add)
    }

    pub fn is_empty(&self) -> bool {
        [self.batch, self.time, self.count, self.dim].contains(&0)
    }

    /// Whether it can be seen from the strides that no element belongs to two heads.
    fn apart(&self) -> bool {
        let mut axes = self.axes();
        axes.sort_unstable_by_key(|(_, stride)| *stride);
        let mut inner = self.dim;
        axes.into_iter().filter(|(extent, _)| *extent > 1).all(|(extent, stride)| {
            let fits = stride >= inner;
            inner = (extent - 1).saturating_mul(stride).saturating_add(inner);
            fits
        })
    }

    fn start(&self, b: usize, t: usize, a: usize) -> usize {
        b * self.sequence + t * self.token + a * self.head
    }
}

/// Heads that are read.
#[derive(Debug, Clone, Copy)]
pub struct Operand<'a, T> {
    data: &'a [T],
    grid: Grid,
}

impl<'a, T> Operand<'a, T> {
    /// None where they reach beyond the data.
    pub fn new(data: &'a [T], grid: Grid) -> Option<Self> {
        (grid.end() <= data.len()).then_some(Self { data, grid })
    }

    /// Those of rows of `row` elements.
    pub fn fused(data: &'a [T], heads: Heads, row: usize, batch: usize, time: usize) -> Option<Self> {
        Self::new(data.get(heads.offset..).unwrap_or(&[]), Grid::fused(heads, row, batch, time))
    }

    /// Queries, keys and values that stand side by side in wide heads.
    pub fn thirds(self) -> [Self; 3] {
        let grid = Grid { dim: self.grid.dim / 3, ..self.grid };
        [0, 1, 2].map(|i| Self { data: self.data.get(i * grid.dim..).unwrap_or(&[]), grid })
    }

    /// The first `count` heads, and the others.
    pub fn parted(self, count: usize) -> [Self; 2] {
        let count = count.min(self.grid.count);
        let after = self.data.get(count * self.grid.head..).unwrap_or(&[]);
        let rest = Grid { count: self.grid.count - count, ..self.grid };
        [Self { grid: Grid { count, ..self.grid }, ..self }, Self { data: after, grid: rest }]
    }

    pub fn grid(&self) -> &Grid {
        &self.grid
    }

    /// Head a of sequence b: (T, d).
    pub(super) fn head(&self, b: usize, a: usize) -> Mat<'a, T> {
        let Grid { time, dim, token, .. } = self.grid;
        Mat { data: &self.data[self.grid.start(b, 0, a)..], rows: time, cols: dim, row: token, col: 1 }
    }

    /// Head a of token t of sequence b.
    #[inline(always)]
    pub(super) fn row(&self, b: usize, t: usize, a: usize) -> &'a [T] {
        &self.data[self.grid.start(b, t, a)..][..self.grid.dim]
    }
}

/// Heads that several tasks write at the same time, each its own.
pub struct Place<'a, T> {
    data: *mut T,
    grid: Grid,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: tasks reach elements through `row` alone, whose contract keeps their pieces apart; T may be sent.
unsafe impl<T: Send> Sync for Place<'_, T> {}
// SAFETY: it is a borrow of elements that may be sent.
unsafe impl<T: Send> Send for Place<'_, T> {}

impl<'a, T> Place<'a, T> {
    /// None where heads reach beyond the data or share elements.
    pub fn new(data: &'a mut [T], grid: Grid) -> Option<Self> {
        let fits = grid.is_empty() || (grid.end() <= data.len() && grid.apart());
        fits.then_some(Self { data: data.as_mut_ptr(), grid, borrowed: PhantomData })
    }

    /// Those of queries, keys and values in rows of `row` elements.
    pub fn fused(data: &'a mut [T], all: [Heads; 3], row: usize, batch: usize, time: usize) -> Option<[Self; 3]> {
        let whole = batch.checked_mul(time)?.checked_mul(row)? <= data.len();
        if !whole || !disjoint(all) || all.iter().any(|heads| heads.end() > row) {
            return None;
        }
        let data = data.as_mut_ptr();
        Some(all.map(|heads| {
            let grid = Grid::fused(heads, row, batch, time);
            // SAFETY: the offset lies in a row, or at its end.
            let data = if grid.is_empty() { data } else { unsafe { data.add(heads.offset) } };
            Self { data, grid, borrowed: PhantomData }
        }))
    }

    /// Queries, keys and values that stand side by side in wide heads.
    pub fn thirds(self) -> [Self; 3] {
        let grid = Grid { dim: self.grid.dim / 3, ..self.grid };
        [0, 1, 2].map(|i| {
            // SAFETY: a third of the way, or two, into the first wide head, which is inside the data.
            let data = if grid.is_empty() { self.data } else { unsafe { self.data.add(i * grid.dim) } };
            Self { data, grid, borrowed: PhantomData }
        })
    }

    /// The first `count` heads, and the others.
    pub fn parted(self, count: usize) -> [Self; 2] {
        let count = count.min(self.grid.count);
        let (first, rest) = (Grid { count, ..self.grid }, Grid { count: self.grid.count - count, ..self.grid });
        // SAFETY: where one of the others is, its first element is inside the data.
        let after = if rest.is_empty() { self.data } else { unsafe { self.data.add(count * self.grid.head) } };
        let part = |data, grid| Self { data, grid, borrowed: PhantomData };
        [part(self.data, first), part(after, rest)]
    }

    pub fn grid(&self) -> &Grid {
        &self.grid
    }

    /// Head a of token t of sequence b.
    ///
    /// # Safety
    /// No other piece that is alive is this head.
    ///
    /// # Panics
    /// When there is no such head.
    #[expect(clippy::mut_from_ref, reason = "pieces are disjoint by contract")]
    #[inline(always)]
    pub unsafe fn row(&self, b: usize, t: usize, a: usize) -> &mut [T] {
        let grid = &self.grid;
        assert!(b < grid.batch && t < grid.time && a < grid.count, "a head of the grid");
        // SAFETY: what made this has checked that the last head ends inside the data, which is borrowed for 'a, and
        // that heads share no elements; the caller keeps pieces apart.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(grid.start(b, t, a)), grid.dim) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(strides: [usize; 3]) -> Grid {
        let [sequence, token, head] = strides;
        Grid { batch: 2, time: 3, count: 4, dim: 5, sequence, token, head }
    }

    #[test]
    fn strides_that_keep_heads_apart() {
        for (strides, apart) in [
            ([60, 20, 5], true),
            ([60, 5, 15], true),
            ([5, 10, 30], true),
            ([64, 21, 5], true),
            ([60, 20, 4], false),
            ([60, 19, 5], false),
            ([59, 20, 5], false),
            ([0, 20, 5], false),
        ] {
            let (grid, mut data) = (grid(strides), vec![0u8; 200]);
            assert_eq!(Place::new(&mut data, grid).is_some(), apart, "{strides:?}");
            assert!(Operand::new(&data, grid).is_some(), "reading may overlap");
            assert!(Operand::new(&data[..grid.end() - 1], grid).is_none());
            assert!(Place::new(&mut data[..grid.end() - 1], grid).is_none());
        }
        assert_eq!(Grid { time: usize::MAX, ..grid([60, 20, 5]) }.end(), usize::MAX);
        let none = Grid { time: 0, ..grid([0, 20, 5]) };
        assert_eq!((none.end(), Place::<u8>::new(&mut [], none).is_some()), (0, true));
    }

    #[test]
    fn each_head_is_its_own() {
        let wide = Grid { dim: 6, ..grid([80, 24, 6]) };
        let mut data = vec![0u8; 160];
        let places = Place::new(&mut data, wide).expect("fits").thirds();
        for (i, place) in (1..).zip(&places) {
            for (b, t, a) in (0..2).flat_map(|b| (0..3).flat_map(move |t| (0..4).map(move |a| (b, t, a)))) {
                // SAFETY: one piece at a time.
                unsafe { place.row(b, t, a) }.iter_mut().for_each(|x| *x += i);
            }
        }
        let used: Vec<u8> = [[1, 1, 2, 2, 3, 3].repeat(12), vec![0; 8]].concat().repeat(2);
        assert_eq!(data, used);
        let read = Operand::new(&data, wide).expect("fits").thirds().map(|x| x.row(1, 2, 3).to_vec());
        assert_eq!(read, [[1, 1], [2, 2], [3, 3]]);
        let [first, rest] = Place::new(&mut data, wide).expect("fits").parted(3);
        assert_eq!((first.grid().count, rest.grid().count), (3, 1));
        // SAFETY: one piece at a time.
        unsafe { rest.row(1, 2, 0) }.fill(9);
        let [first, rest] = Operand::new(&data, wide).expect("fits").parted(3);
        assert_eq!((first.row(1, 2, 2), rest.row(1, 2, 0)), (&[1, 1, 2, 2, 3, 3][..], &[9; 6][..]));
    }
}
