//! `rotary` and `attention` on rows that hold the heads of queries, keys and values side by side.

use pyo3::prelude::*;

use super::tensor::{Any, Tensor, apart, typed};
use super::{checked, run};
use crate::dtype::Element;
use crate::error::{Error, Result as CoreResult};
use crate::ops;
use crate::ops::attention::{Heads, Qkv};
use crate::py::error::PyError;
use crate::tensor::{View, ViewMut};

/// (offset, stride, count, dim)
type HeadsTuple = (usize, usize, usize, usize);

fn heads((offset, stride, count, dim): HeadsTuple) -> Heads {
    Heads { offset, stride, count, dim }
}

/// (tables, ndims) of cos and sin (1 or B, T, ndims), as HF makes them.
fn table_dims(cos: &Tensor, sin: &Tensor, batch: usize, time: usize) -> CoreResult<(usize, usize)> {
    cos.expect_rank(3)?;
    sin.expect_rank(3)?;
    let (tables, ndims) = (cos.dim(0), cos.dim(2));
    let dims = [if tables == 1 { 1 } else { batch }, time, ndims];
    for (arg, tensor) in [("cos", cos), ("sin", sin)] {
        if tensor.dims() != dims {
            return Err(Error::Shape { op: "rotary", arg, want: dims.to_vec(), got: tensor.dims().to_vec() });
        }
    }
    Ok((tables, ndims))
}

/// Calls `work(i, sequences, table)` for each table and the sequences it is for: all, or one.
fn each_table<T: Element>(
    cos: &Tensor,
    sin: &Tensor,
    batch: usize,
    time: usize,
    mut work: impl FnMut(usize, usize, &ops::rotary::Table) -> CoreResult<()>,
) -> CoreResult<()> {
    let (tables, ndims) = table_dims(cos, sin, batch, time)?;
    if batch == 0 || time == 0 {
        return Ok(());
    }
    let (cos, sin, dims) = (cos.slice::<T>()?, sin.slice::<T>()?, [time, ndims]);
    for i in 0..tables {
        let part = i * time * ndims..(i + 1) * time * ndims;
        let table = ops::rotary::table(View::new(&cos[part.clone()], &dims)?, View::new(&sin[part], &dims)?)?;
        work(i, batch / tables, &table)?;
    }
    Ok(())
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
    checked(qkv.expect_rank(3))?;
    checked(apart(&[&qkv], &[Some(&cos), Some(&sin)]))?;
    let (batch, time, row) = (qkv.dim(0), qkv.dim(1), qkv.dim(2));
    typed!(qkv, T => {
        let op = if backward { ops::rotary::backward::<T> } else { ops::rotary::forward::<T> };
        run(py, qkv.count(), || {
            let qkv = qkv.slice_mut::<T>()?;
            each_table::<T>(&cos, &sin, batch, time, |i, sequences, table| {
                let size = sequences * time * row;
                op(&mut qkv[i * size..][..size], row, heads, sequences, time, table, 0)
            })
        })
    })
}

/// y = x (B, T, A, d) rotated; cos, sin as in `rotary`.
#[pyfunction]
pub(super) fn rotary_into(
    py: Python<'_>,
    y: &Any<'_>,
    x: &Any<'_>,
    cos: &Any<'_>,
    sin: &Any<'_>,
    backward: bool,
) -> PyResult<()> {
    let read = |name, value| Tensor::read("rotary", name, value);
    let (mut y, x, cos, sin) = (read("y", y)?, read("input", x)?, read("cos", cos)?, read("sin", sin)?);
    checked(x.expect_rank(4))?;
    checked(apart(&[&y], &[Some(&x), Some(&cos), Some(&sin)]))?;
    let (batch, time, count, dim) = (x.dim(0), x.dim(1), x.dim(2), x.dim(3));
    let heads = Heads { offset: 0, stride: dim, count, dim };
    typed!(x, T => {
        run(py, x.count(), || {
            let (y, x) = (y.slice_mut::<T>()?, x.slice::<T>()?);
            if y.len() != x.len() {
                return Err(Error::Shape { op: "rotary", arg: "y", want: vec![x.len()], got: vec![y.len()] });
            }
            each_table::<T>(&cos, &sin, batch, time, |i, sequences, table| {
                let size = sequences * time * count * dim;
                let part = i * size..(i + 1) * size;
                ops::rotary::into(&mut y[part.clone()], &x[part], heads, sequences, time, table, backward)
            })
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
