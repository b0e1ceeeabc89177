//! Cross-entropy of x·wᵀ without the (N, V) logits: computed chunk by chunk.

pub use crate::cpu::linear_cross_entropy::LossOptions;

use crate::cpu::linear_cross_entropy as cpu;
use crate::dtype::Element;
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::tensor::{View, ViewMut};

fn check<T: Element>(
    losses: &[f32],
    x: View<T>,
    w: View<T>,
    targets: &[i32],
    o: &LossOptions,
) -> Result<(usize, usize)> {
    let op = "linear_cross_entropy";
    let (d, v) = (x.shape().last(), w.shape().rows());
    x.expect(op, "x", &[targets.len(), d])?;
    w.expect(op, "w", &[v, d])?;
    super::expect_some(op, "w", &[v, d])?;
    super::expect_len(op, "losses", targets.len(), losses.len())?;
    super::expect_ids(op, "targets", targets, v, Some(o.ignore_index))?;
    Ok((d, v))
}

/// losses (N) of x (N, D), w (V, D), targets (N).
///
/// # Errors
/// `Shape`; `UnsupportedInput` naming a target outside the vocabulary; `Interrupted`.
pub fn forward<T: Element>(
    losses: &mut [f32],
    x: View<T>,
    w: View<T>,
    targets: &[i32],
    options: &LossOptions,
    interrupt: Interrupt,
) -> Result<()> {
    let (d, v) = check(losses, x, w, targets, options)?;
    cpu::forward(losses, x.data(), w.data(), targets, options, d, v, interrupt)
}

/// The same, with dx (N, D) overwritten and dw (V, D) added to; `grad_scale` is d(total)/d(loss of a token).
///
/// # Errors
/// As `forward`.
pub fn forward_backward<T: Element>(
    losses: &mut [f32],
    mut dx: ViewMut<T>,
    mut dw: ViewMut<f32>,
    x: View<T>,
    w: View<T>,
    targets: &[i32],
    grad_scale: f32,
    options: &LossOptions,
    interrupt: Interrupt,
) -> Result<()> {
    let (d, v) = check(losses, x, w, targets, options)?;
    dx.expect("linear_cross_entropy", "dx", x.shape().dims())?;
    dw.expect("linear_cross_entropy", "dw", w.shape().dims())?;
    let (x, w) = (x.data(), w.data());
    cpu::forward_backward(losses, dx.data(), dw.data(), x, w, targets, grad_scale, options, d, v, interrupt)
}
