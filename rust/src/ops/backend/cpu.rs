//! The CPU: memory is slices, ids are taken as they are, for the ops check them.

use std::borrow::Cow;
use std::ops::Range;

use super::super::activation::{self, Activation};
use super::super::adamw::{self, Group, Numbers, Step};
use super::super::attention::{self, Heads, Qkv};
use super::super::linear_cross_entropy::{self, LossOptions};
use super::super::{add, cast, embedding, gated_mlp, grad_norm, layer_norm, linear, rms_norm, rotary};
use super::{Backend, Clipping};
use crate::dtype::Element;
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::memory::zeros;
use crate::tensor::{View, ViewMut};

/// Rust's own memory.
#[derive(Debug, Clone, Copy)]
pub struct Cpu;

fn vector(data: &mut [f32]) -> Result<ViewMut<'_, f32>> {
    let len = data.len();
    ViewMut::new(data, &[len])
}

impl Backend for Cpu {
    type Buffer<T: Element> = Vec<T>;
    type Slice<'a, T: Element> = &'a [T];
    type SliceMut<'a, T: Element> = &'a mut [T];
    type View<'a, T: Element> = View<'a, T>;
    type ViewMut<'a, T: Element> = ViewMut<'a, T>;
    type Ids<'a> = &'a [i32];
    type Table = rotary::Table;
    type Factor = f64;

    fn zeros<T: Element>(&self, len: usize) -> Result<Vec<T>> {
        Ok(zeros(len))
    }

    fn read<T: Element>(buffer: &Vec<T>) -> &[T] {
        buffer
    }

    fn write<T: Element>(buffer: &mut Vec<T>) -> &mut [T] {
        buffer
    }

    fn len<T: Element>(slice: &[T]) -> usize {
        slice.len()
    }

    fn part<'a, T: Element>(slice: Self::Slice<'a, T>, range: Range<usize>) -> Self::Slice<'a, T> {
        &slice[range]
    }

    fn part_mut<'a, T: Element>(slice: Self::SliceMut<'a, T>, range: Range<usize>) -> Self::SliceMut<'a, T> {
        &mut slice[range]
    }

    fn split<'a, T: Element>(
        slice: Self::SliceMut<'a, T>,
        at: usize,
    ) -> (Self::SliceMut<'a, T>, Self::SliceMut<'a, T>) {
        slice.split_at_mut(at)
    }

    fn lend<'b, T: Element>(slice: &'b mut &mut [T]) -> &'b mut [T] {
        slice
    }

    fn seen<'b, T: Element>(slice: &'b &mut [T]) -> &'b [T] {
        slice
    }

    fn shorten<'b, 'a: 'b, T: Element>(slice: Self::Slice<'a, T>) -> Self::Slice<'b, T> {
        slice
    }

    fn view<'a, T: Element>(slice: Self::Slice<'a, T>, dims: &[usize]) -> Result<View<'a, T>> {
        View::new(slice, dims)
    }

    fn view_mut<'a, T: Element>(slice: Self::SliceMut<'a, T>, dims: &[usize]) -> Result<ViewMut<'a, T>> {
        ViewMut::new(slice, dims)
    }

    fn clear<T: Element>(&self, to: &mut [T]) -> Result<()> {
        to.fill(T::default());
        Ok(())
    }

    fn download<'a, T: Element>(&self, from: Self::Slice<'a, T>) -> Result<Cow<'a, [T]>> {
        Ok(Cow::Borrowed(from))
    }

    fn into_host<T: Element>(buffer: Vec<T>) -> Result<Vec<T>> {
        Ok(buffer)
    }

    fn fill<T: Element>(&self, to: &mut [T], change: &mut dyn FnMut(&mut [T]) -> Result<()>) -> Result<()> {
        change(to)
    }

    fn ids<'a>(&self, _: &'static str, ids: &'a [i32], _: usize, _: Option<i32>) -> Result<&'a [i32]> {
        Ok(ids)
    }

    fn table(&self, table: rotary::Table) -> Result<rotary::Table> {
        Ok(table)
    }

    fn linear<T: Element>(&self, y: ViewMut<T>, x: View<T>, w: View<T>, bias: Option<View<T>>) -> Result<()> {
        linear::forward(y, x, w, bias)
    }

    fn linear_input<T: Element>(&self, dx: ViewMut<T>, dy: View<T>, w: View<T>) -> Result<()> {
        linear::backward_input(dx, dy, w)
    }

    fn linear_weight<T: Element>(
        &self,
        dw: ViewMut<f32>,
        dbias: Option<ViewMut<f32>>,
        dy: View<T>,
        x: View<T>,
    ) -> Result<()> {
        linear::backward_weight(dw, dbias, dy, x, true)
    }

    fn add<T: Element>(&self, y: ViewMut<T>, a: View<T>, b: View<T>) -> Result<()> {
        add::forward(y, a, b)
    }

    fn layer_norm<T: Element>(
        &self,
        y: ViewMut<T>,
        mean: &mut [f32],
        rstd: &mut [f32],
        x: View<T>,
        w: View<T>,
        bias: Option<View<T>>,
        eps: f64,
    ) -> Result<()> {
        layer_norm::forward(y, mean, rstd, x, w, bias, eps)
    }

    fn layer_norm_add<T: Element>(
        &self,
        y: ViewMut<T>,
        sum: ViewMut<T>,
        mean: &mut [f32],
        rstd: &mut [f32],
        x: View<T>,
        residual: View<T>,
        w: View<T>,
        bias: Option<View<T>>,
        eps: f64,
    ) -> Result<()> {
        layer_norm::forward_add(y, sum, mean, rstd, x, residual, w, bias, eps)
    }

    fn layer_norm_backward<T: Element>(
        &self,
        dx: ViewMut<T>,
        grads: &mut [f32],
        dy: View<T>,
        x: View<T>,
        mean: &[f32],
        rstd: &[f32],
        w: View<T>,
        dresidual: Option<View<T>>,
    ) -> Result<()> {
        let (dw, dbias) = grads.split_at_mut(w.shape().count());
        let dbias = if dbias.is_empty() { None } else { Some(vector(dbias)?) };
        layer_norm::backward(dx, vector(dw)?, dbias, dy, x, mean, rstd, w, dresidual)
    }

    fn rms_norm<T: Element>(&self, y: ViewMut<T>, rstd: &mut [f32], x: View<T>, w: View<T>, eps: f64) -> Result<()> {
        rms_norm::forward(y, rstd, x, w, eps)
    }

    fn rms_norm_add<T: Element>(
        &self,
        y: ViewMut<T>,
        sum: ViewMut<T>,
        rstd: &mut [f32],
        x: View<T>,
        residual: View<T>,
        w: View<T>,
        eps: f64,
    ) -> Result<()> {
        rms_norm::forward_add(y, sum, rstd, x, residual, w, eps)
    }

    fn rms_norm_backward<T: Element>(
        &self,
        dx: ViewMut<T>,
        dw: &mut [f32],
        dy: View<T>,
        x: View<T>,
        rstd: &[f32],
        w: View<T>,
        dresidual: Option<View<T>>,
    ) -> Result<()> {
        rms_norm::backward(dx, vector(dw)?, dy, x, rstd, w, dresidual)
    }

    fn embedding<T: Element>(&self, y: ViewMut<T>, table: View<T>, ids: &&[i32]) -> Result<()> {
        embedding::forward(y, table, ids)
    }

    fn embedding_backward<T: Element>(&self, dtable: ViewMut<f32>, dy: View<T>, ids: &&[i32]) -> Result<()> {
        embedding::backward(dtable, dy, ids)
    }

    fn activation<T: Element>(&self, y: ViewMut<T>, x: View<T>, kind: Activation) -> Result<()> {
        activation::forward(y, x, kind)
    }

    fn activation_backward<T: Element>(&self, dx: ViewMut<T>, dy: View<T>, x: View<T>, kind: Activation) -> Result<()> {
        activation::backward(dx, dy, x, kind)
    }

    fn gated_mlp<T: Element>(&self, h: ViewMut<T>, gate_up: View<T>, kind: Activation) -> Result<()> {
        gated_mlp::forward(h, gate_up, kind)
    }

    fn gated_mlp_backward<T: Element>(
        &self,
        dgate_up: ViewMut<T>,
        dh: View<T>,
        gate_up: View<T>,
        kind: Activation,
    ) -> Result<()> {
        gated_mlp::backward(dgate_up, dh, gate_up, kind)
    }

    fn rotary<T: Element>(
        &self,
        qkv: ViewMut<T>,
        heads: Heads,
        time: usize,
        table: &rotary::Table,
        start: usize,
        backward: bool,
    ) -> Result<()> {
        let (row, batch) = (qkv.shape().last(), qkv.shape().rows() / time.max(1));
        let rotate = if backward { rotary::backward } else { rotary::forward };
        rotate(qkv.into_data(), row, heads, batch, time, table, start)
    }

    fn attention<T: Element>(&self, out: ViewMut<T>, lse: &mut [f32], qkv: View<T>, s: &Qkv) -> Result<()> {
        attention::forward(out, lse, qkv.data(), s)
    }

    fn attention_backward<T: Element>(
        &self,
        dqkv: ViewMut<T>,
        dout: View<T>,
        out: View<T>,
        lse: &[f32],
        qkv: View<T>,
        s: &Qkv,
    ) -> Result<()> {
        attention::backward(dqkv.into_data(), dout, out, lse, qkv.data(), s)
    }

    fn linear_cross_entropy<T: Element>(
        &self,
        losses: &mut [f32],
        x: View<T>,
        w: View<T>,
        targets: &&[i32],
        options: &LossOptions,
        interrupt: Interrupt,
    ) -> Result<()> {
        linear_cross_entropy::forward(losses, x, w, targets, options, interrupt)
    }

    fn linear_cross_entropy_backward<T: Element>(
        &self,
        losses: &mut [f32],
        dx: ViewMut<T>,
        dw: ViewMut<f32>,
        x: View<T>,
        w: View<T>,
        targets: &&[i32],
        grad_scale: f32,
        options: &LossOptions,
        interrupt: Interrupt,
    ) -> Result<()> {
        linear_cross_entropy::forward_backward(losses, dx, dw, x, w, targets, grad_scale, options, true, interrupt)
    }

    fn clip(&self, g: &[f32], Clipping { loss_scale, max }: Clipping) -> Result<(f64, f64)> {
        let norm = grad_norm::sum_of_squares(g).sqrt() / loss_scale;
        Ok((norm, grad_norm::clip_coefficient(norm, max) / loss_scale))
    }

    fn norm(&self, g: &[f32]) -> Result<f64> {
        Ok(grad_norm::sum_of_squares(g).sqrt())
    }

    fn first_non_finite(&self, values: &[f32]) -> Result<Option<usize>> {
        Ok(grad_norm::first_non_finite(values))
    }

    fn adamw<T: Element>(
        &self,
        p: &mut [f32],
        m: &mut [f32],
        v: &mut [f32],
        low: Option<&mut [T]>,
        g: &[f32],
        factor: &f64,
        groups: &[Group],
        numbers: &Numbers,
    ) -> Result<()> {
        let Numbers { lr, beta1, beta2, eps, step } = *numbers;
        let mut begin = 0;
        for Group { end, weight_decay } in groups {
            let (r, weight_decay) = (begin..*end, *weight_decay);
            let step = Step { lr, beta1, beta2, eps, weight_decay, grad_scale: *factor as f32, step, dither: None };
            adamw::step(&mut p[r.clone()], &mut m[r.clone()], &mut v[r.clone()], &g[r], &step)?;
            begin = *end;
        }
        low.map_or(Ok(()), |low| cast::from_f32(low, p))
    }

    fn cast<T: Element>(&self, to: &mut [T], x: &[f32]) -> Result<()> {
        cast::from_f32(to, x)
    }
}
