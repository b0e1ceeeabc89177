//! `rotary` and `attention`.

use pyo3::prelude::*;

use super::array::{Any, Array, run, typed};
use crate::ops;
use crate::ops::attention::Heads;

/// (offset, stride, count, dim)
type HeadsTuple = (usize, usize, usize, usize);

fn heads((offset, stride, count, dim): HeadsTuple) -> Heads {
    Heads { offset, stride, count, dim }
}

/// qkv (B, T, row); `heads` = (offset, stride, count, dim); the table has `positions` rows.
#[pyfunction]
#[pyo3(signature = (qkv, heads, ndims, base, positions, start = 0, backward = false, dtype = "float32"))]
pub(super) fn rotary<'py>(
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
pub(super) fn attention_forward<'py>(
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
pub(super) fn attention_backward<'py>(
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
pub(super) fn attention_decode<'py>(
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
