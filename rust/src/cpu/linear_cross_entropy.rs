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

pub mod reference {
    use super::LossOptions;

    fn log_sum_exp(l: &[f64]) -> f64 {
        let top = l.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        top + l.iter().map(|l| (l - top).exp()).sum::<f64>().ln()
    }

    /// The loss of one token with logits l (V).
    pub fn forward(l: &[f64], target: i32, o: &LossOptions) -> f64 {
        if target == o.ignore_index {
            return 0.0;
        }
        let (lse, smooth) = (log_sum_exp(l), f64::from(o.label_smoothing));
        let mean = l.iter().sum::<f64>() / l.len() as f64;
        lse - (1.0 - smooth) * l[target as usize] - smooth * mean + f64::from(o.z_loss) * lse * lse
    }

    /// d forward / dl (V).
    pub fn backward(l: &[f64], target: i32, o: &LossOptions) -> Vec<f64> {
        if target == o.ignore_index {
            return vec![0.0; l.len()];
        }
        let (lse, smooth) = (log_sum_exp(l), f64::from(o.label_smoothing));
        let weight = 1.0 + 2.0 * f64::from(o.z_loss) * lse;
        let share = smooth / l.len() as f64;
        let mut dl: Vec<f64> = l.iter().map(|l| (l - lse).exp() * weight - share).collect();
        dl[target as usize] -= 1.0 - smooth;
        dl
    }
}

/// What is added to, or left out of, the plain cross-entropy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossOptions {
    /// Tokens with this target have loss 0 and gradient 0.
    pub ignore_index: i32,
    /// ε of torch's `label_smoothing`.
    pub label_smoothing: f32,
    /// Adds z·(ln Z)² (PaLM, arXiv 2204.02311, §5).
    pub z_loss: f32,
}

impl Default for LossOptions {
    fn default() -> Self {
        Self { ignore_index: -100, label_smoothing: 0.0, z_loss: 0.0 }
    }
}

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
    // Relative to the maximum: large logits must not swallow the digits of the loss.
    let mean = if smooth > 0.0 { lane_sum(v, |i| l[i] - top) / v as f32 } else { 0.0 };
    let at_target = l[y] - top;
    l.iter_mut().for_each(|l| *l = exp(*l - top));
    let total = lane_sum(v, |i| l[i]);
    let rest = total.ln();
    let lse = top + rest;
    if let Some(scale) = scale {
        let p = scale * (1.0 + 2.0 * o.z_loss * lse) / total;
        let shift = scale * smooth / v as f32;
        // Its own formula: next to 1, p − 1 + (z-loss) must not round the second away.
        let hit = l[y] / total;
        l.iter_mut().for_each(|l| *l = *l * p - shift);
        l[y] = scale * (hit - 1.0 + smooth + 2.0 * o.z_loss * lse * hit) - shift;
    }
    rest - (1.0 - smooth) * at_target - smooth * mean + o.z_loss * lse * lse
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

#[cfg(test)]
mod tests {
    use super::super::linear::reference as linear;
    use super::super::testing::{assert_close, check_gradient, each_dtype, place, random, sample};
    use super::*;

    const OPTIONS: LossOptions = LossOptions { ignore_index: -1, label_smoothing: 0.1, z_loss: 1e-2 };

    fn follows_the_reference<T: Element>() {
        let (n, d, v, scale) = (9, 16, 33, 0.25);
        let ((x, exact_x), (w, exact_w)) = (sample::<T>(1, n * d), sample::<T>(2, v * d));
        let targets: Vec<i32> = (0..n as i32).map(|i| if i == 4 { -1 } else { i * 3 }).collect();
        let logits = linear::forward(&exact_x, &exact_w, &vec![0.0; v], d);
        let rows = || logits.chunks(v).zip(&targets);
        let exact: Vec<f64> = rows().map(|(l, t)| reference::forward(l, *t, &OPTIONS)).collect();
        let slopes: Vec<f64> =
            rows().flat_map(|(l, t)| reference::backward(l, *t, &OPTIONS)).map(|g| g * scale).collect();
        let (exact_dx, exact_dw, _) = linear::backward(&slopes, &exact_x, &exact_w, d);

        let mut losses = place::<f32>(n);
        forward(&mut losses, &x, &w, &targets, &OPTIONS, d, v, Interrupt::NEVER).expect("never interrupted");
        assert_close("losses", &losses, &exact, 16.0);
        let (mut losses, mut dx, mut dw) = (place::<f32>(n), place::<T>(n * d), vec![0.0f32; v * d]);
        let scale = scale as f32;
        forward_backward(&mut losses, &mut dx, &mut dw, &x, &w, &targets, scale, &OPTIONS, d, v, Interrupt::NEVER)
            .expect("never interrupted");
        assert_close("losses", &losses, &exact, 16.0);
        assert_close("dx", &dx, &exact_dx, 32.0);
        assert_close("dw", &dw, &exact_dw, 32.0);
    }

    #[test]
    fn fast_equals_reference() {
        each_dtype!(follows_the_reference);
    }

    #[test]
    fn reference_gradients() {
        let l = random(1, 9);
        let dl = reference::backward(&l, 4, &OPTIONS);
        check_gradient("dl", |l| reference::forward(l, 4, &OPTIONS), &l, &dl);
        assert_eq!(reference::backward(&l, -1, &OPTIONS), vec![0.0; 9]);
    }
}
