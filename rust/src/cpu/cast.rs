//! Between f32 and storage types.

use rayon::prelude::*;

use super::isa::simd;
use super::parallel::install;
use crate::dtype::Element;

const BLOCK: usize = 1 << 16;

/// out = round(x).
pub fn from_f32<T: Element>(out: &mut [T], x: &[f32]) {
    install(|| out.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)).for_each(|(out, x)| narrow(out, x)));
}

/// out = x, exactly.
pub fn to_f32<T: Element>(out: &mut [f32], x: &[T]) {
    install(|| out.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)).for_each(|(out, x)| widen(out, x)));
}

simd! {
    /// `from_f32` on one thread.
    pub fn narrow<T>(out: &mut [T], x: &[f32]) {
        out.iter_mut().zip(x).for_each(|(out, x)| *out = T::from_f32(*x));
    }
}

simd! {
    /// `to_f32` on one thread.
    pub fn widen<T>(out: &mut [f32], x: &[T]) {
        out.iter_mut().zip(x).for_each(|(out, x)| *out = x.to_f32());
    }
}
