//! Launches of kernels/activation.cu.

use super::launch::{Launch, THREADS, args, blocks};
use super::{Stream, View, ViewMut};
use crate::dtype::Element;
use crate::error::Result;

/// y and x of one shape; `kind` as the kernel counts them.
pub(crate) fn forward<T: Element>(on: &Stream, y: ViewMut<T>, x: View<T>, kind: i32) -> Result<()> {
    let (shape, n) = (x.shape(), x.shape().count());
    let kernel = format!("activation_fwd_{}", T::DTYPE.short());
    let grid = [blocks(on, n, 16 / size_of::<T>()), 1];
    let launch = Launch { kernel: &kernel, dims: shape.dims(), grid, block: [THREADS, 1] };
    // SAFETY: two tensors of n elements.
    unsafe { on.launch(&launch, args![y, x, kind, n]) }
}

/// dx, dy and x of one shape.
pub(crate) fn backward<T: Element>(on: &Stream, dx: ViewMut<T>, dy: View<T>, x: View<T>, kind: i32) -> Result<()> {
    let (shape, n) = (x.shape(), x.shape().count());
    let kernel = format!("activation_bwd_{}", T::DTYPE.short());
    let grid = [blocks(on, n, 16 / size_of::<T>()), 1];
    let launch = Launch { kernel: &kernel, dims: shape.dims(), grid, block: [THREADS, 1] };
    // SAFETY: three tensors of n elements.
    unsafe { on.launch(&launch, args![dx, dy, x, kind, n]) }
}
