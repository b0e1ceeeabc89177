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
    accumulate: bool,
    interrupt: Interrupt,
) -> Result<()> {
    let (d, v) = check(losses, x, w, targets, options)?;
    dx.expect("linear_cross_entropy", "dx", x.shape().dims())?;
    dw.expect("linear_cross_entropy", "dw", w.shape().dims())?;
    let (x, w) = (x.data(), w.data());
    cpu::forward_backward(losses, dx.data(), dw.data(), x, w, targets, grad_scale, options, d, v, accumulate, interrupt)
}

/// The same on a GPU. Logits are f32; their gradients are rounded to the dtype of x, so that both products are of it.
#[cfg(feature = "cuda")]
pub mod cuda {
    use std::sync::Arc;

    use super::super::cross_entropy::cuda::numbers;
    use super::super::embedding::cuda::Ids;
    use super::super::expect_some;
    use super::LossOptions;
    use crate::cuda::matmul::{Mat, multiply, multiply_add};
    use crate::cuda::{Stream, View, ViewMut, cast, cross_entropy};
    use crate::dtype::{DType, Element};
    use crate::error::Result;

    /// Numbers of logits held at a time: 256 MiB, and half of it for what is rounded.
    const CHUNK: usize = 64 << 20;

    /// Tokens of a chunk, by the shape alone.
    fn chunk(v: usize) -> usize {
        (CHUNK / v).next_multiple_of(64).clamp(256, 8192)
    }

    /// The gradient of one token's logits, at most about 1, as f16 is to hold it: the products undo it.
    const F16_SCALE: f32 = 256.0;

    /// Where gradients go: dx is overwritten, dw added to.
    pub(in crate::ops) struct Gradients<'a, T> {
        pub(in crate::ops) dx: ViewMut<'a, T>,
        pub(in crate::ops) dw: ViewMut<'a, f32>,
        pub(in crate::ops) scale: f32,
    }

    fn check<'a, T>(
        losses: &ViewMut<f32>,
        x: View<T>,
        w: View<T>,
        targets: &'a Ids,
        o: &LossOptions,
    ) -> Result<View<'a, i32>> {
        let op = "linear_cross_entropy";
        let (d, v) = (x.shape().last(), w.shape().rows());
        w.shape().expect(op, "w", &[v, d])?;
        expect_some(op, "w", &[v, d])?;
        let targets = targets.within(op, v, Some(o.ignore_index))?;
        let n = targets.shape().count();
        x.shape().expect(op, "x", &[n, d])?;
        losses.shape().expect(op, "losses", &[n])?;
        Ok(targets)
    }

    /// losses (N) of x (N, D), w (V, D), targets (N).
    ///
    /// # Errors
    /// `Shape`; `UnsupportedInput` for targets of a larger vocabulary; `Device`.
    pub fn forward<T: Element>(
        on: &Arc<Stream>,
        losses: ViewMut<f32>,
        x: View<T>,
        w: View<T>,
        targets: &Ids,
        options: &LossOptions,
    ) -> Result<()> {
        in_chunks(on, chunk(w.shape().rows().max(1)), losses, x, w, targets, options, None)
    }

    /// The same, with dx (N, D) overwritten and dw (V, D) added to; `grad_scale` is d(total)/d(loss of a token).
    ///
    /// # Errors
    /// As `forward`.
    pub fn forward_backward<T: Element>(
        on: &Arc<Stream>,
        losses: ViewMut<f32>,
        dx: ViewMut<T>,
        dw: ViewMut<f32>,
        x: View<T>,
        w: View<T>,
        targets: &Ids,
        grad_scale: f32,
        options: &LossOptions,
    ) -> Result<()> {
        dx.shape().expect("linear_cross_entropy", "dx", x.shape().dims())?;
        dw.shape().expect("linear_cross_entropy", "dw", w.shape().dims())?;
        let gradients = Gradients { dx, dw, scale: grad_scale };
        in_chunks(on, chunk(w.shape().rows().max(1)), losses, x, w, targets, options, Some(gradients))
    }

    /// `size` tokens at a time, one chunk after the other.
    pub(in crate::ops) fn in_chunks<T: Element>(
        on: &Arc<Stream>,
        size: usize,
        mut losses: ViewMut<f32>,
        x: View<T>,
        w: View<T>,
        targets: &Ids,
        options: &LossOptions,
        mut gradients: Option<Gradients<T>>,
    ) -> Result<()> {
        let targets = check(&losses, x, w, targets, options)?;
        let (n, v) = (x.shape().rows(), w.shape().rows());
        let (mut logits, rows) = (on.alloc::<f32>(size.min(n) * v)?, size.min(n));
        let narrow = if gradients.is_some() && T::DTYPE != DType::F32 { rows * v } else { 0 };
        let mut narrow = on.alloc::<T>(narrow)?;
        // Vectors in rows of one, so that their parts are those of the matrices.
        let (mut losses, targets) = (losses.shaped(&[n, 1])?, targets.shaped(&[n, 1])?);
        for first in (0..n).step_by(size) {
            let count = size.min(n - first);
            let (x, targets) = (x.part(first, count)?, targets.part(first, count)?);
            let (mut logits, losses) = (logits.view_mut(&[rows, v])?, Some(losses.part(first, count)?));
            let mut logits = logits.part(0, count)?;
            multiply(on, logits.reborrow(), Mat::new(x), Mat::new(w).t(), None, 1.0)?;
            let Some(Gradients { dx, dw, scale }) = &mut gradients else {
                cross_entropy::run::<f32>(on, losses, None, logits.read(), targets, numbers(1.0, options))?;
                continue;
            };
            let (inside, outside) =
                if T::DTYPE == DType::F16 { (F16_SCALE, *scale / F16_SCALE) } else { (*scale, 1.0) };
            cross_entropy::in_place(on, losses, logits.reborrow(), targets, numbers(inside, options))?;
            let mut rounded;
            let slopes = match logits.read().of::<T>() {
                Some(slopes) => slopes,
                None => {
                    rounded = narrow.view_mut(&[rows, v])?;
                    cast::from_f32(on, rounded.part(0, count)?, logits.read())?;
                    rounded.read().part(0, count)?
                }
            };
            multiply(on, dx.part(first, count)?, Mat::new(slopes), Mat::new(w), None, outside)?;
            multiply_add(on, dw.reborrow(), Mat::new(slopes).t(), Mat::new(x), outside)?;
        }
        Ok(())
    }
}
