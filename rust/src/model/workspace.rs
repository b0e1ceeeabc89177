//! Activations: every buffer of a pass, allocated once, its size known beforehand.
//!
//! Kept for the backward pass, a layer: its input x, q|k|v (rotated), the attention output with its
//! log-sum-exp, the stream between the branches (sequential residual only), the MLP's first product
//! and the statistics of the norms. Norm outputs and activated products are computed again; the
//! gradient buffers are shared by all layers.
//!
//! With recomputation in blocks of n layers, x is kept at block borders alone and the rest for one
//! block at a time.

use super::decoder::Decoder;
use super::layout::Projection;
use super::{ModelConfig, Norm, Position};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::memory::zeros;
use crate::ops::rotary;

/// Mean (LayerNorm only) and 1/std of each row.
#[derive(Debug)]
pub(super) struct Stats {
    pub mean: Vec<f32>,
    pub rstd: Vec<f32>,
}

/// What one layer keeps for its backward pass. N tokens.
#[derive(Debug)]
pub(super) struct Slot<T> {
    pub attention_stats: Stats,
    /// (N, row)
    pub qkv: Vec<T>,
    /// (B, A, T)
    pub lse: Vec<f32>,
    /// (N, A·d)
    pub attended: Vec<T>,
    /// x + attention, (N, D); empty with a parallel residual.
    pub middle: Vec<T>,
    pub mlp_stats: Stats,
    /// (N, F), or gate|up (N, 2F)
    pub up: Vec<T>,
}

/// Buffers that every layer overwrites; (N, D) each, but `hidden`.
#[derive(Debug)]
pub(super) struct Scratch<T> {
    pub normed: Vec<T>,
    pub branch: Vec<T>,
    /// A second branch, or the gradient being made; empty where no pass needs it.
    pub spare: Vec<T>,
    /// The gradient of the stream; empty for inference.
    pub gradient: Vec<T>,
    /// h (N, F); in the backward pass dh|du, then d attended | dqkv.
    pub hidden: Vec<T>,
}

/// What a walk through the layers reads and writes.
#[derive(Debug)]
pub(super) struct Buffers<T> {
    pub sizes: Sizes,
    /// The residual stream before each layer and after the last, see [`Sizes::stream`].
    pub streams: Vec<Vec<T>>,
    pub slots: Vec<Slot<T>>,
    pub scratch: Scratch<T>,
    pub final_stats: Stats,
}

/// Buffers of one shape (batch, time) for [`Decoder::forward_backward`] and [`Decoder::loss`].
#[derive(Debug)]
pub struct Workspace<T> {
    pub(super) buffers: Buffers<T>,
    /// One token each.
    pub(super) losses: Vec<f32>,
    pub(super) table: Option<rotary::Table>,
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

impl<T: Element> Buffers<T> {
    pub(super) fn allocate(sizes: Sizes) -> Self {
        let n = sizes.tokens();
        let of = |width: usize| zeros(n * width);
        let stats = || Stats { mean: vec![0.0; sizes.means()], rstd: vec![0.0; n] };
        let slot = || Slot {
            attention_stats: stats(),
            qkv: of(sizes.row),
            lse: vec![0.0; n * sizes.heads],
            attended: of(sizes.attended),
            middle: zeros(sizes.middle()),
            mlp_stats: stats(),
            up: of(sizes.up),
        };
        Self {
            streams: (0..sizes.num_streams()).map(|_| of(sizes.width)).collect(),
            slots: (0..sizes.block()).map(|_| slot()).collect(),
            scratch: Scratch {
                normed: of(sizes.width),
                branch: of(sizes.width),
                spare: zeros(sizes.spare()),
                gradient: zeros(sizes.gradient()),
                hidden: zeros(sizes.hidden_len()),
            },
            final_stats: stats(),
            sizes,
        }
    }

    /// The streams before and after layer `i`, and its slot.
    pub(super) fn layer(&mut self, i: usize) -> Result<LayerBuffers<'_, T>> {
        let both = [self.sizes.stream(i), self.sizes.stream(i + 1)];
        let apart = self.streams.get_disjoint_mut(both);
        let [x, next] = apart.map_err(|_| Error::Internal("two streams share a buffer".into()))?;
        Ok(LayerBuffers { x, next, slot: &mut self.slots[self.sizes.slot(i)], scratch: &mut self.scratch })
    }
}

/// One layer's share of the buffers.
pub(super) struct LayerBuffers<'b, T> {
    pub x: &'b [T],
    pub next: &'b mut [T],
    pub slot: &'b mut Slot<T>,
    pub scratch: &'b mut Scratch<T>,
}

impl<T: Element> Workspace<T> {
    pub(super) fn allocate(config: &ModelConfig, sizes: Sizes) -> Self {
        Self {
            losses: vec![0.0; sizes.tokens()],
            table: table(config, sizes.time),
            buffers: Buffers::allocate(sizes),
            config: config.clone(),
        }
    }

    /// Bytes of all buffers.
    pub fn bytes(&self) -> usize {
        self.buffers.sizes.bytes(T::DTYPE)
    }

    /// The (batch, time) this workspace serves.
    pub fn shape(&self) -> (usize, usize) {
        (self.buffers.sizes.batch, self.buffers.sizes.time)
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
