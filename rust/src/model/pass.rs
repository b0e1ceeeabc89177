//! One walk through the decoder, forward.
//!
//! Sequential: y = x + Attn(norm₁ x);  x' = y + MLP(norm₂ y).
//! Parallel:   x' = x + (MLP(norm₂ x) + Attn(norm₁ x)).

use super::layout::{LayerParams, Layout, LinearParams, NormParams, Projection};
use super::workspace::{Buffers, LayerBuffers, Scratch, Slot, Stats};
use super::{ModelConfig, Norm};
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::ops::attention::{Mask, Qkv};
use crate::ops::{activation, add, attention, embedding, gated_mlp, layer_norm, linear, rms_norm, rotary};
use crate::tensor::{View, ViewMut};

/// What every step of a walk needs: the model, its weights, the shape of the batch.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a, T> {
    pub config: &'a ModelConfig,
    pub layout: &'a Layout,
    pub projection: Projection,
    pub weights: &'a [T],
    pub batch: usize,
    pub time: usize,
    /// Position of the first token of each sequence.
    pub start: usize,
    pub table: Option<&'a rotary::Table>,
    pub interrupt: Interrupt<'a>,
}

impl<T: Element> Pass<'_, T> {
    pub(super) fn tokens(&self) -> usize {
        self.batch * self.time
    }

    pub(super) fn width(&self) -> usize {
        self.config.hidden_size
    }

    /// (N, width)
    pub(super) fn rows<'d>(&self, data: &'d [T], width: usize) -> Result<View<'d, T>> {
        View::new(data, &[self.tokens(), width])
    }

    pub(super) fn rows_mut<'d>(&self, data: &'d mut [T], width: usize) -> Result<ViewMut<'d, T>> {
        ViewMut::new(data, &[self.tokens(), width])
    }

    pub(super) fn matrix(&self, p: &LinearParams) -> Result<View<'_, T>> {
        View::new(&self.weights[p.weight.clone()], &[p.outputs, p.inputs])
    }

    pub(super) fn vector(&self, range: &std::ops::Range<usize>) -> Result<View<'_, T>> {
        View::new(&self.weights[range.clone()], &[range.len()])
    }

    /// y = x·Wᵀ + b
    pub(super) fn linear(&self, y: &mut [T], x: &[T], p: &LinearParams) -> Result<()> {
        self.interrupt.check()?;
        let bias = p.bias.as_ref().map(|range| self.vector(range)).transpose()?;
        linear::forward(self.rows_mut(y, p.outputs)?, self.rows(x, p.inputs)?, self.matrix(p)?, bias)
    }

    /// y = norm(x)
    pub(super) fn norm(&self, y: &mut [T], stats: &mut Stats, x: &[T], p: &NormParams) -> Result<()> {
        let (y, x, w) = (self.rows_mut(y, self.width())?, self.rows(x, self.width())?, self.vector(&p.weight)?);
        let bias = p.bias.as_ref().map(|range| self.vector(range)).transpose()?;
        match self.config.norm {
            Norm::LayerNorm => {
                layer_norm::forward(y, &mut stats.mean, &mut stats.rstd, x, w, bias, self.config.norm_eps)
            }
            Norm::RmsNorm => rms_norm::forward(y, &mut stats.rstd, x, w, self.config.norm_eps),
        }
    }

    /// sum = x + residual;  y = norm(sum)
    fn norm_add(
        &self,
        y: &mut [T],
        sum: &mut [T],
        stats: &mut Stats,
        x: &[T],
        residual: &[T],
        p: &NormParams,
    ) -> Result<()> {
        let width = self.width();
        let (y, sum) = (self.rows_mut(y, width)?, self.rows_mut(sum, width)?);
        let (x, residual, w) = (self.rows(x, width)?, self.rows(residual, width)?, self.vector(&p.weight)?);
        let bias = p.bias.as_ref().map(|range| self.vector(range)).transpose()?;
        let (mean, rstd, eps) = (&mut stats.mean, &mut stats.rstd, self.config.norm_eps);
        match self.config.norm {
            Norm::LayerNorm => layer_norm::forward_add(y, sum, mean, rstd, x, residual, w, bias, eps),
            Norm::RmsNorm => rms_norm::forward_add(y, sum, rstd, x, residual, w, eps),
        }
    }

    pub(super) fn add(&self, y: &mut [T], a: &[T], b: &[T]) -> Result<()> {
        add::forward(self.rows_mut(y, self.width())?, self.rows(a, self.width())?, self.rows(b, self.width())?)
    }

    /// x = E[ids] (+ P[positions])
    fn embed(&self, x: &mut [T], scratch: &mut Scratch<T>, ids: &[i32]) -> Result<()> {
        let (width, tokens) = (self.width(), self.config.vocab_size);
        let table = View::new(&self.weights[self.layout.embedding.clone()], &[tokens, width])?;
        let Some(positions) = &self.layout.positions else {
            return embedding::forward(self.rows_mut(x, width)?, table, ids);
        };
        embedding::forward(self.rows_mut(&mut scratch.normed, width)?, table, ids)?;
        let table = View::new(&self.weights[positions.clone()], &[self.config.max_position_embeddings, width])?;
        embedding::forward(self.rows_mut(&mut scratch.branch, width)?, table, &self.positions()?)?;
        self.add(x, &scratch.normed, &scratch.branch)
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
        buffers: &mut Buffers<T>,
        ids: &[i32],
        mut attend: impl FnMut(&Self, &mut Slot<T>, usize) -> Result<()>,
    ) -> Result<()> {
        let Buffers { streams, scratch, .. } = buffers;
        self.embed(&mut streams[0], scratch, ids)?;
        for i in 0..buffers.sizes.layers {
            self.layer(i, buffers.layer(i)?, true, |pass, slot| attend(pass, slot, i))?;
        }
        let Buffers { streams, scratch, final_stats, sizes, .. } = buffers;
        let last = &streams[sizes.stream(sizes.layers)];
        self.norm(&mut scratch.normed, final_stats, last, &self.layout.final_norm)
    }

    /// One layer. Unless `whole` it stops where nothing more is kept for the backward pass.
    pub(super) fn layer(
        &self,
        i: usize,
        buffers: LayerBuffers<T>,
        whole: bool,
        attend: impl FnOnce(&Self, &mut Slot<T>) -> Result<()>,
    ) -> Result<()> {
        let p = &self.layout.layers[i];
        let LayerBuffers { x, next, slot, scratch } = buffers;
        self.norm(&mut scratch.normed, &mut slot.attention_stats, x, &p.attention_norm)?;
        self.linear(&mut slot.qkv, &scratch.normed, &p.qkv)?;
        attend(self, slot)?;
        self.linear(&mut scratch.branch, &slot.attended, &p.dense)?;
        self.enter_mlp(x, slot, scratch, p)?;
        self.linear(&mut slot.up, &scratch.normed, &p.up)?;
        if whole { self.leave_mlp(next, x, slot, scratch, p) } else { Ok(()) }
    }

    /// normed = norm₂(x), or norm₂(x + attention) with the sum kept in `middle`.
    fn enter_mlp(&self, x: &[T], slot: &mut Slot<T>, scratch: &mut Scratch<T>, p: &LayerParams) -> Result<()> {
        let (normed, stats) = (&mut scratch.normed, &mut slot.mlp_stats);
        if self.config.parallel_residual {
            return self.norm(normed, stats, x, &p.mlp_norm);
        }
        self.norm_add(normed, &mut slot.middle, stats, &scratch.branch, x, &p.mlp_norm)
    }

    /// next = down(act(up)) + what the residual brings.
    fn leave_mlp(&self, next: &mut [T], x: &[T], slot: &Slot<T>, s: &mut Scratch<T>, p: &LayerParams) -> Result<()> {
        let hidden = &mut s.hidden[..self.tokens() * self.config.ffn_hidden_size];
        self.activate(hidden, &slot.up)?;
        self.linear(&mut s.normed, hidden, &p.down)?;
        if self.config.parallel_residual {
            self.add(&mut s.spare, &s.normed, &s.branch)?;
            return self.add(next, &s.spare, x);
        }
        self.add(next, &s.normed, &slot.middle)
    }

    /// h = act(up), or act(gate)·up
    pub(super) fn activate(&self, hidden: &mut [T], up: &[T]) -> Result<()> {
        let (ffn, kind) = (self.config.ffn_hidden_size, self.config.activation);
        let hidden = self.rows_mut(hidden, ffn)?;
        if self.config.gated {
            return gated_mlp::forward(hidden, self.rows(up, 2 * ffn)?, kind);
        }
        activation::forward(hidden, self.rows(up, ffn)?, kind)
    }

    pub(super) fn rotate(&self, qkv: &mut [T]) -> Result<()> {
        let Some(table) = self.table else { return Ok(()) };
        let Projection { row, q, k, .. } = self.projection;
        rotary::forward(qkv, row, q, self.batch, self.time, table, self.start)?;
        rotary::forward(qkv, row, k, self.batch, self.time, table, self.start)
    }

    /// Rotates q and k in place, then attends to the tokens of this pass.
    pub(super) fn attend(&self, slot: &mut Slot<T>) -> Result<()> {
        self.interrupt.check()?;
        self.rotate(&mut slot.qkv)?;
        let Projection { q, .. } = self.projection;
        let out = ViewMut::new(&mut slot.attended, &[self.batch, self.time, q.count * q.dim])?;
        attention::forward(out, &mut slot.lse, &slot.qkv, &self.attention())
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
    pub(super) fn output(&self) -> Result<View<'_, T>> {
        View::new(&self.weights[self.layout.output.clone()], &[self.config.vocab_size, self.width()])
    }
}
