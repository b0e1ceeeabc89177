//! What a decoder layer is made of beside the ops that stand alone: products into columns of wider rows and out of
//! them, norms of a sum, gradients that begin from others. `llmjp_core.torch.decoder_layer` puts them in order.

use pyo3::prelude::*;

use super::tensor::{Any, Tensor, apart, typed};
use super::{checked, run};
use crate::ops;

/// Multiplications of a product with a result of `count` numbers.
fn work(count: usize, inner: usize) -> usize {
    count.saturating_mul(inner.max(1))
}

/// Columns from `first` on of y (.., at least first + O) = x (.., I) · wᵀ + bias; w (O, I), bias (O).
#[pyfunction]
#[pyo3(signature = (y, first, x, w, bias = None))]
pub(super) fn linear_into(
    py: Python<'_>,
    y: &Any<'_>,
    first: usize,
    x: &Any<'_>,
    w: &Any<'_>,
    bias: Option<&Any<'_>>,
) -> PyResult<()> {
    let op = "linear";
    let read = |name, value| Tensor::read(op, name, value);
    let (mut y, x, w) = (read("y", y)?, read("input", x)?, read("weight", w)?);
    let bias = Tensor::optional(op, "bias", bias)?;
    checked(apart(&[&y], &[Some(&x), Some(&w), bias.as_ref()]))?;
    typed!(x, T => {
        run(py, work(x.count(), w.dim(0)), || {
            let bias = bias.as_ref().map(Tensor::row).transpose()?;
            ops::linear::forward_into(y.view_mut::<T>()?, first, x.view()?, w.view()?, bias)
        })
    })
}

/// dx (.., I) = columns from `first` on of dy (.., at least first + O) · w (O, I); dx += when `add`.
#[pyfunction]
pub(super) fn linear_backward_input_of(
    py: Python<'_>,
    dx: &Any<'_>,
    dy: &Any<'_>,
    first: usize,
    w: &Any<'_>,
    add: bool,
) -> PyResult<()> {
    let read = |name, value| Tensor::read("linear.backward", name, value);
    let (mut dx, dy, w) = (read("dx", dx)?, read("dy", dy)?, read("weight", w)?);
    checked(apart(&[&dx], &[Some(&dy), Some(&w)]))?;
    typed!(dy, T => {
        run(py, work(dx.count(), w.dim(0)), || {
            ops::linear::backward_input_of(dx.view_mut::<T>()?, dy.view()?, first, w.view()?, add)
        })
    })
}

/// dw (O, I) = dyᵀ · x and dbias (O) = column sums, of the columns from `first` on of dy (.., at least first + O).
#[pyfunction]
#[pyo3(signature = (dw, dbias, dy, first, x))]
pub(super) fn linear_backward_weight_of(
    py: Python<'_>,
    dw: &Any<'_>,
    dbias: Option<&Any<'_>>,
    dy: &Any<'_>,
    first: usize,
    x: &Any<'_>,
) -> PyResult<()> {
    let op = "linear.backward";
    let read = |name, value| Tensor::read(op, name, value);
    let (mut dw, mut dbias) = (read("dw", dw)?, Tensor::optional(op, "dbias", dbias)?);
    let (dy, x) = (read("dy", dy)?, read("input", x)?);
    checked(apart(&[&dw], &[Some(&dy), Some(&x)]))?;
    if let Some(dbias) = &dbias {
        checked(apart(&[dbias, &dw], &[Some(&dy), Some(&x)]))?;
    }
    typed!(dy, T => {
        run(py, work(x.count(), dw.dim(0)), || {
            let dbias = dbias.as_mut().map(Tensor::sums_mut).transpose()?;
            ops::linear::backward_weight_of(dw.view_mut()?, dbias, dy.view::<T>()?, first, x.view()?, false)
        })
    })
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
