//! Cross-entropy of x·wᵀ without the (N, V) logits: computed chunk by chunk.

use crate::cpu::linear_cross_entropy as cpu;
use crate::dtype::Element;
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::tensor::{View, ViewMut};

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
