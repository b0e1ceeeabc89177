//! Launches of kernels/column_sums.cu.

use std::sync::Arc;

use super::launch::{Launch, args};
use super::{Stream, View, ViewMut};
use crate::dtype::Element;
use crate::error::Result;

/// Columns and rows of the kernel's block.
const BLOCK: [usize; 2] = [32, 8];
/// Rows that one block of the first pass takes, and how many of them share a column at most.
const PART: usize = 256;
const PARTS: usize = 64;

/// sums (cols) += Σ of the rows of x (rows, cols). The order is a matter of the shape alone.
pub(crate) fn add<T: Element>(on: &Arc<Stream>, sums: ViewMut<f32>, x: View<T>) -> Result<()> {
    let (rows, cols) = (x.shape().rows(), x.shape().last());
    let parts = rows.div_ceil(PART).clamp(1, PARTS);
    if parts == 1 {
        return pass(on, sums, x, 1);
    }
    let mut partial = on.alloc::<f32>(parts * cols)?;
    pass(on, partial.view_mut(&[parts, cols])?, x, parts)?;
    pass(on, sums, partial.view(&[parts, cols])?, 1)
}

/// With one part the sums are added to `sums` (cols), with more each part has its own row of it (parts, cols).
fn pass<T: Element>(on: &Stream, sums: ViewMut<f32>, x: View<T>, parts: usize) -> Result<()> {
    let (shape, rows, cols) = (x.shape(), x.shape().rows(), x.shape().last());
    let kernel = format!("column_sums_{}", T::DTYPE.short());
    let grid = [cols.div_ceil(BLOCK[0]), parts];
    let launch = Launch { kernel: &kernel, dims: shape.dims(), grid, block: BLOCK };
    // SAFETY: x has rows · cols elements, `sums` parts · cols.
    unsafe { on.launch(&launch, args![sums, x, rows, cols]) }
}
