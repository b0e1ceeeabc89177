//! Rotary position embedding of the first `ndims` of each head, in place.

use rayon::prelude::*;

use super::heads::{Heads, Operand, Place};
use super::isa::{Isa, Simd, dispatch, isa};
use super::parallel::share;
use crate::dtype::Element;

pub mod reference {
    use super::Pairing;

    /// The head u (d) of the token at `position`, its first `ndims` rotated; `sign` is −1 for the gradient.
    pub fn rotate(u: &[f64], ndims: usize, pairing: Pairing, position: usize, base: f64, sign: f64) -> Vec<f64> {
        let half = ndims / 2;
        let mut y = u.to_vec();
        for j in 0..half {
            let angle = sign * position as f64 * base.powf(-2.0 * j as f64 / ndims as f64);
            let (a, b) = match pairing {
                Pairing::Halves => (j, half + j),
                Pairing::Neighbours => (2 * j, 2 * j + 1),
            };
            y[a] = u[a] * angle.cos() - u[b] * angle.sin();
            y[b] = u[b] * angle.cos() + u[a] * angle.sin();
        }
        y
    }
}

/// Which two of the `ndims` elements turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// j and ndims/2 + j, as in GPT-NeoX and in HF's Llama.
    Halves,
    /// 2j and 2j + 1, "interleaved", as in the paper, GPT-J and Meta's Llama.
    Neighbours,
}

/// cos and sin of position · base^(−2j/ndims), (T, ndims/2), each computed in f32 as HF does.
#[derive(Debug, Clone)]
pub struct Table {
    pairing: Pairing,
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
        Self { pairing: Pairing::Halves, half, cos: values(f32::cos), sin: values(f32::sin) }
    }

    /// Of given cosines and sines, (T, ndims/2).
    ///
    /// # Panics
    /// When their lengths are not a whole number of rows: a mistake of the caller, `ops` refuses it.
    pub fn from_parts(cos: Vec<f32>, sin: Vec<f32>, half: usize, pairing: Pairing) -> Self {
        assert!(
            cos.len() == sin.len() && half > 0 && cos.len().is_multiple_of(half),
            "whole rows of cosines and sines"
        );
        Self { pairing, half, cos, sin }
    }

    /// The same angles for pairs of another kind.
    #[must_use]
    pub fn with_pairing(self, pairing: Pairing) -> Self {
        Self { pairing, ..self }
    }

    pub fn pairing(&self) -> Pairing {
        self.pairing
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
    let (isa, half, pairing) = (isa(), table.half(), table.pairing);
    share(qkv.par_chunks_mut(row).enumerate().with_min_len(16), |(n, token)| {
        let (cos, sin) = table.at(start + n % time);
        for a in 0..heads.count {
            let head = &mut token[heads.offset + a * heads.stride..][..2 * half];
            dispatch!(isa, s => turn(s, head, pairing, cos, sin, sign));
        }
    });
}

/// The same from x to y, whose other elements are copied; a table for each sequence, or one for all.
///
/// # Panics
/// When x and y differ in shape: a mistake of the caller, `ops` refuses it.
pub fn rotate_into<T: Element>(y: &Place<T>, x: Operand<T>, tables: &[Table], sign: f32) {
    each_token(y, tables, |isa, y, b, t, a, (pairing, cos, sin)| {
        let (x, both) = (x.row(b, t, a), 2 * cos.len());
        dispatch!(isa, s => turn_into(s, &mut y[..both], &x[..both], pairing, cos, sin, sign));
        y[both..].copy_from_slice(&x[both..]);
    });
}

/// The same in place.
pub fn rotate_heads<T: Element>(y: &Place<T>, tables: &[Table], sign: f32) {
    each_token(y, tables, |isa, y, _, _, _, (pairing, cos, sin)| {
        dispatch!(isa, s => turn(s, &mut y[..2 * cos.len()], pairing, cos, sin, sign));
    });
}

/// Calls `work(isa, head, sequence, token, head's number, (pairing, cos, sin))` for each head.
fn each_token<T: Element>(
    y: &Place<T>,
    tables: &[Table],
    work: impl Fn(Isa, &mut [T], usize, usize, usize, (Pairing, &[f32], &[f32])) + Sync,
) {
    let (isa, grid) = (isa(), *y.grid());
    share((0..grid.batch * grid.time).into_par_iter().with_min_len(16), |n| {
        let (b, t) = (n / grid.time, n % grid.time);
        let table = &tables[if tables.len() == 1 { 0 } else { b }];
        let (cos, sin) = table.at(t);
        for a in 0..grid.count {
            // SAFETY: no other task has this token, and the piece ends with this call.
            work(isa, unsafe { y.row(b, t, a) }, b, t, a, (table.pairing, cos, sin));
        }
    });
}

/// One pair. The cosine and the sine are rounded to T first, as HF does.
#[inline(always)]
fn pair<S: Simd, T: Element>(s: S, u: T, v: T, cos: f32, sin: f32, sign: f32) -> (T, T) {
    let (c, n) = (T::from_f32(cos).to_f32(), T::from_f32(sin).to_f32() * sign);
    let (a, b) = (u.to_f32(), v.to_f32());
    (T::from_f32(s.fma(a, c, -(b * n))), T::from_f32(s.fma(b, c, a * n)))
}

#[inline(always)]
fn turn<S: Simd, T: Element>(s: S, head: &mut [T], pairing: Pairing, cos: &[f32], sin: &[f32], sign: f32) {
    match pairing {
        Pairing::Halves => {
            let (first, second) = head.split_at_mut(cos.len());
            for (((u, v), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                (*u, *v) = pair(s, *u, *v, *cos, *sin, sign);
            }
        }
        Pairing::Neighbours => {
            for (([u, v], cos), sin) in head.as_chunks_mut().0.iter_mut().zip(cos).zip(sin) {
                (*u, *v) = pair(s, *u, *v, *cos, *sin, sign);
            }
        }
    }
}

#[inline(always)]
fn turn_into<S: Simd, T: Element>(s: S, y: &mut [T], x: &[T], pairing: Pairing, cos: &[f32], sin: &[f32], sign: f32) {
    if pairing == Pairing::Neighbours {
        let pairs = y.as_chunks_mut().0.iter_mut().zip(x.as_chunks().0);
        for ((([first, second], [u, v]), cos), sin) in pairs.zip(cos).zip(sin) {
            (*first, *second) = pair(s, *u, *v, *cos, *sin, sign);
        }
        return;
    }
    let ((first, second), (u, v)) = (y.split_at_mut(cos.len()), x.split_at(cos.len()));
    for (((((first, second), u), v), cos), sin) in first.iter_mut().zip(second).zip(u).zip(v).zip(cos).zip(sin) {
        (*first, *second) = pair(s, *u, *v, *cos, *sin, sign);
    }
}

#[cfg(test)]
mod tests {
    use super::super::heads::Grid;
    use super::super::testing::{assert_close, check_gradient, dot, each_dtype, place, random, sample};
    use super::*;

    const BASE: f64 = 10_000.0;

    const BOTH: [Pairing; 2] = [Pairing::Halves, Pairing::Neighbours];

    /// Two sequences of 5 tokens from position 3; 2 heads of 8, 4 rotating, in rows of 19.
    fn follows_the_reference<T: Element>() {
        let (heads, row, time) = (Heads { offset: 2, stride: 9, count: 2, dim: 8 }, 19, 5);
        for (pairing, sign) in BOTH.into_iter().flat_map(|pairing| [(pairing, 1.0), (pairing, -1.0)]) {
            let table = Table::new(8, 4, BASE).with_pairing(pairing);
            let (mut qkv, mut exact) = sample::<T>(1, 2 * time * row);
            rotate(&mut qkv, row, heads, time, &table, 3, sign);
            for (n, exact) in exact.chunks_mut(row).enumerate() {
                for head in [2, 11] {
                    let u = exact[head..head + 8].to_vec();
                    let y = reference::rotate(&u, 4, pairing, 3 + n % time, BASE, f64::from(sign));
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

    fn into_equals_in_place<T: Element>() {
        let (d, count, time) = (10, 3, 5);
        let x = sample::<T>(1, 2 * time * count * d).0;
        let grid = Grid::rows(2, time, count, d);
        for (pairing, sign) in BOTH.into_iter().flat_map(|pairing| [(pairing, 1.0), (pairing, -1.0)]) {
            let tables = [Table::new(5, 6, BASE).with_pairing(pairing)];
            let (mut turned, mut y, mut z) = (x.clone(), place::<T>(x.len()), x.clone());
            let heads = Heads { offset: 0, stride: d, count, dim: d };
            rotate(&mut turned, count * d, heads, time, &tables[0], 0, sign);
            let from = Operand::new(&x, grid).expect("fits");
            rotate_into(&Place::new(&mut y, grid).expect("fits"), from, &tables, sign);
            rotate_heads(&Place::new(&mut z, grid).expect("fits"), &tables, sign);
            assert_eq!((&y, &z), (&turned, &turned));
        }
    }

    #[test]
    fn both_ways_are_one() {
        each_dtype!(into_equals_in_place);
    }

    #[test]
    fn the_gradient_turns_back() {
        let (u, dy) = (random(1, 10), random(2, 10));
        for pairing in BOTH {
            let du = reference::rotate(&dy, 6, pairing, 5, BASE, -1.0);
            check_gradient("du", |u| dot(&dy, &reference::rotate(u, 6, pairing, 5, BASE, 1.0)), &u, &du);
        }
    }
}
