//! out = softmax(q·kᵀ·scale)·v, and the log-sum-exp of each row.

use super::super::cast::narrow;
use super::super::isa::{Isa, dispatch, isa};
use super::super::math::{exp_nonpositive, max, sum};
use super::super::matmul::Mat;
use super::super::micro::{Across, NR, Tiles};
use super::super::parallel::{Columns, for_each};
use super::super::scratch::with_scratch;
use super::mask::{Sight, hide};
use super::{KEYS, Mask, Operand, Place, ROWS, SPARE, by_keys, extents, panels_len, panels_of, scores};
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
    let lse = Columns::new(lse, e.time);
    for_each(e.batch * e.heads, |ba| {
        let (b, a) = (ba / e.heads, ba % e.heads);
        let parts = (q.head(b, a), k.head(b, a / e.group), v.head(b, a / e.group));
        // SAFETY: each task has a row of its own.
        let lse = unsafe { lse.part(ba, 0..e.time) };
        one_head(isa, lse, parts, scale, &mask.of(b, e.time), |t, row: &[f32]| {
            // SAFETY: no other task has head `a` of sequence `b`, and the piece ends with this call.
            let place = unsafe { out.row(b, t, a) };
            narrow(place, row);
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
        let width = d.next_multiple_of(NR);
        with_scratch(ROWS * (width + KEYS + width) + SPARE * NR, |scratch| {
            let (query, rest) = scratch.split_at_mut(ROWS * width + SPARE * NR);
            let (p, sums) = rest.split_at_mut(ROWS * KEYS);
            for (i, lse) in lse.chunks_mut(ROWS).enumerate() {
                let first = i * ROWS;
                let queries = Mat { data: &q.data[first * q.row..], rows: lse.len(), ..q };
                dispatch!(isa, simd => {
                    panels_of(&mut query[..width * queries.rows], queries.t(), scale);
                    rows(simd, sums, lse, query, p, &packed, first, d, sight);
                });
                sums.chunks_exact(width).take(lse.len()).enumerate().for_each(|(i, row)| put(first + i, &row[..d]));
            }
        });
    });
}

/// sums (ROWS, d) = softmax(query·kᵀ)·v for the queries `first..first + lse.len()`, which are in panels of columns.
#[inline(always)]
fn rows<S: Tiles>(
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
    let tiles = n.next_multiple_of(S::ROWS);
    sums[..tiles * width].fill(0.0);
    for block in sight.blocks(first, n) {
        scores(s, p, Across { data: query, rows: n }, 0, packed.keys, block, d);
        for (i, p) in p.chunks_exact_mut(KEYS).enumerate().take(tiles) {
            let seen = block.seen(i);
            let wide = hide(p, &seen, block.keys, f32::NEG_INFINITY);
            let p = &mut p[wide];
            let highest = max(p).max(top[i]);
            shrink[i] = if p.is_empty() { 1.0 } else { exp_nonpositive(s, top[i] - highest) };
            top[i] = highest;
            for p in p.as_chunks_mut::<NR>().0 {
                for l in 0..NR {
                    p[l] = exp_nonpositive(s, p[l] - highest);
                }
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
