//! Where a decoder runs: the memory there, and the ops on it. Model and trainer are written once, for any.
//!
//! Memory is handed around in flat pieces (`Slice`, `SliceMut`: on the CPU plain slices), an op takes them as tensors
//! (`View`, `ViewMut`).

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use std::borrow::Cow;
use std::fmt::Debug;
use std::ops::Range;

pub use cpu::Cpu;
#[cfg(feature = "cuda")]
pub use cuda::Cuda;

use super::activation::Activation;
use super::adamw::{Group, Numbers};
use super::attention::{Heads, Qkv};
use super::linear_cross_entropy::LossOptions;
use super::rotary;
use crate::dtype::Element;
use crate::error::Result;
use crate::interrupt::Interrupt;

/// How a gradient becomes what AdamW takes.
#[derive(Debug, Clone, Copy)]
pub struct Clipping {
    /// What the loss was multiplied by.
    pub loss_scale: f64,
    /// Global L2 norm; 0 is off.
    pub max: f64,
}

/// The contract of each op stands at the function of its name in its own module; all may give `Error::Device`.
pub trait Backend: Clone + Debug + Send + Sync + 'static {
    type Buffer<T: Element>: Debug + Send;
    type Slice<'a, T: Element>: Copy;
    type SliceMut<'a, T: Element>;
    type View<'a, T: Element>: Copy;
    type ViewMut<'a, T: Element>;
    /// Ids that an embedding and a loss take.
    type Ids<'a>;
    /// Cosines and sines.
    type Table: Debug + Send;
    /// What AdamW multiplies gradients by.
    type Factor: Send;

    // --- memory

    /// # Errors
    /// `Device`: there is not so much.
    fn zeros<T: Element>(&self, len: usize) -> Result<Self::Buffer<T>>;
    fn read<T: Element>(buffer: &Self::Buffer<T>) -> Self::Slice<'_, T>;
    fn write<T: Element>(buffer: &mut Self::Buffer<T>) -> Self::SliceMut<'_, T>;
    fn len<T: Element>(slice: Self::Slice<'_, T>) -> usize;
    fn part<'a, T: Element>(slice: Self::Slice<'a, T>, range: Range<usize>) -> Self::Slice<'a, T>;
    fn part_mut<'a, T: Element>(slice: Self::SliceMut<'a, T>, range: Range<usize>) -> Self::SliceMut<'a, T>;
    fn split<'a, T: Element>(slice: Self::SliceMut<'a, T>, at: usize)
    -> (Self::SliceMut<'a, T>, Self::SliceMut<'a, T>);
    /// The same piece for a shorter time; the compiler does not know that it may stand for one.
    fn shorten<'b, 'a: 'b, T: Element>(slice: Self::Slice<'a, T>) -> Self::Slice<'b, T>;
    /// The same piece, lent for a shorter time.
    fn lend<'b, T: Element>(slice: &'b mut Self::SliceMut<'_, T>) -> Self::SliceMut<'b, T>;
    /// The same piece, to be read.
    fn seen<'b, T: Element>(slice: &'b Self::SliceMut<'_, T>) -> Self::Slice<'b, T>;
    /// # Errors
    /// `Shape` when `dims` has another number of elements.
    fn view<'a, T: Element>(slice: Self::Slice<'a, T>, dims: &[usize]) -> Result<Self::View<'a, T>>;
    /// # Errors
    /// As `view`.
    fn view_mut<'a, T: Element>(slice: Self::SliceMut<'a, T>, dims: &[usize]) -> Result<Self::ViewMut<'a, T>>;
    fn clear<T: Element>(&self, to: Self::SliceMut<'_, T>) -> Result<()>;
    /// On the host, after all that was asked for before.
    fn download<'a, T: Element>(&self, from: Self::Slice<'a, T>) -> Result<Cow<'a, [T]>>;
    /// The same for good.
    fn into_host<T: Element>(buffer: Self::Buffer<T>) -> Result<Vec<T>>;
    /// Lets `change` work on memory of the host that becomes `to`.
    fn fill<T: Element>(&self, to: Self::SliceMut<'_, T>, change: &mut dyn FnMut(&mut [T]) -> Result<()>)
    -> Result<()>;
    /// Ids of a table or a vocabulary of `limit` rows, `ignore` aside.
    fn ids<'a>(&self, op: &'static str, ids: &'a [i32], limit: usize, ignore: Option<i32>) -> Result<Self::Ids<'a>>;
    fn table(&self, table: rotary::Table) -> Result<Self::Table>;

    // --- ops

    fn linear<T: Element>(
        &self,
        y: Self::ViewMut<'_, T>,
        x: Self::View<'_, T>,
        w: Self::View<'_, T>,
        bias: Option<Self::View<'_, T>>,
    ) -> Result<()>;
    fn linear_input<T: Element>(
        &self,
        dx: Self::ViewMut<'_, T>,
        dy: Self::View<'_, T>,
        w: Self::View<'_, T>,
    ) -> Result<()>;
    fn linear_weight<T: Element>(
        &self,
        dw: Self::ViewMut<'_, f32>,
        dbias: Option<Self::ViewMut<'_, f32>>,
        dy: Self::View<'_, T>,
        x: Self::View<'_, T>,
    ) -> Result<()>;
    fn add<T: Element>(&self, y: Self::ViewMut<'_, T>, a: Self::View<'_, T>, b: Self::View<'_, T>) -> Result<()>;
    fn layer_norm<T: Element>(
        &self,
        y: Self::ViewMut<'_, T>,
        mean: Self::SliceMut<'_, f32>,
        rstd: Self::SliceMut<'_, f32>,
        x: Self::View<'_, T>,
        w: Self::View<'_, T>,
        bias: Option<Self::View<'_, T>>,
        eps: f64,
    ) -> Result<()>;
    fn layer_norm_add<T: Element>(
        &self,
        y: Self::ViewMut<'_, T>,
        sum: Self::ViewMut<'_, T>,
        mean: Self::SliceMut<'_, f32>,
        rstd: Self::SliceMut<'_, f32>,
        x: Self::View<'_, T>,
        residual: Self::View<'_, T>,
        w: Self::View<'_, T>,
        bias: Option<Self::View<'_, T>>,
        eps: f64,
    ) -> Result<()>;
    /// `grads` has dw (D), and behind it dbias (D) where the norm has one.
    fn layer_norm_backward<T: Element>(
        &self,
        dx: Self::ViewMut<'_, T>,
        grads: Self::SliceMut<'_, f32>,
        dy: Self::View<'_, T>,
        x: Self::View<'_, T>,
        mean: Self::Slice<'_, f32>,
        rstd: Self::Slice<'_, f32>,
        w: Self::View<'_, T>,
        dresidual: Option<Self::View<'_, T>>,
    ) -> Result<()>;
    fn rms_norm<T: Element>(
        &self,
        y: Self::ViewMut<'_, T>,
        rstd: Self::SliceMut<'_, f32>,
        x: Self::View<'_, T>,
        w: Self::View<'_, T>,
        eps: f64,
    ) -> Result<()>;
    fn rms_norm_add<T: Element>(
        &self,
        y: Self::ViewMut<'_, T>,
        sum: Self::ViewMut<'_, T>,
        rstd: Self::SliceMut<'_, f32>,
        x: Self::View<'_, T>,
        residual: Self::View<'_, T>,
        w: Self::View<'_, T>,
        eps: f64,
    ) -> Result<()>;
    fn rms_norm_backward<T: Element>(
        &self,
        dx: Self::ViewMut<'_, T>,
        dw: Self::SliceMut<'_, f32>,
        dy: Self::View<'_, T>,
        x: Self::View<'_, T>,
        rstd: Self::Slice<'_, f32>,
        w: Self::View<'_, T>,
        dresidual: Option<Self::View<'_, T>>,
    ) -> Result<()>;
    fn embedding<T: Element>(
        &self,
        y: Self::ViewMut<'_, T>,
        table: Self::View<'_, T>,
        ids: &Self::Ids<'_>,
    ) -> Result<()>;
    fn embedding_backward<T: Element>(
        &self,
        dtable: Self::ViewMut<'_, f32>,
        dy: Self::View<'_, T>,
        ids: &Self::Ids<'_>,
    ) -> Result<()>;
    fn activation<T: Element>(&self, y: Self::ViewMut<'_, T>, x: Self::View<'_, T>, kind: Activation) -> Result<()>;
    fn activation_backward<T: Element>(
        &self,
        dx: Self::ViewMut<'_, T>,
        dy: Self::View<'_, T>,
        x: Self::View<'_, T>,
        kind: Activation,
    ) -> Result<()>;
    fn gated_mlp<T: Element>(
        &self,
        h: Self::ViewMut<'_, T>,
        gate_up: Self::View<'_, T>,
        kind: Activation,
    ) -> Result<()>;
    fn gated_mlp_backward<T: Element>(
        &self,
        dgate_up: Self::ViewMut<'_, T>,
        dh: Self::View<'_, T>,
        gate_up: Self::View<'_, T>,
        kind: Activation,
    ) -> Result<()>;
    /// qkv (B·T, row), each sequence of `time` tokens from position `start` on; backwards when `backward`.
    fn rotary<T: Element>(
        &self,
        qkv: Self::ViewMut<'_, T>,
        heads: Heads,
        time: usize,
        table: &Self::Table,
        start: usize,
        backward: bool,
    ) -> Result<()>;
    /// qkv (B·T, row)
    fn attention<T: Element>(
        &self,
        out: Self::ViewMut<'_, T>,
        lse: Self::SliceMut<'_, f32>,
        qkv: Self::View<'_, T>,
        s: &Qkv,
    ) -> Result<()>;
    fn attention_backward<T: Element>(
        &self,
        dqkv: Self::ViewMut<'_, T>,
        dout: Self::View<'_, T>,
        out: Self::View<'_, T>,
        lse: Self::Slice<'_, f32>,
        qkv: Self::View<'_, T>,
        s: &Qkv,
    ) -> Result<()>;
    fn linear_cross_entropy<T: Element>(
        &self,
        losses: Self::SliceMut<'_, f32>,
        x: Self::View<'_, T>,
        w: Self::View<'_, T>,
        targets: &Self::Ids<'_>,
        options: &LossOptions,
        interrupt: Interrupt,
    ) -> Result<()>;
    fn linear_cross_entropy_backward<T: Element>(
        &self,
        losses: Self::SliceMut<'_, f32>,
        dx: Self::ViewMut<'_, T>,
        dw: Self::ViewMut<'_, f32>,
        x: Self::View<'_, T>,
        w: Self::View<'_, T>,
        targets: &Self::Ids<'_>,
        grad_scale: f32,
        options: &LossOptions,
        interrupt: Interrupt,
    ) -> Result<()>;

    // --- the optimizer

    /// The norm of g without the loss scale, which is waited for, and the factor that unscales and clips.
    fn clip(&self, g: Self::Slice<'_, f32>, clipping: Clipping) -> Result<(f64, Self::Factor)>;
    /// √(Σ g²), which is waited for.
    fn norm(&self, g: Self::Slice<'_, f32>) -> Result<f64>;
    /// Where the first NaN or infinity stands; waits for it.
    fn first_non_finite(&self, values: Self::Slice<'_, f32>) -> Result<Option<usize>>;
    /// A step of the whole arena; `low`, where there is one, becomes p rounded.
    fn adamw<T: Element>(
        &self,
        p: Self::SliceMut<'_, f32>,
        m: Self::SliceMut<'_, f32>,
        v: Self::SliceMut<'_, f32>,
        low: Option<Self::SliceMut<'_, T>>,
        g: Self::Slice<'_, f32>,
        factor: &Self::Factor,
        groups: &[Group],
        numbers: &Numbers,
    ) -> Result<()>;
    /// x rounded to T.
    fn cast<T: Element>(&self, to: Self::SliceMut<'_, T>, x: Self::Slice<'_, f32>) -> Result<()>;
}
