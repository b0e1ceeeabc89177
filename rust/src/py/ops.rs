//! `llmjp_core._core.ops`: every op on numpy arrays, for the tests and `lc.selftest()`.
//!
//! Not a public interface. float32 arrays are passed as they are, float16 and bfloat16 as arrays of their bits in
//! uint16, with `dtype` saying which. Arguments are copied; what an op adds to (`dw`, `dbias`, `dtable`) is an argument
//! and comes back changed; what it overwrites is NaN before.

mod array;
mod attention;
mod norms;

use pyo3::prelude::*;

use self::array::{Any, Array, Ids, ids, numpy, run, typed, unsupported, view, view_mut};
use self::attention::{attention_backward, attention_decode, attention_forward, rotary};
use self::norms::{
    layer_norm_backward, layer_norm_forward, layer_norm_forward_add, rms_norm_backward, rms_norm_forward,
    rms_norm_forward_add,
};
use super::error::PyError;
use crate::cpu::{isa as cpu_isa, parallel, peak as cpu_peak};
use crate::interrupt::Interrupt;
use crate::ops;
use crate::ops::activation::Activation;
use crate::ops::cross_entropy::RowSum;
use crate::ops::linear_cross_entropy::LossOptions;

fn activation(kind: &str) -> PyResult<Activation> {
    match kind {
        "gelu" => Ok(Activation::Gelu),
        "gelu_tanh" => Ok(Activation::GeluTanh),
        "silu" => Ok(Activation::Silu),
        "relu" => Ok(Activation::Relu),
        other => Err(unsupported(format!("`kind` must be gelu, gelu_tanh, silu or relu, got `{other}`"))),
    }
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
        run(py, || ops::linear::backward_weight(dw.view_mut()?, view_mut(&mut dbias)?, dy.view()?, x.view()?, true))?;
        Ok((dw.numpy(py)?, numpy(dbias, py)?))
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

fn row_sums(n: usize) -> Vec<RowSum> {
    vec![RowSum { top: f32::NAN, total: f32::NAN }; n]
}

#[pyfunction]
#[pyo3(signature = (logits, targets, ignore_index = -100, label_smoothing = 0.0, z_loss = 0.0, dtype = "float32"))]
fn cross_entropy_forward<'py>(
    py: Python<'py>,
    logits: &Any<'py>,
    targets: Ids<'py>,
    ignore_index: i32,
    label_smoothing: f32,
    z_loss: f32,
    dtype: &str,
) -> PyResult<Any<'py>> {
    let (options, targets) = (LossOptions { ignore_index, label_smoothing, z_loss }, ids(&targets));
    typed!(dtype, T => {
        let logits = Array::<T>::read("logits", logits)?;
        let mut losses = Array::<f32>::result(&[targets.len()]);
        let mut sums = row_sums(targets.len());
        run(py, || ops::cross_entropy::forward(&mut losses.data, &mut sums, logits.view()?, &targets, &options))?;
        losses.numpy(py)
    })
}

#[pyfunction]
#[pyo3(signature = (logits, targets, grad_scale, ignore_index = -100, label_smoothing = 0.0, z_loss = 0.0,
                    dtype = "float32"))]
fn cross_entropy_backward<'py>(
    py: Python<'py>,
    logits: &Any<'py>,
    targets: Ids<'py>,
    grad_scale: f32,
    ignore_index: i32,
    label_smoothing: f32,
    z_loss: f32,
    dtype: &str,
) -> PyResult<Any<'py>> {
    let (options, targets) = (LossOptions { ignore_index, label_smoothing, z_loss }, ids(&targets));
    typed!(dtype, T => {
        let logits = Array::<T>::read("logits", logits)?;
        let mut d = Array::<T>::result(&logits.dims);
        let (mut losses, mut sums) = (vec![0.0; targets.len()], row_sums(targets.len()));
        run(py, || {
            ops::cross_entropy::forward(&mut losses, &mut sums, logits.view()?, &targets, &options)?;
            ops::cross_entropy::backward(d.view_mut()?, logits.view()?, &sums, &targets, grad_scale, &options)
        })?;
        d.numpy(py)
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
            op(losses, dx, dw, x, w, &targets, grad_scale, &options, true, never)
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
    let numbers = ops::adamw::Step { lr, beta1, beta2, eps, weight_decay, grad_scale, step, dither: None };
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

/// The instruction set that was chosen: `amx`, `avx512bf16`, `avx512`, `avx2` or `baseline`.
#[pyfunction]
fn isa() -> &'static str {
    cpu_isa::isa().name()
}

/// Operations a second that the vector unit of one core gives for products of `dtype`.
#[pyfunction]
fn peak(py: Python<'_>, dtype: &str) -> PyResult<f64> {
    typed!(dtype, T => { Ok(py.detach(|| cpu_peak::rate(<T as crate::dtype::Element>::DTYPE))) })
}

/// [(name, error, bound, passed)] of each result of each op in float32 against its float64 reference.
#[pyfunction]
fn selftest(py: Python<'_>) -> PyResult<Vec<(String, f64, f64, bool)>> {
    let checks = py.detach(ops::selftest::run).map_err(PyError::from)?;
    Ok(checks.into_iter().map(|check| (check.name.clone(), check.error, check.bound, check.passed())).collect())
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
    add!(cross_entropy_forward, cross_entropy_backward);
    add!(linear_cross_entropy_forward, linear_cross_entropy_forward_backward);
    add!(adamw_step, grad_norm_sum_of_squares, grad_norm_first_non_finite, cast_from_f32);
    add!(set_num_threads, num_threads, isa, peak, selftest);
    m.add_submodule(&ops)
}
