//! Rotary position embedding, half rotation of the first `ndims` of each head, in place.

use rayon::prelude::*;

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
                for i in 0..half {
                    let (u, v) = (first[i].to_f32(), second[i].to_f32());
                    let (c, s) = (T::from_f32(cos[i]).to_f32(), T::from_f32(sin[i]).to_f32() * sign);
                    first[i] = T::from_f32(u * c - v * s);
                    second[i] = T::from_f32(v * c + u * s);
                }
            }
        });
    });
}
