//! The innermost loops of matrix products: panels that a vector unit reads straight through, and the tile they give.
//!
//! A panel of A holds `MR` rows, of B `NR` columns, the inner index running slowest: element (i, k) of A stands at
//! k·MR + i. The 6 × 16 results of a tile are 12 vectors of eight, which with the operands fill the 16 registers.

use super::isa::Simd;
use super::matmul::Mat;
use crate::dtype::Element;

pub const MR: usize = 6;
pub const NR: usize = 16;

pub type Tile<const ROWS: usize> = [[f32; NR]; ROWS];

/// A (ROWS, K) · B (K, NR), A packed.
#[inline(always)]
pub fn tile<S: Simd>(s: S, a: &[f32], b: &[f32]) -> Tile<MR> {
    let mut c = [[0.0f32; NR]; MR];
    for (a, b) in a.as_chunks::<MR>().0.iter().zip(b.as_chunks::<NR>().0) {
        for i in 0..MR {
            for j in 0..NR {
                c[i][j] = s.fma(a[i], b[j], c[i][j]);
            }
        }
    }
    c
}

/// The same with A as rows where they stand: cheaper than packing when few columns use them.
#[inline(always)]
pub fn tile_rows<S: Simd, const ROWS: usize>(s: S, a: [&[f32]; ROWS], b: &[f32]) -> Tile<ROWS> {
    let mut c = [[0.0f32; NR]; ROWS];
    let b = b.as_chunks::<NR>().0;
    let a = a.map(|a| &a[..b.len()]);
    for (k, b) in b.iter().enumerate() {
        for i in 0..ROWS {
            for j in 0..NR {
                c[i][j] = s.fma(a[i][k], b[j], c[i][j]);
            }
        }
    }
    c
}

/// The same with A transposed where it stands: element (i, k) is `a[k * stride + i]`.
#[inline(always)]
pub fn tile_columns<S: Simd, const ROWS: usize>(s: S, a: &[f32], stride: usize, b: &[f32]) -> Tile<ROWS> {
    let mut c = [[0.0f32; NR]; ROWS];
    for (a, b) in a.chunks(stride).zip(b.as_chunks::<NR>().0) {
        let Some((a, _)) = a.split_first_chunk::<ROWS>() else { break };
        for i in 0..ROWS {
            for j in 0..NR {
                c[i][j] = s.fma(a[i], b[j], c[i][j]);
            }
        }
    }
    c
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
            panel.iter_mut().zip(row.iter().step_by(m.col)).for_each(|(out, x)| out[i] = x.to_f32());
        }
    } else if m.col == 1 {
        transpose(panel, m, first, from);
    } else if m.row == 1 {
        let lines = m.data[from * m.col + first..].chunks(m.col);
        for (out, x) in panel.iter_mut().zip(lines) {
            (0..W).for_each(|i| out[i] = x[i].to_f32());
        }
    } else {
        for (k, out) in panel.iter_mut().enumerate() {
            (0..W).for_each(|i| out[i] = m.data[(first + i) * m.row + (from + k) * m.col].to_f32());
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
