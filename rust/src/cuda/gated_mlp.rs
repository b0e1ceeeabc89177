//! Launches of kernels/gated_mlp.cu.

use super::launch::{Arg, Launch, THREADS, args};
use super::{Stream, View, ViewMut};
use crate::dtype::Element;
use crate::error::Result;

/// The most that the y dimension of a grid can have.
const GRID_Y: usize = 65_535;

/// Columns over x, rows over y.
fn grid<T>(rows: usize, f: usize) -> [usize; 2] {
    [f.div_ceil(THREADS * (16 / size_of::<T>())).max(1), rows.min(GRID_Y)]
}

/// h (rows, f), gate_up (rows, 2f), each row [gate | up]; `kind` as the kernel counts them.
pub(crate) fn forward<T: Element>(on: &Stream, h: ViewMut<T>, gate_up: View<T>, kind: i32) -> Result<()> {
    let row = gate_up.shape().last();
    launch_forward(on, h, gate_up, gate_up.after(row / 2), kind, row)
}

/// h, gate and up of one shape.
pub(crate) fn forward_apart<T: Element>(
    on: &Stream,
    h: ViewMut<T>,
    gate: View<T>,
    up: View<T>,
    kind: i32,
) -> Result<()> {
    let row = gate.shape().last();
    launch_forward(on, h, gate, up, kind, row)
}

fn launch_forward<T: Element>(
    on: &Stream,
    h: ViewMut<T>,
    gate: View<T>,
    up: View<T>,
    kind: i32,
    row: usize,
) -> Result<()> {
    let (shape, rows, f) = (h.shape(), h.shape().rows(), h.shape().last());
    let kernel = format!("gated_mlp_fwd_{}", T::DTYPE.short());
    let launch = Launch { kernel: &kernel, dims: shape.dims(), grid: grid::<T>(rows, f), block: [THREADS, 1] };
    // SAFETY: `rows` rows of f elements: in h one after the other, in gate and up at a distance of `row`.
    unsafe { on.launch(&launch, args![h, gate, up, kind, rows, f, row]) }
}

/// dgate_up and gate_up (rows, 2f), dh (rows, f).
pub(crate) fn backward<T: Element>(
    on: &Stream,
    dgate_up: ViewMut<T>,
    dh: View<T>,
    gate_up: View<T>,
    kind: i32,
) -> Result<()> {
    let f = dh.shape().last();
    let dup = Arg::from(dgate_up.read().after(f));
    launch_backward(on, [dgate_up.into(), dup], dh, gate_up, gate_up.after(f), kind, 2 * f)
}

/// All of one shape.
pub(crate) fn backward_apart<T: Element>(
    on: &Stream,
    dgate: ViewMut<T>,
    dup: ViewMut<T>,
    dh: View<T>,
    gate: View<T>,
    up: View<T>,
    kind: i32,
) -> Result<()> {
    let f = dh.shape().last();
    launch_backward(on, [dgate.into(), dup.into()], dh, gate, up, kind, f)
}

fn launch_backward<T: Element>(
    on: &Stream,
    [dgate, dup]: [Arg; 2],
    dh: View<T>,
    gate: View<T>,
    up: View<T>,
    kind: i32,
    row: usize,
) -> Result<()> {
    let (shape, rows, f) = (dh.shape(), dh.shape().rows(), dh.shape().last());
    let kernel = format!("gated_mlp_bwd_{}", T::DTYPE.short());
    let launch = Launch { kernel: &kernel, dims: shape.dims(), grid: grid::<T>(rows, f), block: [THREADS, 1] };
    // SAFETY: `rows` rows of f elements: in dh one after the other, in the others at a distance of `row`; the first two
    // are lent to be written.
    unsafe { on.launch(&launch, args![dgate, dup, dh, gate, up, kind, rows, f, row]) }
}
