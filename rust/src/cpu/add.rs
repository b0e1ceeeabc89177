//! y = a + b.

use rayon::prelude::*;

use super::parallel::install;
use crate::dtype::Element;

const BLOCK: usize = 1 << 14;

pub fn forward<T: Element>(y: &mut [T], a: &[T], b: &[T]) {
    install(|| {
        y.par_chunks_mut(BLOCK).zip(a.par_chunks(BLOCK)).zip(b.par_chunks(BLOCK)).for_each(|((y, a), b)| {
            for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
                *y = T::from_f32(a.to_f32() + b.to_f32());
            }
        });
    });
}
