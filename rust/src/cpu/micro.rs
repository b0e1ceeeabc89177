//! The innermost loops of matrix products: panels that a vector unit reads straight through, and the tile they give.
//!
//! A panel of A holds `MR` rows, of B `NR` columns, the inner index running slowest: element (i, k) of A stands at
//! k·MR + i. The 6 × 16 results of a tile are 12 vectors of eight, which with the operands fill the 16 registers of
//! AVX2. With AVX-512 attention has tiles of 12 × 32, 24 of 32 registers: six sums a vector wide wait for each other, and
//! each number of A that is read serves two instructions.

#[cfg(target_arch = "x86_64")]
use super::isa::{Avx2, Avx512};
use super::isa::{Baseline, Simd, transpose as transpose_square};
use super::matmul::Mat;
use crate::dtype::Element;

pub const MR: usize = 6;
pub const NR: usize = 16;

/// `ROWS` rows of `PANELS` vectors of results.
type Sums<S, const ROWS: usize, const PANELS: usize> = [[<S as Simd>::Vector; PANELS]; ROWS];

/// A left operand where it stands.
pub trait Left<'a>: Copy {
    /// Elements from one row to the next.
    const ROW: usize;
    /// The inner indices of one call of `columns`, at most.
    const PART: usize;

    /// Of `n` inner indices from k on the pieces in which `ROWS` elements stand.
    fn columns<const ROWS: usize>(self, k: usize, n: usize) -> impl Iterator<Item = &'a [f32]>;
}

/// Element (i, k) at i·STRIDE + k.
#[derive(Clone, Copy)]
pub struct Rows<'a, const STRIDE: usize>(pub &'a [f32]);

impl<'a, const STRIDE: usize> Left<'a> for Rows<'a, STRIDE> {
    const ROW: usize = STRIDE;
    const PART: usize = usize::MAX;

    #[inline(always)]
    fn columns<const ROWS: usize>(self, k: usize, n: usize) -> impl Iterator<Item = &'a [f32]> {
        self.0[k..][..n + (ROWS - 1) * STRIDE].windows((ROWS - 1) * STRIDE + 1)
    }
}

/// Element (i, k) is `rows[k][first + i]`.
#[derive(Clone, Copy)]
pub struct Columns<'a, const STRIDE: usize> {
    pub rows: &'a [[f32; STRIDE]],
    pub first: usize,
}

impl<'a, const STRIDE: usize> Left<'a> for Columns<'a, STRIDE> {
    const ROW: usize = 1;
    const PART: usize = usize::MAX;

    #[inline(always)]
    fn columns<const ROWS: usize>(self, k: usize, n: usize) -> impl Iterator<Item = &'a [f32]> {
        self.rows[k..][..n].iter().map(
            #[inline(always)]
            move |row| &row[self.first..][..ROWS],
        )
    }
}

/// In panels of `NR` inner indices of `rows` rows each: element (i, k) at (k / NR · rows + i)·NR + k % NR.
#[derive(Clone, Copy)]
pub struct Across<'a> {
    pub data: &'a [f32],
    pub rows: usize,
}

impl<'a> Left<'a> for Across<'a> {
    const ROW: usize = NR;
    const PART: usize = NR;

    #[inline(always)]
    fn columns<const ROWS: usize>(self, k: usize, n: usize) -> impl Iterator<Item = &'a [f32]> {
        Rows::<NR>(&self.data[k * self.rows..]).columns::<ROWS>(0, n)
    }
}

/// The tile that suits an instruction set: so many rows of A, panels of B.
pub trait Tiles: Simd {
    const ROWS: usize;
    const PANELS: usize;

    /// A (ROWS, depth) · `panels` panels of B (depth, NR), at most `PANELS`, each `panel` numbers after the last one;
    /// calls `put(row, panel, sums)`.
    fn tile<'a>(
        self,
        a: impl Left<'a>,
        b: &[f32],
        panel: usize,
        panels: usize,
        depth: usize,
        put: impl FnMut(usize, usize, Self::Vector),
    );
}

macro_rules! tiles {
    ($isa:ty, $rows:literal, $panels:literal $(, $fewer:literal)*) => {
        impl Tiles for $isa {
            const ROWS: usize = $rows;
            const PANELS: usize = $panels;

            #[inline(always)]
            fn tile<'a>(
                self,
                a: impl Left<'a>,
                b: &[f32],
                panel: usize,
                panels: usize,
                depth: usize,
                put: impl FnMut(usize, usize, Self::Vector),
            ) {
                match panels {
                    $($fewer => finish(sums::<Self, _, $rows, $fewer>(self, a, b, panel, depth), put),)*
                    _ => finish(sums::<Self, _, $rows, $panels>(self, a, b, panel, depth), put),
                }
            }
        }
    };
}

tiles!(Baseline, 6, 1);
#[cfg(target_arch = "x86_64")]
tiles!(Avx2, 6, 1);
#[cfg(target_arch = "x86_64")]
tiles!(Avx512, 12, 2, 1);

#[inline(always)]
fn finish<V: Copy, const ROWS: usize, const PANELS: usize>(
    sums: [[V; PANELS]; ROWS],
    mut put: impl FnMut(usize, usize, V),
) {
    for i in 0..ROWS {
        for p in 0..PANELS {
            put(i, p, sums[i][p]);
        }
    }
}

/// Σ over k of the column k of A times the row k of the panels.
#[inline(always)]
fn sums<'a, S: Simd, A: Left<'a>, const ROWS: usize, const PANELS: usize>(
    s: S,
    a: A,
    b: &[f32],
    panel: usize,
    depth: usize,
) -> Sums<S, ROWS, PANELS> {
    let mut c = [[s.splat(0.0); PANELS]; ROWS];
    for k in (0..depth).step_by(A::PART) {
        let n = A::PART.min(depth - k);
        let mut lines: [&[[f32; NR]]; PANELS] = [&[]; PANELS];
        for p in 0..PANELS {
            lines[p] = b[p * panel + k * NR..][..n * NR].as_chunks().0;
        }
        for (k, a) in a.columns::<ROWS>(k, n).enumerate() {
            let mut b = [s.splat(0.0); PANELS];
            for p in 0..PANELS {
                b[p] = s.load(&lines[p][k]);
            }
            for i in 0..ROWS {
                let a = s.splat(a[i * A::ROW]);
                for p in 0..PANELS {
                    c[i][p] = s.fma_each(a, b[p], c[i][p]);
                }
            }
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
pub fn tile<S: Simd>(s: S, a: &[f32], b: &[f32]) -> [S::Vector; MR] {
    let mut c = [s.splat(0.0); MR];
    for (a, b) in a.as_chunks::<MR>().0.iter().zip(b.as_chunks::<NR>().0) {
        let b = s.load(b);
        for i in 0..MR {
            c[i] = s.fma_each(s.splat(a[i]), b, c[i]);
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
            for (out, x) in panel.iter_mut().zip(row.iter().step_by(m.col)) {
                out[i] = x.to_f32();
            }
        }
    } else if m.col == 1 {
        transpose(panel, m, first, from);
    } else if m.row == 1 {
        let lines = m.data[from * m.col + first..].chunks(m.col);
        for (out, x) in panel.iter_mut().zip(lines) {
            // At once: written one by one, each might change the next that is read.
            let mut line = [0.0; W];
            widen(&mut line, x);
            *out = line;
        }
    } else {
        for (k, out) in panel.iter_mut().enumerate() {
            for i in 0..W {
                out[i] = m.data[(first + i) * m.row + (from + k) * m.col].to_f32();
            }
        }
    }
}

/// `pack` of whole rows: sixteen inner indices at a time, so that a cache line is used whole at once.
#[inline(always)]
fn transpose<T: Element, const W: usize>(panel: &mut [[f32; W]], m: Mat<T>, first: usize, from: usize) {
    const LINE: usize = 16;
    let (depth, squares) = (panel.len(), W / 4 * 4);
    let data = &m.data[first * m.row + from..];
    let (blocks, rest) = panel.as_chunks_mut::<LINE>();
    for (b, out) in blocks.iter_mut().enumerate() {
        for i in (0..squares).step_by(4) {
            let mut rows = [[0.0; LINE]; 4];
            for r in 0..4 {
                widen(&mut rows[r], &data[(i + r) * m.row + b * LINE..]);
            }
            for j in (0..LINE).step_by(4) {
                let mut square = [[0.0; 4]; 4];
                for r in 0..4 {
                    square[r].copy_from_slice(&rows[r][j..j + 4]);
                }
                for (k, column) in transpose_square(square).into_iter().enumerate() {
                    out[j + k][i..i + 4].copy_from_slice(&column);
                }
            }
        }
        for i in squares..W {
            let mut row = [0.0; LINE];
            widen(&mut row, &data[i * m.row + b * LINE..]);
            for k in 0..LINE {
                out[k][i] = row[k];
            }
        }
    }
    let first = depth - rest.len();
    for i in 0..W {
        for (out, x) in rest.iter_mut().zip(&data[i * m.row + first..][..depth - first]) {
            out[i] = x.to_f32();
        }
    }
}

#[inline(always)]
fn widen<T: Element, const N: usize>(to: &mut [f32; N], from: &[T]) {
    for (to, x) in to.iter_mut().zip(&from[..N]) {
        *to = x.to_f32();
    }
}
