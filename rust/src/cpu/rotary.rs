//! Rotary position embedding, half rotation of the first `ndims` of each head, in place.

use rayon::prelude::*;

use super::isa::simd;
use super::parallel::install;
use crate::dtype::Element;
use crate::ops::attention::Heads;
use crate::ops::rotary::Table;

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
    let half = table.half();
    install(|| {
        qkv.par_chunks_mut(row).enumerate().with_min_len(16).for_each(|(n, tokens)| {
            let (cos, sin) = table.at(start + n % time);
            for a in 0..heads.count {
                let head = &mut tokens[heads.offset + a * heads.stride..][..2 * half];
                let (first, second) = head.split_at_mut(half);
                turn(first, second, cos, sin, sign);
            }
        });
    });
}

simd! {
    fn turn<T>(first: &mut [T], second: &mut [T], cos: &[f32], sin: &[f32], sign: f32) {
        for (((first, second), cos), sin) in first.iter_mut().zip(second.iter_mut()).zip(cos).zip(sin) {
            let (u, v) = (first.to_f32(), second.to_f32());
            // HF rounds cos and sin to the dtype before use.
            let (c, s) = (T::from_f32(*cos).to_f32(), T::from_f32(*sin).to_f32() * sign);
            *first = T::from_f32(u * c - v * s);
            *second = T::from_f32(v * c + u * s);
        }
    }
}
