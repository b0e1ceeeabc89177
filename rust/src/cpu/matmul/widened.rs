//! A block of a product of any two types, widened to f32 as it is packed, without AVX-512.  The only file that names the matmul crate.
//!
//! Where no vector instructions beyond the target's are compiled for, the crate `matrixmultiply` multiplies the
//! blocks, which are then not packed but only widened.

use std::ops::Range;

use super::super::isa::{Isa, Simd, dispatch};
use super::super::micro::{MR, NR, pack, tile};
use super::super::scratch::with_scratch;
use super::{Kernel, LINE, Mat, Start, Target, load, put, touch};
use crate::dtype::Element;

#[derive(Clone, Copy)]
pub(super) struct Widened(pub(super) Isa);

impl<A: Element, B: Element> Kernel<A, B> for Widened {
    /// A panel of B (24 KiB) stays in the L1 cache.
    const DEPTH: usize = 384;
    const ROWS: usize = MR;
    const COLUMNS: usize = NR;

    fn slots(depth: usize) -> usize {
        depth
    }

    fn pack_b(self, panels: &mut [f32], b: Mat<B>, depth: Range<usize>) {
        dispatch!(self.0, s => pack_b(s, panels, b, &depth));
    }

    fn multiply<C: Element>(self, mut c: Target<C>, a: Mat<A>, b: &[f32], depth: Range<usize>, start: Start) {
        with_scratch(a.rows.next_multiple_of(MR) * depth.len(), |packed| {
            dispatch!(self.0, s => multiply(s, &mut c, packed, a, b, &depth, start));
        });
    }
}

/// For the crate as (cols, depth).
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

#[inline(always)]
fn multiply<S: Simd, A: Element, C: Element>(
    s: S,
    c: &mut Target<C>,
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
        by_crate(s, c, packed, b, a.rows, depth.len(), start);
    }
}

/// All tiles of the target: a panel of B stays in the L1 cache while the panels of A pass.
#[inline(always)]
fn tiles<S: Simd, C: Element>(s: S, c: &mut Target<C>, a: &[f32], b: &[f32], rows: usize, depth: usize, start: Start) {
    for (p, b) in b.chunks_exact(NR * depth).enumerate() {
        for (q, a) in a.chunks_exact(MR * depth).enumerate() {
            let rows = q * MR..rows.min((q + 1) * MR);
            touch(c, rows.clone(), p * NR..c.cols.min((p + 1) * NR), start);
            put(s, c, tile(s, a, b).into_iter(), rows, p * NR, start);
        }
    }
}

/// a (rows, depth) and b (cols, depth), both row-major.
fn by_crate<S: Simd, C: Element>(
    s: S,
    c: &mut Target<C>,
    a: &[f32],
    b: &[f32],
    rows: usize,
    depth: usize,
    start: Start,
) {
    let cols = c.cols;
    assert!(rows > 0 && cols > 0 && a.len() >= rows * depth && b.len() >= cols * depth, "whole blocks");
    with_scratch(rows * cols, |sums| {
        // SAFETY: the assertion and the length of `sums` keep every element that extents and strides address inside
        // its slice; `sums` is borrowed exclusively. B is (depth, cols) with strides 1 and `depth`.
        unsafe {
            matrixmultiply::sgemm(
                rows,
                depth,
                cols,
                1.0,
                a.as_ptr(),
                depth as isize,
                1,
                b.as_ptr(),
                1,
                depth as isize,
                0.0,
                sums.as_mut_ptr(),
                cols as isize,
                1,
            );
        }
        for (i, sums) in sums.chunks_exact(cols).enumerate() {
            for (column, sums) in (0..cols).step_by(LINE).zip(sums.chunks(LINE)) {
                put(s, c, std::iter::once(load(s, sums)), i..i + 1, column, start);
            }
        }
    });
}
