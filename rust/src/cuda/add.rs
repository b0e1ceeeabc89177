//! Launch of kernels/add.cu.

use super::launch::{Launch, THREADS, args, blocks};
use super::{Stream, View, ViewMut};
use crate::dtype::Element;
use crate::error::Result;

/// y, a and b of one shape.
pub(crate) fn forward<T: Element>(on: &Stream, y: ViewMut<T>, a: View<T>, b: View<T>) -> Result<()> {
    let (shape, n) = (y.shape(), y.shape().count());
    let kernel = format!("add_fwd_{}", T::DTYPE.short());
    let grid = [blocks(on, n, 16 / size_of::<T>()), 1];
    let launch = Launch { kernel: &kernel, dims: shape.dims(), grid, block: [THREADS, 1] };
    // SAFETY: three tensors of n elements.
    unsafe { on.launch(&launch, args![y, a, b, n]) }
}
