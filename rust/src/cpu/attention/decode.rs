//! One query token against cached keys and values.

use rayon::prelude::*;

use super::super::cast::narrow;
use super::super::isa::{Simd, dispatch, isa};
use super::super::math::{dot, exp_nonpositive, max, sum};
use super::super::parallel::share;
use super::super::scratch::with_scratch;
use crate::dtype::Element;

/// One query token (A, d) against `length` cached keys and values (length, Kv, d); out (A, d).
pub fn decode<T: Element>(
    out: &mut [T],
    q: &[T],
    keys: &[T],
    values: &[T],
    heads: usize,
    kv: usize,
    d: usize,
    length: usize,
    scale: f32,
) {
    let (isa, group) = (isa(), heads / kv);
    share(out.par_chunks_mut(d).zip(q.par_chunks(d)).enumerate(), |(a, (out, q))| {
        let rows = |cache| Rows { data: cache, from: a / group * d, stride: kv * d, d };
        with_scratch(length + d, |scratch| {
            let (p, sums) = scratch.split_at_mut(length);
            dispatch!(isa, s => {
                head(s, sums, p, q, rows(keys), rows(values), scale);
                narrow(out, sums);
            });
        });
    });
}

/// One head of a cache.
struct Rows<'a, T> {
    data: &'a [T],
    from: usize,
    stride: usize,
    d: usize,
}

impl<'a, T> Rows<'a, T> {
    fn iter(&self) -> impl Iterator<Item = &'a [T]> {
        self.data.chunks_exact(self.stride).map(|row| &row[self.from..][..self.d])
    }
}

#[inline(always)]
fn head<S: Simd, T: Element>(
    s: S,
    sums: &mut [f32],
    p: &mut [f32],
    q: &[T],
    keys: Rows<T>,
    values: Rows<T>,
    scale: f32,
) {
    p.iter_mut().zip(keys.iter()).for_each(|(p, key)| *p = dot(s, q, key) * scale);
    let top = max(p);
    p.iter_mut().for_each(|p| *p = exp_nonpositive(s, *p - top));
    let inverse = 1.0 / sum(p, |p| p);
    sums.fill(0.0);
    for (p, value) in p.iter().zip(values.iter()) {
        sums.iter_mut().zip(value).for_each(|(sum, v)| *sum = s.fma(*p, v.to_f32(), *sum));
    }
    sums.iter_mut().for_each(|sum| *sum *= inverse);
}
