//! Attention: each width that there are kernels for, two sequences of a fused projection, two query heads on a key head.

use super::{Bench, numbers, rounding};
use crate::cpu::attention::reference;
use crate::dtype::Element;
use crate::error::Result;
use crate::ops::attention::cuda::{Lengths, Spans, backward, decode, forward};
use crate::ops::attention::{Document, Heads, Mask, Qkv};
use crate::ops::selftest::{add_head, head};

/// Width of a head, tokens, the window, and whether documents hide each other. The first has several tiles.
type Case = (usize, usize, [Option<usize>; 2], bool);
const CASES: [Case; 5] = [
    (64, 133, [Some(50), Some(0)], true),
    (72, 21, [None, Some(0)], false),
    (96, 21, [Some(7), Some(3)], false),
    (120, 21, [Some(4), None], true),
    (136, 35, [None, Some(0)], false),
];
const BATCH: usize = 2;

/// Three query heads a key head; something stands between all heads.
fn projection(d: usize) -> ([Heads; 3], usize) {
    let heads = |first, count| Heads { offset: 8 + first * (d + 8), stride: d + 8, count, dim: d };
    ([heads(0, 6), heads(6, 2), heads(8, 2)], 8 + 10 * (d + 8))
}

/// In each sequence one of 5 tokens, and one of the rest.
fn documents(time: usize) -> Vec<Document> {
    (0..BATCH * time).map(|n| if n % time < 5 { (0, 5) } else { (5, time) }).collect()
}

impl Bench<'_> {
    pub(super) fn attention<T: Element>(&mut self) -> Result<()> {
        for case in CASES {
            self.passes::<T>(case)?;
        }
        for (d, lengths, left) in [
            (64, [261, 5], Some(258)),
            (80, [9, 5], None),
            (96, [9, 5], None),
            (128, [9, 5], None),
            (256, [9, 5], None),
        ] {
            self.decode::<T>(d, lengths, left)?;
        }
        Ok(())
    }

    fn passes<T: Element>(&mut self, (d, time, [left, right], apart): Case) -> Result<()> {
        let (on, ([q, k, v], row), scale) = (self.on, projection(d), (d as f32).powf(-0.5));
        let (tokens, width) = (BATCH * time, q.count * d);
        let ((qkv, exact_qkv), (dout, exact_dout)) = (numbers::<T>(1, tokens * row), numbers::<T>(2, tokens * width));
        let (all, dims) = (documents(time), [BATCH, time, width]);
        let mask = Mask { left, right, documents: apart.then_some(&all) };
        let s = Qkv { q, k, v, row, batch: BATCH, time, scale, mask };
        let spans = if apart { Some(Spans::new(on, &all, BATCH, time)?) } else { None };
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
        for b in 0..BATCH {
            let sees = |t: usize, s: usize| {
                let near = left.is_none_or(|left| s + left >= t) && right.is_none_or(|right| s <= t + right);
                near && (!apart || all[b * time + t] == all[b * time + s])
            };
            let (wide, narrow) = (b * time * row..(b + 1) * time * row, b * time * width..(b + 1) * time * width);
            let (qkv, dout) = (&exact_qkv[wide.clone()], &exact_dout[narrow.clone()]);
            for a in 0..q.count {
                let at = |heads: Heads, a: usize| heads.offset + a * heads.stride;
                let places = [at(q, a), at(k, a / 3), at(v, a / 3)];
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

    fn decode<T: Element>(&mut self, d: usize, lengths: [usize; BATCH], left: Option<usize>) -> Result<()> {
        let (on, ([heads, ..], row), capacity, scale) = (self.on, projection(d), lengths[0] + 2, (d as f32).powf(-0.5));
        let ((queries, exact_q), kv) = (numbers::<T>(1, BATCH * row), 2 * d);
        let ((keys, exact_k), (values, exact_v)) =
            (numbers::<T>(2, BATCH * capacity * kv), numbers::<T>(3, BATCH * capacity * kv));
        let (uq, uk, uv) = (on.upload(&queries)?, on.upload(&keys)?, on.upload(&values)?);
        let (mut out, width) = (self.place::<T>(BATCH * heads.count * d)?, heads.count * d);
        let (cache, cached) = ([BATCH, capacity, kv], Lengths::new(on, &lengths)?);
        let (vq, vk, vv) = (uq.view(&[BATCH, row])?, uk.view(&cache)?, uv.view(&cache)?);
        decode(on, out.view_mut(&[BATCH, width])?, vq, heads, vk, vv, &cached, left, scale)?;
        let mut exact = Vec::new();
        for (b, length) in lengths.into_iter().enumerate() {
            for a in 0..heads.count {
                let query = &exact_q[b * row + heads.offset + a * heads.stride..][..d];
                let of = |all: &[f64]| head(&all[b * capacity * kv..][..length * kv], kv, a / 3 * d, d);
                // One row of the reference's, as if it stood at the end.
                let sees = |_: usize, s: usize| left.is_none_or(|left| s + left >= length - 1);
                let queries = query.repeat(length);
                let y = reference::forward(&queries, &of(&exact_k), &of(&exact_v), d, f64::from(scale), sees);
                exact.extend_from_slice(&y[..d]);
            }
        }
        self.check("attention.decode", &out, &exact, 2e-6)
    }
}
