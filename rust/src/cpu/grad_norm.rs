//! Σ g² in f64, in an order that the length alone decides.

use rayon::prelude::*;

use super::isa::simd;
use super::parallel::install;

const BLOCK: usize = 1 << 15;

/// Non-finite when any element is.
pub fn sum_of_squares(g: &[f32]) -> f64 {
    let partial: Vec<f64> = install(|| g.par_chunks(BLOCK).map(block).collect());
    partial.iter().sum()
}

simd! {
fn block(g: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 8];
    let chunks = g.chunks_exact(8);
    let rest = chunks.remainder();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, v)| *lane += f64::from(*v) * f64::from(*v));
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, v)| *lane += f64::from(*v) * f64::from(*v));
    lanes.iter().sum()
}
}

/// The place of the first NaN or infinity.
pub fn first_non_finite(g: &[f32]) -> Option<usize> {
    g.iter().position(|v| !v.is_finite())
}
