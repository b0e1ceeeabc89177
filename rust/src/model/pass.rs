//! One walk through the decoder, forward.
//!
//! Sequential: y = x + Attn(norm₁ x);  x' = y + MLP(norm₂ y).
//! Parallel:   x' = x + (MLP(norm₂ x) + Attn(norm₁ x)).

use std::ops::Range;

use super::layout::{LayerParams, Layout, LinearParams, NormParams, Projection};
use super::workspace::{Buffers, LayerBuffers, Scratch, Slot, Stats};
use super::{ModelConfig, Norm};
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::ops::attention::{Mask, Qkv};
use crate::ops::backend::Backend;

/// What every step of a walk needs: where it runs, the model, its weights, the shape of the batch.
pub(super) struct Pass<'a, B: Backend, T: Element> {
    pub on: &'a B,
    pub config: &'a ModelConfig,
    pub layout: &'a Layout,
    pub projection: Projection,
    pub weights: B::Slice<'a, T>,
    pub batch: usize,
    pub time: usize,
    /// Position of the first token of each sequence.
    pub start: usize,
    pub table: Option<&'a B::Table>,
    pub interrupt: Interrupt<'a>,
}

impl<'a, B: Backend, T: Element> Pass<'a, B, T> {
    pub(super) fn tokens(&self) -> usize {
        self.batch * self.time
    }

    pub(super) fn width(&self) -> usize {
        self.config.hidden_size
    }

    /// (N, width)
    pub(super) fn rows<'d>(&self, data: B::Slice<'d, T>, width: usize) -> Result<B::View<'d, T>> {
        B::view(data, &[self.tokens(), width])
    }

    pub(super) fn rows_mut<'d>(&self, data: B::SliceMut<'d, T>, width: usize) -> Result<B::ViewMut<'d, T>> {
        B::view_mut(data, &[self.tokens(), width])
    }

    pub(super) fn matrix(&self, p: &LinearParams) -> Result<B::View<'a, T>> {
        B::view(B::part(self.weights, p.weight.clone()), &[p.outputs, p.inputs])
    }

    pub(super) fn vector(&self, range: &Range<usize>) -> Result<B::View<'a, T>> {
        B::view(B::part(self.weights, range.clone()), &[range.len()])
    }

    /// y = x·Wᵀ + b
    pub(super) fn linear(&self, y: B::SliceMut<'_, T>, x: B::Slice<'_, T>, p: &LinearParams) -> Result<()> {
        self.interrupt.check()?;
        let bias = p.bias.as_ref().map(|range| self.vector(range)).transpose()?;
        self.on.linear(self.rows_mut(y, p.outputs)?, self.rows(x, p.inputs)?, self.matrix(p)?, bias)
    }

    /// y = norm(x)
    pub(super) fn norm(
        &self,
        y: B::SliceMut<'_, T>,
        stats: &mut Stats<B>,
        x: B::Slice<'_, T>,
        p: &NormParams,
    ) -> Result<()> {
        let (y, x, w) = (self.rows_mut(y, self.width())?, self.rows(x, self.width())?, self.vector(&p.weight)?);
        let bias = p.bias.as_ref().map(|range| self.vector(range)).transpose()?;
        let (mean, rstd, eps) = (B::write(&mut stats.mean), B::write(&mut stats.rstd), self.config.norm_eps);
        match self.config.norm {
            Norm::LayerNorm => self.on.layer_norm(y, mean, rstd, x, w, bias, eps),
            Norm::RmsNorm => self.on.rms_norm(y, rstd, x, w, eps),
        }
    }

    /// sum = x + residual;  y = norm(sum)
    fn norm_add(
        &self,
        y: B::SliceMut<'_, T>,
        sum: B::SliceMut<'_, T>,
        stats: &mut Stats<B>,
        x: B::Slice<'_, T>,
        residual: B::Slice<'_, T>,
        p: &NormParams,
    ) -> Result<()> {
        let width = self.width();
        let (y, sum) = (self.rows_mut(y, width)?, self.rows_mut(sum, width)?);
        let (x, residual, w) = (self.rows(x, width)?, self.rows(residual, width)?, self.vector(&p.weight)?);
        let bias = p.bias.as_ref().map(|range| self.vector(range)).transpose()?;
        let (mean, rstd, eps) = (B::write(&mut stats.mean), B::write(&mut stats.rstd), self.config.norm_eps);
        match self.config.norm {
            Norm::LayerNorm => self.on.layer_norm_add(y, sum, mean, rstd, x, residual, w, bias, eps),
            Norm::RmsNorm => self.on.rms_norm_add(y, sum, rstd, x, residual, w, eps),
        }
    }

    pub(super) fn add(&self, y: B::SliceMut<'_, T>, a: B::Slice<'_, T>, b: B::Slice<'_, T>) -> Result<()> {
        self.on.add(self.rows_mut(y, self.width())?, self.rows(a, self.width())?, self.rows(b, self.width())?)
    }

    /// x = E[ids] (+ P[positions])
    fn embed(&self, x: B::SliceMut<'_, T>, scratch: &mut Scratch<B, T>, ids: &B::Ids<'_>) -> Result<()> {
        let (width, tokens) = (self.width(), self.config.vocab_size);
        let table = B::view(B::part(self.weights, self.layout.embedding.clone()), &[tokens, width])?;
        let Some(positions) = &self.layout.positions else {
            return self.on.embedding(self.rows_mut(x, width)?, table, ids);
        };
        self.on.embedding(self.rows_mut(B::write(&mut scratch.normed), width)?, table, ids)?;
        let (limit, positions) = (self.config.max_position_embeddings, positions.clone());
        let table = B::view(B::part(self.weights, positions), &[limit, width])?;
        let places = self.positions()?;
        let ids = self.on.ids("embedding", &places, limit, None)?;
        self.on.embedding(self.rows_mut(B::write(&mut scratch.branch), width)?, table, &ids)?;
        self.add(x, B::read(&scratch.normed), B::read(&scratch.branch))
    }

    /// The position of each token, sequence after sequence.
    pub(super) fn positions(&self) -> Result<Vec<i32>> {
        let position = |i| i32::try_from(self.start + i % self.time);
        let all: Result<Vec<_>, _> = (0..self.tokens()).map(position).collect();
        all.map_err(|_| Error::UnsupportedInput("positions beyond 2^31 are not supported".into()))
    }

    /// Embedding, all layers, final norm; the rows end in `scratch.normed`. `attend` fills
    /// `slot.attended` from `slot.qkv` for the layer it is told.
    pub(super) fn walk(
        &self,
        buffers: &mut Buffers<B, T>,
        ids: &B::Ids<'_>,
        mut attend: impl FnMut(&Self, &mut Slot<B, T>, usize) -> Result<()>,
    ) -> Result<()> {
        let Buffers { streams, scratch, .. } = buffers;
        self.embed(B::write(&mut streams[0]), scratch, ids)?;
        for i in 0..buffers.sizes.layers {
            self.layer(i, buffers.layer(i)?, true, |pass, slot| attend(pass, slot, i))?;
        }
        let Buffers { streams, scratch, final_stats, sizes, .. } = buffers;
        let last = &streams[sizes.stream(sizes.layers)];
        self.norm(B::write(&mut scratch.normed), final_stats, B::read(last), &self.layout.final_norm)
    }

    /// One layer. Unless `whole` it stops where nothing more is kept for the backward pass.
    pub(super) fn layer(
        &self,
        i: usize,
        buffers: LayerBuffers<B, T>,
        whole: bool,
        attend: impl FnOnce(&Self, &mut Slot<B, T>) -> Result<()>,
    ) -> Result<()> {
        let p = &self.layout.layers[i];
        let LayerBuffers { x, next, slot, scratch } = buffers;
        self.norm(B::write(&mut scratch.normed), &mut slot.attention_stats, x, &p.attention_norm)?;
        self.linear(B::write(&mut slot.qkv), B::read(&scratch.normed), &p.qkv)?;
        attend(self, slot)?;
        self.linear(B::write(&mut scratch.branch), B::read(&slot.attended), &p.dense)?;
        self.enter_mlp(x, slot, scratch, p)?;
        self.linear(B::write(&mut slot.up), B::read(&scratch.normed), &p.up)?;
        if whole { self.leave_mlp(next, x, slot, scratch, p) } else { Ok(()) }
    }

    /// normed = norm₂(x), or norm₂(x + attention) with the sum kept in `middle`.
    fn enter_mlp(
        &self,
        x: B::Slice<'_, T>,
        slot: &mut Slot<B, T>,
        scratch: &mut Scratch<B, T>,
        p: &LayerParams,
    ) -> Result<()> {
        let (normed, stats) = (B::write(&mut scratch.normed), &mut slot.mlp_stats);
        if self.config.parallel_residual {
            return self.norm(normed, stats, x, &p.mlp_norm);
        }
        self.norm_add(normed, B::write(&mut slot.middle), stats, B::read(&scratch.branch), x, &p.mlp_norm)
    }

    /// next = down(act(up)) + what the residual brings.
    fn leave_mlp(
        &self,
        next: B::SliceMut<'_, T>,
        x: B::Slice<'_, T>,
        slot: &Slot<B, T>,
        s: &mut Scratch<B, T>,
        p: &LayerParams,
    ) -> Result<()> {
        let range = 0..self.tokens() * self.config.ffn_hidden_size;
        self.activate(B::part_mut(B::write(&mut s.hidden), range.clone()), B::read(&slot.up))?;
        self.linear(B::write(&mut s.normed), B::part(B::read(&s.hidden), range), &p.down)?;
        if self.config.parallel_residual {
            self.add(B::write(&mut s.spare), B::read(&s.normed), B::read(&s.branch))?;
            return self.add(next, B::read(&s.spare), x);
        }
        self.add(next, B::read(&s.normed), B::read(&slot.middle))
    }

    /// h = act(up), or act(gate)·up
    pub(super) fn activate(&self, hidden: B::SliceMut<'_, T>, up: B::Slice<'_, T>) -> Result<()> {
        let (ffn, kind) = (self.config.ffn_hidden_size, self.config.activation);
        let hidden = self.rows_mut(hidden, ffn)?;
        if self.config.gated {
            return self.on.gated_mlp(hidden, self.rows(up, 2 * ffn)?, kind);
        }
        self.on.activation(hidden, self.rows(up, ffn)?, kind)
    }

    /// q and k in place, `backward` for their gradients.
    pub(super) fn rotate(&self, mut qkv: B::SliceMut<'_, T>, backward: bool) -> Result<()> {
        let Some(table) = self.table else { return Ok(()) };
        let Projection { row, q, k, .. } = self.projection;
        for heads in [q, k] {
            let qkv = self.rows_mut(B::lend(&mut qkv), row)?;
            self.on.rotary(qkv, heads, self.time, table, self.start, backward)?;
        }
        Ok(())
    }

    /// Rotates q and k in place, then attends to the tokens of this pass.
    pub(super) fn attend(&self, slot: &mut Slot<B, T>) -> Result<()> {
        self.interrupt.check()?;
        self.rotate(B::write(&mut slot.qkv), false)?;
        let out = B::view_mut(B::write(&mut slot.attended), &self.attended())?;
        let qkv = self.rows(B::read(&slot.qkv), self.projection.row)?;
        self.on.attention(out, B::write(&mut slot.lse), qkv, &self.attention())
    }

    /// (B, T, A·d)
    pub(super) fn attended(&self) -> [usize; 3] {
        [self.batch, self.time, self.projection.q.count * self.projection.q.dim]
    }

    /// Where q, k and v stand, and what they see.
    pub(super) fn attention(&self) -> Qkv<'static> {
        let Projection { row, q, k, v } = self.projection;
        let left = self.config.sliding_window.map(|keys| keys.saturating_sub(1));
        let mask = Mask { left, ..Mask::CAUSAL };
        Qkv { q, k, v, row, batch: self.batch, time: self.time, scale: self.scale(), mask }
    }

    /// d^(−½)
    pub(super) fn scale(&self) -> f32 {
        (1.0 / (self.config.head_dim as f64).sqrt()) as f32
    }

    /// (V, D)
    pub(super) fn output(&self) -> Result<B::View<'a, T>> {
        B::view(B::part(self.weights, self.layout.output.clone()), &[self.config.vocab_size, self.width()])
    }
}
