//! The loss of rows of logits, and its gradient.
//!
//! For one token with logits l (V) and target y, in f32 with the maximum subtracted:
//! lse = ln Σ exp(l);  loss = lse − (1−ε)·l_y − ε·mean(l) + z·lse²
//! dloss/dl = softmax(l)·(1 + 2·z·lse) − (1−ε)·onehot(y) − ε/V

use rayon::prelude::*;

use super::cast::{narrow, widen};
use super::isa::{Simd, dispatch, isa};
use super::math::{exp_nonpositive, max, sum};
use super::parallel::install;
use super::scratch::with_scratch;
use crate::dtype::Element;

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

/// The loss of one row.
#[inline(always)]
fn loss<S: Simd>(s: S, l: &[f32], target: usize, o: &LossOptions) -> f32 {
    let top = max(l);
    let total = sum(l, |l| exp_nonpositive(s, l - top));
    assemble(l, target, o, top, total.ln())
}

/// The loss from the largest logit and the rest, ln Σ exp(l − top): where logits are large, their sum lse has no
/// digits left for a small loss.
#[inline(always)]
fn assemble(l: &[f32], target: usize, o: &LossOptions, top: f32, rest: f32) -> f32 {
    let (smooth, lse) = (o.label_smoothing, top + rest);
    let mean_gap = if smooth > 0.0 { sum(l, |l| top - l) / l.len() as f32 } else { 0.0 };
    rest + (1.0 - smooth) * (top - l[target]) + smooth * mean_gap + o.z_loss * lse * lse
}

/// The loss of one row, which becomes its gradient times `scale`.
#[inline(always)]
fn loss_and_gradient<S: Simd>(s: S, l: &mut [f32], target: usize, o: &LossOptions, scale: f32) -> f32 {
    let v = l.len() as f32;
    let top = max(l);
    let total = sum(l, |l| exp_nonpositive(s, l - top));
    let rest = total.ln();
    let (loss, lse) = (assemble(l, target, o, top, rest), top + rest);
    let hit = exp_nonpositive(s, l[target] - top) / total;
    let factor = scale * (1.0 + 2.0 * o.z_loss * lse) / total;
    let shift = scale * o.label_smoothing / v;
    for l in l.iter_mut() {
        *l = s.fma(exp_nonpositive(s, *l - top), factor, -shift);
    }
    // Next to p = 1, what smoothing and z-loss add must not be rounded away.
    let smooth = o.label_smoothing - o.label_smoothing / v;
    l[target] = scale * ((hit - 1.0) + (smooth + 2.0 * o.z_loss * lse * hit));
    loss
}

/// One row of f32 logits: its loss; with `scale`, it becomes its gradient times `scale`.
#[inline(always)]
pub(super) fn row<S: Simd>(s: S, l: &mut [f32], target: i32, o: &LossOptions, scale: Option<f32>) -> f32 {
    if target == o.ignore_index {
        if scale.is_some() {
            l.fill(0.0);
        }
        return 0.0;
    }
    match scale {
        None => loss(s, l, target as usize, o),
        Some(scale) => loss_and_gradient(s, l, target as usize, o, scale),
    }
}

/// losses (N) of logits (N, V).  Every target is inside the vocabulary, or ignored.
pub fn forward<T: Element>(losses: &mut [f32], logits: &[T], targets: &[i32], o: &LossOptions, v: usize) {
    let isa = isa();
    install(|| {
        losses.par_iter_mut().zip(logits.par_chunks(v)).zip(targets).for_each(|((loss, l), target)| {
            with_scratch(v, |wide| {
                *loss = dispatch!(isa, s => {
                    widen(wide, l);
                    row(s, wide, *target, o, None)
                });
            });
        });
    });
}

/// dlogits (N, V), times `grad_scale`.
pub fn backward<T: Element>(
    dlogits: &mut [T],
    logits: &[T],
    targets: &[i32],
    grad_scale: f32,
    o: &LossOptions,
    v: usize,
) {
    let isa = isa();
    install(|| {
        dlogits.par_chunks_mut(v).zip(logits.par_chunks(v)).zip(targets).for_each(|((d, l), target)| {
            with_scratch(v, |wide| {
                dispatch!(isa, s => {
                    widen(wide, l);
                    row(s, wide, *target, o, Some(grad_scale));
                    narrow(d, wide);
                });
            });
        });
    });
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, check_gradient, each_dtype, place, random, sample};
    use super::*;

    const OPTIONS: LossOptions = LossOptions { ignore_index: -1, label_smoothing: 0.1, z_loss: 1e-2 };

    fn follows_the_reference<T: Element>() {
        let (n, v, scale) = (9, 33, 0.25);
        let (logits, exact_logits) = sample::<T>(1, n * v);
        let targets: Vec<i32> = (0..n as i32).map(|i| if i == 4 { -1 } else { i * 3 }).collect();
        let (mut losses, mut d) = (place::<f32>(n), place::<T>(n * v));
        forward(&mut losses, &logits, &targets, &OPTIONS, v);
        backward(&mut d, &logits, &targets, scale, &OPTIONS, v);
        let rows = || exact_logits.chunks(v).zip(&targets);
        let exact: Vec<f64> = rows().map(|(l, t)| reference::forward(l, *t, &OPTIONS)).collect();
        assert_close("losses", &losses, &exact, 8.0);
        let exact = rows().flat_map(|(l, t)| reference::backward(l, *t, &OPTIONS));
        assert_close("dlogits", &d, &exact.map(|g| g * f64::from(scale)).collect::<Vec<_>>(), 8.0);
    }

    #[test]
    fn fast_equals_reference() {
        each_dtype!(follows_the_reference);
    }

    #[test]
    fn a_small_loss_of_large_logits_keeps_its_digits() {
        let l = [9990.0f32, 10_000.0, 9990.5];
        let exact = reference::forward(&l.map(f64::from), 1, &LossOptions::default());
        let mut losses = place::<f32>(1);
        forward(&mut losses, &l, &[1], &LossOptions::default(), 3);
        assert!((f64::from(losses[0]) - exact).abs() < 1e-7, "{losses:?} {exact}");
    }

    #[test]
    fn reference_gradients() {
        let l = random(1, 9);
        let dl = reference::backward(&l, 4, &OPTIONS);
        check_gradient("dl", |l| reference::forward(l, 4, &OPTIONS), &l, &dl);
        assert_eq!(reference::backward(&l, -1, &OPTIONS), vec![0.0; 9]);
    }

    #[test]
    fn nan_is_not_hidden() {
        let (mut losses, mut d) = ([0.0], [0.0f32; 3]);
        forward(&mut losses, &[1.0f32, f32::NAN, 2.0], &[0], &LossOptions::default(), 3);
        backward(&mut d, &[1.0f32, f32::NAN, 2.0], &[0], 1.0, &LossOptions::default(), 3);
        assert!(losses[0].is_nan() && d.iter().all(|d| d.is_nan()));
    }
}
