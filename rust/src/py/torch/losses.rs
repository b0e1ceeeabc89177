//! `cross_entropy` and `linear_cross_entropy`.

use pyo3::prelude::*;

use super::tensor::{Any, Tensor, apart, typed};
use super::{checked, run};
use crate::ops;
use crate::ops::cross_entropy::{IGNORED, LossOptions, targets_of};
use crate::py::signals::detached;

fn options(label_smoothing: f32, z_loss: f32) -> LossOptions {
    LossOptions { ignore_index: IGNORED, label_smoothing, z_loss }
}

/// losses (N), sums (2N), logits (N, V), target (N). (Σ of the losses, number of targets that are not ignored)
#[pyfunction]
pub(super) fn cross_entropy_forward(
    py: Python<'_>,
    losses: &Any<'_>,
    sums: &Any<'_>,
    logits: &Any<'_>,
    target: &Any<'_>,
    ignore_index: i64,
    label_smoothing: f32,
    z_loss: f32,
) -> PyResult<(f64, usize)> {
    let read = |name, value| Tensor::read("cross_entropy", name, value);
    let (mut losses, mut sums) = (read("losses", losses)?, read("sums", sums)?);
    let (logits, target) = (read("input", logits)?, read("target", target)?);
    checked(apart(&[&losses, &sums], &[Some(&logits), Some(&target)]))?;
    let (options, mut total) = (options(label_smoothing, z_loss), (0.0, 0));
    typed!(logits, T => {
        run(py, logits.count(), || {
            let (logits, losses) = (logits.view::<T>()?, losses.slice_mut()?);
            let targets = targets_of(target.ids()?, ignore_index, logits.shape().last())?;
            ops::cross_entropy::forward(losses, sums.pairs_mut()?, logits, &targets, &options)?;
            total = ops::cross_entropy::total(losses, &targets, &options);
            Ok(())
        })?;
    });
    Ok(total)
}

/// dlogits (N, V), sums (2N) of the forward pass; `scale` times the gradient of the sum of the losses, or, where
/// `mean`, of their mean.
#[pyfunction]
pub(super) fn cross_entropy_backward(
    py: Python<'_>,
    dlogits: &Any<'_>,
    logits: &Any<'_>,
    sums: &Any<'_>,
    target: &Any<'_>,
    scale: f64,
    mean: bool,
    ignore_index: i64,
    label_smoothing: f32,
    z_loss: f32,
) -> PyResult<()> {
    let read = |name, value| Tensor::read("cross_entropy.backward", name, value);
    let (mut dlogits, logits) = (read("dinput", dlogits)?, read("input", logits)?);
    let (sums, target) = (read("sums", sums)?, read("target", target)?);
    checked(apart(&[&dlogits], &[Some(&logits), Some(&sums), Some(&target)]))?;
    let options = options(label_smoothing, z_loss);
    typed!(logits, T => {
        run(py, logits.count(), || {
            let logits = logits.view::<T>()?;
            let targets = targets_of(target.ids()?, ignore_index, logits.shape().last())?;
            // Where all are ignored every gradient is 0, whatever the scale.
            let count = if mean { ops::cross_entropy::counted(&targets, &options).max(1) } else { 1 };
            let (dlogits, scale) = (dlogits.view_mut()?, (scale / count as f64) as f32);
            ops::cross_entropy::backward(dlogits, logits, sums.pairs()?, &targets, scale, &options)
        })
    })
}

/// losses (N), x (N, D), w (V, D), target (N).
#[pyfunction]
pub(super) fn linear_cross_entropy_forward(
    py: Python<'_>,
    losses: &Any<'_>,
    x: &Any<'_>,
    w: &Any<'_>,
    target: &Any<'_>,
    ignore_index: i64,
    label_smoothing: f32,
    z_loss: f32,
) -> PyResult<()> {
    let read = |name, value| Tensor::read("linear_cross_entropy", name, value);
    let (mut losses, x) = (read("losses", losses)?, read("input", x)?);
    let (w, target) = (read("linear_weight", w)?, read("target", target)?);
    checked(apart(&[&losses], &[Some(&x), Some(&w), Some(&target)]))?;
    let options = options(label_smoothing, z_loss);
    typed!(x, T => {
        detached(py, |interrupt| {
            let w = w.view::<T>()?;
            let targets = targets_of(target.ids()?, ignore_index, w.shape().rows())?;
            ops::linear_cross_entropy::forward(losses.slice_mut()?, x.view()?, w, &targets, &options, interrupt)
        })
    })
}

/// The same, with dx (N, D) and dw (V, D) overwritten.
#[pyfunction]
pub(super) fn linear_cross_entropy_forward_backward(
    py: Python<'_>,
    losses: &Any<'_>,
    dx: &Any<'_>,
    dw: &Any<'_>,
    x: &Any<'_>,
    w: &Any<'_>,
    target: &Any<'_>,
    grad_scale: f32,
    ignore_index: i64,
    label_smoothing: f32,
    z_loss: f32,
) -> PyResult<()> {
    let read = |name, value| Tensor::read("linear_cross_entropy", name, value);
    let (mut losses, mut dx, mut dw) = (read("losses", losses)?, read("dinput", dx)?, read("dweight", dw)?);
    let (x, w, target) = (read("input", x)?, read("linear_weight", w)?, read("target", target)?);
    checked(apart(&[&losses, &dx, &dw], &[Some(&x), Some(&w), Some(&target)]))?;
    let options = options(label_smoothing, z_loss);
    typed!(x, T => {
        detached(py, |interrupt| {
            let (losses, w) = (losses.slice_mut()?, w.view::<T>()?);
            let targets = targets_of(target.ids()?, ignore_index, w.shape().rows())?;
            let (dx, dw, x) = (dx.view_mut()?, dw.view_mut()?, x.view()?);
            let op = ops::linear_cross_entropy::forward_backward;
            op(losses, dx, dw, x, w, &targets, grad_scale, &options, false, interrupt)
        })
    })
}
