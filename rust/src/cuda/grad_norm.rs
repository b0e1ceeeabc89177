//! Launches of kernels/grad_norm.cu.

use std::sync::Arc;

use super::launch::{Launch, THREADS, args, blocks};
use super::{Stream, View, ViewMut};
use crate::error::Result;

/// Elements that a block adds up, and how many blocks there are at most: numbers of the shape alone.
const SHARE: usize = 1 << 14;
const PARTS: usize = 1024;

/// norm (1) and grad_scale (1) of g, as the kernel's file says.
pub(crate) fn scale(
    on: &Arc<Stream>,
    norm: ViewMut<f32>,
    grad_scale: ViewMut<f32>,
    g: View<f32>,
    unscale: f64,
    max: f64,
) -> Result<()> {
    let (shape, n) = (g.shape(), g.shape().count());
    let parts = n.div_ceil(SHARE).clamp(1, PARTS);
    let mut partial = on.alloc::<f64>(parts)?;
    let (kernel, grid) = ("grad_norm_squares", [parts, 1]);
    let launch = Launch { kernel, dims: shape.dims(), grid, block: [THREADS, 1] };
    // SAFETY: g has n elements, and each block its own place.
    unsafe { on.launch(&launch, args![partial.view_mut(&[parts])?, g, n])? };
    let launch = Launch { kernel: "grad_norm_scale", dims: shape.dims(), grid: [1, 1], block: [THREADS, 1] };
    let args = args![norm, grad_scale, partial.view(&[parts])?, parts as i32, unscale, max];
    // SAFETY: results of one element each, and `parts` sums.
    unsafe { on.launch(&launch, args) }
}

/// `first` (1), which holds the number of elements of g, becomes the place of the first that is not finite.
pub(crate) fn first_non_finite(on: &Stream, first: ViewMut<u64>, g: View<f32>) -> Result<()> {
    let (shape, n) = (g.shape(), g.shape().count());
    let (kernel, grid) = ("grad_norm_first_non_finite", [blocks(on, n, 4), 1]);
    let launch = Launch { kernel, dims: shape.dims(), grid, block: [THREADS, 1] };
    // SAFETY: g has n elements.
    unsafe { on.launch(&launch, args![first, g, n]) }
}
