//! Rotary position embedding, half rotation of the first `ndims` of each head, in place.

use rayon::prelude::*;

use super::attention::Heads;
use super::isa::{Simd, dispatch, isa};
use super::parallel::install;
use crate::dtype::Element;

pub mod reference {
    /// The head u (d) of the token at `position`, its first `ndims` rotated; `sign` is −1 for the gradient.
    pub fn rotate(u: &[f64], ndims: usize, position: usize, base: f64, sign: f64) -> Vec<f64> {
        let half = ndims / 2;
        let mut y = u.to_vec();
        for j in 0..half {
            let angle = sign * position as f64 * base.powf(-2.0 * j as f64 / ndims as f64);
            y[j] = u[j] * angle.cos() - u[half + j] * angle.sin();
            y[half + j] = u[half + j] * angle.cos() + u[j] * angle.sin();
        }
        y
    }
}

/// cos and sin of position · base^(−2j/ndims), (T, ndims/2), each computed in f32 as HF does.
#[derive(Debug, Clone)]
pub struct Table {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Table {
    pub fn new(time: usize, ndims: usize, base: f64) -> Self {
        let half = ndims / 2;
        // torch: 1.0 / base ** (arange(0, n, 2, float32) / n)
        let frequency = |j: usize| 1.0 / (base as f32).powf((2 * j) as f32 / ndims as f32);
        let angle = |i: usize| (i / half) as f32 * frequency(i % half);
        let values = |f: fn(f32) -> f32| (0..time * half).map(|i| f(angle(i))).collect();
        Self { half, cos: values(f32::cos), sin: values(f32::sin) }
    }

    /// Of given cosines and sines, (T, ndims/2).
    ///
    /// # Panics
    /// When their lengths are not a whole number of rows: a mistake of the caller, `ops` refuses it.
    pub fn from_parts(cos: Vec<f32>, sin: Vec<f32>, half: usize) -> Self {
        assert!(
            cos.len() == sin.len() && half > 0 && cos.len().is_multiple_of(half),
            "whole rows of cosines and sines"
        );
        Self { half, cos, sin }
    }

    /// Pairs that rotate.
    pub fn half(&self) -> usize {
        self.half
    }

    /// Positions it holds.
    pub fn time(&self) -> usize {
        self.cos.len().checked_div(self.half).unwrap_or(usize::MAX)
    }

    /// (cos, sin) of one position.
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let place = position * self.half..(position + 1) * self.half;
        (&self.cos[place.clone()], &self.sin[place])
    }
}

/// `sign` is 1 forward, −1 backward. qkv has `time` rows of `row` elements for each sequence.
pub fn rotate<T: Element>(
    qkv: &mut [T],
    row: usize,
    heads: Heads,
    time: usize,
    table: &Table,
    start: usize,
    sign: f32,
) {
    let (isa, half) = (isa(), table.half());
    install(|| {
        qkv.par_chunks_mut(row).enumerate().with_min_len(16).for_each(|(n, token)| {
            let (cos, sin) = table.at(start + n % time);
            for a in 0..heads.count {
                let head = &mut token[heads.offset + a * heads.stride..][..2 * half];
                dispatch!(isa, s => turn(s, head, cos, sin, sign));
            }
        });
    });
}

/// The cosines are rounded to T first, as HF does.
#[inline(always)]
fn turn<S: Simd, T: Element>(s: S, head: &mut [T], cos: &[f32], sin: &[f32], sign: f32) {
    let (first, second) = head.split_at_mut(cos.len());
    for (((u, v), c), n) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        let (c, n) = (T::from_f32(*c).to_f32(), T::from_f32(*n).to_f32() * sign);
        let (a, b) = (u.to_f32(), v.to_f32());
        *u = T::from_f32(s.fma(a, c, -(b * n)));
        *v = T::from_f32(s.fma(b, c, a * n));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, check_gradient, dot, each_dtype, random, sample};
    use super::*;

    const BASE: f64 = 10_000.0;

    /// Two sequences of 5 tokens from position 3; 2 heads of 8, 4 rotating, in rows of 19.
    fn follows_the_reference<T: Element>() {
        let (heads, row, time) = (Heads { offset: 2, stride: 9, count: 2, dim: 8 }, 19, 5);
        let table = Table::new(8, 4, BASE);
        for sign in [1.0, -1.0] {
            let (mut qkv, mut exact) = sample::<T>(1, 2 * time * row);
            rotate(&mut qkv, row, heads, time, &table, 3, sign);
            for (n, exact) in exact.chunks_mut(row).enumerate() {
                for head in [2, 11] {
                    let u = exact[head..head + 8].to_vec();
                    let y = reference::rotate(&u, 4, 3 + n % time, BASE, f64::from(sign));
                    exact[head..head + 8].copy_from_slice(&y);
                }
            }
            // cos and sin are rounded to T before use, as HF does: two roundings to T more.
            let extra = match T::DTYPE {
                crate::dtype::DType::F32 => 0.0,
                crate::dtype::DType::F16 => f64::from(1 << 14),
                crate::dtype::DType::BF16 => f64::from(1 << 17),
            };
            assert_close("qkv", &qkv, &exact, 8.0 + extra);
        }
    }

    #[test]
    fn fast_equals_reference() {
        each_dtype!(follows_the_reference);
    }

    #[test]
    fn the_gradient_turns_back() {
        let (u, dy) = (random(1, 10), random(2, 10));
        let du = reference::rotate(&dy, 6, 5, BASE, -1.0);
        check_gradient("du", |u| dot(&dy, &reference::rotate(u, 6, 5, BASE, 1.0)), &u, &du);
    }
}
