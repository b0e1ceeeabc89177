//! Launches of kernels/embedding.cu.

use std::sync::Arc;

use super::launch::{Launch, THREADS, args, row_blocks, row_threads};
use super::{Stream, View, ViewMut};
use crate::dtype::Element;
use crate::error::{Error, Result};

/// `TILE` of the kernel.
const TILE: usize = 256;
/// The most tokens whose order is counted in 32 bits, and whose blocks a grid holds.
const TOKENS: usize = 1 << 30;

/// y (tokens, d), table (rows, d), ids (tokens) inside of the table.
pub(crate) fn forward<T: Element>(on: &Stream, y: ViewMut<T>, table: View<T>, ids: View<i32>) -> Result<()> {
    let (shape, tokens, d) = (y.shape(), y.shape().rows(), y.shape().last());
    let kernel = format!("embedding_fwd_{}", T::DTYPE.short());
    let (grid, block) = ([row_blocks(on, tokens), 1], [row_threads::<T>(d), 1]);
    let launch = Launch { kernel: &kernel, dims: shape.dims(), grid, block };
    // SAFETY: tensors of tokens · d and tokens elements; ids were checked before they went to the device.
    unsafe { on.launch(&launch, args![y, table, ids, tokens, d]) }
}

/// dtable (rows, d) is added to; dy (tokens, d); ids (tokens) inside of the table.
pub(crate) fn backward<T: Element>(on: &Arc<Stream>, dtable: ViewMut<f32>, dy: View<T>, ids: View<i32>) -> Result<()> {
    let (shape, tokens, d) = (dy.shape(), dy.shape().rows(), dy.shape().last());
    if tokens > TOKENS {
        return Err(Error::UnsupportedInput(format!(
            "embedding.backward: {tokens} tokens are more than the {TOKENS} that a kernel takes at once"
        )));
    }
    let mut order = on.alloc::<u32>(tokens)?;
    let grid = [row_blocks(on, tokens.div_ceil(TILE)), 1];
    let launch = Launch { kernel: "embedding_order", dims: shape.dims(), grid, block: [TILE, 1] };
    // SAFETY: two tensors of `tokens` elements.
    unsafe { on.launch(&launch, args![order.view_mut(&[tokens])?, ids, tokens as u32])? };
    let kernel = format!("embedding_bwd_{}", T::DTYPE.short());
    let grid = [tokens, d.div_ceil(THREADS * (16 / size_of::<T>()))];
    let launch = Launch { kernel: &kernel, dims: shape.dims(), grid, block: [THREADS, 1] };
    // SAFETY: tensors of tokens · d and tokens elements; ids were checked before they went to the device.
    unsafe { on.launch(&launch, args![dtable, dy, ids, order.view(&[tokens])?, tokens, d]) }
}
