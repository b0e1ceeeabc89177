//! `rotary` and `attention` on rows that hold the heads of queries, keys and values side by side.

use pyo3::prelude::*;

use super::run;
use super::tensor::{Any, Tensor, apart, typed};
use crate::error::Error;
use crate::ops;
use crate::ops::attention::{Heads, Qkv};
use crate::py::error::PyError;
use crate::tensor::{View, ViewMut};

/// (offset, stride, count, dim)
type HeadsTuple = (usize, usize, usize, usize);

fn heads((offset, stride, count, dim): HeadsTuple) -> Heads {
    Heads { offset, stride, count, dim }
}

/// Rotates in place: qkv (B, T, row); cos, sin (1 or B, T, ndims) as HF makes them.
#[pyfunction]
pub(super) fn rotary(
    py: Python<'_>,
    qkv: &Any<'_>,
    heads: HeadsTuple,
    cos: &Any<'_>,
    sin: &Any<'_>,
    backward: bool,
) -> PyResult<()> {
    let heads = self::heads(heads);
    let read = |name, value| Tensor::read("rotary", name, value);
    let (mut qkv, cos, sin) = (read("qkv", qkv)?, read("cos", cos)?, read("sin", sin)?);
    for tensor in [&qkv, &cos, &sin] {
        tensor.expect_rank(3).map_err(PyError::from)?;
    }
    apart(&[&qkv], &[Some(&cos), Some(&sin)]).map_err(PyError::from)?;
    let (batch, time, row) = (qkv.dim(0), qkv.dim(1), qkv.dim(2));
    let (tables, ndims) = (cos.dim(0), cos.dim(2));
    let dims = [if tables == 1 { 1 } else { batch }, time, ndims];
    let wrong =
        |arg, tensor: &Tensor| Error::Shape { op: "rotary", arg, want: dims.to_vec(), got: tensor.dims().to_vec() };
    if cos.dims() != dims {
        return Err(PyError::from(wrong("cos", &cos)).into());
    }
    if sin.dims() != dims {
        return Err(PyError::from(wrong("sin", &sin)).into());
    }
    typed!(qkv, T => {
        let op = if backward { ops::rotary::backward::<T> } else { ops::rotary::forward::<T> };
        run(py, qkv.count(), || {
            let (qkv, cos, sin) = (qkv.slice_mut::<T>()?, cos.slice::<T>()?, sin.slice::<T>()?);
            if batch == 0 || time == 0 {
                return Ok(());
            }
            // One table for all sequences, or one for each.
            let together = batch / tables;
            for (i, qkv) in qkv.chunks_mut((together * time * row).max(1)).enumerate() {
                let part = i * time * ndims..(i + 1) * time * ndims;
                let (cos, sin) = (View::new(&cos[part.clone()], &[time, ndims])?, View::new(&sin[part], &[time, ndims])?);
                op(qkv, row, heads, together, time, &ops::rotary::table(cos, sin)?, 0)?;
            }
            Ok(())
        })
    })
}

fn layout(q: HeadsTuple, k: HeadsTuple, v: HeadsTuple, qkv: &Tensor, scale: f64, causal: bool) -> PyResult<Qkv> {
    qkv.expect_rank(3).map_err(PyError::from)?;
    let (batch, time, row) = (qkv.dim(0), qkv.dim(1), qkv.dim(2));
    Ok(Qkv { q: heads(q), k: heads(k), v: heads(v), row, batch, time, scale: scale as f32, causal })
}

/// Multiplications of one product of all queries with all keys.
fn work(s: &Qkv) -> usize {
    s.batch.saturating_mul(s.q.count).saturating_mul(s.time).saturating_mul(s.time).saturating_mul(s.q.dim)
}

/// out (B, T, A·d), lse (B, A, T), qkv (B, T, row).
#[pyfunction]
pub(super) fn attention_forward(
    py: Python<'_>,
    out: &Any<'_>,
    lse: &Any<'_>,
    qkv: &Any<'_>,
    q: HeadsTuple,
    k: HeadsTuple,
    v: HeadsTuple,
    scale: f64,
    causal: bool,
) -> PyResult<()> {
    let read = |name, value| Tensor::read("attention", name, value);
    let (mut out, mut lse, qkv) = (read("out", out)?, read("lse", lse)?, read("qkv", qkv)?);
    apart(&[&out, &lse], &[Some(&qkv)]).map_err(PyError::from)?;
    let s = layout(q, k, v, &qkv, scale, causal)?;
    typed!(qkv, T => {
        run(py, work(&s), || {
            let out = ViewMut::new(out.slice_mut::<T>()?, &[s.batch, s.time, s.q.count * s.q.dim])?;
            ops::attention::forward_of(out, lse.slice_mut()?, qkv.slice()?, &s)
        })
    })
}

/// Overwrites the places of q, k and v in dqkv (B, T, row).
#[pyfunction]
pub(super) fn attention_backward(
    py: Python<'_>,
    dqkv: &Any<'_>,
    dout: &Any<'_>,
    out: &Any<'_>,
    lse: &Any<'_>,
    qkv: &Any<'_>,
    q: HeadsTuple,
    k: HeadsTuple,
    v: HeadsTuple,
    scale: f64,
    causal: bool,
) -> PyResult<()> {
    let read = |name, value| Tensor::read("attention.backward", name, value);
    let (mut dqkv, dout, out) = (read("dqkv", dqkv)?, read("dout", dout)?, read("out", out)?);
    let (lse, qkv) = (read("lse", lse)?, read("qkv", qkv)?);
    apart(&[&dqkv], &[Some(&dout), Some(&out), Some(&lse), Some(&qkv)]).map_err(PyError::from)?;
    let s = layout(q, k, v, &qkv, scale, causal)?;
    typed!(qkv, T => {
        run(py, work(&s), || {
            let dims = [s.batch, s.time, s.q.count * s.q.dim];
            let (dout, out) = (View::new(dout.slice::<T>()?, &dims)?, View::new(out.slice()?, &dims)?);
            ops::attention::backward_of(dqkv.slice_mut()?, dout, out, lse.slice()?, qkv.slice()?, &s)
        })
    })
}
