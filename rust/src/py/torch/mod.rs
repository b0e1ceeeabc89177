//! `llmjp_core._core.torch`: ops on torch's CPU tensors, read and written where they are.
//!
//! Not a public interface: `llmjp_core.torch` is. Results come first; torch has made them, contiguous, and what is
//! in them does not matter. Sums of gradients (`dw`, `dbias`) are float32.

mod attention;
mod decoder_layer;
mod dlpack;
mod losses;
mod optimizer;
mod pool;
mod tensor;

use pyo3::prelude::*;

use self::attention::{attention_backward, attention_forward, rotary_into};
use self::decoder_layer::{add, layer_norm_forward_add, linear_backward_input_add, rms_norm_forward_add};
use self::losses::{
    cross_entropy_backward, cross_entropy_forward, linear_cross_entropy_forward, linear_cross_entropy_forward_backward,
};
use self::optimizer::{adamw_step, sum_of_squares};
use self::pool::pooled;
use self::tensor::{Any, Tensor, apart, typed, unsupported};
use super::error::PyError;
use crate::cpu::parallel::alone;
use crate::cpu::scratch::with_scratch;
use crate::error::Result as CoreResult;
use crate::ops;
use crate::ops::activation::Activation;

/// Elements up to which one thread is done before another has woken.
const SMALL: usize = 1 << 14;

/// Multiplications that take as long as an element of an op without matrix products.
const PER_ELEMENT: usize = 32;

/// The work of a product whose results are sums of `inner` products each.
fn product_work(results: usize, inner: Option<&usize>) -> usize {
    results.saturating_mul(inner.copied().unwrap_or(1)) / PER_ELEMENT
}

/// Runs an op without the interpreter; `work` is the number of elements it goes through.
fn run(py: Python<'_>, work: usize, op: impl FnOnce() -> CoreResult<()> + Send) -> PyResult<()> {
    Ok(py.detach(|| alone(work <= SMALL, op)).map_err(PyError::from)?)
}

fn checked(result: CoreResult<()>) -> PyResult<()> {
    Ok(result.map_err(PyError::from)?)
}

fn activation(kind: &str) -> PyResult<Activation> {
    match kind {
        "gelu" => Ok(Activation::Gelu),
        "gelu_tanh" => Ok(Activation::GeluTanh),
        "silu" => Ok(Activation::Silu),
        "relu" => Ok(Activation::Relu),
        other => Err(unsupported(format!("`kind` must be gelu, gelu_tanh, silu or relu, got `{other}`"))),
    }
}

/// Lends `work` the place for `count` numbers that the backward pass needs, or one that is forgotten.
fn kept_or_not(
    kept: Option<&mut Tensor>,
    count: usize,
    work: impl FnOnce(&mut [f32]) -> CoreResult<()>,
) -> CoreResult<()> {
    match kept {
        Some(kept) => work(kept.slice_mut()?),
        None => with_scratch(count, work),
    }
}

/// y, x (.., D), rstd (..) if there are to be gradients, w (D).
#[pyfunction]
#[pyo3(signature = (y, rstd, x, w, eps))]
fn rms_norm_forward(
    py: Python<'_>,
    y: &Any<'_>,
    rstd: Option<&Any<'_>>,
    x: &Any<'_>,
    w: &Any<'_>,
    eps: f64,
) -> PyResult<()> {
    let op = "rms_norm";
    let read = |name, value| Tensor::read(op, name, value);
    let (mut y, mut rstd) = (read("y", y)?, Tensor::optional(op, "rstd", rstd)?);
    let (x, w) = (read("input", x)?, read("weight", w)?);
    let written: Vec<_> = [Some(&y), rstd.as_ref()].into_iter().flatten().collect();
    checked(apart(&written, &[Some(&x), Some(&w)]))?;
    typed!(x, T => {
        run(py, x.count(), || {
            kept_or_not(rstd.as_mut(), x.rows(), |rstd| {
                ops::rms_norm::forward(y.view_mut::<T>()?, rstd, x.view()?, w.row()?, eps)
            })
        })
    })
}

/// dx, dy, x (.., D), dw (D) = Σ over rows; dresidual (.., D) is added to dx.
#[pyfunction]
#[pyo3(signature = (dx, dw, dy, x, rstd, w, dresidual = None))]
fn rms_norm_backward(
    py: Python<'_>,
    dx: &Any<'_>,
    dw: &Any<'_>,
    dy: &Any<'_>,
    x: &Any<'_>,
    rstd: &Any<'_>,
    w: &Any<'_>,
    dresidual: Option<&Any<'_>>,
) -> PyResult<()> {
    let op = "rms_norm.backward";
    let read = |name, value| Tensor::read(op, name, value);
    let (mut dx, mut dw, dy, x) = (read("dx", dx)?, read("dw", dw)?, read("dy", dy)?, read("input", x)?);
    let (rstd, w, dresidual) = (read("rstd", rstd)?, read("weight", w)?, Tensor::optional(op, "dresidual", dresidual)?);
    checked(apart(&[&dx, &dw], &[Some(&dy), Some(&x), Some(&rstd), Some(&w), dresidual.as_ref()]))?;
    typed!(x, T => {
        run(py, x.count(), || {
            let (dx, dw, dy, x) = (dx.view_mut::<T>()?, dw.sums_mut()?, dy.view()?, x.view()?);
            let dresidual = dresidual.as_ref().map(Tensor::view).transpose()?;
            ops::rms_norm::backward(dx, dw, dy, x, rstd.slice()?, w.row()?, dresidual)
        })
    })
}

/// y, x (.., D), stats (2N: the means, then 1/deviation) if there are to be gradients, w, bias (D).
#[pyfunction]
#[pyo3(signature = (y, stats, x, w, bias, eps))]
fn layer_norm_forward(
    py: Python<'_>,
    y: &Any<'_>,
    stats: Option<&Any<'_>>,
    x: &Any<'_>,
    w: &Any<'_>,
    bias: Option<&Any<'_>>,
    eps: f64,
) -> PyResult<()> {
    let op = "layer_norm";
    let read = |name, value| Tensor::read(op, name, value);
    let (mut y, mut stats) = (read("y", y)?, Tensor::optional(op, "stats", stats)?);
    let (x, w, bias) = (read("input", x)?, read("weight", w)?, Tensor::optional(op, "bias", bias)?);
    let written: Vec<_> = [Some(&y), stats.as_ref()].into_iter().flatten().collect();
    checked(apart(&written, &[Some(&x), Some(&w), bias.as_ref()]))?;
    typed!(x, T => {
        run(py, x.count(), || {
            let bias = bias.as_ref().map(Tensor::row).transpose()?;
            stats.as_ref().map_or(Ok(()), Tensor::expect_pairs)?;
            kept_or_not(stats.as_mut(), 2 * x.rows(), |stats| {
                let (mean, rstd) = stats.split_at_mut(stats.len() / 2);
                ops::layer_norm::forward(y.view_mut::<T>()?, mean, rstd, x.view()?, w.row()?, bias, eps)
            })
        })
    })
}

/// dx, dy, x (.., D), dw, dbias (D) = Σ over rows; dresidual (.., D) is added to dx.
#[pyfunction]
#[pyo3(signature = (dx, dw, dbias, dy, x, stats, w, dresidual = None))]
fn layer_norm_backward(
    py: Python<'_>,
    dx: &Any<'_>,
    dw: &Any<'_>,
    dbias: Option<&Any<'_>>,
    dy: &Any<'_>,
    x: &Any<'_>,
    stats: &Any<'_>,
    w: &Any<'_>,
    dresidual: Option<&Any<'_>>,
) -> PyResult<()> {
    let op = "layer_norm.backward";
    let read = |name, value| Tensor::read(op, name, value);
    let (mut dx, mut dw, mut dbias) = (read("dx", dx)?, read("dw", dw)?, Tensor::optional(op, "dbias", dbias)?);
    let (dy, x, w) = (read("dy", dy)?, read("input", x)?, read("weight", w)?);
    let (stats, dresidual) = (read("stats", stats)?, Tensor::optional(op, "dresidual", dresidual)?);
    let inputs = [Some(&dy), Some(&x), Some(&stats), Some(&w), dresidual.as_ref()];
    checked(apart(&[&dx, &dw], &inputs))?;
    if let Some(dbias) = &dbias {
        checked(apart(&[dbias, &dx, &dw], &inputs))?;
    }
    typed!(x, T => {
        run(py, x.count(), || {
            let dbias = dbias.as_mut().map(Tensor::sums_mut).transpose()?;
            let (dx, dw, dy, x) = (dx.view_mut::<T>()?, dw.sums_mut()?, dy.view()?, x.view()?);
            let (mean, rstd) = stats.halves()?;
            let dresidual = dresidual.as_ref().map(Tensor::view).transpose()?;
            ops::layer_norm::backward(dx, dw, dbias, dy, x, mean, rstd, w.row()?, dresidual)
        })
    })
}

#[pyfunction]
fn activation_forward(py: Python<'_>, y: &Any<'_>, x: &Any<'_>, kind: &str) -> PyResult<()> {
    let (op, kind) = ("activation", activation(kind)?);
    let (mut y, x) = (Tensor::read(op, "y", y)?, Tensor::read(op, "input", x)?);
    checked(apart(&[&y], &[Some(&x)]))?;
    typed!(x, T => { run(py, x.count(), || ops::activation::forward(y.view_mut::<T>()?, x.view()?, kind)) })
}

#[pyfunction]
fn activation_backward(py: Python<'_>, dx: &Any<'_>, dy: &Any<'_>, x: &Any<'_>, kind: &str) -> PyResult<()> {
    let kind = activation(kind)?;
    let read = |name, value| Tensor::read("activation.backward", name, value);
    let (mut dx, dy, x) = (read("dx", dx)?, read("dy", dy)?, read("input", x)?);
    checked(apart(&[&dx], &[Some(&dy), Some(&x)]))?;
    typed!(x, T => {
        run(py, x.count(), || ops::activation::backward(dx.view_mut::<T>()?, dy.view()?, x.view()?, kind))
    })
}

/// h, gate, up of one shape.
#[pyfunction]
fn gated_mlp_forward(py: Python<'_>, h: &Any<'_>, gate: &Any<'_>, up: &Any<'_>, kind: &str) -> PyResult<()> {
    let kind = activation(kind)?;
    let read = |name, value| Tensor::read("gated_mlp", name, value);
    let (mut h, gate, up) = (read("h", h)?, read("gate", gate)?, read("up", up)?);
    checked(apart(&[&h], &[Some(&gate), Some(&up)]))?;
    typed!(gate, T => {
        run(py, h.count(), || ops::gated_mlp::forward_apart(h.view_mut::<T>()?, gate.view()?, up.view()?, kind))
    })
}

#[pyfunction]
fn gated_mlp_backward(
    py: Python<'_>,
    dgate: &Any<'_>,
    dup: &Any<'_>,
    dh: &Any<'_>,
    gate: &Any<'_>,
    up: &Any<'_>,
    kind: &str,
) -> PyResult<()> {
    let kind = activation(kind)?;
    let read = |name, value| Tensor::read("gated_mlp.backward", name, value);
    let (mut dgate, mut dup, dh) = (read("dgate", dgate)?, read("dup", dup)?, read("dh", dh)?);
    let (gate, up) = (read("gate", gate)?, read("up", up)?);
    checked(apart(&[&dgate, &dup], &[Some(&dh), Some(&gate), Some(&up)]))?;
    typed!(gate, T => {
        run(py, dh.count(), || {
            let (dgate, dup, dh) = (dgate.view_mut::<T>()?, dup.view_mut()?, dh.view()?);
            ops::gated_mlp::backward_apart(dgate, dup, dh, gate.view()?, up.view()?, kind)
        })
    })
}

/// y (.., O), x (.., I), w (O, I), bias (O).
#[pyfunction]
#[pyo3(signature = (y, x, w, bias = None))]
fn linear_forward(py: Python<'_>, y: &Any<'_>, x: &Any<'_>, w: &Any<'_>, bias: Option<&Any<'_>>) -> PyResult<()> {
    let op = "linear";
    let read = |name, value| Tensor::read(op, name, value);
    let (mut y, x, w) = (read("y", y)?, read("input", x)?, read("weight", w)?);
    let bias = Tensor::optional(op, "bias", bias)?;
    checked(apart(&[&y], &[Some(&x), Some(&w), bias.as_ref()]))?;
    typed!(x, T => {
        run(py, product_work(y.count(), x.dims().last()), || {
            let bias = bias.as_ref().map(Tensor::row).transpose()?;
            ops::linear::forward(y.view_mut::<T>()?, x.view()?, w.view()?, bias)
        })
    })
}

/// dx (.., I) = dy (.., O) · w.
#[pyfunction]
fn linear_backward_input(py: Python<'_>, dx: &Any<'_>, dy: &Any<'_>, w: &Any<'_>) -> PyResult<()> {
    let read = |name, value| Tensor::read("linear.backward", name, value);
    let (mut dx, dy, w) = (read("dx", dx)?, read("dy", dy)?, read("weight", w)?);
    checked(apart(&[&dx], &[Some(&dy), Some(&w)]))?;
    typed!(dy, T => {
        let work = product_work(dx.count(), dy.dims().last());
        run(py, work, || ops::linear::backward_input(dx.view_mut::<T>()?, dy.view()?, w.view()?))
    })
}

/// dw (O, I) = dyᵀ · x, dbias (O) = column sums of dy.
#[pyfunction]
#[pyo3(signature = (dw, dbias, dy, x))]
fn linear_backward_weight(
    py: Python<'_>,
    dw: &Any<'_>,
    dbias: Option<&Any<'_>>,
    dy: &Any<'_>,
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
        run(py, product_work(dy.count(), x.dims().last()), || {
            let dbias = dbias.as_mut().map(Tensor::row_mut).transpose()?;
            ops::linear::backward_weight(dw.view_mut()?, dbias, dy.view::<T>()?, x.view()?, false)
        })
    })
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let torch = PyModule::new(m.py(), "torch")?;
    torch.add("__doc__", "Ops on torch's CPU tensors, in place; `llmjp_core.torch` is the public interface.")?;
    macro_rules! add {
        ($($function:ident),* $(,)?) => { $(torch.add_function(wrap_pyfunction!($function, &torch)?)?;)* };
    }
    add!(rms_norm_forward, rms_norm_backward, layer_norm_forward, layer_norm_backward);
    add!(activation_forward, activation_backward, gated_mlp_forward, gated_mlp_backward);
    add!(linear_forward, linear_backward_input, linear_backward_weight);
    add!(linear_backward_input_add, rms_norm_forward_add, layer_norm_forward_add, add);
    add!(rotary_into, attention_forward, attention_backward);
    add!(cross_entropy_forward, cross_entropy_backward);
    add!(linear_cross_entropy_forward, linear_cross_entropy_forward_backward);
    add!(adamw_step, sum_of_squares, pooled);
    m.add_submodule(&torch)
}
