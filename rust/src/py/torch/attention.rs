//! `rotary` and `attention` on heads that stand anywhere: (B, T, A, d), or (B, A, T, d) with `heads_first`.

use pyo3::prelude::*;

use super::tensor::{Any, Tensor, apart, typed};
use super::{checked, product_work, run};
use crate::dtype::Element;
use crate::error::{Error, Result as CoreResult};
use crate::ops;
use crate::ops::attention::{Document, Grid, Mask, Operand, Place};
use crate::ops::rotary::{Pairing, Table};
use crate::tensor::View;

/// cos and sin (1 or B, T, ndims), as HF makes them: a table for each sequence, or one for all.
struct Angles<'a> {
    cos: Tensor<'a>,
    sin: Tensor<'a>,
}

impl<'a> Angles<'a> {
    fn read(op: &'static str, cos: Option<&'a Any<'_>>, sin: Option<&'a Any<'_>>) -> PyResult<Option<Self>> {
        let (cos, sin) = (Tensor::optional(op, "cos", cos)?, Tensor::optional(op, "sin", sin)?);
        Ok(cos.zip(sin).map(|(cos, sin)| Self { cos, sin }))
    }

    fn tables<T: Element>(&self, batch: usize, time: usize, pairing: Pairing) -> CoreResult<Vec<Table>> {
        let Self { cos, sin } = self;
        cos.expect_rank(3)?;
        sin.expect_rank(3)?;
        let (count, ndims) = (cos.dim(0), cos.dim(2));
        let dims = [if count == 1 { 1 } else { batch }, time, ndims];
        for (arg, tensor) in [("cos", cos), ("sin", sin)] {
            if tensor.dims() != dims {
                return Err(Error::Shape { op: "rotary", arg, want: dims.to_vec(), got: tensor.dims().to_vec() });
            }
        }
        if batch == 0 || time == 0 {
            return Ok(Vec::new());
        }
        let (cos, sin, size) = (cos.slice::<T>()?, sin.slice::<T>()?, time * ndims);
        let part = |all: &'a [T], i: usize| View::new(&all[i * size..(i + 1) * size], &[time, ndims]);
        (0..count).map(|i| ops::rotary::table(part(cos, i)?, part(sin, i)?, pairing)).collect()
    }
}

fn rotate<T: Element>(y: &Place<T>, x: Operand<T>, tables: &[Table]) -> CoreResult<()> {
    if x.grid().is_empty() { Ok(()) } else { ops::rotary::into(y, x, tables, false) }
}

fn rotate_back<T: Element>(y: &Place<T>, tables: &[Table]) -> CoreResult<()> {
    if y.grid().is_empty() { Ok(()) } else { ops::rotary::heads(y, tables, true) }
}

/// y = x (B, T, A, d) rotated; cos, sin (1 or B, T, ndims) as HF makes them.
#[pyfunction]
pub(super) fn rotary_into(
    py: Python<'_>,
    y: &Any<'_>,
    x: &Any<'_>,
    cos: &Any<'_>,
    sin: &Any<'_>,
    interleaved: bool,
    backward: bool,
) -> PyResult<()> {
    let pairing = if interleaved { Pairing::Neighbours } else { Pairing::Halves };
    let (mut y, x) = (Tensor::strided("rotary", "y", y)?, Tensor::strided("rotary", "input", x)?);
    let angles = Angles { cos: Tensor::read("rotary", "cos", cos)?, sin: Tensor::read("rotary", "sin", sin)? };
    checked(x.expect_rank(4))?;
    checked(apart(&[&y], &[Some(&x), Some(&angles.cos), Some(&angles.sin)]))?;
    typed!(x, T => {
        run(py, x.count(), || {
            let (y, x) = (y.place::<T>(false)?, x.operand::<T>(false)?);
            let tables = angles.tables::<T>(x.grid().batch, x.grid().time, pairing)?;
            if x.grid().is_empty() { Ok(()) } else { ops::rotary::into(&y, x, &tables, backward) }
        })
    })
}

/// −1 is no limit.
fn mask<'a>(left: i64, right: i64, documents: Option<&'a [Document]>) -> Mask<'a> {
    let side = |n: i64| usize::try_from(n).ok();
    Mask { left: side(left), right: side(right), documents }
}

/// Ids (B, T), or cumulative lengths (documents + 1) of one sequence.
fn documents(given: Option<&Tensor>, grid: &Grid) -> CoreResult<Option<Vec<Document>>> {
    let Some(given) = given else { return Ok(None) };
    let Grid { batch, time, .. } = *grid;
    match given.dims() {
        [_] if batch == 1 => ops::attention::documents_of_lengths(given.ids()?, time),
        [b, t] if (*b, *t) == (batch, time) => ops::attention::documents_of_ids(given.ids()?, batch, time),
        got => {
            let want = vec![batch, time];
            Err(Error::Shape { op: "attention", arg: "documents", want, got: got.to_vec() })
        }
    }
    .map(Some)
}

/// What one product of all queries with all keys is worth.
fn work(queries: &Tensor) -> usize {
    let time = queries.dim(1).min(queries.dim(2)).max(queries.count() / queries.dim(3).max(1));
    product_work(queries.count(), Some(&time))
}

/// Queries, keys and values where the products read them. Without key and value: [q | k | v] of each head. Without key:
/// queries, then keys, one head after another.
struct Inputs<'a> {
    q: Tensor<'a>,
    k: Option<Tensor<'a>>,
    v: Option<Tensor<'a>>,
    heads_first: bool,
}

impl<'a> Inputs<'a> {
    fn read(
        op: &'static str,
        q: &'a Any<'_>,
        k: Option<&'a Any<'_>>,
        v: Option<&'a Any<'_>>,
        heads_first: bool,
    ) -> PyResult<Self> {
        let (q, k) = (Tensor::strided(op, "query", q)?, optional(op, "key", k)?);
        let v = optional(op, "value", v)?;
        checked(q.expect_rank(4))?;
        Ok(Self { q, k, v, heads_first })
    }

    fn all(&self) -> [Option<&Tensor<'a>>; 3] {
        [Some(&self.q), self.k.as_ref(), self.v.as_ref()]
    }

    fn operands<T: Element>(&self) -> CoreResult<[Operand<'a, T>; 3]> {
        let (q, heads_first) = (self.q.operand::<T>(self.heads_first)?, self.heads_first);
        let Some(v) = &self.v else {
            expect_thirds(q.grid())?;
            return Ok(q.thirds());
        };
        let v = v.operand(heads_first)?;
        let Some(k) = &self.k else {
            let [q, k] = q.parted(q.grid().count.saturating_sub(v.grid().count));
            return Ok([q, k, v]);
        };
        Ok([q, k.operand(heads_first)?, v])
    }
}

fn optional<'a>(op: &'static str, name: &'static str, value: Option<&'a Any<'_>>) -> PyResult<Option<Tensor<'a>>> {
    value.map(|value| Tensor::strided(op, name, value)).transpose()
}

fn expect_thirds(grid: &Grid) -> CoreResult<()> {
    if grid.dim.is_multiple_of(3) {
        return Ok(());
    }
    let what = "must have a last dimension that q, k and v share in equal parts";
    Err(Error::UnsupportedInput(format!("attention: `query` without `key` and `value` {what}, got {}", grid.dim)))
}

/// Writes to `to` what the products read, and says where it stands there.
fn rotated<'a, T: Element>(
    to: &mut Tensor<'a>,
    [q, k, v]: [Operand<'a, T>; 3],
    fused: bool,
    angles: &Angles,
) -> CoreResult<[Operand<'a, T>; 3]> {
    let Grid { batch, time, .. } = *q.grid();
    let tables = angles.tables::<T>(batch, time, Pairing::Halves)?;
    if fused {
        expect_thirds(&to.grid(false)?)?;
        let [yq, yk, yv] = to.place::<T>(false)?.thirds();
        rotate(&yq, q, &tables)?;
        rotate(&yk, k, &tables)?;
        // No angle: a copy.
        rotate(&yv, v, &[Table::new(time, 0, 1.0)])?;
        return Ok(to.operand(false)?.thirds());
    }
    let [yq, yk] = to.place::<T>(false)?.parted(q.grid().count);
    rotate(&yq, q, &tables)?;
    rotate(&yk, k, &tables)?;
    let [q, k] = to.operand(false)?.parted(q.grid().count);
    Ok([q, k, v])
}

/// out (B, T, A, d), lse (B·A·T) if there are to be gradients. With cos and sin, what the products read goes to `turned`: queries, then keys
/// (B, T, A + G, d), or [q | k | v] of each head (B, T, A, 3d).
#[pyfunction]
#[pyo3(signature = (out, lse, turned, q, k, v, cos, sin, document, scale, left, right, heads_first))]
pub(super) fn attention_forward(
    py: Python<'_>,
    out: &Any<'_>,
    lse: Option<&Any<'_>>,
    turned: Option<&Any<'_>>,
    q: &Any<'_>,
    k: Option<&Any<'_>>,
    v: Option<&Any<'_>>,
    cos: Option<&Any<'_>>,
    sin: Option<&Any<'_>>,
    document: Option<&Any<'_>>,
    scale: f64,
    left: i64,
    right: i64,
    heads_first: bool,
) -> PyResult<()> {
    let op = "attention";
    let (mut out, mut lse) = (Tensor::strided(op, "out", out)?, Tensor::optional(op, "lse", lse)?);
    let (mut turned, inputs) = (optional(op, "turned", turned)?, Inputs::read(op, q, k, v, heads_first)?);
    let (angles, document) = (Angles::read(op, cos, sin)?, Tensor::optional(op, "documents", document)?);
    let written: Vec<_> = [Some(&out), lse.as_ref(), turned.as_ref()].into_iter().flatten().collect();
    checked(apart(&written, &inputs.all()))?;
    typed!(inputs.q, T => {
        run(py, work(&inputs.q), || {
            let mut qkv = inputs.operands::<T>()?;
            let documents = documents(document.as_ref(), qkv[0].grid())?;
            if let Some((angles, turned)) = angles.as_ref().zip(turned.as_mut()) {
                qkv = rotated(turned, qkv, inputs.v.is_none(), angles)?;
            }
            let ([q, k, v], out) = (qkv, out.place(heads_first)?);
            let mask = mask(left, right, documents.as_deref());
            let Some(lse) = &mut lse else {
                let mut unwanted = vec![0.0; q.grid().batch * q.grid().count * q.grid().time];
                return ops::attention::forward_apart(&out, &mut unwanted, q, k, v, scale as f32, mask);
            };
            ops::attention::forward_apart(&out, lse.slice_mut()?, q, k, v, scale as f32, mask)
        })
    })
}

/// Overwrites dq, dk, dv; dq alone is [dq | dk | dv] of each head. q, k and v as the products read them.
#[pyfunction]
#[pyo3(signature = (dq, dk, dv, dout, out, lse, q, k, v, cos, sin, document, scale, left, right, heads_first))]
pub(super) fn attention_backward(
    py: Python<'_>,
    dq: &Any<'_>,
    dk: Option<&Any<'_>>,
    dv: Option<&Any<'_>>,
    dout: &Any<'_>,
    out: &Any<'_>,
    lse: &Any<'_>,
    q: &Any<'_>,
    k: Option<&Any<'_>>,
    v: Option<&Any<'_>>,
    cos: Option<&Any<'_>>,
    sin: Option<&Any<'_>>,
    document: Option<&Any<'_>>,
    scale: f64,
    left: i64,
    right: i64,
    heads_first: bool,
) -> PyResult<()> {
    let op = "attention.backward";
    let strided = |name, value| Tensor::strided(op, name, value);
    let (mut dq, dk, dv) = (strided("dq", dq)?, optional(op, "dk", dk)?, optional(op, "dv", dv)?);
    let (dout, out, lse) = (strided("dout", dout)?, strided("out", out)?, Tensor::read(op, "lse", lse)?);
    let inputs = Inputs::read(op, q, k, v, heads_first)?;
    let (angles, document) = (Angles::read(op, cos, sin)?, Tensor::optional(op, "documents", document)?);
    let [q, k, v] = inputs.all();
    let read = [Some(&dout), Some(&out), Some(&lse), q, k, v];
    let mut rest = dk.zip(dv);
    match &rest {
        None => checked(apart(&[&dq], &read))?,
        Some((dk, dv)) => checked(apart(&[&dq, dk, dv], &read))?,
    }
    typed!(inputs.q, T => {
        run(py, work(&inputs.q), || {
            let [q, k, v] = inputs.operands::<T>()?;
            let documents = documents(document.as_ref(), q.grid())?;
            let dq = dq.place(heads_first)?;
            let places = match &mut rest {
                None => dq.thirds(),
                Some((dk, dv)) => [dq, dk.place(heads_first)?, dv.place(heads_first)?],
            };
            let (dout, out) = (dout.operand(heads_first)?, out.operand(heads_first)?);
            let mask = mask(left, right, documents.as_deref());
            ops::attention::backward_apart(&places, dout, out, lse.slice()?, q, k, v, scale as f32, mask)?;
            let Some(angles) = &angles else { return Ok(()) };
            let tables = angles.tables::<T>(q.grid().batch, q.grid().time, Pairing::Halves)?;
            rotate_back(&places[0], &tables)?;
            rotate_back(&places[1], &tables)
        })
    })
}
