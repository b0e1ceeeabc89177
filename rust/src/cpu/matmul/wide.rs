//! A block of a product of any two types, widened to f32 as it is packed, by AVX-512.
//!
//! The 8 × 48 results of a tile are 24 of the 32 registers: each number of A that is read serves three instructions. In
//! a tile one vector wide it serves one, and the processor waits for loads; 12 × 32 is 3 % slower where the core is
//! shared with another thread, 14 × 32 no faster. So are blocks of 192, 256, 320 and 512 inner indices, bands of 768 and
//! 1024 columns, and asking in the tile's loop for the next numbers of its own panels. (Emerald Rapids, one thread)

use std::ops::Range;

use super::super::isa::{Avx512, Simd, prefetch, prefetch_l2, transpose};
use super::super::scratch::with_scratch;
use super::{Kernel, LINE, Mat, Start, Target, put, touch};
use crate::dtype::{DType, Element};

#[derive(Clone, Copy)]
pub(super) struct Wide(pub(super) Avx512);

const ROWS: usize = 8;
const VECTORS: usize = 3;
const COLUMNS: usize = VECTORS * LINE;

type Vector = <Avx512 as Simd>::Vector;

impl<A: Element, B: Element> Kernel<A, B> for Wide {
    const DEPTH: usize = 384;
    const TASKS: usize = 16;
    const ROWS: usize = ROWS;
    const COLUMNS: usize = COLUMNS;

    fn slots(depth: usize) -> usize {
        depth
    }

    fn pack_b(self, panels: &mut [f32], b: Mat<B>, depth: Range<usize>) {
        self.0.run(
            #[inline(always)]
            || pack::<B, COLUMNS>(panels, b.t(), depth),
        );
    }

    fn multiply<C: Element>(self, mut c: Target<C>, a: Mat<A>, b: &[f32], depth: Range<usize>, start: Start) {
        with_scratch(a.rows.next_multiple_of(ROWS) * depth.len(), |packed| {
            self.0.run(
                #[inline(always)]
                || {
                    pack::<A, ROWS>(packed, a, depth.clone());
                    tiles(self.0, &mut c, packed, b, a.rows, depth.len(), start);
                },
            );
        });
    }
}

/// All tiles of the target: the panels of A pass from the L2 cache, each tile asking for its share of the next panel of B,
/// which otherwise comes from L3 when it is needed. (All of a share at once, before the tile: 8 % slower.)
#[inline(always)]
fn tiles<C: Element>(s: Avx512, c: &mut Target<C>, a: &[f32], b: &[f32], rows: usize, depth: usize, start: Start) {
    let share = COLUMNS.div_ceil(rows.div_ceil(ROWS));
    for (p, panel) in b.chunks_exact(COLUMNS * depth).enumerate() {
        let next = &b[(p + 1) * COLUMNS * depth..];
        for (q, a) in a.chunks_exact(ROWS * depth).enumerate() {
            let (rows, columns) = (q * ROWS..rows.min((q + 1) * ROWS), p * COLUMNS..c.cols.min((p + 1) * COLUMNS));
            touch(c, rows.clone(), columns.clone(), start);
            let next = next.as_ptr().wrapping_add(q * share * depth);
            match columns.len().div_ceil(LINE) {
                1 => put_tile(s, c, tile::<1>(s, a, panel, next, share), rows, columns.start, start),
                2 => put_tile(s, c, tile::<2>(s, a, panel, next, share), rows, columns.start, start),
                _ => put_tile(s, c, tile::<VECTORS>(s, a, panel, next, share), rows, columns.start, start),
            }
        }
    }
}

#[inline(always)]
fn put_tile<C: Element, const N: usize>(
    s: Avx512,
    c: &mut Target<C>,
    sums: [[Vector; N]; ROWS],
    rows: Range<usize>,
    column: usize,
    start: Start,
) {
    if C::DTYPE == DType::F32 && rows.len() == ROWS && column + N * LINE <= c.cols {
        let at = rows.start * c.stride + c.first + column;
        let data: &mut [f32] = bytemuck::cast_slice_mut(&mut *c.data);
        return put_whole(s, &mut data[at..], c.stride, sums, start.columns(column..column + N * LINE));
    }
    for v in 0..N {
        put(s, c, sums.iter().map(|sums| sums[v]), rows.clone(), column + v * LINE, start);
    }
}

/// [`put`] of a whole tile of f32, which needs not leave the registers before.
#[inline(always)]
fn put_whole<const N: usize>(s: Avx512, data: &mut [f32], stride: usize, sums: [[Vector; N]; ROWS], start: Start) {
    let data = &mut data[..(ROWS - 1) * stride + N * LINE];
    match start {
        Start::Zero => {
            for i in 0..ROWS {
                let lines = data[i * stride..][..N * LINE].as_chunks_mut::<LINE>().0;
                for v in 0..N {
                    s.store(&mut lines[v], sums[i][v]);
                }
            }
        }
        Start::Bias(bias) => {
            let bias = bias[..N * LINE].as_chunks::<LINE>().0;
            for i in 0..ROWS {
                let lines = data[i * stride..][..N * LINE].as_chunks_mut::<LINE>().0;
                for v in 0..N {
                    s.store(&mut lines[v], s.fma_each(s.splat(1.0), s.load(&bias[v]), sums[i][v]));
                }
            }
        }
        Start::Old => {
            for i in 0..ROWS {
                let lines = data[i * stride..][..N * LINE].as_chunks_mut::<LINE>().0;
                for v in 0..N {
                    let total = s.fma_each(s.splat(1.0), s.load(&lines[v]), sums[i][v]);
                    s.store(&mut lines[v], total);
                }
            }
        }
    }
}

/// A (ROWS, K) · the first `N` vectors of B (K, COLUMNS), both packed. Meanwhile memory from `next` on is asked for,
/// `share` numbers an inner index.
#[inline(always)]
fn tile<const N: usize>(s: Avx512, a: &[f32], b: &[f32], mut next: *const f32, share: usize) -> [[Vector; N]; ROWS] {
    const FOUR: usize = 4;
    let mut c = [[s.splat(0.0); N]; ROWS];
    let (a, last_a) = a.as_chunks::<ROWS>().0.as_chunks::<FOUR>();
    let (b, last_b) = b.as_chunks::<COLUMNS>().0.as_chunks::<FOUR>();
    for (a, b) in a.iter().zip(b) {
        for k in 0..FOUR {
            if k % 2 == 0 {
                prefetch_l2(next);
                next = next.wrapping_add(2 * share);
            }
            add_product(s, &mut c, &a[k], &b[k]);
        }
    }
    for (a, b) in last_a.iter().zip(last_b) {
        add_product(s, &mut c, a, b);
    }
    c
}

#[inline(always)]
fn add_product<const N: usize>(s: Avx512, c: &mut [[Vector; N]; ROWS], a: &[f32; ROWS], b: &[f32; COLUMNS]) {
    let lines = b.as_chunks::<LINE>().0;
    let mut b = [s.splat(0.0); N];
    for v in 0..N {
        b[v] = s.load(&lines[v]);
    }
    for i in 0..ROWS {
        let a = s.splat(a[i]);
        for v in 0..N {
            c[i][v] = s.fma_each(a, b[v], c[i][v]);
        }
    }
}

/// The rows of m, inner indices `depth`, as panels of `W` rows; rows beyond the last are 0.
#[inline(always)]
fn pack<T: Element, const W: usize>(panels: &mut [f32], m: Mat<T>, depth: Range<usize>) {
    let n = depth.len();
    let whole = m.rows / W;
    let data = &m.data[depth.start * m.col..];
    let (panels, last) = panels.split_at_mut(whole * W * n);
    if m.col == 1 {
        for (p, panel) in panels.chunks_exact_mut(W * n).enumerate() {
            pack_rows::<T, W>(panel, &data[p * W * m.row..], m.row);
        }
    } else if m.row == 1 {
        pack_columns::<T, W>(panels, data, m.col, whole, n);
    } else {
        for (p, panel) in panels.chunks_exact_mut(W * n).enumerate() {
            pack_any::<T, W>(panel, &data[p * W * m.row..], m, W);
        }
    }
    if !last.is_empty() {
        pack_any::<T, W>(&mut last[..W * n], &data[whole * W * m.row..], m, m.rows % W);
    }
}

#[inline(always)]
fn pack_any<T: Element, const W: usize>(panel: &mut [f32], data: &[T], m: Mat<T>, rows: usize) {
    let panel = panel.as_chunks_mut::<W>().0;
    if rows < W {
        panel.fill([0.0; W]);
    }
    for i in 0..rows {
        for (out, x) in panel.iter_mut().zip(data[i * m.row..].iter().step_by(m.col)) {
            out[i] = x.to_f32();
        }
    }
}

/// Rows that stand in one piece each. A line of the cache is used whole at once: rows some KiB apart evict each other.
#[inline(always)]
fn pack_rows<T: Element, const W: usize>(panel: &mut [f32], data: &[T], stride: usize) {
    let panel = panel.as_chunks_mut::<W>().0;
    let depth = panel.len();
    let (blocks, rest) = panel.as_chunks_mut::<LINE>();
    for (b, out) in blocks.iter_mut().enumerate() {
        for i in (0..W).step_by(4) {
            let mut rows = [[0.0; LINE]; 4];
            for r in 0..4 {
                let row = &data[(i + r) * stride + b * LINE..][..LINE];
                for (x, from) in rows[r].iter_mut().zip(row) {
                    *x = from.to_f32();
                }
            }
            for j in (0..LINE).step_by(4) {
                let square = std::array::from_fn(|r| std::array::from_fn(|k| rows[r][j + k]));
                for (k, column) in transpose(square).into_iter().enumerate() {
                    out[j + k][i..i + 4].copy_from_slice(&column);
                }
            }
        }
    }
    let first = depth - rest.len();
    for i in 0..W {
        for (out, x) in rest.iter_mut().zip(&data[i * stride + first..][..depth - first]) {
            out[i] = x.to_f32();
        }
    }
}

/// Columns that stand in one piece each: all panels of one inner index after the other. What comes `AHEAD` inner indices
/// later is asked for: the processor sees no pattern in lines that are some KiB apart.
#[inline(always)]
fn pack_columns<T: Element, const W: usize>(panels: &mut [f32], data: &[T], stride: usize, whole: usize, depth: usize) {
    const AHEAD: usize = 8;
    for (k, line) in data.chunks(stride).take(depth).enumerate() {
        let line = &line[..whole * W];
        for x in line.chunks(64 / size_of::<T>()) {
            prefetch(x.as_ptr().wrapping_add(AHEAD * stride));
        }
        for (p, x) in line.as_chunks::<W>().0.iter().enumerate() {
            let out: &mut [f32; W] = (&mut panels[(p * depth + k) * W..][..W]).try_into().expect("a row of a panel");
            // At once: written one by one, each might change the next that is read.
            let mut line = [0.0; W];
            for i in 0..W {
                line[i] = x[i].to_f32();
            }
            *out = line;
        }
    }
}
