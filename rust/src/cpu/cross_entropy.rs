//! The loss of rows of logits, and its gradient.
//!
//! For one token with logits l (V) and target y, in f32 with the maximum subtracted:
//! lse = ln Σ exp(l);  loss = lse − (1−ε)·l_y − ε·mean(l) + z·lse²
//! dloss/dl = softmax(l)·(1 + 2·z·lse) − (1−ε)·onehot(y) − ε/V

use rayon::prelude::*;

use super::cast::as_f32;
use super::isa::{Simd, dispatch, isa};
use super::math::{exp_nonpositive, max, sum};
use super::parallel::share;
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

/// What the exponentials of a row are measured by: its largest logit, and Σ exp(l − largest).
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct RowSum {
    pub top: f32,
    pub total: f32,
}

/// Numbers that stay in the L1 cache between the search for the largest and the exponentials.
const BLOCK: usize = 2048;

/// The sum of a row in one pass over memory: what was summed shrinks when a larger logit comes.
#[inline(always)]
fn row_sum<S: Simd, T: Element>(s: S, l: &[T]) -> RowSum {
    let (mut top, mut total, mut place) = (f32::NEG_INFINITY, 0.0f32, [0.0; BLOCK]);
    for l in l.chunks(BLOCK) {
        let l = as_f32(&mut place, l);
        let highest = max(l);
        if highest > top {
            total *= exp_nonpositive(s, top - highest);
            top = highest;
        }
        // Where all so far are −∞, they are 0 and not −∞ − (−∞).
        let from = if top == f32::NEG_INFINITY { 0.0 } else { top };
        total += sum(l, |l| exp_nonpositive(s, l - from));
    }
    RowSum { top, total }
}

/// The loss from the largest logit and the rest, ln Σ exp(l − top): where logits are large, their sum lse has no
/// digits left for a small loss.
#[inline(always)]
fn loss<T: Element>(l: &[T], target: usize, o: &LossOptions, RowSum { top, total }: RowSum) -> f32 {
    let rest = total.ln();
    let (smooth, lse) = (o.label_smoothing, top + rest);
    let mean_gap = if smooth > 0.0 { sum(l, |l| top - l) / l.len() as f32 } else { 0.0 };
    rest + (1.0 - smooth) * (top - l[target].to_f32()) + smooth * mean_gap + o.z_loss * lse * lse
}

/// d loss / dl = p·factor − shift, and what stands at the target.
struct Slope {
    top: f32,
    factor: f32,
    shift: f32,
    hit: f32,
}

/// All of it times `scale`; `hit` is the logit of the target.
#[inline(always)]
fn slope<S: Simd>(s: S, hit: f32, v: usize, o: &LossOptions, RowSum { top, total }: RowSum, scale: f32) -> Slope {
    let share = o.label_smoothing / v as f32;
    let (pull, hit) = (2.0 * o.z_loss * (top + total.ln()), exp_nonpositive(s, hit - top) / total);
    // Next to p = 1, what smoothing and z-loss add must not be rounded away.
    let hit = scale * ((hit - 1.0) + (o.label_smoothing - share + pull * hit));
    Slope { top, factor: scale * (1.0 + pull) / total, shift: scale * share, hit }
}

impl Slope {
    #[inline(always)]
    fn of<S: Simd>(&self, s: S, l: f32) -> f32 {
        s.fma(exp_nonpositive(s, l - self.top), self.factor, -self.shift)
    }
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
    let (target, sums) = (target as usize, row_sum(s, l));
    let loss = loss(l, target, o, sums);
    if let Some(scale) = scale {
        let slope = slope(s, l[target], l.len(), o, sums, scale);
        for l in l.iter_mut() {
            *l = slope.of(s, *l);
        }
        l[target] = slope.hit;
    }
    loss
}

/// losses (N) of logits (N, V), and the sums of their rows, for the backward pass.  Every target is inside the
/// vocabulary, or ignored.
pub fn forward<T: Element>(
    losses: &mut [f32],
    sums: &mut [RowSum],
    logits: &[T],
    targets: &[i32],
    o: &LossOptions,
    v: usize,
) {
    let isa = isa();
    share(losses.par_iter_mut().zip(sums).zip(logits.par_chunks(v)).zip(targets), |(((loss, sums), l), target)| {
        (*loss, *sums) = if *target == o.ignore_index {
            (0.0, RowSum { top: 0.0, total: 1.0 })
        } else {
            dispatch!(isa, s => {
                let sums = row_sum(s, l);
                (self::loss(l, *target as usize, o, sums), sums)
            })
        };
    });
}

/// dlogits (N, V), times `grad_scale`.
pub fn backward<T: Element>(
    dlogits: &mut [T],
    logits: &[T],
    sums: &[RowSum],
    targets: &[i32],
    grad_scale: f32,
    o: &LossOptions,
    v: usize,
) {
    let isa = isa();
    share(dlogits.par_chunks_mut(v).zip(logits.par_chunks(v)).zip(sums).zip(targets), |(((d, l), sums), target)| {
        if *target == o.ignore_index {
            return d.fill(T::default());
        }
        dispatch!(isa, s => gradient(s, d, l, *target as usize, o, *sums, grad_scale));
    });
}

#[inline(always)]
fn gradient<S: Simd, T: Element>(s: S, d: &mut [T], l: &[T], target: usize, o: &LossOptions, sums: RowSum, scale: f32) {
    let slope = slope(s, l[target].to_f32(), l.len(), o, sums, scale);
    for (d, l) in d.iter_mut().zip(l) {
        *d = T::from_f32(slope.of(s, l.to_f32()));
    }
    d[target] = T::from_f32(slope.hit);
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, check_gradient, each_dtype, place, random, sample};
    use super::*;

    const OPTIONS: LossOptions = LossOptions { ignore_index: -1, label_smoothing: 0.1, z_loss: 1e-2 };

    const NONE: RowSum = RowSum { top: f32::NAN, total: f32::NAN };

    fn follows_the_reference<T: Element>() {
        follow_the_reference::<T>(33);
        // Several blocks, the last one cut short.
        follow_the_reference::<T>(2 * BLOCK + 37);
    }

    fn follow_the_reference<T: Element>(v: usize) {
        let (n, scale) = (9, 0.25);
        let (logits, exact_logits) = sample::<T>(1, n * v);
        let targets: Vec<i32> = (0..n as i32).map(|i| if i == 4 { -1 } else { i * 3 }).collect();
        let (mut losses, mut d) = (place::<f32>(n), place::<T>(n * v));
        let mut sums = vec![NONE; n];
        forward(&mut losses, &mut sums, &logits, &targets, &OPTIONS, v);
        backward(&mut d, &logits, &sums, &targets, scale, &OPTIONS, v);
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
        forward(&mut losses, &mut [NONE], &l, &[1], &LossOptions::default(), 3);
        assert!((f64::from(losses[0]) - exact).abs() < 1e-7, "{losses:?} {exact}");
    }

    #[test]
    fn reference_gradients() {
        let l = random(1, 9);
        let dl = reference::backward(&l, 4, &OPTIONS);
        check_gradient("dl", |l| reference::forward(l, 4, &OPTIONS), &l, &dl);
        assert_eq!(reference::backward(&l, -1, &OPTIONS), vec![0.0; 9]);
    }

    /// Loss and gradient of one row with target 0.
    fn of_one(l: &[f32]) -> (f32, Vec<f32>) {
        let (mut losses, mut sums, mut d) = (place::<f32>(1), [NONE], place::<f32>(l.len()));
        forward(&mut losses, &mut sums, l, &[0], &LossOptions::default(), l.len());
        backward(&mut d, l, &sums, &[0], 1.0, &LossOptions::default(), l.len());
        (losses[0], d)
    }

    #[test]
    fn nan_is_not_hidden() {
        for at in [1, BLOCK + 3] {
            let mut l = vec![0.5; 2 * BLOCK];
            l[at] = f32::NAN;
            let (loss, d) = of_one(&l);
            assert!(loss.is_nan() && d.iter().all(|d| d.is_nan()));
        }
    }

    #[test]
    fn masked_logits_have_no_share() {
        // Block after block of −∞, the target in the first, and a larger logit in each that follows.
        let mut l = vec![f32::NEG_INFINITY; 3 * BLOCK];
        (l[0], l[2 * BLOCK + 1], l[2 * BLOCK + 2]) = (1.0, 3.0, 2.0);
        let (loss, d) = of_one(&l);
        let exact = reference::forward(&[1.0, 3.0, 2.0], 0, &LossOptions::default());
        assert!((f64::from(loss) - exact).abs() < 1e-6, "{loss} {exact}");
        assert_eq!(d.iter().filter(|d| **d != 0.0).count(), 3);
        l.rotate_right(BLOCK);
        let mut sums = [NONE];
        let target = BLOCK as i32;
        let mut losses = place::<f32>(1);
        forward(&mut losses, &mut sums, &l, &[target], &LossOptions::default(), l.len());
        assert!((f64::from(losses[0]) - exact).abs() < 1e-6, "{losses:?} {exact}");
    }
}
