//! `llmjp_core._core.ops`: every op on numpy arrays, for the tests and `lc.selftest()`.
//!
//! Not a public interface. float32 arrays are passed as they are, float16 and bfloat16 as arrays of their bits in
//! uint16, with `dtype` saying which. Arguments are copied; what an op adds to (`dw`, `dbias`, `dtable`) is an argument
//! and comes back changed; what it overwrites is NaN before.

use numpy::{IntoPyArray, PyArrayMethods, PyReadonlyArray1, PyReadonlyArrayDyn};
use pyo3::prelude::*;

use super::error::{PyError, Result};
use crate::cpu::{isa as cpu_isa, parallel};
use crate::dtype::{Element, bf16, f16};
use crate::error::{Error, Result as CoreResult};
use crate::interrupt::Interrupt;
use crate::ops;
use crate::ops::activation::Activation;
use crate::ops::attention::Heads;
use crate::ops::linear_cross_entropy::LossOptions;
use crate::tensor::{View, ViewMut};

type Any<'py> = Bound<'py, PyAny>;
type Ids<'py> = PyReadonlyArray1<'py, i32>;

/// An element and what numpy has for it.
trait Stored: Element {
    type Bits: numpy::Element + bytemuck::Pod;
    const BITS: &'static str;
}

impl Stored for f32 {
    type Bits = f32;
    const BITS: &'static str = "float32";
}

impl Stored for f16 {
    type Bits = u16;
    const BITS: &'static str = "uint16";
}

impl Stored for bf16 {
    type Bits = u16;
    const BITS: &'static str = "uint16";
}

/// Runs `$body` with `$t` the element type called `$dtype`.
macro_rules! typed {
    ($dtype:expr, $t:ident => $body:block) => {
        match $dtype {
            "float32" => typed!(@ f32, $t, $body),
            "float16" => typed!(@ f16, $t, $body),
            "bfloat16" => typed!(@ bf16, $t, $body),
            other => Err(unsupported(format!("`dtype` must be float32, float16 or bfloat16, got `{other}`"))),
        }
    };
    (@ $element:ty, $t:ident, $body:block) => {{
        type $t = $element;
        $body
    }};
}

fn unsupported(what: String) -> PyErr {
    PyError::from(Error::UnsupportedInput(what)).into()
}

/// A copy of an argument, or a place for a result.
struct Array<T> {
    dims: Vec<usize>,
    data: Vec<T>,
}

impl<T: Stored> Array<T> {
    fn read(name: &str, value: &Any<'_>) -> PyResult<Self> {
        let array: PyReadonlyArrayDyn<'_, T::Bits> =
            value.extract().map_err(|_| unsupported(format!("`{name}` must be a numpy array of {}", T::BITS)))?;
        let array = array.as_array();
        if array.ndim() > 4 {
            return Err(unsupported(format!("`{name}` must have at most 4 dimensions, got {}", array.ndim())));
        }
        Ok(Self { dims: array.shape().to_vec(), data: array.iter().map(|bits| bytemuck::cast(*bits)).collect() })
    }

    fn optional(name: &str, value: Option<&Any<'_>>) -> PyResult<Option<Self>> {
        value.map(|value| Self::read(name, value)).transpose()
    }

    /// NaN everywhere: an op that leaves an element out is seen.
    fn result(dims: &[usize]) -> Self {
        Self { dims: dims.to_vec(), data: vec![T::from_f32(f32::NAN); dims.iter().product()] }
    }

    /// Extent `i`, 1 when there is none; the ops check the rest.
    fn dim(&self, i: usize) -> usize {
        self.dims.get(i).copied().unwrap_or(1)
    }

    fn last(&self) -> usize {
        self.dims.last().copied().unwrap_or(1)
    }

    fn rows(&self) -> usize {
        self.dims.split_last().map_or(1, |(_, outer)| outer.iter().product())
    }

    fn view(&self) -> CoreResult<View<'_, T>> {
        View::new(&self.data, &self.dims)
    }

    fn view_mut(&mut self) -> CoreResult<ViewMut<'_, T>> {
        ViewMut::new(&mut self.data, &self.dims)
    }

    fn numpy(self, py: Python<'_>) -> PyResult<Any<'_>> {
        let bits: Vec<T::Bits> = self.data.into_iter().map(bytemuck::cast).collect();
        Ok(bits.into_pyarray(py).reshape(self.dims)?.into_any())
    }
}

fn view<T: Stored>(array: &Option<Array<T>>) -> CoreResult<Option<View<'_, T>>> {
    array.as_ref().map(Array::view).transpose()
}

fn view_mut<T: Stored>(array: &mut Option<Array<T>>) -> CoreResult<Option<ViewMut<'_, T>>> {
    array.as_mut().map(Array::view_mut).transpose()
}

fn numpy<T: Stored>(array: Option<Array<T>>, py: Python<'_>) -> PyResult<Option<Any<'_>>> {
    array.map(|array| array.numpy(py)).transpose()
}

/// Runs an op without the interpreter.
fn run(py: Python<'_>, op: impl FnOnce() -> CoreResult<()> + Send) -> PyResult<()> {
    let result: Result<()> = py.detach(op).map_err(PyError::from);
    Ok(result?)
}

fn ids(array: &Ids<'_>) -> Vec<i32> {
    array.as_array().iter().copied().collect()
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

/// (offset, stride, count, dim)
type HeadsTuple = (usize, usize, usize, usize);

fn heads((offset, stride, count, dim): HeadsTuple) -> Heads {
    Heads { offset, stride, count, dim }
}

#[pyfunction]
#[pyo3(signature = (table, token_ids, dtype = "float32"))]
fn embedding_forward<'py>(py: Python<'py>, table: &Any<'py>, token_ids: Ids<'py>, dtype: &str) -> PyResult<Any<'py>> {
    let ids = ids(&token_ids);
    typed!(dtype, T => {
        let table = Array::<T>::read("table", table)?;
        let mut y = Array::<T>::result(&[ids.len(), table.last()]);
        run(py, || ops::embedding::forward(y.view_mut()?, table.view()?, &ids))?;
        y.numpy(py)
    })
}

#[pyfunction]
#[pyo3(signature = (dtable, dy, token_ids, dtype = "float32"))]
fn embedding_backward<'py>(
    py: Python<'py>,
    dtable: &Any<'py>,
    dy: &Any<'py>,
    token_ids: Ids<'py>,
    dtype: &str,
) -> PyResult<Any<'py>> {
    let ids = ids(&token_ids);
    let mut dtable = Array::<f32>::read("dtable", dtable)?;
    typed!(dtype, T => {
        let dy = Array::<T>::read("dy", dy)?;
        run(py, || ops::embedding::backward(dtable.view_mut()?, dy.view()?, &ids))?;
        dtable.numpy(py)
    })
}

#[pyfunction]
#[pyo3(signature = (x, w, bias = None, dtype = "float32"))]
fn linear_forward<'py>(
    py: Python<'py>,
    x: &Any<'py>,
    w: &Any<'py>,
    bias: Option<&Any<'py>>,
    dtype: &str,
) -> PyResult<Any<'py>> {
    typed!(dtype, T => {
        let (x, w) = (Array::<T>::read("x", x)?, Array::<T>::read("w", w)?);
        let bias = Array::<T>::optional("bias", bias)?;
        let mut y = Array::<T>::result(&[x.rows(), w.rows()]);
        run(py, || ops::linear::forward(y.view_mut()?, x.view()?, w.view()?, view(&bias)?))?;
        y.numpy(py)
    })
}

#[pyfunction]
#[pyo3(signature = (dy, w, dtype = "float32"))]
fn linear_backward_input<'py>(py: Python<'py>, dy: &Any<'py>, w: &Any<'py>, dtype: &str) -> PyResult<Any<'py>> {
    typed!(dtype, T => {
        let (dy, w) = (Array::<T>::read("dy", dy)?, Array::<T>::read("w", w)?);
        let mut dx = Array::<T>::result(&[dy.rows(), w.last()]);
        run(py, || ops::linear::backward_input(dx.view_mut()?, dy.view()?, w.view()?))?;
        dx.numpy(py)
    })
}

#[pyfunction]
#[pyo3(signature = (dw, dbias, dy, x, dtype = "float32"))]
fn linear_backward_weight<'py>(
    py: Python<'py>,
    dw: &Any<'py>,
    dbias: Option<&Any<'py>>,
    dy: &Any<'py>,
    x: &Any<'py>,
    dtype: &str,
) -> PyResult<(Any<'py>, Option<Any<'py>>)> {
    let (mut dw, mut dbias) = (Array::<f32>::read("dw", dw)?, Array::<f32>::optional("dbias", dbias)?);
    typed!(dtype, T => {
        let (dy, x) = (Array::<T>::read("dy", dy)?, Array::<T>::read("x", x)?);
        run(py, || ops::linear::backward_weight(dw.view_mut()?, view_mut(&mut dbias)?, dy.view()?, x.view()?))?;
        Ok((dw.numpy(py)?, numpy(dbias, py)?))
    })
}

#[pyfunction]
#[pyo3(signature = (x, w, eps, dtype = "float32"))]
fn rms_norm_forward<'py>(
    py: Python<'py>,
    x: &Any<'py>,
    w: &Any<'py>,
    eps: f64,
    dtype: &str,
) -> PyResult<(Any<'py>, Any<'py>)> {
    typed!(dtype, T => {
        let (x, w) = (Array::<T>::read("x", x)?, Array::<T>::read("w", w)?);
        let (mut y, mut rstd) = (Array::<T>::result(&x.dims), Array::<f32>::result(&[x.rows()]));
        run(py, || ops::rms_norm::forward(y.view_mut()?, &mut rstd.data, x.view()?, w.view()?, eps))?;
        Ok((y.numpy(py)?, rstd.numpy(py)?))
    })
}

#[pyfunction]
#[pyo3(signature = (x, residual, w, eps, dtype = "float32"))]
fn rms_norm_forward_add<'py>(
    py: Python<'py>,
    x: &Any<'py>,
    residual: &Any<'py>,
    w: &Any<'py>,
    eps: f64,
    dtype: &str,
) -> PyResult<(Any<'py>, Any<'py>, Any<'py>)> {
    typed!(dtype, T => {
        let (x, w) = (Array::<T>::read("x", x)?, Array::<T>::read("w", w)?);
        let residual = Array::<T>::read("residual", residual)?;
        let (mut y, mut sum) = (Array::<T>::result(&x.dims), Array::<T>::result(&x.dims));
        let mut rstd = Array::<f32>::result(&[x.rows()]);
        run(py, || {
            let (y, sum) = (y.view_mut()?, sum.view_mut()?);
            ops::rms_norm::forward_add(y, sum, &mut rstd.data, x.view()?, residual.view()?, w.view()?, eps)
        })?;
        Ok((y.numpy(py)?, sum.numpy(py)?, rstd.numpy(py)?))
    })
}

#[pyfunction]
#[pyo3(signature = (dw, dy, x, rstd, w, dresidual = None, dtype = "float32"))]
fn rms_norm_backward<'py>(
    py: Python<'py>,
    dw: &Any<'py>,
    dy: &Any<'py>,
    x: &Any<'py>,
    rstd: &Any<'py>,
    w: &Any<'py>,
    dresidual: Option<&Any<'py>>,
    dtype: &str,
) -> PyResult<(Any<'py>, Any<'py>)> {
    let (mut dw, rstd) = (Array::<f32>::read("dw", dw)?, Array::<f32>::read("rstd", rstd)?);
    typed!(dtype, T => {
        let (dy, x, w) = (Array::<T>::read("dy", dy)?, Array::<T>::read("x", x)?, Array::<T>::read("w", w)?);
        let dresidual = Array::<T>::optional("dresidual", dresidual)?;
        let mut dx = Array::<T>::result(&x.dims);
        run(py, || {
            let (dx, dw, dy, x, w) = (dx.view_mut()?, dw.view_mut()?, dy.view()?, x.view()?, w.view()?);
            ops::rms_norm::backward(dx, dw, dy, x, &rstd.data, w, view(&dresidual)?)
        })?;
        Ok((dx.numpy(py)?, dw.numpy(py)?))
    })
}

#[pyfunction]
#[pyo3(signature = (x, w, bias, eps, dtype = "float32"))]
fn layer_norm_forward<'py>(
    py: Python<'py>,
    x: &Any<'py>,
    w: &Any<'py>,
    bias: Option<&Any<'py>>,
    eps: f64,
    dtype: &str,
) -> PyResult<(Any<'py>, Any<'py>, Any<'py>)> {
    typed!(dtype, T => {
        let (x, w) = (Array::<T>::read("x", x)?, Array::<T>::read("w", w)?);
        let bias = Array::<T>::optional("bias", bias)?;
        let mut y = Array::<T>::result(&x.dims);
        let (mut mean, mut rstd) = (Array::<f32>::result(&[x.rows()]), Array::<f32>::result(&[x.rows()]));
        run(py, || {
            let (y, mean, rstd) = (y.view_mut()?, &mut mean.data, &mut rstd.data);
            ops::layer_norm::forward(y, mean, rstd, x.view()?, w.view()?, view(&bias)?, eps)
        })?;
        Ok((y.numpy(py)?, mean.numpy(py)?, rstd.numpy(py)?))
    })
}

#[pyfunction]
#[pyo3(signature = (x, residual, w, bias, eps, dtype = "float32"))]
fn layer_norm_forward_add<'py>(
    py: Python<'py>,
    x: &Any<'py>,
    residual: &Any<'py>,
    w: &Any<'py>,
    bias: Option<&Any<'py>>,
    eps: f64,
    dtype: &str,
) -> PyResult<(Any<'py>, Any<'py>, Any<'py>, Any<'py>)> {
    typed!(dtype, T => {
        let (x, w) = (Array::<T>::read("x", x)?, Array::<T>::read("w", w)?);
        let (residual, bias) = (Array::<T>::read("residual", residual)?, Array::<T>::optional("bias", bias)?);
        let (mut y, mut sum) = (Array::<T>::result(&x.dims), Array::<T>::result(&x.dims));
        let (mut mean, mut rstd) = (Array::<f32>::result(&[x.rows()]), Array::<f32>::result(&[x.rows()]));
        run(py, || {
            let (y, sum, mean, rstd) = (y.view_mut()?, sum.view_mut()?, &mut mean.data, &mut rstd.data);
            let (x, residual, w) = (x.view()?, residual.view()?, w.view()?);
            ops::layer_norm::forward_add(y, sum, mean, rstd, x, residual, w, view(&bias)?, eps)
        })?;
        Ok((y.numpy(py)?, sum.numpy(py)?, mean.numpy(py)?, rstd.numpy(py)?))
    })
}

#[pyfunction]
#[pyo3(signature = (dw, dbias, dy, x, mean, rstd, w, dresidual = None, dtype = "float32"))]
fn layer_norm_backward<'py>(
    py: Python<'py>,
    dw: &Any<'py>,
    dbias: Option<&Any<'py>>,
    dy: &Any<'py>,
    x: &Any<'py>,
    mean: &Any<'py>,
    rstd: &Any<'py>,
    w: &Any<'py>,
    dresidual: Option<&Any<'py>>,
    dtype: &str,
) -> PyResult<(Any<'py>, Any<'py>, Option<Any<'py>>)> {
    let (mut dw, mut dbias) = (Array::<f32>::read("dw", dw)?, Array::<f32>::optional("dbias", dbias)?);
    let (mean, rstd) = (Array::<f32>::read("mean", mean)?, Array::<f32>::read("rstd", rstd)?);
    typed!(dtype, T => {
        let (dy, x, w) = (Array::<T>::read("dy", dy)?, Array::<T>::read("x", x)?, Array::<T>::read("w", w)?);
        let dresidual = Array::<T>::optional("dresidual", dresidual)?;
        let mut dx = Array::<T>::result(&x.dims);
        run(py, || {
            let (dx, dw, dbias) = (dx.view_mut()?, dw.view_mut()?, view_mut(&mut dbias)?);
            let (dy, x, w, dresidual) = (dy.view()?, x.view()?, w.view()?, view(&dresidual)?);
            ops::layer_norm::backward(dx, dw, dbias, dy, x, &mean.data, &rstd.data, w, dresidual)
        })?;
        Ok((dx.numpy(py)?, dw.numpy(py)?, numpy(dbias, py)?))
    })
}

/// qkv (B, T, row); `heads` = (offset, stride, count, dim); the table has `positions` rows.
#[pyfunction]
#[pyo3(signature = (qkv, heads, ndims, base, positions, start = 0, backward = false, dtype = "float32"))]
fn rotary<'py>(
    py: Python<'py>,
    qkv: &Any<'py>,
    heads: HeadsTuple,
    ndims: usize,
    base: f64,
    positions: usize,
    start: usize,
    backward: bool,
    dtype: &str,
) -> PyResult<Any<'py>> {
    let heads = self::heads(heads);
    let table = ops::rotary::Table::new(positions, ndims, base);
    typed!(dtype, T => {
        let mut qkv = Array::<T>::read("qkv", qkv)?;
        let (batch, time, row) = (qkv.dim(0), qkv.dim(1), qkv.dim(2));
        let op = if backward { ops::rotary::backward } else { ops::rotary::forward };
        run(py, || op(&mut qkv.data, row, heads, batch, time, &table, start))?;
        qkv.numpy(py)
    })
}

/// qkv (B, T, row); q, k, v = (offset, stride, count, dim).
#[pyfunction]
#[pyo3(signature = (qkv, q, k, v, scale, dtype = "float32"))]
fn attention_forward<'py>(
    py: Python<'py>,
    qkv: &Any<'py>,
    q: HeadsTuple,
    k: HeadsTuple,
    v: HeadsTuple,
    scale: f32,
    dtype: &str,
) -> PyResult<(Any<'py>, Any<'py>)> {
    let (q, k, v) = (heads(q), heads(k), heads(v));
    typed!(dtype, T => {
        let qkv = Array::<T>::read("qkv", qkv)?;
        let (batch, time, row) = (qkv.dim(0), qkv.dim(1), qkv.dim(2));
        let mut out = Array::<T>::result(&[batch, time, q.count * q.dim]);
        let mut lse = Array::<f32>::result(&[batch, q.count, time]);
        run(py, || {
            ops::attention::forward(out.view_mut()?, &mut lse.data, q, k, v, &qkv.data, row, batch, time, scale)
        })?;
        Ok((out.numpy(py)?, lse.numpy(py)?))
    })
}

#[pyfunction]
#[pyo3(signature = (dout, out, lse, qkv, q, k, v, scale, dtype = "float32"))]
fn attention_backward<'py>(
    py: Python<'py>,
    dout: &Any<'py>,
    out: &Any<'py>,
    lse: &Any<'py>,
    qkv: &Any<'py>,
    q: HeadsTuple,
    k: HeadsTuple,
    v: HeadsTuple,
    scale: f32,
    dtype: &str,
) -> PyResult<Any<'py>> {
    let (q, k, v, lse) = (heads(q), heads(k), heads(v), Array::<f32>::read("lse", lse)?);
    typed!(dtype, T => {
        let (dout, out) = (Array::<T>::read("dout", dout)?, Array::<T>::read("out", out)?);
        let qkv = Array::<T>::read("qkv", qkv)?;
        let (batch, time, row) = (qkv.dim(0), qkv.dim(1), qkv.dim(2));
        let mut dqkv = Array::<T>::result(&qkv.dims);
        run(py, || {
            let (dqkv, dout, out) = (&mut dqkv.data, dout.view()?, out.view()?);
            ops::attention::backward(dqkv, dout, out, &lse.data, &qkv.data, q, k, v, row, batch, time, scale)
        })?;
        dqkv.numpy(py)
    })
}

/// q (A, d), keys and values (length, Kv, d).
#[pyfunction]
#[pyo3(signature = (q, keys, values, scale, dtype = "float32"))]
fn attention_decode<'py>(
    py: Python<'py>,
    q: &Any<'py>,
    keys: &Any<'py>,
    values: &Any<'py>,
    scale: f32,
    dtype: &str,
) -> PyResult<Any<'py>> {
    typed!(dtype, T => {
        let (q, keys) = (Array::<T>::read("q", q)?, Array::<T>::read("keys", keys)?);
        let values = Array::<T>::read("values", values)?;
        let mut out = Array::<T>::result(&q.dims);
        let (heads, d, length, kv) = (q.dim(0), q.dim(1), keys.dim(0), keys.dim(1));
        run(py, || {
            ops::attention::decode(&mut out.data, &q.data, &keys.data, &values.data, heads, kv, d, length, scale)
        })?;
        out.numpy(py)
    })
}

#[pyfunction]
#[pyo3(signature = (x, kind, dtype = "float32"))]
fn activation_forward<'py>(py: Python<'py>, x: &Any<'py>, kind: &str, dtype: &str) -> PyResult<Any<'py>> {
    let kind = activation(kind)?;
    typed!(dtype, T => {
        let x = Array::<T>::read("x", x)?;
        let mut y = Array::<T>::result(&x.dims);
        run(py, || ops::activation::forward(y.view_mut()?, x.view()?, kind))?;
        y.numpy(py)
    })
}

#[pyfunction]
#[pyo3(signature = (dy, x, kind, dtype = "float32"))]
fn activation_backward<'py>(
    py: Python<'py>,
    dy: &Any<'py>,
    x: &Any<'py>,
    kind: &str,
    dtype: &str,
) -> PyResult<Any<'py>> {
    let kind = activation(kind)?;
    typed!(dtype, T => {
        let (dy, x) = (Array::<T>::read("dy", dy)?, Array::<T>::read("x", x)?);
        let mut dx = Array::<T>::result(&x.dims);
        run(py, || ops::activation::backward(dx.view_mut()?, dy.view()?, x.view()?, kind))?;
        dx.numpy(py)
    })
}

#[pyfunction]
#[pyo3(signature = (gate_up, kind, dtype = "float32"))]
fn gated_mlp_forward<'py>(py: Python<'py>, gate_up: &Any<'py>, kind: &str, dtype: &str) -> PyResult<Any<'py>> {
    let kind = activation(kind)?;
    typed!(dtype, T => {
        let gate_up = Array::<T>::read("gate_up", gate_up)?;
        let mut h = Array::<T>::result(&[gate_up.rows(), gate_up.last() / 2]);
        run(py, || ops::gated_mlp::forward(h.view_mut()?, gate_up.view()?, kind))?;
        h.numpy(py)
    })
}

#[pyfunction]
#[pyo3(signature = (dh, gate_up, kind, dtype = "float32"))]
fn gated_mlp_backward<'py>(
    py: Python<'py>,
    dh: &Any<'py>,
    gate_up: &Any<'py>,
    kind: &str,
    dtype: &str,
) -> PyResult<Any<'py>> {
    let kind = activation(kind)?;
    typed!(dtype, T => {
        let (dh, gate_up) = (Array::<T>::read("dh", dh)?, Array::<T>::read("gate_up", gate_up)?);
        let mut dgate_up = Array::<T>::result(&gate_up.dims);
        run(py, || ops::gated_mlp::backward(dgate_up.view_mut()?, dh.view()?, gate_up.view()?, kind))?;
        dgate_up.numpy(py)
    })
}

#[pyfunction]
#[pyo3(signature = (a, b, dtype = "float32"))]
fn add_forward<'py>(py: Python<'py>, a: &Any<'py>, b: &Any<'py>, dtype: &str) -> PyResult<Any<'py>> {
    typed!(dtype, T => {
        let (a, b) = (Array::<T>::read("a", a)?, Array::<T>::read("b", b)?);
        let mut y = Array::<T>::result(&a.dims);
        run(py, || ops::add::forward(y.view_mut()?, a.view()?, b.view()?))?;
        y.numpy(py)
    })
}

#[pyfunction]
#[pyo3(signature = (x, w, targets, ignore_index = -100, label_smoothing = 0.0, z_loss = 0.0, dtype = "float32"))]
fn linear_cross_entropy_forward<'py>(
    py: Python<'py>,
    x: &Any<'py>,
    w: &Any<'py>,
    targets: Ids<'py>,
    ignore_index: i32,
    label_smoothing: f32,
    z_loss: f32,
    dtype: &str,
) -> PyResult<Any<'py>> {
    let (options, targets) = (LossOptions { ignore_index, label_smoothing, z_loss }, ids(&targets));
    typed!(dtype, T => {
        let (x, w) = (Array::<T>::read("x", x)?, Array::<T>::read("w", w)?);
        let mut losses = Array::<f32>::result(&[targets.len()]);
        run(py, || {
            let (losses, never) = (&mut losses.data, Interrupt::NEVER);
            ops::linear_cross_entropy::forward(losses, x.view()?, w.view()?, &targets, &options, never)
        })?;
        losses.numpy(py)
    })
}

/// (losses, dx, dw)
#[pyfunction]
#[pyo3(signature = (dw, x, w, targets, grad_scale, ignore_index = -100, label_smoothing = 0.0, z_loss = 0.0,
                    dtype = "float32"))]
fn linear_cross_entropy_forward_backward<'py>(
    py: Python<'py>,
    dw: &Any<'py>,
    x: &Any<'py>,
    w: &Any<'py>,
    targets: Ids<'py>,
    grad_scale: f32,
    ignore_index: i32,
    label_smoothing: f32,
    z_loss: f32,
    dtype: &str,
) -> PyResult<(Any<'py>, Any<'py>, Any<'py>)> {
    let (options, targets) = (LossOptions { ignore_index, label_smoothing, z_loss }, ids(&targets));
    let mut dw = Array::<f32>::read("dw", dw)?;
    typed!(dtype, T => {
        let (x, w) = (Array::<T>::read("x", x)?, Array::<T>::read("w", w)?);
        let (mut losses, mut dx) = (Array::<f32>::result(&[targets.len()]), Array::<T>::result(&x.dims));
        run(py, || {
            let (dx, dw, x, w) = (dx.view_mut()?, dw.view_mut()?, x.view()?, w.view()?);
            let (losses, never) = (&mut losses.data, Interrupt::NEVER);
            let op = ops::linear_cross_entropy::forward_backward;
            op(losses, dx, dw, x, w, &targets, grad_scale, &options, never)
        })?;
        Ok((losses.numpy(py)?, dx.numpy(py)?, dw.numpy(py)?))
    })
}

/// (p, m, v) after step `step`.
#[pyfunction]
#[pyo3(signature = (p, m, v, g, *, lr, beta1, beta2, eps, weight_decay, step, grad_scale = 1.0))]
fn adamw_step<'py>(
    py: Python<'py>,
    p: &Any<'py>,
    m: &Any<'py>,
    v: &Any<'py>,
    g: &Any<'py>,
    lr: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    step: u64,
    grad_scale: f32,
) -> PyResult<(Any<'py>, Any<'py>, Any<'py>)> {
    let (mut p, mut m) = (Array::<f32>::read("p", p)?, Array::<f32>::read("m", m)?);
    let (mut v, g) = (Array::<f32>::read("v", v)?, Array::<f32>::read("g", g)?);
    let numbers = ops::adamw::Step { lr, beta1, beta2, eps, weight_decay, grad_scale, step };
    run(py, || ops::adamw::step(&mut p.data, &mut m.data, &mut v.data, &g.data, &numbers))?;
    Ok((p.numpy(py)?, m.numpy(py)?, v.numpy(py)?))
}

#[pyfunction]
fn grad_norm_sum_of_squares(py: Python<'_>, g: &Any<'_>) -> PyResult<f64> {
    let g = Array::<f32>::read("g", g)?;
    Ok(py.detach(|| ops::grad_norm::sum_of_squares(&g.data)))
}

#[pyfunction]
fn grad_norm_first_non_finite(py: Python<'_>, g: &Any<'_>) -> PyResult<Option<usize>> {
    let g = Array::<f32>::read("g", g)?;
    Ok(py.detach(|| ops::grad_norm::first_non_finite(&g.data)))
}

#[pyfunction]
#[pyo3(signature = (x, dtype = "float32"))]
fn cast_from_f32<'py>(py: Python<'py>, x: &Any<'py>, dtype: &str) -> PyResult<Any<'py>> {
    let x = Array::<f32>::read("x", x)?;
    typed!(dtype, T => {
        let mut y = Array::<T>::result(&x.dims);
        run(py, || ops::cast::from_f32(&mut y.data, &x.data))?;
        y.numpy(py)
    })
}

/// Replaces the threads that ops run on; results do not change.
#[pyfunction]
fn set_num_threads(py: Python<'_>, threads: usize) {
    py.detach(|| parallel::set_num_threads(threads));
}

#[pyfunction]
fn num_threads(py: Python<'_>) -> usize {
    py.detach(parallel::num_threads)
}

/// The instruction set that was chosen: `avx2` or `baseline`.
#[pyfunction]
fn isa() -> &'static str {
    cpu_isa::ISA.name()
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let ops = PyModule::new(m.py(), "ops")?;
    ops.add("__doc__", "Every op on numpy arrays, for tests and `lc.selftest()`; not a public interface.")?;
    macro_rules! add {
        ($($function:ident),* $(,)?) => { $(ops.add_function(wrap_pyfunction!($function, &ops)?)?;)* };
    }
    add!(embedding_forward, embedding_backward, linear_forward, linear_backward_input, linear_backward_weight);
    add!(rms_norm_forward, rms_norm_forward_add, rms_norm_backward);
    add!(layer_norm_forward, layer_norm_forward_add, layer_norm_backward);
    add!(rotary, attention_forward, attention_backward, attention_decode);
    add!(activation_forward, activation_backward, gated_mlp_forward, gated_mlp_backward, add_forward);
    add!(linear_cross_entropy_forward, linear_cross_entropy_forward_backward);
    add!(adamw_step, grad_norm_sum_of_squares, grad_norm_first_non_finite, cast_from_f32);
    add!(set_num_threads, num_threads, isa);
    m.add_submodule(&ops)
}
