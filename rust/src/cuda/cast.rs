//! Launch of kernels/cast.cu.

use super::launch::{Launch, THREADS, args, blocks};
use super::{Stream, View, ViewMut};
use crate::dtype::Element;
use crate::error::Result;

/// out and x of one shape.
pub(crate) fn from_f32<T: Element>(on: &Stream, out: ViewMut<T>, x: View<f32>) -> Result<()> {
    let (shape, n) = (x.shape(), x.shape().count());
    let kernel = format!("cast_from_f32_{}", T::DTYPE.short());
    let launch = Launch { kernel: &kernel, dims: shape.dims(), grid: [blocks(on, n, 4), 1], block: [THREADS, 1] };
    // SAFETY: two tensors of n elements.
    unsafe { on.launch(&launch, args![out, x, n]) }
}
