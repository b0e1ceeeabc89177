//! A block of a product of bf16 by bf16, by the unit that multiplies tiles (AMX).
//!
//! Panels hold 32 rows or columns in tiles of 16, which the unit reads whole: a step is 32 inner indices of both tiles.
//! A tile of A is 16 rows of 32 inner indices; a tile of B is 16 pairs of inner indices by 16 columns, which is the
//! transpose of that in units of pairs. What is beyond the last row, column or inner index is 0.
//!
//! The instruction adds the even and the odd inner indices of a step apart, each product and sum rounded once, to
//! nearest, ties to even, and both to what stands there, so the error is that of the widened product. Numbers below
//! the least normal one (2^−126) count as 0, as with `pairs`.

use std::ops::Range;

use super::super::isa::{Amx, Left, Simd, Sums, Tile, prefetch};
use super::super::scratch::with_scratch;
use super::{Kernel, LINE, Mat, Start, Target, put};
use crate::dtype::{DType, Element, bf16};

#[derive(Clone, Copy)]
pub(super) struct Tiled(pub(super) Amx);

/// Rows of A and columns of B in a panel: two tiles.
const SIDE: usize = 2 * LINE;
/// Inner indices of a step.
const STEP: usize = 32;

impl Kernel<bf16, bf16> for Tiled {
    const DEPTH: usize = 1024;
    const ROWS: usize = SIDE;
    const COLUMNS: usize = SIDE;
    /// The block of B (1 MiB) stays in the L2 cache: the unit waits for a shared one. (Of 2048 x 768 x 3072: 941 GFLOP/s
    /// against 813 with 768 columns and 572 with 2048; torch 900.)
    const BAND: usize = 512;
    const TASKS: usize = 16;
    const MANY_ROWS: usize = 128;

    fn slots(depth: usize) -> usize {
        depth.next_multiple_of(STEP) / 2
    }

    fn pack_b(self, panels: &mut [f32], b: Mat<bf16>, depth: Range<usize>) {
        let panels = bytemuck::cast_slice_mut(panels);
        self.0.pairs().run(
            #[inline(always)]
            || pack::<true>(self.0, panels, b.t(), depth),
        );
    }

    fn multiply<C: Element>(self, mut c: Target<C>, a: Mat<bf16>, b: &[f32], depth: Range<usize>, start: Start) {
        let (slots, b) = (<Self as Kernel<bf16, bf16>>::slots(depth.len()), bytemuck::cast_slice(b));
        // What can be read where it stands need not be packed.
        let packed = if a.col == 1 && depth.len().is_multiple_of(STEP) { a.rows / SIDE * SIDE } else { 0 };
        let rest = if packed < a.rows { a.rows_from(packed, a.rows - packed) } else { Mat { rows: 0, ..a } };
        with_scratch(rest.rows.next_multiple_of(SIDE) * slots, |panels| {
            let panels = bytemuck::cast_slice_mut(panels);
            self.0.pairs().run(
                #[inline(always)]
                || {
                    pack::<false>(self.0, panels, rest, depth.clone());
                    tiles(self.0, &mut c, Rows { a, packed, panels, depth }, b, start);
                },
            );
        });
    }
}

/// The rows of A: those from `packed` on as panels.
struct Rows<'a> {
    a: Mat<'a, bf16>,
    packed: usize,
    panels: &'a [[Tile; 2]],
    depth: Range<usize>,
}

impl Rows<'_> {
    /// The 32 rows from `first` on.
    #[inline(always)]
    fn panel(&self, first: usize) -> Left<'_> {
        match first.checked_sub(self.packed) {
            None => Left::Rows(&self.a.data[first * self.a.row + self.depth.start..], self.a.row),
            Some(first) => {
                let steps = self.depth.len().div_ceil(STEP);
                Left::Packed(&self.panels[first / SIDE * steps..][..steps])
            }
        }
    }

    /// Two of the 32 rows after those, and how many bytes they are apart: while panel p of B passes. They may be those
    /// of another task.
    #[inline(always)]
    fn later(&self, first: usize, p: usize) -> (*const bf16, usize) {
        let row = first + SIDE + 2 * p % SIDE;
        (self.a.data.as_ptr().wrapping_add(row * self.a.row + self.depth.start), 2 * self.a.row)
    }
}

/// All tiles of the target: B, which stays in the L2 cache, passes for each panel of A.
#[inline(always)]
fn tiles<C: Element>(s: Amx, c: &mut Target<C>, a: Rows, b: &[[Tile; 2]], start: Start) {
    let mut sums = Lines([[[0.0; 16]; 16]; 4]);
    s.with_tiles(
        #[inline(always)]
        |tiles| {
            for first in (0..a.a.rows).step_by(SIDE) {
                let rows = first..a.a.rows.min(first + SIDE);
                for (p, b) in b.chunks_exact(a.depth.len().div_ceil(STEP)).enumerate() {
                    let columns = p * SIDE..c.cols.min((p + 1) * SIDE);
                    if columns.is_empty() {
                        break;
                    }
                    let line = &c.data[first * c.stride + c.first + columns.start..];
                    let soon = (line.as_ptr(), c.stride * size_of::<C>());
                    tiles.product(&mut sums.0, a.panel(first), b, soon, a.later(first, p));
                    finish(s, c, &sums.0, rows.clone(), columns, start);
                }
            }
        },
    );
}

/// Puts 32 × 32 sums in place, or what of them lies within.
#[inline(always)]
fn finish<C: Element>(
    s: Amx,
    c: &mut Target<C>,
    sums: &[Sums; 4],
    rows: Range<usize>,
    columns: Range<usize>,
    start: Start,
) {
    let v = s.vectors();
    if columns.len() < SIDE || C::DTYPE == DType::F16 {
        for (i, sums) in sums.iter().enumerate() {
            let (row, column) = (rows.start + i / 2 * LINE, columns.start + i % 2 * LINE);
            if row < rows.end && column < columns.end {
                put(v, c, sums.iter().map(|x| v.load(x)), row..rows.end, column, start);
            }
        }
        return;
    }
    let load = |x: &[f32]| {
        let (halves, _) = x[..SIDE].as_chunks::<LINE>();
        [v.load(&halves[0]), v.load(&halves[1])]
    };
    for (i, row) in rows.enumerate() {
        let mut sum = [0, 1].map(|half| v.load(&sums[i / LINE * 2 + half][i % LINE]));
        let line = &mut c.data[row * c.stride + c.first + columns.start..][..SIDE];
        let old = match start {
            Start::Zero => None,
            Start::Bias(bias) => Some(load(&bias[columns.start..])),
            Start::Old if C::DTYPE == DType::F32 => Some(load(bytemuck::cast_slice(line))),
            Start::Old => Some(load(&c.sums[row * c.cols + columns.start..])),
        };
        if let Some(old) = old {
            sum = [0, 1].map(|half| v.fma_each(v.splat(1.0), old[half], sum[half]));
        }
        if C::DTYPE == DType::F32 {
            let (halves, _) = bytemuck::cast_slice_mut::<C, f32>(line).as_chunks_mut::<LINE>();
            v.store(&mut halves[0], sum[0]);
            v.store(&mut halves[1], sum[1]);
        } else {
            bytemuck::cast_slice_mut::<C, bf16>(line).copy_from_slice(&s.narrow(sum[0], sum[1]));
        }
    }
}

/// From the beginning of a cache line on.
#[repr(align(64))]
struct Lines([Sums; 4]);

/// The rows of `m`, its columns `depth`, as panels: of A, or where `PAIRS` of B.
#[inline(always)]
fn pack<const PAIRS: bool>(s: Amx, panels: &mut [[Tile; 2]], m: Mat<bf16>, depth: Range<usize>) {
    let steps = depth.len().div_ceil(STEP);
    let inner = |k: usize| depth.start + k * STEP..depth.end.min(depth.start + (k + 1) * STEP);
    if m.col == 1 {
        for (p, panel) in panels.chunks_exact_mut(steps).enumerate() {
            for (k, tiles) in panel.iter_mut().enumerate() {
                for (i, tile) in tiles.iter_mut().enumerate() {
                    rows(s, tile, m, p * SIDE + i * LINE, inner(k), PAIRS);
                }
            }
        }
        return;
    }
    // What stands side by side is read together.
    for k in 0..steps {
        for (p, panel) in panels.chunks_exact_mut(steps).enumerate() {
            if PAIRS {
                pairs(s, &mut panel[k], m, p * SIDE, inner(k));
                continue;
            }
            let mut turned = [[[0; LINE]; LINE]; 2];
            pairs(s, &mut turned, m, p * SIDE, inner(k));
            for (tile, turned) in panel[k].iter_mut().zip(&turned) {
                s.transpose(tile, turned);
            }
        }
    }
}

/// 16 rows that stand in one piece each: as they are, or transposed.
#[inline(always)]
fn rows(s: Amx, tile: &mut Tile, m: Mat<bf16>, first: usize, inner: Range<usize>, turn: bool) {
    let mut lines = [[0; LINE]; LINE];
    for i in 0..LINE.min(m.rows.saturating_sub(first)) {
        let line = &m.data[(first + i) * m.row + inner.start..][..inner.len()];
        match line.first_chunk::<STEP>() {
            Some(whole) => lines[i] = bytemuck::cast(*whole),
            None => bytemuck::cast_slice_mut(&mut lines[i])[..line.len()].copy_from_slice(line),
        }
    }
    if turn { s.transpose(tile, &lines) } else { *tile = lines }
}

/// 32 rows that stand anyhow, best side by side, as pairs.
#[inline(always)]
fn pairs(s: Amx, tiles: &mut [Tile; 2], m: Mat<bf16>, first: usize, inner: Range<usize>) {
    let [left, right] = tiles;
    let n = SIDE.min(m.rows - first);
    let whole = n == SIDE && m.row == 1;
    for (p, to) in left.iter_mut().zip(right).enumerate() {
        let mut parts = [[bf16::ZERO; SIDE]; 2];
        let mut lines = [&[bf16::ZERO; SIDE]; 2];
        for (odd, part) in parts.iter_mut().enumerate() {
            let k = inner.start + 2 * p + odd;
            let line = if k < inner.end { &m.data[first * m.row + k * m.col..] } else { &[] };
            lines[odd] = match line.first_chunk() {
                Some(line) if whole => line,
                _ => {
                    part.iter_mut().take(n).zip(line.iter().step_by(m.row)).for_each(|(to, x)| *to = *x);
                    part
                }
            };
            if let Some(next) = line.get(STEP * m.col) {
                prefetch(next);
            }
        }
        s.interleave(to.into(), lines[0], lines[1]);
    }
}
