//! Causal attention in blocks of query rows: softmax(q·kᵀ·scale)·v.  The (T, T) matrix never exists, only
//! `ROWS` rows of it for each thread; the backward pass makes the probabilities again from `lse`.

use rayon::prelude::*;

use super::cast::{narrow, widen};
use super::isa::simd;
use super::math::exp;
use super::matmul::{Mat, gemm, with_scratch};
use super::parallel::install;
use super::rms_norm::{lane_max, lane_sum};
use crate::dtype::Element;
use crate::ops::attention::{Heads, Qkv};

pub mod reference {
    /// One head: q, k, v are (T, d); returns (T, d).
    pub fn forward(q: &[f64], k: &[f64], v: &[f64], d: usize, scale: f64) -> Vec<f64> {
        let mut out = vec![0.0; q.len()];
        for t in 0..q.len() / d {
            let score = |s: usize| (0..d).map(|i| q[t * d + i] * k[s * d + i]).sum::<f64>() * scale;
            let top = (0..=t).map(score).fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = (0..=t).map(|s| (score(s) - top).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (s, weight) in weights.iter().enumerate() {
                (0..d).for_each(|i| out[t * d + i] += weight / total * v[s * d + i]);
            }
        }
        out
    }
}

/// Query rows that one thread works on at a time.
const ROWS: usize = 64;

/// Copies head `a` of sequence `b` to `out` (T, d) in f32.
fn gather<T: Element>(out: &mut [f32], qkv: &[T], s: &Qkv, heads: Heads, b: usize, a: usize) {
    let d = heads.dim;
    for (t, out) in out.chunks_exact_mut(d).enumerate() {
        let from = (b * s.time + t) * s.row + heads.offset + a * heads.stride;
        widen(out, &qkv[from..][..d]);
    }
}

/// Copies `from` (B, heads, T, d) into the heads' places in rows of `row`.
fn scatter<T: Element>(to: &mut [T], from: &[f32], row: usize, time: usize, heads: Heads) {
    let d = heads.dim;
    install(|| {
        to.par_chunks_mut(row).enumerate().with_min_len(16).for_each(|(n, to)| {
            let (b, t) = (n / time, n % time);
            for a in 0..heads.count {
                let from = &from[((b * heads.count + a) * time + t) * d..][..d];
                let to = &mut to[heads.offset + a * heads.stride..][..d];
                narrow(to, from);
            }
        });
    });
}

/// out (B, T, A·d), lse (B, A, T).
pub fn forward<T: Element>(out: &mut [T], lse: &mut [f32], qkv: &[T], s: &Qkv) {
    let (d, time, heads) = (s.q.dim, s.time, s.q.count);
    with_scratch(s.batch * heads * time * d, |results| {
        install(|| {
            results.par_chunks_mut(time * d).zip(lse.par_chunks_mut(time)).enumerate().for_each(|(ba, (out, lse))| {
                let (b, a) = (ba / heads, ba % heads);
                with_scratch(3 * time * d + ROWS * time, |scratch| {
                    let (q, rest) = scratch.split_at_mut(time * d);
                    let (k, rest) = rest.split_at_mut(time * d);
                    let (v, scores) = rest.split_at_mut(time * d);
                    gather(q, qkv, s, s.q, b, a);
                    gather(k, qkv, s, s.k, b, a / s.group());
                    gather(v, qkv, s, s.v, b, a / s.group());
                    head_forward(out, lse, q, k, v, scores, d, s.scale);
                });
            });
        });
        let places = Heads { offset: 0, stride: d, count: heads, dim: d };
        scatter(out, results, heads * d, time, places);
    });
}

fn head_forward(
    out: &mut [f32],
    lse: &mut [f32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    scores: &mut [f32],
    d: usize,
    scale: f32,
) {
    let time = lse.len();
    for first in (0..time).step_by(ROWS) {
        let rows = ROWS.min(time - first);
        let keys = first + rows;
        let p = &mut scores[..rows * keys];
        let q = Mat::new(&q[first * d..keys * d], rows, d);
        gemm(p, keys, q, Mat::new(&k[..keys * d], keys, d).t(), false);
        for (i, p) in p.chunks_exact_mut(keys).enumerate() {
            lse[first + i] = softmax(p, first + i + 1, scale);
        }
        gemm(&mut out[first * d..keys * d], d, Mat::new(p, rows, keys), Mat::new(&v[..keys * d], keys, d), false);
    }
}

simd! {
/// p[..seen] = softmax(p·scale), the rest 0; returns ln Σ exp.
fn softmax(p: &mut [f32], seen: usize, scale: f32) -> f32 {
    let (p, hidden) = p.split_at_mut(seen);
    hidden.fill(0.0);
    let top = lane_max(p) * scale;
    p.iter_mut().for_each(|v| *v = exp(*v * scale - top));
    let total = lane_sum(seen, |i| p[i]);
    let inverse = 1.0 / total;
    p.iter_mut().for_each(|v| *v *= inverse);
    top + total.ln()
}
}

/// dqkv: the places of q, k and v are overwritten.
pub fn backward<T: Element>(dqkv: &mut [T], dout: &[T], out: &[T], lse: &[f32], qkv: &[T], s: &Qkv) {
    let (d, time, heads, kv, group) = (s.q.dim, s.time, s.q.count, s.k.count, s.group());
    let size = time * d;
    with_scratch(s.batch * size * (heads + 2 * kv), |results| {
        let (dq, rest) = results.split_at_mut(s.batch * size * heads);
        let (dk, dv) = rest.split_at_mut(s.batch * size * kv);
        let places = Heads { offset: 0, stride: d, count: heads, dim: d };
        let rows = Qkv { row: heads * d, ..*s };
        install(|| {
            let work = dq.par_chunks_mut(size * group).zip(dk.par_chunks_mut(size)).zip(dv.par_chunks_mut(size));
            work.enumerate().for_each(|(i, ((dq, dk), dv))| {
                let (b, h) = (i / kv, i % kv);
                with_scratch(5 * size + 2 * ROWS * time + time, |scratch| {
                    let (inputs, rest) = scratch.split_at_mut(5 * size);
                    let (scores, dots) = rest.split_at_mut(2 * ROWS * time);
                    let mut parts = inputs.chunks_exact_mut(size);
                    let mut next = || parts.next().unwrap_or_default();
                    let (q, k, v, o, g) = (next(), next(), next(), next(), next());
                    gather(k, qkv, s, s.k, b, h);
                    gather(v, qkv, s, s.v, b, h);
                    dk.fill(0.0);
                    dv.fill(0.0);
                    for (j, dq) in dq.chunks_exact_mut(size).enumerate() {
                        let a = h * group + j;
                        gather(q, qkv, s, s.q, b, a);
                        gather(o, out, &rows, places, b, a);
                        gather(g, dout, &rows, places, b, a);
                        for (t, dot) in dots.iter_mut().enumerate() {
                            *dot = lane_sum(d, |i| o[t * d + i] * g[t * d + i]);
                        }
                        let lse = &lse[(b * heads + a) * time..][..time];
                        head_backward(dq, dk, dv, q, k, v, g, dots, lse, scores, d, s.scale);
                    }
                });
            });
        });
        scatter(dqkv, dq, s.row, time, s.q);
        scatter(dqkv, dk, s.row, time, s.k);
        scatter(dqkv, dv, s.row, time, s.v);
    });
}

fn head_backward(
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    dout: &[f32],
    dots: &[f32],
    lse: &[f32],
    scores: &mut [f32],
    d: usize,
    scale: f32,
) {
    let time = lse.len();
    let (p_all, dp_all) = scores.split_at_mut(ROWS * time);
    for first in (0..time).step_by(ROWS) {
        let rows = ROWS.min(time - first);
        let keys = first + rows;
        let (p, dp) = (&mut p_all[..rows * keys], &mut dp_all[..rows * keys]);
        let q = Mat::new(&q[first * d..keys * d], rows, d);
        let dout = Mat::new(&dout[first * d..keys * d], rows, d);
        let k = Mat::new(&k[..keys * d], keys, d);
        gemm(p, keys, q, k.t(), false);
        gemm(dp, keys, dout, Mat::new(&v[..keys * d], keys, d).t(), false);
        for i in 0..rows {
            let (p, dp) = (&mut p[i * keys..][..keys], &mut dp[i * keys..][..keys]);
            softmax_backward(p, dp, first + i + 1, lse[first + i], dots[first + i], scale);
        }
        gemm(&mut dv[..keys * d], d, Mat::new(p, rows, keys).t(), dout, true);
        gemm(&mut dq[first * d..keys * d], d, Mat::new(dp, rows, keys), k, false);
        gemm(&mut dk[..keys * d], d, Mat::new(dp, rows, keys).t(), q, true);
    }
}

simd! {
/// p: scores in, probabilities out.  dp: their gradient in, the scores' gradient out.
fn softmax_backward(p: &mut [f32], dp: &mut [f32], seen: usize, lse: f32, dot: f32, scale: f32) {
    for (p, dp) in p[..seen].iter_mut().zip(&mut dp[..seen]) {
        *p = exp(*p * scale - lse);
        *dp = *p * (*dp - dot) * scale;
    }
    p[seen..].fill(0.0);
    dp[seen..].fill(0.0);
}
}

/// One query token (A, d) against `length` cached keys and values (length, Kv, d); out (A, d).
pub fn decode<T: Element>(
    out: &mut [T],
    q: &[T],
    keys: &[T],
    values: &[T],
    heads: usize,
    kv: usize,
    d: usize,
    length: usize,
    scale: f32,
) {
    let group = heads / kv;
    install(|| {
        out.par_chunks_mut(d).enumerate().for_each(|(a, out)| {
            with_scratch(length + d, |scratch| {
                let (p, sum) = scratch.split_at_mut(length);
                let place = |t: usize| (t * kv + a / group) * d;
                for (t, p) in p.iter_mut().enumerate() {
                    *p = lane_sum(d, |i| q[a * d + i].to_f32() * keys[place(t) + i].to_f32());
                }
                softmax(p, length, scale);
                sum.fill(0.0);
                for (t, p) in p.iter().enumerate() {
                    sum.iter_mut().zip(&values[place(t)..][..d]).for_each(|(sum, v)| *sum += p * v.to_f32());
                }
                out.iter_mut().zip(sum).for_each(|(out, v)| *out = T::from_f32(*v));
            });
        });
    });
}
