//! The innermost loops of matrix products: panels that a vector unit reads straight through, and the tile they give.
//!
//! A panel of A holds `MR` rows, of B `NR` columns, the inner index running slowest: element (i, k) of A stands at
//! k·MR + i. The 6 × 16 results of a tile are 12 vectors of eight, which with the operands fill the 16 registers of
//! AVX2.

use super::isa::Simd;
use super::matmul::Mat;
use crate::dtype::Element;

pub const MR: usize = 6;
pub const NR: usize = 16;

/// `ROWS` rows of `NR` results.
pub type Tile<S, const ROWS: usize> = [<S as Simd>::Vector; ROWS];

/// Σ over k of the column `a(k)` times the row k of the panel `b` (K, NR).
#[inline(always)]
fn accumulate<S: Simd, const ROWS: usize>(s: S, b: &[f32], a: impl Fn(usize, usize) -> f32) -> Tile<S, ROWS> {
    let mut c = [s.splat(0.0); ROWS];
    for (k, b) in b.as_chunks::<NR>().0.iter().enumerate() {
        let b = s.load(b);
        for i in 0..ROWS {
            c[i] = s.fma_each(s.splat(a(i, k)), b, c[i]);
        }
    }
    c
}

/// row = factor·row + sums.
#[inline(always)]
pub fn scale_add<S: Simd>(s: S, row: &mut [f32; NR], factor: f32, sums: S::Vector) {
    let old = s.load(row);
    s.store(row, s.fma_each(s.splat(factor), old, sums));
}

/// A (MR, K) · B (K, NR), A packed.
#[inline(always)]
pub fn tile<S: Simd>(s: S, a: &[f32], b: &[f32]) -> Tile<S, MR> {
    let a = a.as_chunks::<MR>().0;
    let depth = a.len().min(b.len() / NR);
    let (a, b) = (&a[..depth], &b[..depth * NR]);
    accumulate(s, b, |i, k| a[k][i])
}

/// The same with A as rows where they stand: cheaper than packing when few columns use them.
#[inline(always)]
pub fn tile_rows<S: Simd, const ROWS: usize>(s: S, a: [&[f32]; ROWS], b: &[f32]) -> Tile<S, ROWS> {
    let depth = b.len() / NR;
    let a = a.map(|a| &a[..depth]);
    accumulate(s, &b[..depth * NR], |i, k| a[i][k])
}

/// The same with A transposed where it stands: element (i, k) is `a[k * stride + i]`.
#[inline(always)]
pub fn tile_columns<S: Simd, const ROWS: usize>(s: S, a: &[f32], stride: usize, b: &[f32]) -> Tile<S, ROWS> {
    let depth = b.len() / NR;
    assert!(depth == 0 || (depth - 1) * stride + ROWS <= a.len(), "columns within the data");
    accumulate(s, &b[..depth * NR], |i, k| a[k * stride + i])
}

/// One panel of `W` rows of A, or columns of B as the rows of its transpose: the rows `first..` of `m`, inner
/// indices `from..`; rows beyond the last are 0.
#[inline(always)]
pub fn pack<T: Element, const W: usize>(panel: &mut [f32], m: Mat<T>, first: usize, from: usize) {
    let panel = panel.as_chunks_mut::<W>().0;
    let rows = W.min(m.rows - first);
    if rows < W {
        panel.fill([0.0; W]);
        for i in 0..rows {
            let row = &m.data[(first + i) * m.row + from * m.col..];
            for (out, x) in panel.iter_mut().zip(row.iter().step_by(m.col)) {
                out[i] = x.to_f32();
            }
        }
    } else if m.col == 1 {
        transpose(panel, m, first, from);
    } else if m.row == 1 {
        let lines = m.data[from * m.col + first..].chunks(m.col);
        for (out, x) in panel.iter_mut().zip(lines) {
            let x = &x[..W];
            for i in 0..W {
                out[i] = x[i].to_f32();
            }
        }
    } else {
        for (k, out) in panel.iter_mut().enumerate() {
            for i in 0..W {
                out[i] = m.data[(first + i) * m.row + (from + k) * m.col].to_f32();
            }
        }
    }
}

/// `pack` of whole rows: eight inner indices at a time, so that loads and stores stay within few lines.
#[inline(always)]
fn transpose<T: Element, const W: usize>(panel: &mut [[f32; W]], m: Mat<T>, first: usize, from: usize) {
    let depth = panel.len();
    let row = |i: usize| &m.data[(first + i) * m.row + from..][..depth];
    let rows: [&[T]; W] = std::array::from_fn(row);
    for (k, out) in panel.iter_mut().enumerate() {
        for i in 0..W {
            out[i] = rows[i][k].to_f32();
        }
    }
}
