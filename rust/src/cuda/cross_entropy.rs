//! Launch of kernels/cross_entropy.cu.

use super::launch::{Arg, Launch, args, row_blocks, row_threads};
use super::{Stream, View, ViewMut};
use crate::dtype::Element;
use crate::error::Result;

/// The numbers of a call.
#[derive(Clone, Copy)]
pub(crate) struct Numbers {
    pub(crate) grad_scale: f32,
    pub(crate) ignore_index: i32,
    pub(crate) label_smoothing: f32,
    pub(crate) z_loss: f32,
}

/// losses (rows); dlogits and logits (rows, v); targets (rows), inside of v or to be ignored.
pub(crate) fn run<T: Element>(
    on: &Stream,
    losses: Option<ViewMut<f32>>,
    dlogits: Option<ViewMut<T>>,
    logits: View<T>,
    targets: View<i32>,
    o: Numbers,
) -> Result<()> {
    launch::<T>(on, losses, dlogits.into(), logits, targets, o)
}

/// The same with the gradient in the place of the logits.
pub(crate) fn in_place<T: Element>(
    on: &Stream,
    losses: Option<ViewMut<f32>>,
    logits: ViewMut<T>,
    targets: View<i32>,
    o: Numbers,
) -> Result<()> {
    let place = Arg::from(logits.read());
    launch::<T>(on, losses, place, logits.read(), targets, o)
}

fn launch<T: Element>(
    on: &Stream,
    losses: Option<ViewMut<f32>>,
    dlogits: Arg,
    logits: View<T>,
    targets: View<i32>,
    o: Numbers,
) -> Result<()> {
    let (shape, rows, v) = (logits.shape(), logits.shape().rows(), logits.shape().last());
    let kernel = format!("cross_entropy_{}", T::DTYPE.short());
    let (grid, block) = ([row_blocks(on, rows), 1], [row_threads::<T>(v), 1]);
    let launch = Launch { kernel: &kernel, dims: shape.dims(), grid, block };
    let Numbers { grad_scale, ignore_index, label_smoothing, z_loss } = o;
    let args = args![losses, dlogits, logits, targets, grad_scale, ignore_index, label_smoothing, z_loss, rows, v];
    // SAFETY: tensors of rows and rows · v elements; targets were checked before they went to the device.
    unsafe { on.launch(&launch, args) }
}
