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
use super::matmul::Mat;
use super::micro::{Across, NR, Rows, Tiles, pack, scale_add};
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

/// Query rows that one thread works on at a time: whole tiles of 6 and of 12.
const ROWS: usize = 96;
/// Keys of one block: whole tiles both ways, but for the last pair of panels.
const KEYS: usize = 240;
/// Rows that a tile may reach beyond the last: what it makes of them is not used.
const SPARE: usize = 12;

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

/// out (ROWS, KEYS) = a (_, d) · bᵀ for the tiles of the block that the mask leaves; b in panels over all keys, a in
/// panels of columns, the block beginning at its row `first`.
#[inline(always)]
fn scores<S: Tiles>(s: S, out: &mut [f32], a: Across, first: usize, b: &[f32], block: Block, d: usize) {
    let width = S::PANELS * NR;
    for k in (0..block.keys).step_by(width) {
        let (seeing, panels) = (block.seeing(k, width), (block.keys - k).min(width).div_ceil(NR));
        let b = &b[(block.from + k) * d..];
        for i in (seeing.start / S::ROWS * S::ROWS..seeing.end).step_by(S::ROWS) {
            let a = Across { data: &a.data[(first + i) * NR..], rows: a.rows };
            s.tile(
                a,
                b,
                NR * d,
                panels,
                d,
                #[inline(always)]
                |r, p, sums| s.store(piece(out, (i + r) * KEYS + k + p * NR), sums),
            );
        }
    }
}

/// `NR` elements from `at` on.
#[inline(always)]
fn piece(data: &mut [f32], at: usize) -> &mut [f32; NR] {
    data[at..].first_chunk_mut().expect("a row of a tile")
}

/// to (ROWS, width) = factors·to + p (ROWS, KEYS) · b, with only the keys that the mask leaves; b (width, `depth`) in
/// panels. The factor of a row that sees no key of the block is 1.
#[inline(always)]
fn by_keys<S: Tiles>(s: S, to: &mut [f32], factors: &[f32; ROWS], p: &[f32], b: &[f32], block: Block, depth: usize) {
    let width = to.len() / ROWS;
    for i in (0..block.rows).step_by(S::ROWS) {
        let seen = block.seen_by_rows(i, S::ROWS);
        if seen.is_empty() {
            continue;
        }
        let (from, rows) = (block.from + seen.start, Rows::<KEYS>(&p[i * KEYS + seen.start..]));
        for column in (0..width).step_by(S::PANELS * NR) {
            let panels = (width - column).div_ceil(NR).min(S::PANELS);
            s.tile(
                rows,
                &b[column * depth + from * NR..],
                NR * depth,
                panels,
                seen.len(),
                #[inline(always)]
                |r, p, sums| scale_add(s, piece(to, (i + r) * width + column + p * NR), factors[i + r], sums),
            );
        }
    }
}

#[cfg(test)]
mod tests;
