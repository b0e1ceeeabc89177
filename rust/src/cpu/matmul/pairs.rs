//! A block of a product of bf16 by bf16, by the instruction that adds the products of two inner indices at once.
//!
//! A panel holds pairs: inner indices 2k and 2k + 1 of row i stand side by side, the first in the low half, at
//! k·ROWS + i; of an odd number the last pair ends with 0. A product of two bf16 is exact in f32, and sums round to
//! nearest, ties to even, so the error is that of the widened product. Numbers below the least normal one (2^−126)
//! count as 0, whether they are an element, a product or a sum; NaN and infinities go on as ever.
//!
//! The 12 × 32 results of a tile are 24 of the 32 registers. Of a tile one vector wide the processor reaches only
//! three quarters of its rate: each number of A that is read from memory must serve two instructions. (Zen 4: 177
//! against 235 GFLOP/s, of 236)

use std::ops::Range;

use super::super::isa::{Avx512, Avx512Bf16, Simd};
use super::super::scratch::with_scratch;
use super::{Kernel, LINE, Mat, Start, Target, put, touch};
use crate::dtype::{Element, bf16};

#[derive(Clone, Copy)]
pub(super) struct Pairs(pub(super) Avx512Bf16);

const ROWS: usize = 12;
const COLUMNS: usize = 2 * LINE;

type Vector = <Avx512 as Simd>::Vector;

impl Kernel<bf16, bf16> for Pairs {
    const DEPTH: usize = 1024;
    const ROWS: usize = ROWS;
    const COLUMNS: usize = COLUMNS;

    fn slots(depth: usize) -> usize {
        depth.div_ceil(2)
    }

    fn pack_b(self, panels: &mut [f32], b: Mat<bf16>, depth: Range<usize>) {
        let panels = bytemuck::cast_slice_mut(panels);
        self.0.run(
            #[inline(always)]
            || pack_panels::<COLUMNS>(self.0, panels, b.t(), depth),
        );
    }

    fn multiply<C: Element>(self, mut c: Target<C>, a: Mat<bf16>, b: &[f32], depth: Range<usize>, start: Start) {
        let slots = depth.len().div_ceil(2);
        with_scratch(a.rows.next_multiple_of(ROWS) * slots, |packed| {
            let (packed, b) = (bytemuck::cast_slice_mut(packed), bytemuck::cast_slice(b));
            self.0.run(
                #[inline(always)]
                || {
                    pack_panels::<ROWS>(self.0, packed, a, depth);
                    tiles(self.0, &mut c, packed, b, a.rows, slots, start);
                },
            );
        });
    }
}

/// All tiles of the target: a panel of B passes from the L2 cache, a panel of A stays in L1 while it does.
#[inline(always)]
fn tiles<C: Element>(s: Avx512Bf16, c: &mut Target<C>, a: &[u32], b: &[u32], rows: usize, slots: usize, start: Start) {
    for (p, b) in b.chunks_exact(COLUMNS * slots).enumerate() {
        for (q, a) in a.chunks_exact(ROWS * slots).enumerate() {
            touch(c, q * ROWS..rows.min((q + 1) * ROWS), p * COLUMNS..c.cols.min((p + 1) * COLUMNS), start);
            let sums = tile(s, a, b);
            for half in 0..2 {
                let column = p * COLUMNS + half * LINE;
                if column < c.cols {
                    put(s.vectors(), c, sums.iter().map(|sums| sums[half]), q * ROWS..rows, column, start);
                }
            }
        }
    }
}

/// A (ROWS, K) · B (K, COLUMNS), both packed.
#[inline(always)]
fn tile(s: Avx512Bf16, a: &[u32], b: &[u32]) -> [[Vector; 2]; ROWS] {
    let mut c = [[s.vectors().splat(0.0); 2]; ROWS];
    for (a, b) in a.as_chunks::<ROWS>().0.iter().zip(b.as_chunks::<COLUMNS>().0) {
        let (halves, _) = b.as_chunks::<LINE>();
        let b = [s.load_pairs(&halves[0]), s.load_pairs(&halves[1])];
        for i in 0..ROWS {
            let a = s.splat_pair(a[i]);
            c[i] = [s.add_products(a, b[0], c[i][0]), s.add_products(a, b[1], c[i][1])];
        }
    }
    c
}

#[inline(always)]
fn pack_panels<const W: usize>(s: Avx512Bf16, panels: &mut [u32], m: Mat<bf16>, depth: Range<usize>) {
    for (p, panel) in panels.chunks_exact_mut(W * depth.len().div_ceil(2)).enumerate() {
        pack::<W>(s, panel.as_chunks_mut::<W>().0, m, p * W, depth.clone());
    }
}

/// Four rows of four pairs at a time.
#[inline(always)]
fn transpose<const W: usize>(s: Avx512Bf16, panel: &mut [[u32; W]], rows: [&[[bf16; 2]]; W]) {
    let (blocks, rest) = panel.as_chunks_mut::<4>();
    for (b, out) in blocks.iter_mut().enumerate() {
        for i in (0..W).step_by(4) {
            let mut square = [[0; 4]; 4];
            for r in 0..4 {
                let four: [[bf16; 2]; 4] = rows[i + r][4 * b..][..4].try_into().expect("four");
                square[r] = bytemuck::cast(four);
            }
            for (out, column) in out.iter_mut().zip(s.transpose(square)) {
                out[i..i + 4].copy_from_slice(&column);
            }
        }
    }
    let first = 4 * blocks.len();
    for (k, out) in rest.iter_mut().enumerate() {
        for i in 0..W {
            out[i] = bytemuck::cast(rows[i][first + k]);
        }
    }
}

/// Four pairs at a time.
#[inline(always)]
fn interleave<const W: usize>(s: Avx512Bf16, out: &mut [u32; W], low: &[bf16], high: &[bf16]) {
    let (low, high) = (&low[..W], &high[..W]);
    for (out, (low, high)) in out.as_chunks_mut().0.iter_mut().zip(low.as_chunks().0.iter().zip(high.as_chunks().0)) {
        *out = s.interleave(bytemuck::cast::<[bf16; 4], _>(*low), bytemuck::cast::<[bf16; 4], _>(*high));
    }
}

#[inline(always)]
fn pair(low: bf16, high: bf16) -> u32 {
    u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16
}

/// One panel: the rows `first..` of `m`, its columns `depth`; rows beyond the last are 0.
#[inline(always)]
fn pack<const W: usize>(s: Avx512Bf16, panel: &mut [[u32; W]], m: Mat<bf16>, first: usize, depth: Range<usize>) {
    let rows = W.min(m.rows - first);
    let (whole, last) = panel.split_at_mut(depth.len() / 2);
    let data = &m.data[first * m.row + depth.start * m.col..];
    if rows == W && m.col == 1 {
        let mut lines: [&[[bf16; 2]]; W] = [&[]; W];
        for i in 0..W {
            lines[i] = &data[i * m.row..].as_chunks().0[..whole.len()];
        }
        transpose(s, whole, lines);
    } else if rows == W && m.row == 1 {
        for (out, lines) in whole.iter_mut().zip(data.chunks(2 * m.col)) {
            interleave(s, out, lines, &lines[m.col..]);
        }
    } else {
        for (k, out) in whole.iter_mut().enumerate() {
            *out = [0; W];
            for i in 0..rows {
                let at = i * m.row + 2 * k * m.col;
                out[i] = pair(data[at], data[at + m.col]);
            }
        }
    }
    for out in last {
        *out = [0; W];
        for i in 0..rows {
            out[i] = pair(data[i * m.row + (depth.len() - 1) * m.col], bf16::ZERO);
        }
    }
}
