//! Attention: one case that sees all arguments, and the smallest for each other kernel. What kernels do with a shape is
//! seen by tests/cuda_on_cpu, where a tile costs the time of a thousand rows of a norm.

use super::{Bench, numbers, rounding};
use crate::cpu::attention::reference;
use crate::dtype::{DType, Element};
use crate::error::Result;
use crate::ops::attention::cuda::{Lengths, Spans, backward, decode, forward};
use crate::ops::attention::{Document, Heads, Mask, Qkv};
use crate::ops::selftest::{add_head, head};

#[derive(Clone, Copy)]
struct Case {
    /// Width of a head.
    d: usize,
    batch: usize,
    time: usize,
    /// Query heads, and key heads.
    heads: [usize; 2],
    window: [Option<usize>; 2],
    /// Whether documents hide each other.
    apart: bool,
}

/// One tile of queries and of keys.
const fn least(d: usize) -> Case {
    Case { d, batch: 1, time: 5, heads: [1, 1], window: [None, Some(0)], apart: false }
}

/// Two tiles of queries, and windows that end within one.
const TILES: Case = Case { time: 67, window: [Some(50), Some(1)], ..least(64) };
/// Several sequences, heads and documents.
const GROUPS: Case = Case { d: 72, batch: 2, time: 9, heads: [4, 2], window: [Some(3), Some(1)], apart: true };

/// Query, key and value heads of a row; something stands between all of them.
fn projection(d: usize, [heads, kv_heads]: [usize; 2]) -> ([Heads; 3], usize) {
    let stride = d + 8;
    let at = |first, count| Heads { offset: 8 + first * stride, stride, count, dim: d };
    let all = heads + 2 * kv_heads;
    ([at(0, heads), at(heads, kv_heads), at(heads + kv_heads, kv_heads)], 8 + all * stride)
}

/// In each sequence one of 5 tokens, and one of the rest.
fn documents(batch: usize, time: usize) -> Vec<Document> {
    (0..batch * time).map(|n| if n % time < 5 { (0, 5) } else { (5, time) }).collect()
}

impl Bench<'_> {
    pub(super) fn attention<T: Element>(&mut self) -> Result<()> {
        // What the host asks does not depend on the dtype.
        if T::DTYPE == DType::F32 {
            self.passes::<T>(TILES)?;
            self.passes::<T>(GROUPS)?;
            self.decode::<T>(64, [4, 2], &[261, 5], Some(258))?;
        } else {
            self.passes::<T>(least(64))?;
            self.passes::<T>(least(72))?;
            self.decode::<T>(64, [1, 1], &[5], None)?;
        }
        [96, 120, 136].into_iter().try_for_each(|d| self.passes::<T>(least(d)))?;
        [80, 96, 128, 256].into_iter().try_for_each(|d| self.decode::<T>(d, [1, 1], &[5], None))
    }

    fn passes<T: Element>(&mut self, case: Case) -> Result<()> {
        let Case { d, batch, time, heads: [heads, kv_heads], window: [left, right], apart } = case;
        let (on, ([q, k, v], row), scale) = (self.on, projection(d, case.heads), (d as f32).powf(-0.5));
        let (tokens, width, group) = (batch * time, heads * d, heads / kv_heads);
        let ((qkv, exact_qkv), (dout, exact_dout)) = (numbers::<T>(1, tokens * row), numbers::<T>(2, tokens * width));
        let (all, dims) = (documents(batch, time), [batch, time, width]);
        let mask = Mask { left, right, documents: apart.then_some(&all) };
        let s = Qkv { q, k, v, row, batch, time, scale, mask };
        let spans = if apart { Some(Spans::new(on, &all, batch, time)?) } else { None };
        let (uqkv, udout, lses) = (on.upload(&qkv)?, on.upload(&dout)?, q.count * tokens);
        let (mut out, mut lse) = (self.place::<T>(tokens * width)?, self.place::<f32>(lses)?);
        let mut dqkv = on.upload(&qkv)?;
        let (vqkv, vdout) = (uqkv.view(&[tokens, row])?, udout.view(&dims)?);
        forward(on, out.view_mut(&dims)?, lse.view_mut(&[lses])?, vqkv, &s, None)?;
        let (vout, vlse) = (out.view(&dims)?, lse.view(&[lses])?);
        backward(on, dqkv.view_mut(&[tokens, row])?, vdout, vout, vlse, vqkv, &s, spans.as_ref())?;
        // What stands between heads is to stay.
        let (mut exact, mut exact_d) = (vec![0.0; tokens * width], exact_qkv.clone());
        for row in exact_d.chunks_mut(row) {
            for heads in [q, k, v] {
                (0..heads.count).for_each(|a| row[heads.offset + a * heads.stride..][..d].fill(0.0));
            }
        }
        for b in 0..batch {
            let sees = |t: usize, s: usize| {
                let near = left.is_none_or(|left| s + left >= t) && right.is_none_or(|right| s <= t + right);
                near && (!apart || all[b * time + t] == all[b * time + s])
            };
            let (wide, narrow) = (b * time * row..(b + 1) * time * row, b * time * width..(b + 1) * time * width);
            let (qkv, dout) = (&exact_qkv[wide.clone()], &exact_dout[narrow.clone()]);
            for a in 0..heads {
                let at = |heads: Heads, a: usize| heads.offset + a * heads.stride;
                let places = [at(q, a), at(k, a / group), at(v, a / group)];
                let [hq, hk, hv] = places.map(|place| head(qkv, row, place, d));
                let (hdout, scale) = (head(dout, width, a * d, d), f64::from(scale));
                let y = reference::forward(&hq, &hk, &hv, d, scale, sees);
                add_head(&mut exact[narrow.clone()], &y, width, a * d, d);
                let (dq, dk, dv) = reference::backward(&hdout, &hq, &hk, &hv, d, scale, sees);
                for (gradient, place) in [dq, dk, dv].iter().zip(places) {
                    add_head(&mut exact_d[wide.clone()], gradient, row, place, d);
                }
            }
        }
        self.check("attention.out", &out, &exact, 2e-6 + rounding::<T>())?;
        self.check("attention.dqkv", &dqkv, &exact_d, 2e-6 + rounding::<T>())
    }

    fn decode<T: Element>(
        &mut self,
        d: usize,
        [heads, kv_heads]: [usize; 2],
        lengths: &[usize],
        left: Option<usize>,
    ) -> Result<()> {
        let (on, ([q, ..], row), scale) = (self.on, projection(d, [heads, kv_heads]), (d as f32).powf(-0.5));
        let (batch, capacity, kv, group) = (lengths.len(), lengths[0] + 2, kv_heads * d, heads / kv_heads);
        let (queries, exact_q) = numbers::<T>(1, batch * row);
        let ((keys, exact_k), (values, exact_v)) =
            (numbers::<T>(2, batch * capacity * kv), numbers::<T>(3, batch * capacity * kv));
        let (uq, uk, uv) = (on.upload(&queries)?, on.upload(&keys)?, on.upload(&values)?);
        let (mut out, width) = (self.place::<T>(batch * heads * d)?, heads * d);
        let (cache, cached) = ([batch, capacity, kv], Lengths::new(on, lengths)?);
        let (vq, vk, vv) = (uq.view(&[batch, row])?, uk.view(&cache)?, uv.view(&cache)?);
        decode(on, out.view_mut(&[batch, width])?, vq, q, vk, vv, &cached, left, scale)?;
        let mut exact = Vec::new();
        for (b, &length) in lengths.iter().enumerate() {
            for a in 0..heads {
                let query = &exact_q[b * row + q.offset + a * q.stride..][..d];
                let of = |all: &[f64]| head(&all[b * capacity * kv..][..length * kv], kv, a / group * d, d);
                // One row of the reference's, as if it stood at the end.
                let sees = |_: usize, s: usize| left.is_none_or(|left| s + left >= length - 1);
                let y =
                    reference::forward(&query.repeat(length), &of(&exact_k), &of(&exact_v), d, f64::from(scale), sees);
                exact.extend_from_slice(&y[..d]);
            }
        }
        self.check("attention.decode", &out, &exact, 2e-6)
    }
}
