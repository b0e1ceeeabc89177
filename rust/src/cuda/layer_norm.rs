//! Launches of kernels/layer_norm.cu.

use std::sync::Arc;

use super::launch::{Launch, args, row_blocks, row_threads};
use super::{Stream, View, ViewMut, column_sums};
use crate::dtype::Element;
use crate::error::Result;

/// Blocks of the backward pass at most. Each adds up its rows' part of dw and dbias, so the number is not the device's.
const PARTS: usize = 256;

/// y, x, sum and residual (rows, d), the last two or neither; w and bias (d); mean and rstd (rows).
pub(crate) fn forward<T: Element>(
    on: &Stream,
    y: ViewMut<T>,
    sum: Option<ViewMut<T>>,
    mean: ViewMut<f32>,
    rstd: ViewMut<f32>,
    x: View<T>,
    residual: Option<View<T>>,
    w: View<T>,
    bias: Option<View<T>>,
    eps: f64,
) -> Result<()> {
    let (shape, rows, d) = (x.shape(), x.shape().rows(), x.shape().last());
    let kernel = format!("layer_norm_fwd_{}", T::DTYPE.short());
    let (grid, block) = ([row_blocks(on, rows), 1], [row_threads::<T>(d), 1]);
    let launch = Launch { kernel: &kernel, dims: shape.dims(), grid, block };
    // SAFETY: tensors of rows · d, rows and d elements; sum is there where residual is.
    unsafe { on.launch(&launch, args![y, sum, mean, rstd, x, residual, w, bias, eps as f32, rows, d]) }
}

/// dx, dy, x and dresidual (rows, d); w (d); mean and rstd (rows); dw_dbias (2, d), dw before dbias, is added to.
pub(crate) fn backward<T: Element>(
    on: &Arc<Stream>,
    dx: ViewMut<T>,
    dw_dbias: ViewMut<f32>,
    dy: View<T>,
    x: View<T>,
    mean: View<f32>,
    rstd: View<f32>,
    w: View<T>,
    dresidual: Option<View<T>>,
) -> Result<()> {
    let (shape, rows, d) = (x.shape(), x.shape().rows(), x.shape().last());
    let parts = rows.min(PARTS);
    let mut partial = on.alloc::<f32>(parts * 2 * d)?;
    let kernel = format!("layer_norm_bwd_{}", T::DTYPE.short());
    let launch = Launch { kernel: &kernel, dims: shape.dims(), grid: [parts, 1], block: [row_threads::<T>(d), 1] };
    let args = args![dx, partial.view_mut(&[parts, 2 * d])?, dy, x, mean, rstd, w, dresidual, rows, d];
    // SAFETY: tensors of rows · d, rows and d elements, and a row of 2d for each block.
    unsafe { on.launch(&launch, args)? };
    column_sums::add(on, dw_dbias, partial.view(&[parts, 2 * d])?)
}
