//! A GPU: what is asked for happens in the order of one stream, and later than the call returns. Only `download`, `clip`
//! and the other functions that say so wait.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::super::activation::{self, Activation};
use super::super::adamw::{self, Group, Numbers};
use super::super::attention::{self, Heads, Qkv};
use super::super::embedding::cuda::Ids;
use super::super::linear_cross_entropy::{self, LossOptions};
use super::super::{add, cast, embedding, gated_mlp, grad_norm, layer_norm, linear, rms_norm, rotary};
use super::{Backend, Clipping};
use crate::cuda::{Buffer, Stream, View, ViewMut};
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;

/// One stream of a device.
#[derive(Debug, Clone)]
pub struct Cuda(Arc<Stream>);

impl Cuda {
    /// A new stream on the device of this number.
    ///
    /// # Errors
    /// `Device`, saying what is missing.
    pub fn new(ordinal: usize) -> Result<Self> {
        Stream::new(ordinal).map(Self)
    }
}

impl Backend for Cuda {
    type Buffer<T: Element> = Buffer<T>;
    type Slice<'a, T: Element> = View<'a, T>;
    type SliceMut<'a, T: Element> = ViewMut<'a, T>;
    type View<'a, T: Element> = View<'a, T>;
    type ViewMut<'a, T: Element> = ViewMut<'a, T>;
    type Ids<'a> = Ids;
    type Table = rotary::cuda::Table;
    type Factor = Buffer<f32>;

    fn zeros<T: Element>(&self, len: usize) -> Result<Buffer<T>> {
        self.0.zeros(len)
    }

    fn read<T: Element>(buffer: &Buffer<T>) -> View<'_, T> {
        buffer.all()
    }

    fn write<T: Element>(buffer: &mut Buffer<T>) -> ViewMut<'_, T> {
        buffer.all_mut()
    }

    fn len<T: Element>(slice: View<'_, T>) -> usize {
        slice.shape().count()
    }

    fn part<'a, T: Element>(slice: Self::Slice<'a, T>, range: Range<usize>) -> Self::Slice<'a, T> {
        slice.stretch(range)
    }

    fn part_mut<'a, T: Element>(slice: Self::SliceMut<'a, T>, range: Range<usize>) -> Self::SliceMut<'a, T> {
        slice.stretch(range)
    }

    fn split<'a, T: Element>(
        slice: Self::SliceMut<'a, T>,
        at: usize,
    ) -> (Self::SliceMut<'a, T>, Self::SliceMut<'a, T>) {
        slice.split(at)
    }

    fn shorten<'b, 'a: 'b, T: Element>(slice: View<'a, T>) -> View<'b, T> {
        slice
    }

    fn lend<'b, T: Element>(slice: &'b mut ViewMut<'_, T>) -> ViewMut<'b, T> {
        slice.reborrow()
    }

    fn seen<'b, T: Element>(slice: &'b ViewMut<'_, T>) -> View<'b, T> {
        slice.read()
    }

    fn view<'a, T: Element>(slice: Self::Slice<'a, T>, dims: &[usize]) -> Result<View<'a, T>> {
        slice.shaped(dims)
    }

    fn view_mut<'a, T: Element>(slice: Self::SliceMut<'a, T>, dims: &[usize]) -> Result<ViewMut<'a, T>> {
        slice.into_shape(dims)
    }

    fn clear<T: Element>(&self, to: ViewMut<'_, T>) -> Result<()> {
        self.0.clear(to)
    }

    fn download<'a, T: Element>(&self, from: Self::Slice<'a, T>) -> Result<Cow<'a, [T]>> {
        let mut host = vec![T::default(); from.shape().count()];
        self.0.read_back(&mut host, from)?;
        Ok(Cow::Owned(host))
    }

    fn into_host<T: Element>(buffer: Buffer<T>) -> Result<Vec<T>> {
        buffer.download()
    }

    fn fill<T: Element>(&self, to: ViewMut<'_, T>, change: &mut dyn FnMut(&mut [T]) -> Result<()>) -> Result<()> {
        let mut host = self.download(to.read())?.into_owned();
        change(&mut host)?;
        self.0.overwrite(to, &host)
    }

    fn ids(&self, op: &'static str, ids: &[i32], limit: usize, ignore: Option<i32>) -> Result<Ids> {
        Ids::new(&self.0, op, ids, limit, ignore)
    }

    fn table(&self, table: rotary::Table) -> Result<rotary::cuda::Table> {
        rotary::cuda::Table::new(&self.0, &table, table.time())
    }

    fn linear<T: Element>(&self, y: ViewMut<T>, x: View<T>, w: View<T>, bias: Option<View<T>>) -> Result<()> {
        linear::cuda::forward(&self.0, y, x, w, bias)
    }

    fn linear_input<T: Element>(&self, dx: ViewMut<T>, dy: View<T>, w: View<T>) -> Result<()> {
        linear::cuda::backward_input(&self.0, dx, dy, w)
    }

    fn linear_weight<T: Element>(
        &self,
        dw: ViewMut<f32>,
        dbias: Option<ViewMut<f32>>,
        dy: View<T>,
        x: View<T>,
    ) -> Result<()> {
        linear::cuda::backward_weight(&self.0, dw, dbias, dy, x)
    }

    fn add<T: Element>(&self, y: ViewMut<T>, a: View<T>, b: View<T>) -> Result<()> {
        add::cuda::forward(&self.0, y, a, b)
    }

    fn layer_norm<T: Element>(
        &self,
        y: ViewMut<T>,
        mean: ViewMut<f32>,
        rstd: ViewMut<f32>,
        x: View<T>,
        w: View<T>,
        bias: Option<View<T>>,
        eps: f64,
    ) -> Result<()> {
        layer_norm::cuda::forward(&self.0, y, mean, rstd, x, w, bias, eps)
    }

    fn layer_norm_add<T: Element>(
        &self,
        y: ViewMut<T>,
        sum: ViewMut<T>,
        mean: ViewMut<f32>,
        rstd: ViewMut<f32>,
        x: View<T>,
        residual: View<T>,
        w: View<T>,
        bias: Option<View<T>>,
        eps: f64,
    ) -> Result<()> {
        layer_norm::cuda::forward_add(&self.0, y, sum, mean, rstd, x, residual, w, bias, eps)
    }

    fn layer_norm_backward<T: Element>(
        &self,
        dx: ViewMut<T>,
        grads: ViewMut<f32>,
        dy: View<T>,
        x: View<T>,
        mean: View<f32>,
        rstd: View<f32>,
        w: View<T>,
        dresidual: Option<View<T>>,
    ) -> Result<()> {
        let d = w.shape().count();
        if grads.shape().count() == 2 * d {
            let both = grads.into_shape(&[2, d])?;
            return layer_norm::cuda::backward(&self.0, dx, both, dy, x, mean, rstd, w, dresidual);
        }
        // The kernel makes both; the gradient of a bias that is not there goes.
        let mut both = self.0.zeros::<f32>(2 * d)?;
        layer_norm::cuda::backward(&self.0, dx, both.view_mut(&[2, d])?, dy, x, mean, rstd, w, dresidual)?;
        linear::cuda::backward_bias(&self.0, grads, both.all().stretch(0..d).shaped(&[1, d])?)
    }

    fn rms_norm<T: Element>(&self, y: ViewMut<T>, rstd: ViewMut<f32>, x: View<T>, w: View<T>, eps: f64) -> Result<()> {
        rms_norm::cuda::forward(&self.0, y, rstd, x, w, eps)
    }

    fn rms_norm_add<T: Element>(
        &self,
        y: ViewMut<T>,
        sum: ViewMut<T>,
        rstd: ViewMut<f32>,
        x: View<T>,
        residual: View<T>,
        w: View<T>,
        eps: f64,
    ) -> Result<()> {
        rms_norm::cuda::forward_add(&self.0, y, sum, rstd, x, residual, w, eps)
    }

    fn rms_norm_backward<T: Element>(
        &self,
        dx: ViewMut<T>,
        dw: ViewMut<f32>,
        dy: View<T>,
        x: View<T>,
        rstd: View<f32>,
        w: View<T>,
        dresidual: Option<View<T>>,
    ) -> Result<()> {
        rms_norm::cuda::backward(&self.0, dx, dw, dy, x, rstd, w, dresidual)
    }

    fn embedding<T: Element>(&self, y: ViewMut<T>, table: View<T>, ids: &Ids) -> Result<()> {
        embedding::cuda::forward(&self.0, y, table, ids)
    }

    fn embedding_backward<T: Element>(&self, dtable: ViewMut<f32>, dy: View<T>, ids: &Ids) -> Result<()> {
        embedding::cuda::backward(&self.0, dtable, dy, ids)
    }

    fn activation<T: Element>(&self, y: ViewMut<T>, x: View<T>, kind: Activation) -> Result<()> {
        activation::cuda::forward(&self.0, y, x, kind)
    }

    fn activation_backward<T: Element>(&self, dx: ViewMut<T>, dy: View<T>, x: View<T>, kind: Activation) -> Result<()> {
        activation::cuda::backward(&self.0, dx, dy, x, kind)
    }

    fn gated_mlp<T: Element>(&self, h: ViewMut<T>, gate_up: View<T>, kind: Activation) -> Result<()> {
        gated_mlp::cuda::forward(&self.0, h, gate_up, kind)
    }

    fn gated_mlp_backward<T: Element>(
        &self,
        dgate_up: ViewMut<T>,
        dh: View<T>,
        gate_up: View<T>,
        kind: Activation,
    ) -> Result<()> {
        gated_mlp::cuda::backward(&self.0, dgate_up, dh, gate_up, kind)
    }

    fn rotary<T: Element>(
        &self,
        qkv: ViewMut<T>,
        heads: Heads,
        time: usize,
        table: &rotary::cuda::Table,
        start: usize,
        backward: bool,
    ) -> Result<()> {
        rotary::cuda::rotate(&self.0, qkv, heads, time, table, start, backward)
    }

    fn attention<T: Element>(&self, out: ViewMut<T>, lse: ViewMut<f32>, qkv: View<T>, s: &Qkv) -> Result<()> {
        attention::cuda::forward(&self.0, out, lse, qkv, s, None)
    }

    fn attention_backward<T: Element>(
        &self,
        dqkv: ViewMut<T>,
        dout: View<T>,
        out: View<T>,
        lse: View<f32>,
        qkv: View<T>,
        s: &Qkv,
    ) -> Result<()> {
        attention::cuda::backward(&self.0, dqkv, dout, out, lse, qkv, s, None)
    }

    fn linear_cross_entropy<T: Element>(
        &self,
        losses: ViewMut<f32>,
        x: View<T>,
        w: View<T>,
        targets: &Ids,
        options: &LossOptions,
        _: Interrupt,
    ) -> Result<()> {
        linear_cross_entropy::cuda::forward(&self.0, losses, x, w, targets, options)
    }

    fn linear_cross_entropy_backward<T: Element>(
        &self,
        losses: ViewMut<f32>,
        dx: ViewMut<T>,
        dw: ViewMut<f32>,
        x: View<T>,
        w: View<T>,
        targets: &Ids,
        grad_scale: f32,
        options: &LossOptions,
        _: Interrupt,
    ) -> Result<()> {
        let op = linear_cross_entropy::cuda::forward_backward;
        op(&self.0, losses, dx, dw, x, w, targets, grad_scale, options)
    }

    fn clip(&self, g: View<f32>, Clipping { loss_scale, max }: Clipping) -> Result<(f64, Buffer<f32>)> {
        let (mut norm, mut factor) = (self.0.alloc::<f32>(1)?, self.0.alloc::<f32>(1)?);
        grad_norm::cuda::scale(&self.0, norm.all_mut(), factor.all_mut(), g, 1.0 / loss_scale, max)?;
        Ok((one(&norm)?, factor))
    }

    fn norm(&self, g: View<f32>) -> Result<f64> {
        self.clip(g, Clipping { loss_scale: 1.0, max: 0.0 }).map(|(norm, _)| norm)
    }

    fn first_non_finite(&self, values: View<f32>) -> Result<Option<usize>> {
        grad_norm::cuda::first_non_finite(&self.0, values)
    }

    fn adamw<T: Element>(
        &self,
        p: ViewMut<f32>,
        m: ViewMut<f32>,
        v: ViewMut<f32>,
        low: Option<ViewMut<T>>,
        g: View<f32>,
        factor: &Buffer<f32>,
        groups: &[Group],
        numbers: &Numbers,
    ) -> Result<()> {
        adamw::cuda::step(&self.0, p, m, v, low, g, factor.all(), groups, numbers)
    }

    fn cast<T: Element>(&self, to: ViewMut<T>, x: View<f32>) -> Result<()> {
        cast::cuda::from_f32(&self.0, to, x)
    }
}

/// What a buffer of one number holds.
fn one(buffer: &Buffer<f32>) -> Result<f64> {
    let value = buffer.download()?.first().copied();
    value.map(f64::from).ok_or_else(|| Error::Internal("a place for one number has none".into()))
}
