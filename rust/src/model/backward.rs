//! The backward pass, by hand. Parameter gradients are added; the stream's gradient is carried in
//! `scratch.gradient`.

use super::Norm;
use super::layout::{LayerParams, LinearParams, NormParams, range_with};
use super::pass::Pass;
use super::workspace::{Buffers, LayerBuffers, Scratch, Slot, Stats};
use crate::dtype::Element;
use crate::error::Result;
use crate::ops::backend::Backend;

impl<B: Backend, T: Element> Pass<'_, B, T> {
    /// dW += dyᵀ·x;  db += Σ dy
    fn linear_weight(
        &self,
        grads: &mut B::SliceMut<'_, f32>,
        p: &LinearParams,
        dy: B::Slice<'_, T>,
        x: B::Slice<'_, T>,
    ) -> Result<()> {
        self.interrupt.check()?;
        let both = B::part_mut(B::lend(grads), range_with(&p.weight, p.bias.as_ref()));
        let (dw, db) = B::split(both, p.weight.len());
        let db = p.bias.as_ref().map(|bias| B::view_mut(db, &[bias.len()])).transpose()?;
        let dw = B::view_mut(dw, &[p.outputs, p.inputs])?;
        self.on.linear_weight(dw, db, self.rows(dy, p.outputs)?, self.rows(x, p.inputs)?)
    }

    /// dx = dy·W
    fn linear_input(&self, dx: B::SliceMut<'_, T>, dy: B::Slice<'_, T>, p: &LinearParams) -> Result<()> {
        self.interrupt.check()?;
        self.on.linear_input(self.rows_mut(dx, p.inputs)?, self.rows(dy, p.outputs)?, self.matrix(p)?)
    }

    /// dx = the norm's gradient + `residual`
    fn norm_backward(
        &self,
        dx: B::SliceMut<'_, T>,
        grads: &mut B::SliceMut<'_, f32>,
        p: &NormParams,
        dy: B::Slice<'_, T>,
        x: B::Slice<'_, T>,
        stats: &Stats<B>,
        residual: Option<B::Slice<'_, T>>,
    ) -> Result<()> {
        let grads = B::part_mut(B::lend(grads), range_with(&p.weight, p.bias.as_ref()));
        let (dx, dy, x) = (self.rows_mut(dx, self.width())?, self.rows(dy, self.width())?, self.rows(x, self.width())?);
        let (w, residual) = (self.vector(&p.weight)?, residual.map(|r| self.rows(r, self.width())).transpose()?);
        let (mean, rstd) = (B::read(&stats.mean), B::read(&stats.rstd));
        match self.config.norm {
            Norm::LayerNorm => self.on.layer_norm_backward(dx, grads, dy, x, mean, rstd, w, residual),
            Norm::RmsNorm => self.on.rms_norm_backward(dx, grads, dy, x, rstd, w, residual),
        }
    }

    /// From `branch`, the gradient of the final norm's output, back to the embedding. Layers of a
    /// block that no slot holds any more are computed again.
    pub(super) fn walk_back(
        &self,
        buffers: &mut Buffers<B, T>,
        mut grads: B::SliceMut<'_, f32>,
        ids: &B::Ids<'_>,
    ) -> Result<()> {
        let grads = &mut grads;
        let Buffers { streams, scratch, final_stats, sizes, .. } = buffers;
        let (sizes, Scratch { branch, gradient, .. }) = (*sizes, scratch);
        let (last, dy) = (B::read(&streams[sizes.stream(sizes.layers)]), B::read(branch));
        self.norm_backward(B::write(gradient), grads, &self.layout.final_norm, dy, last, final_stats, None)?;
        let block = sizes.block();
        for first in (0..sizes.layers).step_by(block).rev() {
            let end = (first + block).min(sizes.layers);
            if end < sizes.layers {
                for i in first..end {
                    self.layer(i, buffers.layer(i)?, i + 1 < end, Pass::attend)?;
                }
            }
            for i in (first..end).rev() {
                self.layer_backward(i, grads, buffers.layer(i)?)?;
            }
        }
        self.embed_backward(grads, B::read(&buffers.scratch.gradient), ids)
    }

    /// `gradient` enters as that of the layer's output and leaves as that of its input x.
    fn layer_backward(&self, i: usize, grads: &mut B::SliceMut<'_, f32>, buffers: LayerBuffers<B, T>) -> Result<()> {
        let p = &self.layout.layers[i];
        let LayerBuffers { x, slot, scratch, .. } = buffers;
        self.mlp_backward(grads, x, slot, scratch, p)?;
        let parallel = self.config.parallel_residual;
        if !parallel {
            std::mem::swap(&mut scratch.gradient, &mut scratch.spare);
        }
        self.attention_backward(grads, x, slot, scratch, p)?;
        let Scratch { branch, gradient, spare, .. } = scratch;
        if !parallel {
            std::mem::swap(gradient, spare);
        }
        // With a parallel residual `gradient` has served both branches, and what the MLP's norm passed on waits in
        // `spare`; else the gradient that came in has just moved there.
        let (dx, dy, residual) = (B::write(gradient), B::read(branch), Some(B::read(spare)));
        self.norm_backward(dx, grads, &p.attention_norm, dy, x, &slot.attention_stats, residual)
    }

    /// spare = `gradient` + what it sends through the MLP and its norm.
    fn mlp_backward(
        &self,
        grads: &mut B::SliceMut<'_, f32>,
        x: B::Slice<'_, T>,
        slot: &mut Slot<B, T>,
        scratch: &mut Scratch<B, T>,
        p: &LayerParams,
    ) -> Result<()> {
        let Scratch { normed, branch, spare, gradient, hidden } = scratch;
        let (mut hidden, rest) = B::split(B::write(hidden), self.tokens() * p.down.inputs);
        let mut dup = B::part_mut(rest, 0..self.tokens() * p.up.outputs);
        let (up, gradient) = (B::read(&slot.up), B::read(gradient));
        self.activate(B::lend(&mut hidden), up)?;
        self.linear_weight(grads, &p.down, gradient, B::seen(&hidden))?;
        self.linear_input(B::lend(&mut hidden), gradient, &p.down)?;
        self.activate_backward(B::lend(&mut dup), B::seen(&hidden), up)?;
        let input = if self.config.parallel_residual { B::shorten(x) } else { B::read(&slot.middle) };
        self.norm(B::write(normed), &mut slot.mlp_stats, input, &p.mlp_norm)?;
        self.linear_weight(grads, &p.up, B::seen(&dup), B::read(normed))?;
        self.linear_input(B::write(branch), B::seen(&dup), &p.up)?;
        let (dx, dy) = (B::write(spare), B::read(branch));
        self.norm_backward(dx, grads, &p.mlp_norm, dy, input, &slot.mlp_stats, Some(gradient))
    }

    fn activate_backward(&self, dup: B::SliceMut<'_, T>, dhidden: B::Slice<'_, T>, up: B::Slice<'_, T>) -> Result<()> {
        let (ffn, kind) = (self.config.ffn_hidden_size, self.config.activation);
        let dhidden = self.rows(dhidden, ffn)?;
        if self.config.gated {
            return self.on.gated_mlp_backward(self.rows_mut(dup, 2 * ffn)?, dhidden, self.rows(up, 2 * ffn)?, kind);
        }
        self.on.activation_backward(self.rows_mut(dup, ffn)?, dhidden, self.rows(up, ffn)?, kind)
    }

    /// branch = the gradient of norm₁'s output, from `gradient`.
    fn attention_backward(
        &self,
        grads: &mut B::SliceMut<'_, f32>,
        x: B::Slice<'_, T>,
        slot: &mut Slot<B, T>,
        scratch: &mut Scratch<B, T>,
        p: &LayerParams,
    ) -> Result<()> {
        let Scratch { normed, branch, gradient, hidden, .. } = scratch;
        let (mut dattended, rest) = B::split(B::write(hidden), self.tokens() * p.dense.inputs);
        let mut dqkv = B::part_mut(rest, 0..self.tokens() * p.qkv.outputs);
        let gradient = B::read(gradient);
        self.linear_weight(grads, &p.dense, gradient, B::read(&slot.attended))?;
        self.linear_input(B::lend(&mut dattended), gradient, &p.dense)?;
        self.attend_backward(B::lend(&mut dqkv), B::seen(&dattended), slot)?;
        self.norm(B::write(normed), &mut slot.attention_stats, x, &p.attention_norm)?;
        self.linear_weight(grads, &p.qkv, B::seen(&dqkv), B::read(normed))?;
        self.linear_input(B::write(branch), B::seen(&dqkv), &p.qkv)
    }

    fn attend_backward(
        &self,
        mut dqkv: B::SliceMut<'_, T>,
        dattended: B::Slice<'_, T>,
        slot: &Slot<B, T>,
    ) -> Result<()> {
        self.interrupt.check()?;
        let (row, shape) = (self.projection.row, self.attended());
        let (dout, out) = (B::view(dattended, &shape)?, B::view(B::read(&slot.attended), &shape)?);
        let (places, qkv) = (self.rows_mut(B::lend(&mut dqkv), row)?, self.rows(B::read(&slot.qkv), row)?);
        self.on.attention_backward(places, dout, out, B::read(&slot.lse), qkv, &self.attention())?;
        self.rotate(dqkv, true)
    }

    /// dE[id] += gradient of each token (and dP[position]).
    fn embed_backward(
        &self,
        grads: &mut B::SliceMut<'_, f32>,
        gradient: B::Slice<'_, T>,
        ids: &B::Ids<'_>,
    ) -> Result<()> {
        let (width, dy) = (self.width(), self.rows(gradient, self.width())?);
        let dtable = B::part_mut(B::lend(grads), self.layout.embedding.clone());
        self.on.embedding_backward(B::view_mut(dtable, &[self.config.vocab_size, width])?, dy, ids)?;
        let Some(positions) = &self.layout.positions else { return Ok(()) };
        let (limit, places) = (self.config.max_position_embeddings, self.positions()?);
        let ids = self.on.ids("embedding.backward", &places, limit, None)?;
        let dtable = B::part_mut(B::lend(grads), positions.clone());
        self.on.embedding_backward(B::view_mut(dtable, &[limit, width])?, dy, &ids)
    }
}
