//! Launches of kernels/rms_norm.cu.

use std::sync::Arc;

use super::launch::{Launch, args, row_blocks, row_threads};
use super::{Stream, View, ViewMut, column_sums};
use crate::dtype::Element;
use crate::error::Result;

/// Blocks of the backward pass at most. Each adds up its rows' part of dw, so the number is not the device's.
const PARTS: usize = 256;

/// y, x, sum and residual (rows, d), the last two or neither; w (d); rstd (rows).
pub(crate) fn forward<T: Element>(
    on: &Stream,
    y: ViewMut<T>,
    sum: Option<ViewMut<T>>,
    rstd: ViewMut<f32>,
    x: View<T>,
    residual: Option<View<T>>,
    w: View<T>,
    eps: f64,
) -> Result<()> {
    let (shape, rows, d) = (x.shape(), x.shape().rows(), x.shape().last());
    let kernel = format!("rms_norm_fwd_{}", T::DTYPE.short());
    let (grid, block) = ([row_blocks(on, rows), 1], [row_threads::<T>(d), 1]);
    let launch = Launch { kernel: &kernel, dims: shape.dims(), grid, block };
    // SAFETY: tensors of rows · d, rows and d elements; sum is there where residual is.
    unsafe { on.launch(&launch, args![y, sum, rstd, x, residual, w, eps as f32, rows, d]) }
}

/// dx, dy, x and dresidual (rows, d); w (d); rstd (rows); dw (d) is added to.
pub(crate) fn backward<T: Element>(
    on: &Arc<Stream>,
    dx: ViewMut<T>,
    dw: ViewMut<f32>,
    dy: View<T>,
    x: View<T>,
    rstd: View<f32>,
    w: View<T>,
    dresidual: Option<View<T>>,
) -> Result<()> {
    let (shape, rows, d) = (x.shape(), x.shape().rows(), x.shape().last());
    let parts = rows.min(PARTS);
    let mut partial = on.alloc::<f32>(parts * d)?;
    let kernel = format!("rms_norm_bwd_{}", T::DTYPE.short());
    let launch = Launch { kernel: &kernel, dims: shape.dims(), grid: [parts, 1], block: [row_threads::<T>(d), 1] };
    let args = args![dx, partial.view_mut(&[parts, d])?, dy, x, rstd, w, dresidual, rows, d];
    // SAFETY: tensors of rows · d, rows and d elements, and a row of d for each block.
    unsafe { on.launch(&launch, args)? };
    column_sums::add(on, dw, partial.view(&[parts, d])?)
}
