//! Attention, softmax(q·kᵀ·scale)·v, over the keys that a mask leaves, in blocks of query rows and keys.
//!
//! The (T, T) matrix never exists: a thread holds `ROWS` × `KEYS` scores at a time. The forward pass corrects its sums
//! when a later block of keys brings a larger score (online softmax); the backward pass makes the probabilities again
//! from the log-sum-exp. Tiles that the mask hides, on either side, are skipped.
//!
//! Queries, keys and values are read where they stand, see `heads`; keys, values and what else is read by columns is
//! packed once a head, see `micro`; everything is f32 inside.

mod backward;
mod decode;
mod forward;
mod mask;

pub use backward::backward;
pub use decode::decode;
pub use forward::forward;
pub use mask::{Document, Mask};

use self::mask::Block;
pub use super::heads::{Grid, Heads, Operand, Place};
use super::isa::Simd;
use super::matmul::Mat;
use super::micro::{MR, NR, Tile, pack, scale_add, tile_rows};
use crate::dtype::Element;

pub mod reference {
    /// One head: q, k, v are (T, d), query t sees key s where `sees(t, s)`; returns (T, d).
    pub fn forward(
        q: &[f64],
        k: &[f64],
        v: &[f64],
        d: usize,
        scale: f64,
        sees: impl Fn(usize, usize) -> bool,
    ) -> Vec<f64> {
        let (mut out, time) = (vec![0.0; q.len()], q.len() / d);
        for t in 0..time {
            let seen: Vec<usize> = (0..time).filter(|s| sees(t, *s)).collect();
            let score = |s: &usize| (0..d).map(|i| q[t * d + i] * k[s * d + i]).sum::<f64>() * scale;
            let top = seen.iter().map(score).fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = seen.iter().map(|s| (score(s) - top).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (s, weight) in seen.iter().zip(&weights) {
                (0..d).for_each(|i| out[t * d + i] += weight / total * v[s * d + i]);
            }
        }
        out
    }

    /// (dq, dk, dv) of one head; dout is (T, d).
    pub fn backward(
        dout: &[f64],
        q: &[f64],
        k: &[f64],
        v: &[f64],
        d: usize,
        scale: f64,
        sees: impl Fn(usize, usize) -> bool,
    ) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
        let dot = |a: &[f64], t: usize, b: &[f64], s: usize| (0..d).map(|i| a[t * d + i] * b[s * d + i]).sum::<f64>();
        for t in 0..q.len() / d {
            let seen: Vec<usize> = (0..q.len() / d).filter(|s| sees(t, *s)).collect();
            let scores: Vec<f64> = seen.iter().map(|s| dot(q, t, k, *s) * scale).collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|score| (score - top).exp()).sum();
            let p: Vec<f64> = scores.iter().map(|score| (score - top).exp() / total).collect();
            let mean: f64 = seen.iter().zip(&p).map(|(s, p)| p * dot(dout, t, v, *s)).sum();
            for (s, p) in seen.into_iter().zip(p) {
                let dscore = p * (dot(dout, t, v, s) - mean) * scale;
                for i in 0..d {
                    dq[t * d + i] += dscore * k[s * d + i];
                    dk[s * d + i] += dscore * q[t * d + i];
                    dv[s * d + i] += p * dout[t * d + i];
                }
            }
        }
        (dq, dk, dv)
    }
}

/// Query rows that one thread works on at a time, in tiles of `MR`.
const ROWS: usize = 16 * MR;
/// Keys of one block: whole tiles both ways.
const KEYS: usize = 5 * MR * NR / 2;

/// The extents of queries, and keys and values that fit them.
///
/// # Panics
/// When they do not: a mistake of the caller, `ops` refuses it.
fn extents<T>(q: &Operand<T>, k: &Operand<T>, v: &Operand<T>) -> Extents {
    let of = |x: &Operand<T>| (x.grid().batch, x.grid().time, x.grid().dim);
    let (Grid { batch, time, count, dim, .. }, kv) = (*q.grid(), k.grid().count);
    assert!(of(q) == of(k) && of(k) == of(v) && kv == v.grid().count, "operands of one shape");
    Extents { batch, time, heads: count, kv, group: count / kv.max(1), dim }
}

#[derive(Clone, Copy)]
struct Extents {
    batch: usize,
    time: usize,
    heads: usize,
    kv: usize,
    /// Query heads that share one key/value head.
    group: usize,
    dim: usize,
}

/// The numbers of `panels_of(x)`.
fn panels_len(rows: usize, inner: usize) -> usize {
    rows.next_multiple_of(NR) * inner
}

/// x (rows, inner) as panels of `NR` rows, to multiply with xᵀ from the left; times `factor`.
#[inline(always)]
fn panels_of<T: Element>(panels: &mut [f32], x: Mat<T>, factor: f32) {
    for (p, panel) in panels.chunks_exact_mut(NR * x.cols).enumerate() {
        pack::<T, NR>(panel, x, p * NR, 0);
    }
    if factor != 1.0 {
        for x in panels {
            *x *= factor;
        }
    }
}

/// out (n, d) = the rows `first..first + n` of x, times `factor`; further rows of `out` are 0.
#[inline(always)]
fn rows_of<T: Element>(out: &mut [f32], x: Mat<T>, first: usize, n: usize, factor: f32) {
    let (used, rest) = out.split_at_mut(n * x.cols);
    for (i, out) in used.chunks_exact_mut(x.cols).enumerate() {
        for (out, x) in out.iter_mut().zip(x.line(first + i)) {
            *out = x.to_f32() * factor;
        }
    }
    rest.fill(0.0);
}

/// out (ROWS, KEYS) = a (ROWS, d) · bᵀ for the tiles of the block that the mask leaves; b in panels over all keys.
#[inline(always)]
fn scores<S: Simd>(s: S, out: &mut [f32], a: &[f32], b: &[f32], block: Block, d: usize) {
    let panels = b[block.from * d..].chunks_exact(NR * d).take(block.keys.div_ceil(NR));
    for (p, panel) in panels.enumerate() {
        let seeing = block.seeing(p * NR, NR);
        for i in (seeing.start / MR * MR..seeing.end).step_by(MR) {
            let sums: Tile<S, MR> = tile_rows(s, rows_at(a, d, i, 0, d), panel);
            for (r, sums) in sums.into_iter().enumerate() {
                s.store(piece(out, (i + r) * KEYS + p * NR), sums);
            }
        }
    }
}

/// `NR` elements from `at` on.
#[inline(always)]
fn piece(data: &mut [f32], at: usize) -> &mut [f32; NR] {
    data[at..].first_chunk_mut().expect("a row of a tile")
}

/// Columns `from..from + n` of the rows i..i + MR of a (_, stride).
#[inline(always)]
fn rows_at(a: &[f32], stride: usize, i: usize, from: usize, n: usize) -> [&[f32]; MR] {
    std::array::from_fn(|r| &a[(i + r) * stride + from..][..n])
}

/// to (ROWS, width) = factors·to + p (ROWS, KEYS) · b, with only the keys that the mask leaves; b (width, `depth`) in
/// panels. The factor of a row that sees no key of the block is 1.
#[inline(always)]
fn by_keys<S: Simd>(s: S, to: &mut [f32], factors: &[f32; ROWS], p: &[f32], b: &[f32], block: Block, depth: usize) {
    let width = to.len() / ROWS;
    for i in (0..block.rows).step_by(MR) {
        let seen = block.seen_by_tile(i);
        if seen.is_empty() {
            continue;
        }
        let (from, n) = (block.from + seen.start, seen.len());
        let rows = rows_at(p, KEYS, i, seen.start, n);
        for (column, panel) in b.chunks_exact(NR * depth).enumerate() {
            let sums: Tile<S, MR> = tile_rows(s, rows, &panel[from * NR..][..n * NR]);
            for (r, sums) in sums.into_iter().enumerate() {
                scale_add(s, piece(to, (i + r) * width + column * NR), factors[i + r], sums);
            }
        }
    }
}

#[cfg(test)]
mod tests;
