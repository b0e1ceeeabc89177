//! Gradients of attention.  With P = softmax(S), S = scale·q·kᵀ, D = rowsum(dout ∘ out):
//! dP = dout·vᵀ,  dS = P ∘ (dP − D),  dv = Pᵀ·dout,  dq = scale·dS·k,  dk = scale·dSᵀ·q.

use super::super::isa::{Isa, Simd, dispatch, isa};
use super::super::math::{dot, exp_nonpositive};
use super::super::matmul::Mat;
use super::super::micro::{Across, Columns, NR, Tiles, scale_add};
use super::super::parallel::for_each;
use super::super::scratch::with_scratch;
use super::mask::{Block, Sight, hide};
use super::{KEYS, Mask, Operand, Place, ROWS, SPARE, by_keys, extents, panels_len, panels_of, piece, scores};
use crate::dtype::Element;

/// dq, dk, dv are overwritten.  One task a key head; its query heads follow one another.
///
/// # Panics
/// When shapes do not fit each other: a mistake of the caller, `ops` refuses it.
pub fn backward<T: Element>(
    dq: &Place<T>,
    dk: &Place<T>,
    dv: &Place<T>,
    dout: Operand<T>,
    out: Operand<T>,
    lse: &[f32],
    q: Operand<T>,
    k: Operand<T>,
    v: Operand<T>,
    scale: f32,
    mask: Mask,
) {
    let (isa, e) = (isa(), extents(&q, &k, &v));
    for_each(e.batch * e.kv, |i| {
        let (b, h) = (i / e.kv, i % e.kv);
        let put = |to: &Place<T>, a: usize, first: usize, rows: &[f32], factor: f32| {
            let width = e.dim.next_multiple_of(NR);
            for (t, row) in rows.chunks_exact(width).enumerate().take(e.time - first) {
                // SAFETY: no other task has this head, and the piece ends with this call.
                let place = unsafe { to.row(b, first + t, a) };
                place.iter_mut().zip(row).for_each(|(to, x)| *to = T::from_f32(x * factor));
            }
        };
        let heads = (h * e.group..(h + 1) * e.group).map(|a| {
            let lse = &lse[(b * e.heads + a) * e.time..][..e.time];
            (a, QueryHead { q: q.head(b, a), dout: dout.head(b, a), out: out.head(b, a), lse })
        });
        let (k, v) = (k.head(b, h), v.head(b, h));
        key_head(isa, k, v, heads, scale, &mask.of(b, e.time), |gradient, a, first, rows: &[f32]| match gradient {
            Gradient::Queries => put(dq, a, first, rows, scale),
            Gradient::Keys => put(dk, h, first, rows, 1.0),
            Gradient::Values => put(dv, h, first, rows, 1.0),
        });
    });
}

/// What is packed for one key head and one of its query heads.
struct Packed<'a> {
    /// kᵀ and vᵀ: (T, d) in panels of tokens.
    keys_t: &'a [f32],
    values_t: &'a [f32],
    /// k, scale·q, dout: (d, T) in panels of columns; of the last two also the rows of the scores.
    keys: &'a [f32],
    queries: &'a [f32],
    douts: &'a [f32],
}

/// Gradients of keys and values, (T, width) each and a tile more.
struct Sums<'a> {
    dk: &'a mut [f32],
    dv: &'a mut [f32],
}

/// One block of queries: scores, their gradients, the gradient of the queries.
struct Work<'a> {
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

/// A query head of the key head: (T, d) each.
struct QueryHead<'a, T> {
    q: Mat<'a, T>,
    dout: Mat<'a, T>,
    out: Mat<'a, T>,
    lse: &'a [f32],
}

/// Of what rows that are handed out are the gradient.
enum Gradient {
    Queries,
    Keys,
    Values,
}

/// Calls `put(gradient, query head, first row, rows)`; queries lack the factor `scale`.
fn key_head<'a, T: Element>(
    isa: Isa,
    k: Mat<T>,
    v: Mat<T>,
    heads: impl Iterator<Item = (usize, QueryHead<'a, T>)>,
    scale: f32,
    sight: &Sight,
    put: impl Fn(Gradient, usize, usize, &[f32]),
) {
    let (time, d, width) = (k.rows, k.cols, k.cols.next_multiple_of(NR));
    let (by_token, by_column) = (panels_len(time, d), panels_len(d, time));
    let sums = (time + SPARE) * width;
    let as_rows = by_column + SPARE * NR;
    let lens = [by_token, by_token, by_column, as_rows, as_rows, sums, sums];
    with_scratch(lens.iter().sum(), |scratch| {
        let [keys_t, values_t, keys, queries, douts, dk, dv] = split(scratch, lens);
        dk.fill(0.0);
        dv.fill(0.0);
        dispatch!(isa, _s => {
            panels_of(keys_t, k, 1.0);
            panels_of(values_t, v, 1.0);
            panels_of(keys, k.t(), 1.0);
        });
        for (a, head) in heads {
            dispatch!(isa, _s => {
                panels_of(&mut queries[..by_column], head.q.t(), scale);
                panels_of(&mut douts[..by_column], head.dout.t(), 1.0);
            });
            let packed = Packed { keys_t, values_t, keys, queries, douts };
            let mut sums = Sums { dk, dv };
            query_head(isa, &packed, &mut sums, &head, sight, |first, dq| put(Gradient::Queries, a, first, dq));
        }
        put(Gradient::Keys, 0, 0, dk);
        put(Gradient::Values, 0, 0, dv);
    });
}

fn query_head<T: Element>(
    isa: Isa,
    packed: &Packed,
    sums: &mut Sums,
    head: &QueryHead<T>,
    sight: &Sight,
    put: impl Fn(usize, &[f32]),
) {
    let (d, width) = (head.q.cols, head.q.cols.next_multiple_of(NR));
    let lens = [ROWS * KEYS, ROWS * KEYS, ROWS * width];
    with_scratch(lens.iter().sum(), |scratch| {
        let [p, ds, dq] = split(scratch, lens);
        let work = &mut Work { p, ds, dq };
        for (i, lse) in head.lse.chunks(ROWS).enumerate() {
            let (first, n) = (i * ROWS, lse.len());
            dispatch!(isa, s => {
                let mut means = [0.0; ROWS];
                for (i, mean) in means.iter_mut().enumerate().take(n) {
                    *mean = dot(s, head.dout.line(first + i), head.out.line(first + i));
                }
                rows(s, work, sums, packed, lse, &means, first, d, sight);
            });
            put(first, &work.dq[..n * width]);
        }
    });
}

/// The queries `first..first + lse.len()`.
#[inline(always)]
fn rows<S: Tiles>(
    s: S,
    work: &mut Work,
    sums: &mut Sums,
    packed: &Packed,
    lse: &[f32],
    means: &[f32; ROWS],
    first: usize,
    d: usize,
    sight: &Sight,
) {
    let width = d.next_multiple_of(NR);
    let depth = packed.keys.len() / width;
    let tiles = lse.len().next_multiple_of(S::ROWS);
    work.dq[..tiles * width].fill(0.0);
    for block in sight.blocks(first, lse.len()) {
        scores(s, work.p, Across { data: packed.queries, rows: depth }, first, packed.keys_t, block, d);
        scores(s, work.ds, Across { data: packed.douts, rows: depth }, first, packed.values_t, block, d);
        let both = work.p.chunks_exact_mut(KEYS).zip(work.ds.chunks_exact_mut(KEYS));
        for (i, (p, ds)) in both.enumerate().take(tiles) {
            let seen = block.seen(i);
            let end = block.keys.next_multiple_of(S::ROWS);
            let wide = hide(p, &seen, end, f32::NEG_INFINITY);
            hide(ds, &seen, end, 0.0);
            if !seen.is_empty() {
                softmax_backward(s, &mut p[wide.clone()], &mut ds[wide], lse[i], means[i]);
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
    for (p, ds) in p.as_chunks_mut::<NR>().0.iter_mut().zip(ds.as_chunks_mut::<NR>().0) {
        for l in 0..NR {
            p[l] = exp_nonpositive(s, p[l] - lse);
            ds[l] = p[l] * (ds[l] - mean);
        }
    }
}

/// For each tile of keys and each panel of `b` (which has `depth` inner indices): `to` (keys, width) +=
/// pᵀ (KEYS, ROWS) · b, with only the rows that see the tile.
#[inline(always)]
fn by_rows<S: Tiles>(s: S, p: &[f32], b: &[f32], block: Block, depth: usize, to: &mut [f32], width: usize) {
    for k in (0..block.keys).step_by(S::ROWS) {
        let seeing = block.seeing(k, S::ROWS);
        if seeing.is_empty() {
            continue;
        }
        let columns = Columns { rows: &p.as_chunks::<KEYS>().0[seeing.clone()], first: k };
        for column in (0..width).step_by(S::PANELS * NR) {
            let panels = (width - column).div_ceil(NR).min(S::PANELS);
            s.tile(
                columns,
                &b[column * depth + (block.first + seeing.start) * NR..],
                NR * depth,
                panels,
                seeing.len(),
                #[inline(always)]
                |r, p, sums| scale_add(s, piece(to, (block.from + k + r) * width + column + p * NR), 1.0, sums),
            );
        }
    }
}
