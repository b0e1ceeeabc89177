//! C = A·B, with any layout by strides and any storage type, sums in f32.
//!
//! C is made in even bands of at most [`Kernel::BAND`] columns and K in even blocks of at most [`Kernel::DEPTH`]. For each
//! pair the threads pack that block of B once and share out the rows of C, see `schedule`. An element of C is Σ over blocks, in order,
//! of Σ over k inside the block, in order: the same whatever the number of threads.
//!
//! How a block is packed and multiplied is a [`Kernel`]: `wide` (AVX-512) and `widened` take any two types, in f32;
//! `amx` and `pairs` take bf16 by bf16 on CPUs with instructions for that. f16 is always widened: AVX512_FP16 adds up in
//! f16.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod schedule;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod wide;
mod widened;

use schedule::{Piece, Schedule};
use widened::Widened;

#[cfg(target_arch = "x86_64")]
use super::isa::Isa;
use super::isa::{Simd, dispatch, isa, prefetch};
use super::math::dot;
use super::parallel::{share, together};
use super::scratch::with_scratch;
#[cfg(target_arch = "x86_64")]
use crate::dtype::bf16;
use crate::dtype::{DType, Element};

pub mod reference {
    /// (m, n) = (m, k) · (k, n), row-major.
    pub fn matmul(a: &[f64], b: &[f64], m: usize, k: usize, n: usize) -> Vec<f64> {
        let at = |i: usize| (0..k).map(|l| a[i / n * k + l] * b[l * n + i % n]).sum();
        (0..m * n).map(at).collect()
    }
}

/// With fewer rows than this, threads share out columns, `GROUP` at a time.
const FEW_ROWS: usize = 24;
/// Whole panels of any kernel.
const GROUP: usize = 96;
/// Products of two numbers that are made sooner than another thread wakes up.
const SMALL: usize = 1 << 20;
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

    /// The same, where the elements are bf16.
    #[cfg(target_arch = "x86_64")]
    fn narrow(self) -> Option<Mat<'a, bf16>>
    where
        T: Element,
    {
        let Self { data, rows, cols, row, col } = self;
        (T::DTYPE == DType::BF16).then(|| Mat { data: bytemuck::cast_slice(data), rows, cols, row, col })
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

/// Columns `first..first + cols` of rows that are `stride` apart.
struct Target<'a, C> {
    data: &'a mut [C],
    stride: usize,
    first: usize,
    cols: usize,
    /// What `Start::Old` means where the results are not f32: the sums of the blocks before, (rows, cols).
    sums: &'a [f32],
}

/// How one block of the inner index is packed and multiplied. Panels are lent as memory for f32.
trait Kernel<A, B>: Copy + Send + Sync {
    /// Inner indices of one block.
    const DEPTH: usize;
    /// Rows of a tile.
    const ROWS: usize;
    /// Columns of a panel of B.
    const COLUMNS: usize;
    /// Columns of C made together: the block of B (3 MiB) stays in a shared cache.
    const BAND: usize = 2048;
    /// Tasks that rows are shared out to, about.
    const TASKS: usize = 32;
    /// Rows that one task makes at most: about what of A and C stays in the L2 cache.
    const MANY_ROWS: usize = 144;

    /// Numbers that a row or column of a panel takes, for so many inner indices.
    fn slots(depth: usize) -> usize;

    /// The columns of `b`, inner indices `depth`, as panels.
    fn pack_b(self, panels: &mut [f32], b: Mat<B>, depth: Range<usize>);

    /// c = start + the columns `depth` of a · the packed block of B.
    fn multiply<C: Element>(self, c: Target<C>, a: Mat<A>, b: &[f32], depth: Range<usize>, start: Start);
}

/// All threads: C (m, n), contiguous, = A (m, k) · B (k, n) (+ bias (n)).
///
/// # Panics
/// When the extents do not fit each other or the data: a mistake of the calling kernel.
pub fn matmul<A: Element, B: Element, C: Element>(c: &mut [C], a: Mat<A>, b: Mat<B>, bias: Option<&[C]>) {
    check(c.len(), a, b);
    let Some(bias) = bias else { return product(c, a, b, Start::Zero) };
    with_scratch(b.cols, |wide| {
        wide.iter_mut().zip(bias).for_each(|(wide, b)| *wide = b.to_f32());
        product(c, a, b, Start::Bias(wide));
    });
}

/// All threads: C += A·B.
///
/// # Panics
/// As `matmul`.
pub fn matmul_add<A: Element, B: Element>(c: &mut [f32], a: Mat<A>, b: Mat<B>) {
    check(c.len(), a, b);
    product(c, a, b, Start::Old);
}

fn check<A, B>(len: usize, a: Mat<A>, b: Mat<B>) {
    assert_eq!(a.cols, b.rows, "inner extents of a product");
    assert!(a.fits() && b.fits() && len == a.rows * b.cols, "extents of a product within the data");
}

fn product<A: Element, B: Element, C: Element>(c: &mut [C], a: Mat<A>, b: Mat<B>, start: Start) {
    let (m, n) = (a.rows, b.cols);
    if m == 0 || n == 0 {
        return;
    }
    let isa = isa();
    if a.cols == 0 {
        return c.chunks_mut(n).for_each(|row| begin(row, start));
    }
    if m <= DOT_ROWS && a.col == 1 && b.row == 1 {
        return by_groups(c, a, b, start, |part, b, start| dispatch!(isa, s => dots(s, part, a, b, start)));
    }
    #[cfg(target_arch = "x86_64")]
    if let (Some(pairs), Some(a), Some(b)) = (isa.pairs(), a.narrow(), b.narrow()) {
        return match isa.tiles() {
            Some(tiles) => blocked(amx::Tiled(tiles), c, a, b, start),
            None => blocked(pairs::Pairs(pairs), c, a, b, start),
        };
    }
    #[cfg(target_arch = "x86_64")]
    if let Isa::Avx512(s) = isa {
        return blocked(wide::Wide(s), c, a, b, start);
    }
    blocked(Widened(isa), c, a, b, start);
}

fn blocked<K: Kernel<A, B>, A: Element, B: Element, C: Element>(k: K, c: &mut [C], a: Mat<A>, b: Mat<B>, start: Start) {
    if a.rows < FEW_ROWS {
        by_groups(c, a, b, start, |part, b, start| group(k, part, a, b, start));
    } else if C::DTYPE == DType::F32 {
        in_bands(k, bytemuck::cast_slice_mut::<C, f32>(c), a, b, start);
    } else {
        in_bands(k, c, a, b, start);
    }
}

/// What a row is before anything is added.
fn begin<C: Element>(row: &mut [C], start: Start) {
    match start {
        Start::Zero => row.fill(C::default()),
        Start::Bias(bias) => row.iter_mut().zip(bias).for_each(|(c, b)| *c = C::from_f32(*b)),
        Start::Old => {}
    }
}

/// Rows that one task makes: whole tiles, but neither tiny nor beyond the L2 cache. (In f32 a training step of 6 layers x
/// 384, 2048 rows, takes 3 to 5 % longer with 16 tasks than with 32, and 4 % with 48; one of 512 rows may take 2 % less
/// with 16.)
fn rows_of_task<K: Kernel<A, B>, A, B>(m: usize) -> usize {
    m.div_ceil(K::TASKS).next_multiple_of(K::ROWS).clamp(FEW_ROWS, K::MANY_ROWS)
}

/// The length of as few parts of `whole` as `longest` allows, of one length but for the last.
fn even(whole: usize, longest: usize, unit: usize) -> usize {
    whole.div_ceil(whole.div_ceil(longest).max(1)).next_multiple_of(unit).min(longest)
}

/// The inner indices in even blocks.
fn blocks(k: usize, depth: usize) -> impl Iterator<Item = Range<usize>> {
    let even = even(k, depth, 32);
    (0..k).step_by(even).map(move |first| first..k.min(first + even))
}

/// Elements that several threads use, piece by piece.
struct Pieces<'a, T>(*mut T, usize, PhantomData<&'a mut [T]>);

// SAFETY: elements are reached through `part` alone, whose contract keeps their pieces apart; T may be sent.
unsafe impl<T: Send> Sync for Pieces<'_, T> {}

impl<'a, T> Pieces<'a, T> {
    fn new(data: &'a mut [T]) -> Self {
        Self(data.as_mut_ptr(), data.len(), PhantomData)
    }

    /// # Safety
    /// Nobody else uses an element of this piece while it is alive.
    #[expect(clippy::mut_from_ref, reason = "pieces are disjoint by contract")]
    unsafe fn part(&self, first: usize, len: usize) -> &mut [T] {
        assert!(first <= self.1 && len <= self.1 - first, "a piece of the data");
        // SAFETY: the assertion keeps the piece inside the data, which is borrowed for 'a; the caller keeps pieces apart.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(first), len) }
    }

    /// # Safety
    /// Nobody writes an element of this piece while it is alive.
    unsafe fn read(&self, first: usize, len: usize) -> &[T] {
        assert!(first <= self.1 && len <= self.1 - first, "a piece of the data");
        // SAFETY: as in `part`.
        unsafe { std::slice::from_raw_parts(self.0.add(first), len) }
    }
}

/// C in bands of columns. Where its type is not f32, the blocks are added up elsewhere, and the last one is added and
/// rounded in one step.
fn in_bands<K: Kernel<A, B>, A: Element, B: Element, C: Element>(
    k: K,
    c: &mut [C],
    a: Mat<A>,
    b: Mat<B>,
    start: Start,
) {
    let (m, n) = (a.rows, b.cols);
    let (band, depth, rows) = (even(n, K::BAND, GROUP), even(b.rows, K::DEPTH, 32), rows_of_task::<K, A, B>(m));
    let blocks = b.rows.div_ceil(depth);
    let schedule = Schedule::new(n.div_ceil(band) * blocks, band.div_ceil(GROUP), m.div_ceil(rows));
    let buffer = band.next_multiple_of(K::COLUMNS) * K::slots(depth);
    let apart = C::DTYPE != DType::F32 && blocks > 1;
    let extents = |phase: usize| {
        let (first, from) = (phase / blocks * band, phase % blocks * depth);
        (first..n.min(first + band), from..b.rows.min(from + depth))
    };
    with_scratch(2 * buffer, |packed| {
        with_scratch(if apart { m * band } else { 0 }, |sums| {
            let (c, sums, packed) = (Pieces::new(c), Pieces::new(sums), Pieces::new(packed));
            let pack = |phase: usize, group: usize| {
                let (columns, depth) = extents(phase);
                let (first, slots) = (columns.start + group * GROUP, K::slots(depth.len()));
                let Some(left) = columns.end.checked_sub(first) else { return };
                let (at, count) = (phase % 2 * buffer + group * GROUP * slots, left.min(GROUP));
                // SAFETY: the schedule gives each group of a phase once, and when nobody reads this buffer.
                let panels = unsafe { packed.part(at, count.next_multiple_of(K::COLUMNS) * slots) };
                k.pack_b(panels, b.cols_from(first, count), depth);
            };
            let multiply = |phase: usize, task: usize| {
                let (columns, depth) = extents(phase);
                let (first, cols) = (task * rows, columns.len());
                let (a, panels) = (a.rows_from(first, rows.min(m - first)), cols.next_multiple_of(K::COLUMNS));
                // SAFETY: the schedule lets nobody write this buffer before all rows of the phase are done.
                let b = unsafe { packed.read(phase % 2 * buffer, panels * K::slots(depth.len())) };
                let apart_at = if apart { (first * band, a.rows * cols) } else { (0, 0) };
                // SAFETY: these rows are of this task alone, which is at one phase at a time.
                let (data, sums) = unsafe { (c.part(first * n, a.rows * n), sums.part(apart_at.0, apart_at.1)) };
                let start = if depth.start == 0 { start.columns(columns.clone()) } else { Start::Old };
                if apart && depth.end < a.cols {
                    k.multiply(Target { data: sums, stride: cols, first: 0, cols, sums: &[] }, a, b, depth, start);
                } else {
                    k.multiply(Target { data, stride: n, first: columns.start, cols, sums }, a, b, depth, start);
                }
            };
            together(m * n * a.cols < SMALL, &|| {
                schedule.run(|piece| match piece {
                    Piece::Pack { phase, group } => pack(phase, group),
                    Piece::Multiply { phase, task } => multiply(phase, task),
                });
            });
        });
    });
}

/// Few rows: each task makes `GROUP` columns for itself, (m, GROUP), which are put in place afterwards.
fn by_groups<A: Element, B: Element, C: Element>(
    c: &mut [C],
    a: Mat<A>,
    b: Mat<B>,
    start: Start,
    group: impl Fn(&mut [f32], Mat<B>, Start) + Sync,
) {
    let (m, n) = (a.rows, b.cols);
    with_scratch(n.next_multiple_of(GROUP) * m, |parts| {
        share(parts.par_chunks_mut(m * GROUP).enumerate(), |(g, part)| {
            let columns = g * GROUP..n.min((g + 1) * GROUP);
            for (part, c) in part.chunks_exact_mut(GROUP).zip(c.chunks_exact(n)) {
                part.iter_mut().zip(&c[columns.clone()]).for_each(|(part, c)| *part = c.to_f32());
            }
            group(part, b.cols_from(columns.start, columns.len()), start.columns(columns));
        });
        for (part, first) in parts.chunks_exact(m * GROUP).zip((0..n).step_by(GROUP)) {
            for (part, c) in part.chunks_exact(GROUP).zip(c.chunks_exact_mut(n)) {
                narrow(&mut c[first..n.min(first + GROUP)], part);
            }
        }
    });
}

fn group<K: Kernel<A, B>, A: Element, B: Element>(k: K, part: &mut [f32], a: Mat<A>, b: Mat<B>, start: Start) {
    with_scratch(GROUP * K::slots(K::DEPTH.min(b.rows)), |packed| {
        for depth in blocks(b.rows, K::DEPTH) {
            let packed = &mut packed[..b.cols.next_multiple_of(K::COLUMNS) * K::slots(depth.len())];
            let start = if depth.start == 0 { start } else { Start::Old };
            k.pack_b(packed, b, depth.clone());
            let c = Target { data: &mut *part, stride: GROUP, first: 0, cols: b.cols, sums: &[] };
            k.multiply(c, a, packed, depth, start);
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

/// Columns that [`put`] writes at once.
const LINE: usize = 16;

/// Asks for what [`put`] will read and write, so that it comes while the tile is made.
#[inline(always)]
fn touch<C>(c: &Target<C>, rows: Range<usize>, columns: Range<usize>, start: Start) {
    for i in rows {
        touch_line(&c.data[i * c.stride + c.first..][columns.clone()]);
        if matches!(start, Start::Old) && !c.sums.is_empty() {
            touch_line(&c.sums[i * c.cols..][columns.clone()]);
        }
    }
}

#[inline(always)]
fn touch_line<T>(line: &[T]) {
    for x in line.iter().step_by(64 / size_of::<T>()) {
        prefetch(x);
    }
    prefetch(&line[line.len() - 1]);
}

/// Writes `LINE` columns of a tile, from `column` of the target on, or what of them lies within its rows and columns.
#[inline(always)]
fn put<S: Simd, C: Element>(
    s: S,
    c: &mut Target<C>,
    sums: impl Iterator<Item = S::Vector>,
    rows: Range<usize>,
    column: usize,
    start: Start,
) {
    let columns = column..c.cols.min(column + LINE);
    for (i, sums) in rows.zip(sums) {
        let line = &mut c.data[i * c.stride + c.first + column..][..columns.len()];
        let old = match start {
            Start::Zero => None,
            Start::Bias(bias) => Some(&bias[columns.clone()]),
            Start::Old if C::DTYPE == DType::F32 => Some(bytemuck::cast_slice::<C, f32>(line)),
            Start::Old => Some(&c.sums[i * c.cols + column..][..columns.len()]),
        };
        let total = match old {
            None => sums,
            Some(old) => s.fma_each(s.splat(1.0), load(s, old), sums),
        };
        match <&mut [C; LINE]>::try_from(&mut *line) {
            Ok(line) => store(s, line, total),
            Err(_) => {
                let mut whole = [C::default(); LINE];
                store(s, &mut whole, total);
                line.copy_from_slice(&whole[..columns.len()]);
            }
        }
    }
}

#[inline(always)]
fn load<S: Simd>(s: S, line: &[f32]) -> S::Vector {
    match <&[f32; LINE]>::try_from(line) {
        Ok(line) => s.load(line),
        Err(_) => {
            let mut whole = [0.0; LINE];
            whole[..line.len()].copy_from_slice(line);
            s.load(&whole)
        }
    }
}

#[inline(always)]
fn store<S: Simd, C: Element>(s: S, line: &mut [C; LINE], x: S::Vector) {
    if C::DTYPE == DType::F32 {
        let line: &mut [f32] = bytemuck::cast_slice_mut(line);
        s.store(line.try_into().expect("as long as it was"), x);
    } else {
        let mut wide = [0.0; LINE];
        s.store(&mut wide, x);
        narrow(line, &wide);
    }
}

#[inline(always)]
fn narrow<C: Element>(c: &mut [C], sums: &[f32]) {
    c.iter_mut().zip(sums).for_each(|(c, sum)| *c = C::from_f32(*sum));
}
