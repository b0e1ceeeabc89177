//! Σ g² in f64, in an order that the length alone decides.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::isa::{dispatch, isa};
use super::parallel::share;
use super::scratch::with_scratch;
use crate::dtype::Element;

pub mod reference {
    pub fn sum_of_squares(g: &[f64]) -> f64 {
        g.iter().map(|g| g * g).sum()
    }
}

const BLOCK: usize = 1 << 16;

/// Non-finite when any element is.
pub fn sum_of_squares<T: Element>(g: &[T]) -> f64 {
    let isa = isa();
    with_scratch(2 * g.len().div_ceil(BLOCK), |partial| {
        let partial: &mut [f64] = bytemuck::cast_slice_mut(partial);
        share(partial.par_iter_mut().zip(g.par_chunks(BLOCK)), |(sum, g)| *sum = dispatch!(isa, _s => block(g)));
        partial.iter().sum()
    })
}

#[inline(always)]
fn block<T: Element>(g: &[T]) -> f64 {
    let mut lanes = [0.0f64; 16];
    let (chunks, rest) = g.as_chunks::<16>();
    for chunk in chunks {
        for l in 0..16 {
            let g = f64::from(chunk[l].to_f32());
            lanes[l] += g * g;
        }
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, g)| *lane += f64::from(g.to_f32()).powi(2));
    lanes.iter().sum()
}

/// The place of the first NaN or infinity.
pub fn first_non_finite(g: &[f32]) -> Option<usize> {
    let first = AtomicUsize::new(usize::MAX);
    share(g.par_chunks(BLOCK).enumerate(), |(b, g)| {
        if let Some(place) = g.iter().position(|v| !v.is_finite()) {
            first.fetch_min(b * BLOCK + place, Ordering::Relaxed);
        }
    });
    Some(first.into_inner()).filter(|place| *place < g.len())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{each_dtype, sample};
    use super::*;

    fn follows_the_reference<T: Element>() {
        for n in [0, 1, 5, 129, 2 * BLOCK + 3] {
            let (g, exact) = sample::<T>(1, n);
            let want = reference::sum_of_squares(&exact);
            assert!((sum_of_squares(&g) - want).abs() <= 1e-13 * want, "{n}");
        }
    }

    #[test]
    fn fast_equals_reference() {
        each_dtype!(follows_the_reference);
    }

    #[test]
    fn non_finite_is_found() {
        let mut g = vec![1.0f32; BLOCK + 3];
        assert_eq!(first_non_finite(&g), None);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            g[BLOCK + 1] = bad;
            assert_eq!(first_non_finite(&g), Some(BLOCK + 1));
            assert!(!sum_of_squares(&g).is_finite());
        }
    }
}
