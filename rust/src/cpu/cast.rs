//! Between f32 and storage types.

use rayon::prelude::*;

use super::isa::{dispatch, isa};
use super::parallel::share;
use crate::dtype::{DType, Element};

pub mod reference {
    use crate::dtype::DType;

    /// The value of `dtype` nearest to x, ties to the even one.
    pub fn round(x: f64, dtype: DType) -> f64 {
        let (bits, smallest_exponent, largest) = match dtype {
            DType::F32 => (24, -126, f64::from(f32::MAX)),
            DType::F16 => (11, -14, 65504.0),
            DType::BF16 => (8, -126, 255.0 * 120f64.exp2()),
        };
        if x == 0.0 || !x.is_finite() {
            return x;
        }
        // The distance of neighbours: 2^(exponent − bits + 1), fixed below the smallest normal exponent.
        let exponent = ((x.to_bits() >> 52 & 0x7ff) as i32 - 1023).max(smallest_exponent);
        let step = f64::from(exponent - bits + 1).exp2();
        let rounded = (x / step).round_ties_even() * step;
        if rounded.abs() > largest { f64::INFINITY.copysign(x) } else { rounded }
    }
}

const BLOCK: usize = 1 << 15;

/// out = round(x), to nearest, ties to even.
pub fn from_f32<T: Element>(out: &mut [T], x: &[f32]) {
    let isa = isa();
    share(out.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)), |(out, x)| dispatch!(isa, _s => narrow(out, x)));
}

/// One thread: out = round(x).
#[inline(always)]
pub(super) fn narrow<T: Element>(out: &mut [T], x: &[f32]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out = T::from_f32(*x));
}

/// One thread: out = x, exactly.
#[inline(always)]
pub(super) fn widen<T: Element>(out: &mut [f32], x: &[T]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out = x.to_f32());
}

/// One thread: x in f32, itself if it is that already, else widened into `place`.
#[inline(always)]
pub(super) fn as_f32<'a, T: Element>(place: &'a mut [f32], x: &'a [T]) -> &'a [f32] {
    if T::DTYPE == DType::F32 {
        return bytemuck::cast_slice(x);
    }
    let place = &mut place[..x.len()];
    widen(place, x);
    place
}

#[cfg(test)]
mod tests {
    use super::super::testing::each_dtype;
    use super::*;

    /// Every 65 537th f32: all exponents, both signs, NaN and infinities among them.
    fn rounds_to_nearest_even<T: Element>() {
        let x: Vec<f32> = (0..u32::MAX).step_by(65_537).map(f32::from_bits).collect();
        let ties = [1.00390625f32, 1.01171875, 1.000_488_3, 65519.99, 65520.0, f32::INFINITY, f32::NEG_INFINITY, 3e-8];
        let x: Vec<f32> = x.into_iter().chain(ties).collect();
        let mut y = vec![T::default(); x.len()];
        let mut back = vec![0.0f32; x.len()];
        from_f32(&mut y, &x);
        widen(&mut back, &y);
        for (x, back) in x.iter().zip(back) {
            let exact = reference::round(f64::from(*x), T::DTYPE);
            assert!(f64::from(back) == exact || x.is_nan() && back.is_nan(), "{:?}: {x} {back} {exact}", T::DTYPE);
        }
    }

    #[test]
    fn fast_equals_reference() {
        each_dtype!(rounds_to_nearest_even);
    }
}
