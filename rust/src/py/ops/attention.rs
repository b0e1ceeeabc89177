//! `rotary` and `attention`.

use pyo3::prelude::*;

use super::array::{Any, Array, run, typed};
use crate::ops;
use crate::ops::attention::{Document, Heads, Mask, Qkv};
use crate::py::error::PyError;

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

/// Which keys a query sees; `window` = (left, right), −1 for all.
fn mask<'a>(window: (i64, i64), documents: Option<&'a [Document]>) -> Mask<'a> {
    let side = |n: i64| usize::try_from(n).ok();
    Mask { left: side(window.0), right: side(window.1), documents }
}

/// (document_ids (B, T)) as the ranges that the op takes.
fn documents(ids: Option<Vec<i64>>, batch: usize, time: usize) -> PyResult<Option<Vec<Document>>> {
    let read = |ids: Vec<i64>| ops::attention::documents_of_ids(&ids, batch, time).map_err(PyError::from);
    Ok(ids.map(read).transpose()?)
}

/// qkv (B, T, row); q, k, v = (offset, stride, count, dim). `window` = (left, right): keys before and after its own
/// that a query sees, −1 for all; `document_ids` one id a token.
#[pyfunction]
#[pyo3(signature = (qkv, q, k, v, scale, dtype = "float32", window = (-1, 0), document_ids = None))]
pub(super) fn attention_forward<'py>(
    py: Python<'py>,
    qkv: &Any<'py>,
    q: HeadsTuple,
    k: HeadsTuple,
    v: HeadsTuple,
    scale: f32,
    dtype: &str,
    window: (i64, i64),
    document_ids: Option<Vec<i64>>,
) -> PyResult<(Any<'py>, Any<'py>)> {
    let (q, k, v) = (heads(q), heads(k), heads(v));
    typed!(dtype, T => {
        let qkv = Array::<T>::read("qkv", qkv)?;
        let (batch, time, row) = (qkv.dim(0), qkv.dim(1), qkv.dim(2));
        let documents = documents(document_ids, batch, time)?;
        let s = Qkv { q, k, v, row, batch, time, scale, mask: mask(window, documents.as_deref()) };
        let mut out = Array::<T>::result(&[batch, time, q.count * q.dim]);
        let mut lse = Array::<f32>::result(&[batch, q.count, time]);
        run(py, || ops::attention::forward(out.view_mut()?, &mut lse.data, &qkv.data, &s))?;
        Ok((out.numpy(py)?, lse.numpy(py)?))
    })
}

#[pyfunction]
#[pyo3(signature = (dout, out, lse, qkv, q, k, v, scale, dtype = "float32", window = (-1, 0), document_ids = None))]
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
    window: (i64, i64),
    document_ids: Option<Vec<i64>>,
) -> PyResult<Any<'py>> {
    let (q, k, v, lse) = (heads(q), heads(k), heads(v), Array::<f32>::read("lse", lse)?);
    typed!(dtype, T => {
        let (dout, out) = (Array::<T>::read("dout", dout)?, Array::<T>::read("out", out)?);
        let qkv = Array::<T>::read("qkv", qkv)?;
        let (batch, time, row) = (qkv.dim(0), qkv.dim(1), qkv.dim(2));
        let documents = documents(document_ids, batch, time)?;
        let s = Qkv { q, k, v, row, batch, time, scale, mask: mask(window, documents.as_deref()) };
        let mut dqkv = Array::<T>::result(&qkv.dims);
        run(py, || {
            ops::attention::backward(&mut dqkv.data, dout.view()?, out.view()?, &lse.data, &qkv.data, &s)
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
