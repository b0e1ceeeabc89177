//! The backward pass, by hand. Parameter gradients are added; the stream's gradient is carried in
//! `scratch.gradient`.

use std::ops::Range;

use super::Norm;
use super::layout::{LayerParams, LinearParams, NormParams, Projection};
use super::pass::Pass;
use super::workspace::{Buffers, LayerBuffers, Scratch, Slot, Stats};
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::ops::{activation, attention, embedding, gated_mlp, layer_norm, linear, rms_norm, rotary};
use crate::tensor::{View, ViewMut};

/// A weight's gradient and its bias's: two disjoint ranges of one arena.
fn pair<'g>(
    grads: &'g mut [f32],
    weight: &Range<usize>,
    bias: Option<&Range<usize>>,
) -> Result<(&'g mut [f32], Option<&'g mut [f32]>)> {
    let Some(bias) = bias else { return Ok((&mut grads[weight.clone()], None)) };
    let [weight, bias] = grads
        .get_disjoint_mut([weight.clone(), bias.clone()])
        .map_err(|_| Error::Internal("weight and bias overlap in the arena".into()))?;
    Ok((weight, Some(bias)))
}

fn vector_mut(data: &mut [f32]) -> Result<ViewMut<'_, f32>> {
    let len = data.len();
    ViewMut::new(data, &[len])
}

impl<T: Element> Pass<'_, T> {
    /// dW += dyᵀ·x;  db += Σ dy
    fn linear_weight(&self, grads: &mut [f32], p: &LinearParams, dy: &[T], x: &[T]) -> Result<()> {
        self.interrupt.check()?;
        let (dw, db) = pair(grads, &p.weight, p.bias.as_ref())?;
        let (dw, db) = (ViewMut::new(dw, &[p.outputs, p.inputs])?, db.map(vector_mut).transpose()?);
        linear::backward_weight(dw, db, self.rows(dy, p.outputs)?, self.rows(x, p.inputs)?)
    }

    /// dx = dy·W
    fn linear_input(&self, dx: &mut [T], dy: &[T], p: &LinearParams) -> Result<()> {
        self.interrupt.check()?;
        linear::backward_input(self.rows_mut(dx, p.inputs)?, self.rows(dy, p.outputs)?, self.matrix(p)?)
    }

    /// dx = the norm's gradient + `residual`
    fn norm_backward(
        &self,
        dx: &mut [T],
        grads: &mut [f32],
        p: &NormParams,
        dy: &[T],
        x: &[T],
        stats: &Stats,
        residual: Option<&[T]>,
    ) -> Result<()> {
        let (dw, db) = pair(grads, &p.weight, p.bias.as_ref())?;
        let (dw, db) = (vector_mut(dw)?, db.map(vector_mut).transpose()?);
        let (dx, dy, x) = (self.rows_mut(dx, self.width())?, self.rows(dy, self.width())?, self.rows(x, self.width())?);
        let (w, residual) = (self.vector(&p.weight)?, residual.map(|r| self.rows(r, self.width())).transpose()?);
        match self.config.norm {
            Norm::LayerNorm => layer_norm::backward(dx, dw, db, dy, x, &stats.mean, &stats.rstd, w, residual),
            Norm::RmsNorm => rms_norm::backward(dx, dw, dy, x, &stats.rstd, w, residual),
        }
    }

    /// From `branch`, the gradient of the final norm's output, back to the embedding. Layers of a
    /// block that no slot holds any more are computed again.
    pub(super) fn walk_back(&self, buffers: &mut Buffers<T>, grads: &mut [f32], ids: &[i32]) -> Result<()> {
        let Buffers { streams, scratch, final_stats, sizes, .. } = buffers;
        let (sizes, Scratch { branch, gradient, .. }) = (*sizes, scratch);
        let last = &streams[sizes.stream(sizes.layers)];
        self.norm_backward(gradient, grads, &self.layout.final_norm, branch, last, final_stats, None)?;
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
        self.embed_backward(grads, &buffers.scratch.gradient, ids)
    }

    /// `gradient` enters as that of the layer's output and leaves as that of its input x.
    fn layer_backward(&self, i: usize, grads: &mut [f32], buffers: LayerBuffers<T>) -> Result<()> {
        let p = &self.layout.layers[i];
        let LayerBuffers { x, slot, scratch, .. } = buffers;
        self.mlp_backward(grads, x, slot, scratch, p)?;
        let parallel = self.config.parallel_residual;
        if !parallel {
            std::mem::swap(&mut scratch.gradient, &mut scratch.spare);
        }
        self.attention_backward(grads, x, slot, scratch, p)?;
        let Scratch { branch, gradient, spare, .. } = scratch;
        if parallel {
            // `gradient` has served both branches; what the MLP's norm passed on waits in `spare`.
            return self.norm_backward(
                gradient,
                grads,
                &p.attention_norm,
                branch,
                x,
                &slot.attention_stats,
                Some(spare),
            );
        }
        self.norm_backward(spare, grads, &p.attention_norm, branch, x, &slot.attention_stats, Some(gradient))?;
        std::mem::swap(gradient, spare);
        Ok(())
    }

    /// spare = `gradient` + what it sends through the MLP and its norm.
    fn mlp_backward(
        &self,
        grads: &mut [f32],
        x: &[T],
        slot: &mut Slot<T>,
        scratch: &mut Scratch<T>,
        p: &LayerParams,
    ) -> Result<()> {
        let Scratch { normed, branch, spare, gradient, hidden } = scratch;
        let (hidden, rest) = hidden.split_at_mut(self.tokens() * p.down.inputs);
        let dup = &mut rest[..self.tokens() * p.up.outputs];
        self.activate(hidden, &slot.up)?;
        self.linear_weight(grads, &p.down, gradient, hidden)?;
        self.linear_input(hidden, gradient, &p.down)?;
        self.activate_backward(dup, hidden, &slot.up)?;
        let input = if self.config.parallel_residual { x } else { &slot.middle };
        self.norm(normed, &mut slot.mlp_stats, input, &p.mlp_norm)?;
        self.linear_weight(grads, &p.up, dup, normed)?;
        self.linear_input(branch, dup, &p.up)?;
        self.norm_backward(spare, grads, &p.mlp_norm, branch, input, &slot.mlp_stats, Some(gradient))
    }

    fn activate_backward(&self, dup: &mut [T], dhidden: &[T], up: &[T]) -> Result<()> {
        let (ffn, kind) = (self.config.ffn_hidden_size, self.config.activation);
        let dhidden = self.rows(dhidden, ffn)?;
        if self.config.gated {
            return gated_mlp::backward(self.rows_mut(dup, 2 * ffn)?, dhidden, self.rows(up, 2 * ffn)?, kind);
        }
        activation::backward(self.rows_mut(dup, ffn)?, dhidden, self.rows(up, ffn)?, kind)
    }

    /// branch = the gradient of norm₁'s output, from `gradient`.
    fn attention_backward(
        &self,
        grads: &mut [f32],
        x: &[T],
        slot: &mut Slot<T>,
        scratch: &mut Scratch<T>,
        p: &LayerParams,
    ) -> Result<()> {
        let Scratch { normed, branch, gradient, hidden, .. } = scratch;
        let (dattended, rest) = hidden.split_at_mut(self.tokens() * p.dense.inputs);
        let dqkv = &mut rest[..self.tokens() * p.qkv.outputs];
        self.linear_weight(grads, &p.dense, gradient, &slot.attended)?;
        self.linear_input(dattended, gradient, &p.dense)?;
        self.attend_backward(dqkv, dattended, slot)?;
        self.norm(normed, &mut slot.attention_stats, x, &p.attention_norm)?;
        self.linear_weight(grads, &p.qkv, dqkv, normed)?;
        self.linear_input(branch, dqkv, &p.qkv)
    }

    fn attend_backward(&self, dqkv: &mut [T], dattended: &[T], slot: &Slot<T>) -> Result<()> {
        self.interrupt.check()?;
        let Projection { row, q, k, .. } = self.projection;
        let shape = [self.batch, self.time, q.count * q.dim];
        let (dout, out) = (View::new(dattended, &shape)?, View::new(&slot.attended, &shape)?);
        let (batch, time) = (self.batch, self.time);
        attention::backward(dqkv, dout, out, &slot.lse, &slot.qkv, &self.attention())?;
        let Some(table) = self.table else { return Ok(()) };
        rotary::backward(dqkv, row, q, batch, time, table, self.start)?;
        rotary::backward(dqkv, row, k, batch, time, table, self.start)
    }

    /// dE[id] += gradient of each token (and dP[position]).
    fn embed_backward(&self, grads: &mut [f32], gradient: &[T], ids: &[i32]) -> Result<()> {
        let width = self.width();
        let dtable = ViewMut::new(&mut grads[self.layout.embedding.clone()], &[self.config.vocab_size, width])?;
        embedding::backward(dtable, self.rows(gradient, width)?, ids)?;
        let Some(positions) = &self.layout.positions else { return Ok(()) };
        let shape = [self.config.max_position_embeddings, width];
        let dtable = ViewMut::new(&mut grads[positions.clone()], &shape)?;
        embedding::backward(dtable, self.rows(gradient, width)?, &self.positions()?)
    }
}
