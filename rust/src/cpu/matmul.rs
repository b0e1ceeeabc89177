//! C = A·B, with any layout by strides and any storage type, f32 inside.  The only file that names the matmul crate.
//!
//! C is made in bands of `COLUMNS` columns and K in blocks of `DEPTH`, both constants. For each pair the threads first
//! pack that block of B once, then share out the rows of C. An element of C is Σ over blocks, in order, of Σ over k
//! inside the block, in order: the same whatever the number of threads.
//!
//! Where no vector instructions beyond the target's are compiled for, the crate `matrixmultiply` multiplies the
//! blocks, which are then only widened to f32.

use std::ops::Range;

use rayon::prelude::*;

use super::isa::{Isa, Simd, dispatch, isa};
use super::math::dot;
use super::micro::{MR, NR, pack, scale_add, tile, tile_pair};
use super::parallel::install;
use super::scratch::with_scratch;
use crate::dtype::{DType, Element};

pub mod reference {
    /// (m, n) = (m, k) · (k, n), row-major.
    pub fn matmul(a: &[f64], b: &[f64], m: usize, k: usize, n: usize) -> Vec<f64> {
        let at = |i: usize| (0..k).map(|l| a[i / n * k + l] * b[l * n + i % n]).sum();
        (0..m * n).map(at).collect()
    }
}

/// Inner indices of one block: a panel of B (24 KiB) stays in the L1 cache.
const DEPTH: usize = 384;
/// Columns of C made together: the block of B (3 MiB) stays in a shared cache.
const COLUMNS: usize = 2048;
/// With fewer rows than this, threads share out columns, `GROUP` at a time.
const FEW_ROWS: usize = 4 * MR;
const GROUP: usize = 4 * NR;
/// With this many rows at most, packing costs more than it saves.
const DOT_ROWS: usize = 4;

/// A matrix that may be read: element (i, j) is `data[i * row + j * col]`.
#[derive(Debug, Clone, Copy)]
pub struct Mat<'a, T> {
    pub data: &'a [T],
    pub rows: usize,
    pub cols: usize,
    pub row: usize,
    pub col: usize,
}

impl<'a, T> Mat<'a, T> {
    /// Row-major.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self { data, rows, cols, row: cols, col: 1 }
    }

    /// The same data, rows and columns exchanged.
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row: self.col, col: self.row, ..self }
    }

    /// Row i of a row-major matrix.
    #[inline(always)]
    pub fn line(&self, i: usize) -> &'a [T] {
        &self.data[i * self.row..][..self.cols]
    }

    fn rows_from(self, first: usize, count: usize) -> Self {
        Self { data: &self.data[first * self.row..], rows: count, ..self }
    }

    fn cols_from(self, first: usize, count: usize) -> Self {
        self.t().rows_from(first, count).t()
    }

    fn fits(&self) -> bool {
        self.rows == 0 || self.cols == 0 || (self.rows - 1) * self.row + (self.cols - 1) * self.col < self.data.len()
    }
}

/// What a result begins from: nothing, one bias a column, or what stands there.
#[derive(Clone, Copy)]
enum Start<'a> {
    Zero,
    Bias(&'a [f32]),
    Old,
}

impl Start<'_> {
    fn columns(&self, columns: Range<usize>) -> Self {
        match self {
            Self::Bias(bias) => Start::Bias(&bias[columns]),
            other => *other,
        }
    }
}

/// Where a result stands: from column `first` on, in rows of `stride` numbers.
#[derive(Debug)]
pub struct Columns<'a, C> {
    pub data: &'a mut [C],
    pub stride: usize,
    pub first: usize,
}

/// Columns `first..first + cols` of rows that are `stride` apart.
struct Target<'a> {
    data: &'a mut [f32],
    stride: usize,
    first: usize,
    cols: usize,
}

/// All threads: C (m, n), contiguous, = A (m, k) · B (k, n) (+ bias (n)).
///
/// # Panics
/// When the extents do not fit each other or the data: a mistake of the calling kernel.
pub fn matmul<A: Element, B: Element, C: Element>(c: &mut [C], a: Mat<A>, b: Mat<B>, bias: Option<&[C]>) {
    matmul_columns(Columns { data: c, stride: b.cols, first: 0 }, a, b, bias);
}

/// All threads: columns of C = A·B (+ bias); the other columns stay what they are.
///
/// # Panics
/// As `matmul`.
pub fn matmul_columns<A: Element, B: Element, C: Element>(c: Columns<C>, a: Mat<A>, b: Mat<B>, bias: Option<&[C]>) {
    let Some(bias) = bias else { return product(c, a, b, Start::Zero) };
    with_scratch(b.cols, |wide| {
        wide.iter_mut().zip(bias).for_each(|(wide, b)| *wide = b.to_f32());
        product(c, a, b, Start::Bias(wide));
    });
}

/// All threads: C += A·B, rounded once to C.
///
/// # Panics
/// As `matmul`.
pub fn matmul_add<A: Element, B: Element, C: Element>(c: &mut [C], a: Mat<A>, b: Mat<B>) {
    product(Columns { data: c, stride: b.cols, first: 0 }, a, b, Start::Old);
}

fn check<A, B, C>(c: &Columns<C>, a: Mat<A>, b: Mat<B>) {
    assert_eq!(a.cols, b.rows, "inner extents of a product");
    assert!(a.fits() && b.fits() && c.data.len() == a.rows * c.stride, "extents of a product within the data");
    assert!(c.first + b.cols <= c.stride, "columns of a product within a row");
}

fn product<A: Element, B: Element, C: Element>(c: Columns<C>, a: Mat<A>, b: Mat<B>, start: Start) {
    check(&c, a, b);
    let (m, n) = (a.rows, b.cols);
    if m == 0 || n == 0 {
        return;
    }
    let (isa, Columns { data, stride, first: left }) = (isa(), c);
    install(|| {
        if a.cols == 0 {
            return data.chunks_mut(stride).for_each(|row| begin(&mut row[left..left + n], start));
        }
        if m < FEW_ROWS {
            return few_rows(isa, Columns { data, stride, first: left }, a, b, start);
        }
        for first in (0..n).step_by(COLUMNS) {
            let columns = first..n.min(first + COLUMNS);
            let b = b.cols_from(first, columns.len());
            let start = start.columns(columns.clone());
            let first = left + first;
            if C::DTYPE == DType::F32 {
                let data = bytemuck::cast_slice_mut(data);
                band(isa, Target { data, stride, first, cols: b.cols }, a, b, start);
            } else {
                rounded_band(isa, Columns { data, stride, first }, a, b, start);
            }
        }
    });
}

/// What a row is before anything is added.
fn begin<C: Element>(row: &mut [C], start: Start) {
    match start {
        Start::Zero => row.fill(C::default()),
        Start::Bias(bias) => row.iter_mut().zip(bias).for_each(|(c, b)| *c = C::from_f32(*b)),
        Start::Old => {}
    }
}

/// A band made in f32 elsewhere, then rounded into its columns of C.
fn rounded_band<A: Element, B: Element, C: Element>(isa: Isa, c: Columns<C>, a: Mat<A>, b: Mat<B>, start: Start) {
    let (cols, columns) = (b.cols, c.first..c.first + b.cols);
    with_scratch(a.rows * cols, |sums| {
        if let Start::Old = start {
            let rows = sums.par_chunks_mut(cols).zip(c.data.par_chunks(c.stride)).with_min_len(16);
            rows.for_each(|(sums, c)| sums.iter_mut().zip(&c[columns.clone()]).for_each(|(s, c)| *s = c.to_f32()));
        }
        band(isa, Target { data: sums, stride: cols, first: 0, cols }, a, b, start);
        let rows = c.data.par_chunks_mut(c.stride).zip(sums.par_chunks(cols)).with_min_len(16);
        rows.for_each(|(c, sums)| dispatch!(isa, _s => narrow(&mut c[columns.clone()], sums)));
    });
}

#[inline(always)]
fn narrow<C: Element>(c: &mut [C], sums: &[f32]) {
    c.iter_mut().zip(sums).for_each(|(c, sum)| *c = C::from_f32(*sum));
}

/// Rows that one task makes: a multiple of the tile, about 16 tasks, but neither tiny nor beyond the L2 cache.
fn rows_of_task(m: usize) -> usize {
    m.div_ceil(16).next_multiple_of(MR).clamp(FEW_ROWS, 24 * MR)
}

fn band<A: Element, B: Element>(isa: Isa, c: Target, a: Mat<A>, b: Mat<B>, start: Start) {
    let Target { data, stride, first, cols } = c;
    let rows = rows_of_task(a.rows);
    with_scratch(cols.next_multiple_of(NR) * DEPTH.min(b.rows), |packed| {
        for (block, depth) in blocks(b.rows).enumerate() {
            let packed = &mut packed[..cols.next_multiple_of(NR) * depth.len()];
            packed.par_chunks_mut(GROUP * depth.len()).enumerate().for_each(|(g, panels)| {
                let b = b.cols_from(g * GROUP, GROUP.min(cols - g * GROUP));
                dispatch!(isa, s => pack_b(s, panels, b, &depth));
            });
            let (packed, start) = (&*packed, if block == 0 { start } else { Start::Old });
            data.par_chunks_mut(rows * stride).enumerate().for_each(|(i, data)| {
                let a = a.rows_from(i * rows, data.len().div_ceil(stride));
                let c = Target { data, stride, first, cols };
                multiply(isa, c, a, packed, &depth, start);
            });
        }
    });
}

/// The inner indices, cut at constants.
fn blocks(k: usize) -> impl Iterator<Item = Range<usize>> {
    (0..k).step_by(DEPTH).map(move |first| first..k.min(first + DEPTH))
}

/// Few rows: each task makes `GROUP` columns for itself, (m, GROUP), which are put in place afterwards.
fn few_rows<A: Element, B: Element, C: Element>(isa: Isa, c: Columns<C>, a: Mat<A>, b: Mat<B>, start: Start) {
    let (m, n, Columns { data, stride, first: left }) = (a.rows, b.cols, c);
    with_scratch(n.next_multiple_of(GROUP) * m, |parts| {
        parts.par_chunks_mut(m * GROUP).zip(0..n.div_ceil(GROUP)).for_each(|(part, g)| {
            let columns = g * GROUP..n.min((g + 1) * GROUP);
            for (part, c) in part.chunks_exact_mut(GROUP).zip(data.chunks_exact(stride)) {
                part.iter_mut().zip(&c[left..][columns.clone()]).for_each(|(part, c)| *part = c.to_f32());
            }
            let (b, start) = (b.cols_from(columns.start, columns.len()), start.columns(columns));
            group(isa, part, a, b, start);
        });
        for (part, first) in parts.chunks_exact(m * GROUP).zip((0..n).step_by(GROUP)) {
            for (part, c) in part.chunks_exact(GROUP).zip(data.chunks_exact_mut(stride)) {
                narrow(&mut c[left..][first..n.min(first + GROUP)], part);
            }
        }
    });
}

fn group<A: Element, B: Element>(isa: Isa, part: &mut [f32], a: Mat<A>, b: Mat<B>, start: Start) {
    if a.rows <= DOT_ROWS && a.col == 1 && b.row == 1 {
        return dispatch!(isa, s => dots(s, part, a, b, start));
    }
    with_scratch(GROUP * DEPTH, |packed| {
        for (block, depth) in blocks(b.rows).enumerate() {
            let packed = &mut packed[..b.cols.next_multiple_of(NR) * depth.len()];
            let start = if block == 0 { start } else { Start::Old };
            let c = Target { data: part, stride: GROUP, first: 0, cols: b.cols };
            dispatch!(isa, s => pack_b(s, packed, b, &depth));
            multiply(isa, c, a, packed, &depth, start);
        }
    });
}

/// Rows of A against columns of B that both stand in one piece.
#[inline(always)]
fn dots<S: Simd, A: Element, B: Element>(s: S, part: &mut [f32], a: Mat<A>, b: Mat<B>, start: Start) {
    for j in 0..b.cols {
        let column = &b.data[j * b.col..][..b.rows];
        for (i, part) in part.chunks_exact_mut(GROUP).enumerate() {
            let sum = dot(s, &a.data[i * a.row..][..b.rows], column);
            part[j] = sum
                + match start {
                    Start::Zero => 0.0,
                    Start::Bias(bias) => bias[j],
                    Start::Old => part[j],
                };
        }
    }
}

/// The columns of `b`, inner indices `depth`, as panels; for the crate as (cols, depth).
#[inline(always)]
fn pack_b<S: Simd, B: Element>(_: S, panels: &mut [f32], b: Mat<B>, depth: &Range<usize>) {
    if S::FMA { pack_panels::<B, NR>(panels, b.t(), depth) } else { widen(panels, b.t(), depth) }
}

#[inline(always)]
fn pack_panels<T: Element, const W: usize>(panels: &mut [f32], m: Mat<T>, depth: &Range<usize>) {
    for (p, panel) in panels.chunks_exact_mut(W * depth.len()).enumerate() {
        pack::<T, W>(panel, m, p * W, depth.start);
    }
}

/// out (rows, depth) = the columns `depth` of m in f32.
#[inline(always)]
fn widen<T: Element>(out: &mut [f32], m: Mat<T>, depth: &Range<usize>) {
    for (i, out) in out.chunks_exact_mut(depth.len()).take(m.rows).enumerate() {
        let row = &m.data[i * m.row + depth.start * m.col..];
        out.iter_mut().zip(row.iter().step_by(m.col)).for_each(|(out, x)| *out = x.to_f32());
    }
}

/// c = start + the columns `depth` of a · the packed block of B.
fn multiply<A: Element>(isa: Isa, mut c: Target, a: Mat<A>, b: &[f32], depth: &Range<usize>, start: Start) {
    with_scratch(a.rows.next_multiple_of(MR) * depth.len(), |packed| {
        dispatch!(isa, s => pack_and_multiply(s, &mut c, packed, a, b, depth, start));
    });
}

#[inline(always)]
fn pack_and_multiply<S: Simd, A: Element>(
    s: S,
    c: &mut Target,
    packed: &mut [f32],
    a: Mat<A>,
    b: &[f32],
    depth: &Range<usize>,
    start: Start,
) {
    if S::FMA {
        pack_panels::<A, MR>(packed, a, depth);
        tiles(s, c, packed, b, a.rows, depth.len(), start);
    } else {
        widen(packed, a, depth);
        by_crate(c, packed, b, a.rows, depth.len(), start);
    }
}

/// All tiles of the target: a panel of B stays in the L1 cache while the panels of A pass.
#[inline(always)]
fn tiles<S: Simd>(s: S, c: &mut Target, a: &[f32], b: &[f32], rows: usize, depth: usize, start: Start) {
    for (p, b) in b.chunks_exact(NR * depth).enumerate() {
        let column = p * NR;
        let width = NR.min(c.cols - column);
        let panels = if S::DOZEN { 2 } else { 1 };
        for (q, a) in a.chunks(panels * MR * depth).enumerate() {
            let row = q * panels * MR;
            match a.split_at_checked(MR * depth) {
                Some((low, high)) if !high.is_empty() => {
                    put(s, c, &tile_pair(s, [low, high], b), row..rows, column..column + width, start);
                }
                _ => put(s, c, &tile(s, a, b), row..rows, column..column + width, start),
            }
        }
    }
}

/// Writes a tile, or what of it lies within the rows and columns.
#[inline(always)]
fn put<S: Simd>(s: S, c: &mut Target, sums: &[S::Vector], rows: Range<usize>, columns: Range<usize>, start: Start) {
    for (i, sums) in rows.zip(sums) {
        let line = &mut c.data[i * c.stride + c.first + columns.start..][..columns.len()];
        if let Ok(line) = <&mut [f32; NR]>::try_from(&mut *line) {
            finish(s, line, *sums, start, columns.start);
        } else {
            let mut whole = [0.0; NR];
            whole[..columns.len()].copy_from_slice(line);
            finish(s, &mut whole, *sums, start, columns.start);
            line.copy_from_slice(&whole[..columns.len()]);
        }
    }
}

/// A row of a tile, with what it begins from.
#[inline(always)]
fn finish<S: Simd>(s: S, line: &mut [f32; NR], sums: S::Vector, start: Start, column: usize) {
    match start {
        Start::Zero => return s.store(line, sums),
        Start::Old => {}
        Start::Bias(bias) => {
            for (line, b) in line.iter_mut().zip(&bias[column..]) {
                *line = *b;
            }
        }
    }
    scale_add(s, line, 1.0, sums);
}

/// a (rows, depth) and b (cols, depth), both row-major.
fn by_crate(c: &mut Target, a: &[f32], b: &[f32], rows: usize, depth: usize, start: Start) {
    for i in 0..rows {
        begin(&mut c.data[i * c.stride + c.first..][..c.cols], start);
    }
    assert!(rows > 0 && c.cols > 0 && a.len() >= rows * depth && b.len() >= c.cols * depth, "whole blocks");
    let results = &mut c.data[c.first..][..(rows - 1) * c.stride + c.cols];
    // SAFETY: the assertion and the slice above keep every element that extents and strides address inside its slice;
    // `results` is borrowed exclusively. B is (depth, cols) with strides 1 and `depth`.
    unsafe {
        matrixmultiply::sgemm(
            rows,
            depth,
            c.cols,
            1.0,
            a.as_ptr(),
            depth as isize,
            1,
            b.as_ptr(),
            1,
            depth as isize,
            1.0,
            results.as_mut_ptr(),
            c.stride as isize,
            1,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, each_dtype, place, random, same_on_all_threads, sample};
    use super::*;
    use crate::dtype::bf16;

    fn transposed(x: &[f64], cols: usize) -> Vec<f64> {
        (0..x.len()).map(|i| x[i % (x.len() / cols) * cols + i / (x.len() / cols)]).collect()
    }

    /// All four layouts of the operands, with bias; then C += with narrow and with f32 operands.
    fn check<T: Element>(m: usize, k: usize, n: usize) {
        let ((a, exact_a), (b, exact_b), (bias, exact_bias)) =
            (sample::<T>(1, m * k), sample::<T>(2, k * n), sample::<T>(3, n));
        for layout in 0..4 {
            let (a, exact_a) = match layout & 1 {
                0 => (Mat::new(&a, m, k), exact_a.clone()),
                _ => (Mat::new(&a, k, m).t(), transposed(&exact_a, m)),
            };
            let (b, exact_b) = match layout & 2 {
                0 => (Mat::new(&b, k, n), exact_b.clone()),
                _ => (Mat::new(&b, n, k).t(), transposed(&exact_b, k)),
            };
            let what = format!("{m}x{k}x{n} layout {layout}");
            let exact = reference::matmul(&exact_a, &exact_b, m, k, n);
            let mut c = place::<T>(m * n);
            matmul(&mut c, a, b, None);
            assert_close(&what, &c, &exact, 16.0);
            let biased: Vec<f64> = exact.iter().zip(exact_bias.iter().cycle()).map(|(x, b)| x + b).collect();
            matmul(&mut c, a, b, Some(&bias));
            assert_close(&what, &c, &biased, 16.0);
            let mut sums: Vec<f32> = random(4, m * n).iter().map(|x| *x as f32).collect();
            let total: Vec<f64> = exact.iter().zip(&sums).map(|(x, c)| x + f64::from(*c)).collect();
            matmul_add(&mut sums, a, b);
            assert_close(&what, &sums, &total, 16.0);
        }
    }

    fn small<T: Element>() {
        for (m, k, n) in [(1, 1, 1), (5, 16, 129), (16, 129, 5), (3, 300, 70), (129, 5, 16), (31, 17, 33)] {
            check::<T>(m, k, n);
        }
    }

    #[test]
    fn fast_equals_reference() {
        each_dtype!(small);
    }

    /// More than one block of the inner index, more than one band of columns.
    fn blocked<T: Element>() {
        check::<T>(26, DEPTH + 3, COLUMNS + 5);
    }

    #[test]
    fn blocks_and_bands() {
        each_dtype!(blocked);
    }

    #[test]
    fn nothing_to_add() {
        let mut c = [1.0f32; 6];
        matmul_add(&mut c, Mat::new(&[0.0f32; 0], 2, 0), Mat::new(&[0.0f32; 0], 0, 3));
        assert_eq!(c, [1.0; 6]);
        matmul(&mut c, Mat::new(&[0.0f32; 0], 2, 0), Mat::new(&[0.0f32; 0], 0, 3), Some(&[1.0, 2.0, 3.0]));
        assert_eq!(c, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
    }

    #[test]
    fn mixed_types() {
        let ((a, exact_a), (b, exact_b)) = (sample::<f32>(1, 30 * 40), sample::<bf16>(2, 40 * 50));
        let mut c = place::<bf16>(30 * 50);
        matmul(&mut c, Mat::new(&a, 30, 40), Mat::new(&b, 40, 50), None);
        assert_close("f32·bf16", &c, &reference::matmul(&exact_a, &exact_b, 30, 40, 50), 16.0);
    }

    #[test]
    fn threads_change_nothing() {
        let ((a, _), (b, _)) = (sample::<f32>(1, 129 * 300), sample::<f32>(2, 300 * 130));
        for m in [2, 17, 129] {
            same_on_all_threads("matmul", || {
                let mut c = place::<f32>(m * 130);
                matmul(&mut c, Mat::new(&a[..m * 300], m, 300), Mat::new(&b, 300, 130), None);
                c
            });
        }
    }

    #[test]
    #[should_panic(expected = "inner extents")]
    fn wrong_extents_are_refused() {
        matmul(&mut [0.0f32; 4], Mat::new(&[0.0f32; 4], 2, 2), Mat::new(&[0.0f32; 6], 3, 2), None);
    }
}
