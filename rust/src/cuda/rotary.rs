//! Launch of kernels/rotary.cu.

use super::launch::{Launch, THREADS, args, row_blocks};
use super::{Stream, View, ViewMut};
use crate::dtype::Element;
use crate::error::{Error, Result};

/// Where the heads of a token lie in its row.
#[derive(Clone, Copy)]
pub(crate) struct Heads {
    pub(crate) offset: usize,
    pub(crate) stride: usize,
    pub(crate) count: usize,
}

/// qkv (tokens, row), in place; cos and sin (positions, half); token n has position start + n % time.
pub(crate) fn rotate<T: Element>(
    on: &Stream,
    qkv: ViewMut<T>,
    heads: Heads,
    interleaved: bool,
    cos: View<f32>,
    sin: View<f32>,
    time: usize,
    start: usize,
    sign: f32,
) -> Result<()> {
    let (shape, tokens, row) = (qkv.shape(), qkv.shape().rows(), qkv.shape().last());
    let (count, half) = (u32::try_from(heads.count), u32::try_from(cos.shape().last()));
    let (Ok(count), Ok(half)) = (count, half) else {
        return Err(Error::UnsupportedInput(format!("rotary: rows of {row} elements are too long for the kernel")));
    };
    let kernel = format!("rotary_{}", T::DTYPE.short());
    let launch = Launch { kernel: &kernel, dims: shape.dims(), grid: [row_blocks(on, tokens), 1], block: [THREADS, 1] };
    let (offset, stride, interleaved) = (heads.offset, heads.stride, u32::from(interleaved));
    // SAFETY: heads lie inside their row, positions inside the tables.
    unsafe {
        on.launch(
            &launch,
            args![qkv, cos, sin, tokens, row, offset, stride, count, half, interleaved, time, start, sign],
        )
    }
}
