//! Activations: every buffer of a pass, allocated once, its size known beforehand.
//!
//! Kept for the backward pass, a layer: its input x, q|k|v (rotated), the attention output with its
//! log-sum-exp, the stream between the branches (sequential residual only), the MLP's first product
//! and the statistics of the norms. Norm outputs and activated products are computed again; the
//! gradient buffers are shared by all layers.
//!
//! With recomputation in blocks of n layers, x is kept at block borders alone and the rest for one
//! block at a time.

use super::decoder::{Decoder, LossSum};
use super::layout::Projection;
use super::{ModelConfig, Norm, Position};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::ops::backend::{Backend, Cpu};
use crate::ops::linear_cross_entropy::LossOptions;
use crate::ops::rotary;

/// Mean (LayerNorm only) and 1/std of each row.
#[derive(Debug)]
pub(super) struct Stats<B: Backend> {
    pub mean: B::Buffer<f32>,
    pub rstd: B::Buffer<f32>,
}

/// What one layer keeps for its backward pass. N tokens.
#[derive(Debug)]
pub(super) struct Slot<B: Backend, T: Element> {
    pub attention_stats: Stats<B>,
    /// (N, row)
    pub qkv: B::Buffer<T>,
    /// (B, A, T)
    pub lse: B::Buffer<f32>,
    /// (N, A·d)
    pub attended: B::Buffer<T>,
    /// x + attention, (N, D); empty with a parallel residual.
    pub middle: B::Buffer<T>,
    pub mlp_stats: Stats<B>,
    /// (N, F), or gate|up (N, 2F)
    pub up: B::Buffer<T>,
}

/// Buffers that every layer overwrites; (N, D) each, but `hidden`.
#[derive(Debug)]
pub(super) struct Scratch<B: Backend, T: Element> {
    pub normed: B::Buffer<T>,
    pub branch: B::Buffer<T>,
    /// A second branch, or the gradient being made; empty where no pass needs it.
    pub spare: B::Buffer<T>,
    /// The gradient of the stream; empty for inference.
    pub gradient: B::Buffer<T>,
    /// h (N, F); in the backward pass dh|du, then d attended | dqkv.
    pub hidden: B::Buffer<T>,
}

/// What a walk through the layers reads and writes.
#[derive(Debug)]
pub(super) struct Buffers<B: Backend, T: Element> {
    pub sizes: Sizes,
    /// The residual stream before each layer and after the last, see [`Sizes::stream`].
    pub streams: Vec<B::Buffer<T>>,
    pub slots: Vec<Slot<B, T>>,
    pub scratch: Scratch<B, T>,
    pub final_stats: Stats<B>,
}

/// Buffers of one shape (batch, time) for [`Decoder::forward_backward`] and [`Decoder::loss`].
#[derive(Debug)]
pub struct Workspace<T: Element, B: Backend = Cpu> {
    pub(super) on: B,
    pub(super) buffers: Buffers<B, T>,
    /// One token each.
    pub(super) losses: B::Buffer<f32>,
    pub(super) table: Option<B::Table>,
    config: ModelConfig,
}

/// What a workspace is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// Blocks of this many layers; all layers in one block keeps everything.
    Blocks(usize),
    /// Forward only.
    Nothing,
}

/// The extents that decide every buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub batch: usize,
    pub time: usize,
    pub keep: Keep,
    pub layers: usize,
    width: usize,
    heads: usize,
    attended: usize,
    row: usize,
    hidden: usize,
    up: usize,
    parallel: bool,
    means: bool,
}

impl Sizes {
    /// # Errors
    /// `Error::UnsupportedInput` for an empty batch, too long a sequence or a block of no layers.
    pub(super) fn new(config: &ModelConfig, batch: usize, time: usize, keep: Keep) -> Result<Self> {
        check_extents(config, batch, time, keep)?;
        Ok(Self {
            batch,
            time,
            keep,
            layers: config.num_layers,
            width: config.hidden_size,
            heads: config.num_attention_heads,
            attended: config.num_attention_heads * config.head_dim,
            row: Projection::of(config).row,
            hidden: config.ffn_hidden_size,
            up: config.ffn_hidden_size * if config.gated { 2 } else { 1 },
            parallel: config.parallel_residual,
            means: config.norm == Norm::LayerNorm,
        })
    }

    pub(super) fn tokens(&self) -> usize {
        self.batch * self.time
    }

    pub(super) fn trains(&self) -> bool {
        self.keep != Keep::Nothing
    }

    /// Layers of one block.
    pub(super) fn block(&self) -> usize {
        match self.keep {
            Keep::Blocks(n) => n.min(self.layers),
            Keep::Nothing => 1,
        }
    }

    fn num_streams(&self) -> usize {
        match self.keep {
            Keep::Blocks(_) => self.layers.div_ceil(self.block()) + self.block(),
            Keep::Nothing => 2,
        }
    }

    /// The buffer of the stream before layer `i` (after the last for `i` = number of layers): one for
    /// each border of blocks, then those inside a block.
    pub(super) fn stream(&self, i: usize) -> usize {
        let (block, borders) = (self.block(), self.layers.div_ceil(self.block()));
        match self.keep {
            Keep::Nothing => i % 2,
            Keep::Blocks(_) if i == self.layers => borders,
            Keep::Blocks(_) if i.is_multiple_of(block) => i / block,
            Keep::Blocks(_) => borders + i % block,
        }
    }

    pub(super) fn slot(&self, i: usize) -> usize {
        i % self.block()
    }

    /// Elements of `hidden`: the MLP's buffers and the attention's are never alive together.
    fn hidden_len(&self) -> usize {
        let wide = if self.trains() { (self.hidden + self.up).max(self.attended + self.row) } else { self.hidden };
        self.tokens() * wide
    }

    fn middle(&self) -> usize {
        if self.parallel { 0 } else { self.tokens() * self.width }
    }

    fn spare(&self) -> usize {
        if self.parallel || self.trains() { self.tokens() * self.width } else { 0 }
    }

    fn gradient(&self) -> usize {
        if self.trains() { self.tokens() * self.width } else { 0 }
    }

    fn means(&self) -> usize {
        if self.means { self.tokens() } else { 0 }
    }

    /// Bytes of all buffers; what allocating them takes, to the byte (the rotary table apart).
    pub(super) fn bytes(&self, dtype: DType) -> usize {
        let n = self.tokens();
        let slot = n * (self.row + self.attended + self.up) + self.middle();
        let scratch = 2 * n * self.width + self.spare() + self.gradient() + self.hidden_len();
        let elements = self.num_streams() * n * self.width + self.block() * slot + scratch;
        let stats = n + self.means();
        let floats = self.block() * (2 * stats + n * self.heads) + stats + n;
        elements * dtype.size() + floats * size_of::<f32>()
    }
}

fn check_extents(config: &ModelConfig, batch: usize, time: usize, keep: Keep) -> Result<()> {
    if batch == 0 || time == 0 {
        return Err(Error::UnsupportedInput(format!("token ids must not be empty, got shape ({batch}, {time})")));
    }
    if time > config.max_position_embeddings {
        let limit = config.max_position_embeddings;
        return Err(Error::UnsupportedInput(format!(
            "a sequence of {time} tokens is longer than the model's {limit} positions (`max_position_embeddings`)"
        )));
    }
    if keep == Keep::Blocks(0) {
        return Err(Error::Config("`checkpoint_num_layers` must be at least 1, got 0".into()));
    }
    Ok(())
}

impl<B: Backend> Stats<B> {
    fn allocate(on: &B, sizes: &Sizes) -> Result<Self> {
        Ok(Self { mean: on.zeros(sizes.means())?, rstd: on.zeros(sizes.tokens())? })
    }
}

impl<B: Backend, T: Element> Slot<B, T> {
    fn allocate(on: &B, sizes: &Sizes) -> Result<Self> {
        let n = sizes.tokens();
        Ok(Self {
            attention_stats: Stats::allocate(on, sizes)?,
            qkv: on.zeros(n * sizes.row)?,
            lse: on.zeros(n * sizes.heads)?,
            attended: on.zeros(n * sizes.attended)?,
            middle: on.zeros(sizes.middle())?,
            mlp_stats: Stats::allocate(on, sizes)?,
            up: on.zeros(n * sizes.up)?,
        })
    }
}

impl<B: Backend, T: Element> Buffers<B, T> {
    pub(super) fn allocate(on: &B, sizes: Sizes) -> Result<Self> {
        let row = || on.zeros(sizes.tokens() * sizes.width);
        Ok(Self {
            streams: (0..sizes.num_streams()).map(|_| row()).collect::<Result<_>>()?,
            slots: (0..sizes.block()).map(|_| Slot::allocate(on, &sizes)).collect::<Result<_>>()?,
            scratch: Scratch {
                normed: row()?,
                branch: row()?,
                spare: on.zeros(sizes.spare())?,
                gradient: on.zeros(sizes.gradient())?,
                hidden: on.zeros(sizes.hidden_len())?,
            },
            final_stats: Stats::allocate(on, &sizes)?,
            sizes,
        })
    }

    /// The streams before and after layer `i`, and its slot.
    pub(super) fn layer(&mut self, i: usize) -> Result<LayerBuffers<'_, B, T>> {
        let both = [self.sizes.stream(i), self.sizes.stream(i + 1)];
        let apart = self.streams.get_disjoint_mut(both);
        let [x, next] = apart.map_err(|_| Error::Internal("two streams share a buffer".into()))?;
        let (x, next) = (B::read(x), B::write(next));
        Ok(LayerBuffers { x, next, slot: &mut self.slots[self.sizes.slot(i)], scratch: &mut self.scratch })
    }
}

/// One layer's share of the buffers.
pub(super) struct LayerBuffers<'b, B: Backend, T: Element> {
    pub x: B::Slice<'b, T>,
    pub next: B::SliceMut<'b, T>,
    pub slot: &'b mut Slot<B, T>,
    pub scratch: &'b mut Scratch<B, T>,
}

impl<T: Element, B: Backend> Workspace<T, B> {
    pub(super) fn allocate(on: &B, config: &ModelConfig, sizes: Sizes) -> Result<Self> {
        Ok(Self {
            losses: on.zeros(sizes.tokens())?,
            table: table(config, sizes.time).map(|table| on.table(table)).transpose()?,
            buffers: Buffers::allocate(on, sizes)?,
            config: config.clone(),
            on: on.clone(),
        })
    }

    /// Bytes of all buffers.
    pub fn bytes(&self) -> usize {
        self.buffers.sizes.bytes(T::DTYPE)
    }

    /// The (batch, time) this workspace serves.
    pub fn shape(&self) -> (usize, usize) {
        (self.buffers.sizes.batch, self.buffers.sizes.time)
    }

    /// Puts the losses of the newest pass aside for `other`, which has as many places.
    pub fn swap_losses(&mut self, other: &mut B::Buffer<f32>) {
        std::mem::swap(&mut self.losses, other);
    }

    /// The losses of the newest pass, summed, after it has been waited for.
    ///
    /// # Errors
    /// `Error::Device`: a kernel has failed.
    pub fn loss_sum(&self, targets: &[i32], options: &LossOptions) -> Result<LossSum> {
        let losses = self.on.download(B::read(&self.losses))?;
        Ok(LossSum::of(&losses, targets, options))
    }

    /// # Errors
    /// `Error::UnsupportedInput` when the workspace was made for another decoder.
    pub(super) fn check_owner(&self, decoder: &Decoder) -> Result<()> {
        if self.config == *decoder.config() {
            return Ok(());
        }
        Err(Error::UnsupportedInput("this workspace belongs to a decoder of another configuration".into()))
    }
}

/// The angles of the first `time` positions, for models that rotate.
pub(super) fn table(config: &ModelConfig, time: usize) -> Option<rotary::Table> {
    match config.position {
        Position::Rotary { ndims, base } => Some(rotary::Table::new(time, ndims, base)),
        Position::Learned | Position::None => None,
    }
}

#[cfg(test)]
#[path = "workspace_tests.rs"]
mod tests;
