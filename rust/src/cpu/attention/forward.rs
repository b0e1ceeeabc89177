//! out = softmax(q·kᵀ·scale)·v, and the log-sum-exp of each row.

use rayon::prelude::*;

use super::super::cast::narrow;
use super::super::isa::{Isa, Simd, dispatch, isa};
use super::super::math::{exp_nonpositive, max, sum};
use super::super::matmul::Mat;
use super::super::micro::{MR, NR};
use super::super::parallel::install;
use super::super::scratch::with_scratch;
use super::mask::{Sight, hide};
use super::{KEYS, Mask, Operand, Place, ROWS, by_keys, extents, panels_len, panels_of, rows_of, scores};
use crate::dtype::Element;

/// out like q, lse (B, A, T).  One task a query head.
///
/// # Panics
/// When shapes do not fit each other: a mistake of the caller, `ops` refuses it.
pub fn forward<T: Element>(
    out: &Place<T>,
    lse: &mut [f32],
    q: Operand<T>,
    k: Operand<T>,
    v: Operand<T>,
    scale: f32,
    mask: Mask,
) {
    let (isa, e) = (isa(), extents(&q, &k, &v));
    install(|| {
        lse.par_chunks_mut(e.time).enumerate().for_each(|(ba, lse)| {
            let (b, a) = (ba / e.heads, ba % e.heads);
            let parts = (q.head(b, a), k.head(b, a / e.group), v.head(b, a / e.group));
            one_head(isa, lse, parts, scale, &mask.of(b, e.time), |t, row: &[f32]| {
                // SAFETY: no other task has head `a` of sequence `b`, and the piece ends with this call.
                let place = unsafe { out.row(b, t, a) };
                narrow(place, row);
            });
        });
    });
}

/// What a head keeps while its blocks of queries pass.
struct Packed<'a> {
    /// kᵀ: (T, d) in panels of tokens.
    keys: &'a [f32],
    /// v: (d, T) in panels of columns.
    values: &'a [f32],
}

fn one_head<T: Element>(
    isa: Isa,
    lse: &mut [f32],
    (q, k, v): (Mat<T>, Mat<T>, Mat<T>),
    scale: f32,
    sight: &Sight,
    put: impl Fn(usize, &[f32]),
) {
    let (time, d) = (q.rows, q.cols);
    with_scratch(panels_len(time, d) + panels_len(d, time), |packed| {
        let (keys, values) = packed.split_at_mut(panels_len(time, d));
        dispatch!(isa, _s => {
            panels_of(keys, k, 1.0);
            panels_of(values, v.t(), 1.0);
        });
        let packed = Packed { keys, values };
        with_scratch(ROWS * (d + KEYS + d.next_multiple_of(NR)), |scratch| {
            let (query, rest) = scratch.split_at_mut(ROWS * d);
            let (p, sums) = rest.split_at_mut(ROWS * KEYS);
            for (i, lse) in lse.chunks_mut(ROWS).enumerate() {
                let first = i * ROWS;
                let tiles = lse.len().next_multiple_of(MR);
                dispatch!(isa, simd => {
                    rows_of(&mut query[..tiles * d], q, first, lse.len(), scale);
                    rows(simd, sums, lse, query, p, &packed, first, d, sight);
                });
                let width = d.next_multiple_of(NR);
                sums.chunks_exact(width).take(lse.len()).enumerate().for_each(|(i, row)| put(first + i, &row[..d]));
            }
        });
    });
}

/// sums (ROWS, d) = softmax(query·kᵀ)·v for the queries `first..first + lse.len()`.
#[inline(always)]
fn rows<S: Simd>(
    s: S,
    sums: &mut [f32],
    lse: &mut [f32],
    query: &[f32],
    p: &mut [f32],
    packed: &Packed,
    first: usize,
    d: usize,
    sight: &Sight,
) {
    let (n, width, depth) = (lse.len(), d.next_multiple_of(NR), packed.values.len() / d.next_multiple_of(NR));
    let mut top = [f32::NEG_INFINITY; ROWS];
    let mut total = [0.0f32; ROWS];
    let mut shrink = [0.0f32; ROWS];
    let tiles = n.next_multiple_of(MR);
    sums[..tiles * width].fill(0.0);
    for block in sight.blocks(first, n) {
        scores(s, p, query, packed.keys, block, d);
        for (i, p) in p.chunks_exact_mut(KEYS).enumerate().take(tiles) {
            let seen = block.seen(i);
            let wide = hide(p, &seen, block.keys, f32::NEG_INFINITY);
            let p = &mut p[wide];
            let highest = max(p).max(top[i]);
            shrink[i] = if p.is_empty() { 1.0 } else { exp_nonpositive(s, top[i] - highest) };
            top[i] = highest;
            for p in &mut *p {
                *p = exp_nonpositive(s, *p - highest);
            }
            total[i] = s.fma(total[i], shrink[i], sum(p, |p| p));
        }
        by_keys(s, sums, &shrink, p, packed.values, block, depth);
    }
    for (i, (lse, sums)) in lse.iter_mut().zip(sums.chunks_exact_mut(width)).enumerate() {
        let inverse = 1.0 / total[i];
        for sum in sums {
            *sum *= inverse;
        }
        *lse = top[i] + total[i].ln();
    }
}
