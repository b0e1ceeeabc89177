//! y = a + b.

use rayon::prelude::*;

use super::activation::map2;
use super::isa::{dispatch, isa};
use super::parallel::share;
use crate::dtype::Element;

pub mod reference {
    pub fn forward(a: &[f64], b: &[f64]) -> Vec<f64> {
        a.iter().zip(b).map(|(a, b)| a + b).collect()
    }
}

const BLOCK: usize = 1 << 14;

pub fn forward<T: Element>(y: &mut [T], a: &[T], b: &[T]) {
    let isa = isa();
    share(y.par_chunks_mut(BLOCK).zip(a.par_chunks(BLOCK)).zip(b.par_chunks(BLOCK)), |((y, a), b)| {
        dispatch!(isa, _s => map2(y, a, b, |a, b| a + b));
    });
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, each_dtype, place, sample};
    use super::*;

    fn follows_the_reference<T: Element>() {
        let n = BLOCK + 5;
        let ((a, exact_a), (b, exact_b)) = (sample::<T>(1, n), sample::<T>(2, n));
        let mut y = place::<T>(n);
        forward(&mut y, &a, &b);
        assert_close("y", &y, &reference::forward(&exact_a, &exact_b), 1.0);
    }

    #[test]
    fn fast_equals_reference() {
        each_dtype!(follows_the_reference);
    }
}
