//! What a decoder layer is made of beside the ops that stand alone: norms of a sum, sums, a gradient that is added to
//! another. `llmjp_core.torch.decoder_layer` puts them in order.

use pyo3::prelude::*;

use super::tensor::{Any, Tensor, apart, typed};
use super::{checked, product_work, run};
use crate::ops;

/// dx (.., I) += dy (.., O) · w (O, I), all float32.
#[pyfunction]
pub(super) fn linear_backward_input_add(py: Python<'_>, dx: &Any<'_>, dy: &Any<'_>, w: &Any<'_>) -> PyResult<()> {
    let read = |name, value| Tensor::read("linear.backward", name, value);
    let (mut dx, dy, w) = (read("dx", dx)?, read("dy", dy)?, read("weight", w)?);
    checked(apart(&[&dx], &[Some(&dy), Some(&w)]))?;
    let work = product_work(dx.count(), dy.dims().last());
    run(py, work, || ops::linear::backward_input_add(dx.view_mut()?, dy.view()?, w.view()?))
}

/// sum = x + residual, y = its rms_norm; all (.., D), rstd (..), w (D).
#[pyfunction]
pub(super) fn rms_norm_forward_add(
    py: Python<'_>,
    y: &Any<'_>,
    sum: &Any<'_>,
    rstd: &Any<'_>,
    x: &Any<'_>,
    residual: &Any<'_>,
    w: &Any<'_>,
    eps: f64,
) -> PyResult<()> {
    let read = |name, value| Tensor::read("rms_norm", name, value);
    let (mut y, mut sum, mut rstd) = (read("y", y)?, read("sum", sum)?, read("rstd", rstd)?);
    let (x, residual, w) = (read("input", x)?, read("residual", residual)?, read("weight", w)?);
    checked(apart(&[&y, &sum, &rstd], &[Some(&x), Some(&residual), Some(&w)]))?;
    typed!(x, T => {
        run(py, x.count(), || {
            let (y, sum, x) = (y.view_mut::<T>()?, sum.view_mut()?, x.view()?);
            ops::rms_norm::forward_add(y, sum, rstd.slice_mut()?, x, residual.view()?, w.row()?, eps)
        })
    })
}

/// sum = x + residual, y = its layer_norm; all (.., D), stats (2N: the means, then 1/deviation), w, bias (D).
#[pyfunction]
#[pyo3(signature = (y, sum, stats, x, residual, w, bias, eps))]
pub(super) fn layer_norm_forward_add(
    py: Python<'_>,
    y: &Any<'_>,
    sum: &Any<'_>,
    stats: &Any<'_>,
    x: &Any<'_>,
    residual: &Any<'_>,
    w: &Any<'_>,
    bias: Option<&Any<'_>>,
    eps: f64,
) -> PyResult<()> {
    let op = "layer_norm";
    let read = |name, value| Tensor::read(op, name, value);
    let (mut y, mut sum, mut stats) = (read("y", y)?, read("sum", sum)?, read("stats", stats)?);
    let (x, residual, w) = (read("input", x)?, read("residual", residual)?, read("weight", w)?);
    let bias = Tensor::optional(op, "bias", bias)?;
    checked(apart(&[&y, &sum, &stats], &[Some(&x), Some(&residual), Some(&w), bias.as_ref()]))?;
    typed!(x, T => {
        run(py, x.count(), || {
            let bias = bias.as_ref().map(Tensor::row).transpose()?;
            let (mean, rstd) = stats.halves_mut()?;
            let (y, sum, x) = (y.view_mut::<T>()?, sum.view_mut()?, x.view()?);
            ops::layer_norm::forward_add(y, sum, mean, rstd, x, residual.view()?, w.row()?, bias, eps)
        })
    })
}

/// y = a + b, of one shape.
#[pyfunction]
pub(super) fn add(py: Python<'_>, y: &Any<'_>, a: &Any<'_>, b: &Any<'_>) -> PyResult<()> {
    let read = |name, value| Tensor::read("add", name, value);
    let (mut y, a, b) = (read("y", y)?, read("a", a)?, read("b", b)?);
    checked(apart(&[&y], &[Some(&a), Some(&b)]))?;
    typed!(a, T => { run(py, a.count(), || ops::add::forward(y.view_mut::<T>()?, a.view()?, b.view()?)) })
}
