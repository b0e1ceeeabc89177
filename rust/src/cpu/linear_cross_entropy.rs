//! The loss of the output matrix, in chunks of tokens: the (N, V) logits never exist whole.
//!
//! For one token with logits l and target y, in f32 with the maximum subtracted:
//! lse = ln Σ exp(l);  loss = lse − (1−ε)·l_y − ε·mean(l) + z·lse²
//! dloss/dl = softmax(l)·(1 + 2·z·lse) − (1−ε)·onehot(y) − ε/V

use rayon::prelude::*;

use super::isa::simd;
use super::math::exp;
use super::matmul::{Mat, parallel_gemm, with_f32, with_f32_out, with_scratch};
use super::parallel::install;
use super::rms_norm::{lane_max, lane_sum};
use crate::dtype::Element;
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::ops::linear_cross_entropy::LossOptions;

/// Bytes of logits held at a time.
const CHUNK_BYTES: usize = 16 << 20;

/// Tokens of a chunk for a vocabulary of `v`: depends on the shape alone.
pub fn chunk(v: usize) -> usize {
    (CHUNK_BYTES / 4 / v.max(1)).next_multiple_of(64).clamp(64, 1024)
}

simd! {
    /// The loss of one row of logits; with `scale`, the row becomes its gradient times `scale`.
pub fn row(l: &mut [f32], target: i32, o: &LossOptions, scale: Option<f32>) -> f32 {
    if target == o.ignore_index {
        if scale.is_some() {
            l.fill(0.0);
        }
        return 0.0;
    }
    let v = l.len();
    let y = target as usize;
    let top = lane_max(l);
    let smooth = o.label_smoothing;
    let mean = if smooth > 0.0 { lane_sum(v, |i| l[i]) / v as f32 } else { 0.0 };
    let at_target = l[y];
    l.iter_mut().for_each(|l| *l = exp(*l - top));
    let total = lane_sum(v, |i| l[i]);
    let lse = top + total.ln();
    if let Some(scale) = scale {
        let p = scale * (1.0 + 2.0 * o.z_loss * lse) / total;
        let shift = scale * smooth / v as f32;
        l.iter_mut().for_each(|l| *l = *l * p - shift);
        l[y] -= scale * (1.0 - smooth);
    }
    lse - (1.0 - smooth) * at_target - smooth * mean + o.z_loss * lse * lse
}
}

fn rows(logits: &mut [f32], losses: &mut [f32], targets: &[i32], o: &LossOptions, scale: Option<f32>, v: usize) {
    install(|| {
        logits.par_chunks_mut(v).zip(losses.par_iter_mut()).zip(targets).for_each(|((l, loss), target)| {
            *loss = row(l, *target, o, scale);
        });
    });
}

/// losses (N) of x (N, D) and w (V, D).
pub fn forward<T: Element>(
    losses: &mut [f32],
    x: &[T],
    w: &[T],
    targets: &[i32],
    o: &LossOptions,
    d: usize,
    v: usize,
    interrupt: Interrupt,
) -> Result<()> {
    let size = chunk(v);
    with_f32(w, |w| {
        with_scratch(size.min(targets.len()) * v, |logits| {
            for ((losses, x), targets) in losses.chunks_mut(size).zip(x.chunks(size * d)).zip(targets.chunks(size)) {
                interrupt.check()?;
                let n = targets.len();
                let logits = &mut logits[..n * v];
                with_f32(x, |x| parallel_gemm(logits, Mat::new(x, n, d), Mat::new(w, v, d).t(), false));
                rows(logits, losses, targets, o, None, v);
            }
            Ok(())
        })
    })
}

/// The same, with dx (N, D) overwritten and dw (V, D) added to, chunk after chunk.
pub fn forward_backward<T: Element>(
    losses: &mut [f32],
    dx: &mut [T],
    dw: &mut [f32],
    x: &[T],
    w: &[T],
    targets: &[i32],
    grad_scale: f32,
    o: &LossOptions,
    d: usize,
    v: usize,
    interrupt: Interrupt,
) -> Result<()> {
    let size = chunk(v);
    with_f32(w, |w| {
        with_scratch(size.min(targets.len()) * v, |logits| {
            let chunks = losses.chunks_mut(size).zip(dx.chunks_mut(size * d)).zip(x.chunks(size * d));
            for (((losses, dx), x), targets) in chunks.zip(targets.chunks(size)) {
                let n = targets.len();
                let logits = &mut logits[..n * v];
                with_f32(x, |x| -> Result<()> {
                    interrupt.check()?;
                    parallel_gemm(logits, Mat::new(x, n, d), Mat::new(w, v, d).t(), false);
                    rows(logits, losses, targets, o, Some(grad_scale), v);
                    interrupt.check()?;
                    with_f32_out(dx, |dx| parallel_gemm(dx, Mat::new(logits, n, v), Mat::new(w, v, d), false));
                    interrupt.check()?;
                    parallel_gemm(dw, Mat::new(logits, n, v).t(), Mat::new(x, n, d), true);
                    Ok(())
                })?;
            }
            Ok(())
        })
    })
}
