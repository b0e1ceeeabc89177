//! Gradients of attention.  With P = softmax(S), S = scale·q·kᵀ, D = rowsum(dout ∘ out):
//! dP = dout·vᵀ,  dS = P ∘ (dP − D),  dv = Pᵀ·dout,  dq = scale·dS·k,  dk = scale·dSᵀ·q.

use rayon::prelude::*;

use super::super::isa::{Isa, Simd, dispatch, isa};
use super::super::math::{dot, exp_nonpositive};
use super::super::matmul::Mat;
use super::super::micro::{MR, NR, Tile, scale_add, tile_columns};
use super::super::parallel::{Columns, install};
use super::super::scratch::with_scratch;
use super::{Block, Heads, KEYS, Qkv, ROWS, by_keys, head, panels_len, panels_of, piece, rows_of, scores};
use crate::dtype::Element;

/// dqkv: the places of q, k and v are overwritten.  One task a key head; its query heads follow one another.
///
/// # Panics
/// When two heads share elements: a mistake of the caller, `ops` refuses it.
pub fn backward<T: Element>(dqkv: &mut [T], dout: &[T], out: &[T], lse: &[f32], qkv: &[T], s: &Qkv) {
    assert!(s.disjoint(), "heads that share elements");
    let (isa, time, kv) = (isa(), s.time, s.k.count);
    let dqkv = Columns::new(dqkv, s.row);
    install(|| {
        (0..s.batch * kv).into_par_iter().for_each(|i| {
            let (b, h) = (i / kv, i % kv);
            key_head(isa, dout, out, lse, qkv, s, b, h, |heads, a, first, rows: &[f32], width, factor| {
                let from = heads.offset + a * heads.stride;
                for (t, row) in rows.chunks_exact(width).enumerate().take(time - first) {
                    // SAFETY: heads share no elements, and no other task has this one; the piece ends with this call.
                    let place = unsafe { dqkv.part(b * time + first + t, from..from + heads.dim) };
                    place.iter_mut().zip(row).for_each(|(to, x)| *to = T::from_f32(x * factor));
                }
            });
        });
    });
}

/// What is packed for one key head and one of its query heads.
struct Packed<'a> {
    /// kᵀ and vᵀ: (T, d) in panels of tokens.
    keys_t: &'a [f32],
    values_t: &'a [f32],
    /// k, scale·q, dout: (d, T) in panels of columns.
    keys: &'a [f32],
    queries: &'a [f32],
    douts: &'a [f32],
}

/// Gradients of keys and values, (T, width) each and a tile more.
struct Sums<'a> {
    dk: &'a mut [f32],
    dv: &'a mut [f32],
}

/// One block of queries: their rows, those of dout, scores, their gradients, the gradient of the queries.
struct Work<'a> {
    query: &'a mut [f32],
    dout: &'a mut [f32],
    p: &'a mut [f32],
    ds: &'a mut [f32],
    dq: &'a mut [f32],
}

/// Takes `lens.len()` pieces off `data`.
fn split<const N: usize>(data: &mut [f32], lens: [usize; N]) -> [&mut [f32]; N] {
    let mut rest = data;
    lens.map(|len| {
        let (piece, after) = std::mem::take(&mut rest).split_at_mut(len);
        rest = after;
        piece
    })
}

fn key_head<T: Element>(
    isa: Isa,
    dout: &[T],
    out: &[T],
    lse: &[f32],
    qkv: &[T],
    s: &Qkv,
    b: usize,
    h: usize,
    put: impl Fn(Heads, usize, usize, &[f32], usize, f32),
) {
    let (d, time, group, width) = (s.q.dim, s.time, s.group(), s.q.dim.next_multiple_of(NR));
    let (by_token, by_column) = (panels_len(time, d), panels_len(d, time));
    let places = Heads { offset: 0, stride: d, count: s.q.count, dim: d };
    let sums = (time + MR) * width;
    with_scratch(2 * by_token + 3 * by_column + 2 * sums, |scratch| {
        let lens = [by_token, by_token, by_column, by_column, by_column, sums, sums];
        let [keys_t, values_t, keys, queries, douts, dk, dv] = split(scratch, lens);
        let (k, v) = (head(qkv, s.row, s.k, time, b, h), head(qkv, s.row, s.v, time, b, h));
        dk.fill(0.0);
        dv.fill(0.0);
        dispatch!(isa, _s => {
            panels_of(keys_t, k, 1.0);
            panels_of(values_t, v, 1.0);
            panels_of(keys, k.t(), 1.0);
        });
        for a in h * group..(h + 1) * group {
            let q = head(qkv, s.row, s.q, time, b, a);
            let of = |rows| head(rows, s.q.count * d, places, time, b, a);
            dispatch!(isa, _s => {
                panels_of(queries, q.t(), s.scale);
                panels_of(douts, of(dout).t(), 1.0);
            });
            let packed = Packed { keys_t, values_t, keys, queries, douts };
            let lse = &lse[(b * s.q.count + a) * time..][..time];
            let mut sums = Sums { dk, dv };
            query_head(isa, &packed, &mut sums, q, of(dout), of(out), lse, s, |first, dq| {
                put(s.q, a, first, dq, width, s.scale);
            });
        }
        put(s.k, h, 0, dk, width, 1.0);
        put(s.v, h, 0, dv, width, 1.0);
    });
}

fn query_head<T: Element>(
    isa: Isa,
    packed: &Packed,
    sums: &mut Sums,
    q: Mat<T>,
    dout: Mat<T>,
    out: Mat<T>,
    lse: &[f32],
    heads: &Qkv,
    put: impl Fn(usize, &[f32]),
) {
    let (d, width) = (q.cols, q.cols.next_multiple_of(NR));
    let lens = [ROWS * d, ROWS * d, ROWS * KEYS, ROWS * KEYS, ROWS * width];
    with_scratch(lens.iter().sum(), |scratch| {
        let [query, gradient, p, ds, dq] = split(scratch, lens);
        let work = &mut Work { query, dout: gradient, p, ds, dq };
        for (i, lse) in lse.chunks(ROWS).enumerate() {
            let (first, n) = (i * ROWS, lse.len());
            dispatch!(isa, s => {
                rows_of(work.query, q, first, n, heads.scale);
                rows_of(work.dout, dout, first, n, 1.0);
                let mut means = [0.0; ROWS];
                for (i, mean) in means.iter_mut().enumerate().take(n) {
                    *mean = dot(s, dout.line(first + i), out.line(first + i));
                }
                rows(s, work, sums, packed, lse, &means, first, d, heads.time, heads.causal);
            });
            put(first, &work.dq[..n * width]);
        }
    });
}

/// The queries `first..first + lse.len()`.
#[inline(always)]
fn rows<S: Simd>(
    s: S,
    work: &mut Work,
    sums: &mut Sums,
    packed: &Packed,
    lse: &[f32],
    means: &[f32; ROWS],
    first: usize,
    d: usize,
    time: usize,
    causal: bool,
) {
    let width = d.next_multiple_of(NR);
    let depth = packed.keys.len() / width;
    work.dq.fill(0.0);
    for block in Block::all(first, lse.len(), time, causal) {
        scores(s, work.p, work.query, packed.keys_t, block, d);
        scores(s, work.ds, work.dout, packed.values_t, block, d);
        let both = work.p.chunks_exact_mut(KEYS).zip(work.ds.chunks_exact_mut(KEYS));
        for (i, (p, ds)) in both.enumerate().take(lse.len().next_multiple_of(MR)) {
            let seen = if i < lse.len() { block.seen(i) } else { 0 };
            p[seen..].fill(0.0);
            ds[seen..].fill(0.0);
            if seen > 0 {
                softmax_backward(s, &mut p[..seen], &mut ds[..seen], lse[i], means[i]);
            }
        }
        by_keys(s, work.dq, &[1.0; ROWS], work.ds, packed.keys, block, depth);
        by_rows(s, work.p, packed.douts, block, depth, sums.dv, width);
        by_rows(s, work.ds, packed.queries, block, depth, sums.dk, width);
    }
}

/// p: scores in, probabilities out.  ds: dP in, dS out.
#[inline(always)]
fn softmax_backward<S: Simd>(s: S, p: &mut [f32], ds: &mut [f32], lse: f32, mean: f32) {
    for (p, ds) in p.iter_mut().zip(ds) {
        *p = exp_nonpositive(s, *p - lse);
        *ds = *p * (*ds - mean);
    }
}

/// For each tile of keys and each panel of `b` (which has `depth` inner indices): `to` (keys, width) +=
/// pᵀ (KEYS, ROWS) · b, with only the rows that see the tile.
#[inline(always)]
fn by_rows<S: Simd>(s: S, p: &[f32], b: &[f32], block: Block, depth: usize, to: &mut [f32], width: usize) {
    for k in (0..block.keys).step_by(MR) {
        let start = block.seen_from(k);
        let columns = &p[start * KEYS + k..block.rows * KEYS];
        for (column, panel) in b.chunks_exact(NR * depth).enumerate() {
            let panel = &panel[(block.first + start) * NR..][..(block.rows - start) * NR];
            let sums: Tile<S, MR> = tile_columns(s, columns, KEYS, panel);
            for (r, sums) in sums.into_iter().enumerate() {
                scale_add(s, piece(to, (block.from + k + r) * width + column * NR), 1.0, sums);
            }
        }
    }
}
