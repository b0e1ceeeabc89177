//! Launch of kernels/adamw.cu.

use super::launch::{Launch, THREADS, args, blocks};
use super::{Stream, View, ViewMut};
use crate::dtype::Element;
use crate::error::Result;

/// The numbers of a step, by their names in the kernel.
#[derive(Clone, Copy)]
pub(crate) struct Numbers {
    pub(crate) step_size: f32,
    pub(crate) root2: f32,
    pub(crate) beta1: f32,
    pub(crate) rest1: f32,
    pub(crate) beta2: f32,
    pub(crate) rest2: f32,
    pub(crate) eps: f32,
}

/// p, m, v, low and g (n); grad_scale (1); ends and decays (groups), ends not falling, the last n.
pub(crate) fn step<T: Element>(
    on: &Stream,
    p: ViewMut<f32>,
    m: ViewMut<f32>,
    v: ViewMut<f32>,
    low: Option<ViewMut<T>>,
    g: View<f32>,
    grad_scale: View<f32>,
    ends: View<u64>,
    decays: View<f32>,
    o: &Numbers,
) -> Result<()> {
    let (shape, n, groups) = (p.shape(), p.shape().count(), ends.shape().count());
    let kernel = format!("adamw_{}", T::DTYPE.short());
    let launch = Launch { kernel: &kernel, dims: shape.dims(), grid: [blocks(on, n, 4), 1], block: [THREADS, 1] };
    let args = args![
        p,
        m,
        v,
        low,
        g,
        grad_scale,
        ends,
        decays,
        groups as i32,
        o.step_size,
        o.root2,
        o.beta1,
        o.rest1,
        o.beta2,
        o.rest2,
        o.eps,
        n
    ];
    // SAFETY: tensors of n elements; every element lies in a group.
    unsafe { on.launch(&launch, args) }
}
