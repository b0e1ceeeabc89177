//! The decoder: an immutable description. Weights, gradients and activations are the caller's.

use super::layout::{Layout, Param, Projection};
use super::pass::Pass;
use super::workspace::{Keep, Scratch, Sizes, Workspace};
use super::{Init, ModelConfig, init};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::ops::linear;
use crate::ops::linear_cross_entropy::{self, LossOptions};
use crate::tensor::{View, ViewMut};

/// Rows of logits made at a time.
const LOGIT_ROWS: usize = 256;

/// A decoder of the GPT-NeoX or the Llama family, or anything between.
#[derive(Debug, Clone)]
pub struct Decoder {
    config: ModelConfig,
    layout: Layout,
}

/// Losses of all counted tokens, summed in their order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossSum {
    pub sum: f64,
    /// Tokens whose target is not ignored.
    pub count: usize,
}

impl Decoder {
    /// # Errors
    /// `Error::Config` naming the key when extents are zero or contradict each other.
    pub fn new(config: ModelConfig) -> Result<Self> {
        let layout = Layout::new(&config)?;
        Ok(Self { config, layout })
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Every tensor, in the order of the arena.
    pub fn params(&self) -> &[Param] {
        &self.layout.params
    }

    /// Elements of the arena; a tied output matrix counts once.
    pub fn num_params(&self) -> usize {
        self.layout.len
    }

    /// Fills `weights` by `init`, each element addressed by (seed, tensor, element).
    ///
    /// # Errors
    /// `Error::Shape` unless `weights` has [`Self::num_params`] elements.
    pub fn initialize(&self, weights: &mut [f32], init: &Init, seed: u64) -> Result<()> {
        self.check_arena("initialize", "weights", weights.len())?;
        for (ordinal, param) in (0u32..).zip(self.params()) {
            init::fill(&mut weights[param.range()], param, ordinal, init, seed);
        }
        Ok(())
    }

    /// All activations of a training step on (batch, time) tokens. `recompute_layers`: keep the
    /// stream at the borders of blocks of this many layers and compute the rest again.
    ///
    /// # Errors
    /// `Error::UnsupportedInput` for an empty batch or too long a sequence; `Error::Config` for
    /// blocks of no layers.
    pub fn workspace<T: Element>(
        &self,
        batch: usize,
        time: usize,
        recompute_layers: Option<usize>,
    ) -> Result<Workspace<T>> {
        let keep = Keep::Blocks(recompute_layers.unwrap_or(self.config.num_layers));
        Ok(Workspace::allocate(&self.config, Sizes::new(&self.config, batch, time, keep)?))
    }

    /// A workspace that serves [`Self::loss`] alone, of the least size.
    ///
    /// # Errors
    /// As [`Self::workspace`].
    pub fn inference_workspace<T: Element>(&self, batch: usize, time: usize) -> Result<Workspace<T>> {
        Ok(Workspace::allocate(&self.config, Sizes::new(&self.config, batch, time, Keep::Nothing)?))
    }

    /// Bytes that [`Self::workspace`] would allocate.
    ///
    /// # Errors
    /// As [`Self::workspace`].
    pub fn activation_bytes(&self, batch: usize, time: usize, recompute: Option<usize>, dtype: DType) -> Result<usize> {
        let keep = Keep::Blocks(recompute.unwrap_or(self.config.num_layers));
        Ok(Sizes::new(&self.config, batch, time, keep)?.bytes(dtype))
    }

    /// Losses of `targets` after `ids`, (B·T) each; `grads` += `grad_scale` · Σ d loss.
    ///
    /// # Errors
    /// `Error::Shape`/`UnsupportedInput` for arguments that do not fit; `Error::Interrupted`, after
    /// which `grads` holds a part of the sum.
    pub fn forward_backward<T: Element>(
        &self,
        weights: &[T],
        grads: &mut [f32],
        ws: &mut Workspace<T>,
        ids: &[i32],
        targets: &[i32],
        grad_scale: f32,
        options: &LossOptions,
        interrupt: Interrupt,
    ) -> Result<LossSum> {
        self.check_arena("forward_backward", "grads", grads.len())?;
        if !ws.buffers.sizes.trains() {
            return Err(Error::UnsupportedInput("an inference workspace keeps nothing for a backward pass".into()));
        }
        self.forward(weights, ws, ids, targets, interrupt)?;
        let (batch, time) = ws.shape();
        let pass = self.pass(weights, batch, time, ws.table.as_ref(), interrupt);
        let Scratch { normed, branch, .. } = &mut ws.buffers.scratch;
        let (dx, x) = (pass.rows_mut(branch, pass.width())?, pass.rows(normed, pass.width())?);
        let (w, dw) = (pass.output()?, &mut grads[self.layout.output.clone()]);
        let dw = ViewMut::new(dw, w.shape().dims())?;
        linear_cross_entropy::forward_backward(&mut ws.losses, dx, dw, x, w, targets, grad_scale, options, interrupt)?;
        pass.walk_back(&mut ws.buffers, grads, ids)?;
        Ok(sum(&ws.losses, targets, options))
    }

    /// As [`Self::forward_backward`], without gradients.
    ///
    /// # Errors
    /// As [`Self::forward_backward`].
    pub fn loss<T: Element>(
        &self,
        weights: &[T],
        ws: &mut Workspace<T>,
        ids: &[i32],
        targets: &[i32],
        options: &LossOptions,
        interrupt: Interrupt,
    ) -> Result<LossSum> {
        self.forward(weights, ws, ids, targets, interrupt)?;
        let (batch, time) = ws.shape();
        let pass = self.pass(weights, batch, time, None, interrupt);
        let (x, w) = (pass.rows(&ws.buffers.scratch.normed, pass.width())?, pass.output()?);
        linear_cross_entropy::forward(&mut ws.losses, x, w, targets, options, interrupt)?;
        Ok(sum(&ws.losses, targets, options))
    }

    /// Logits of `ids` (B·T), as (B, T, V).
    ///
    /// # Errors
    /// `Error::Shape`/`UnsupportedInput` for arguments that do not fit; `Error::Interrupted`.
    pub fn logits<T: Element>(
        &self,
        weights: &[T],
        ids: &[i32],
        batch: usize,
        time: usize,
        interrupt: Interrupt,
    ) -> Result<Vec<f32>> {
        let mut ws = self.inference_workspace(batch, time)?;
        self.forward(weights, &mut ws, ids, ids, interrupt)?;
        let mut logits = vec![0.0; ids.len() * self.config.vocab_size];
        self.logit_rows(&mut logits, weights, &ws.buffers.scratch.normed, interrupt)?;
        Ok(logits)
    }

    /// logits (N, V) of the normed rows x (N, D), rounded to T on the way as the model's own are.
    pub(super) fn logit_rows<T: Element>(
        &self,
        logits: &mut [f32],
        weights: &[T],
        x: &[T],
        interrupt: Interrupt,
    ) -> Result<()> {
        let (vocab, width) = (self.config.vocab_size, self.config.hidden_size);
        let w = View::new(&weights[self.layout.output.clone()], &[vocab, width])?;
        let mut chunk = vec![T::default(); LOGIT_ROWS.min(x.len() / width) * vocab];
        for (logits, x) in logits.chunks_mut(LOGIT_ROWS * vocab).zip(x.chunks(LOGIT_ROWS * width)) {
            interrupt.check()?;
            let (rows, made) = (x.len() / width, &mut chunk[..logits.len()]);
            let y = ViewMut::new(made, &[rows, vocab])?;
            linear::forward(y, View::new(x, &[rows, width])?, w, None)?;
            logits.iter_mut().zip(made.iter()).for_each(|(out, value)| *out = value.to_f32());
        }
        Ok(())
    }

    pub(super) fn pass<'a, T: Element>(
        &'a self,
        weights: &'a [T],
        batch: usize,
        time: usize,
        table: Option<&'a crate::ops::rotary::Table>,
        interrupt: Interrupt<'a>,
    ) -> Pass<'a, T> {
        let projection = Projection::of(&self.config);
        Pass {
            config: &self.config,
            layout: &self.layout,
            projection,
            weights,
            batch,
            time,
            start: 0,
            table,
            interrupt,
        }
    }

    /// Up to the final norm's output, in `scratch.normed`.
    fn forward<T: Element>(
        &self,
        weights: &[T],
        ws: &mut Workspace<T>,
        ids: &[i32],
        targets: &[i32],
        interrupt: Interrupt,
    ) -> Result<()> {
        self.check_arena("forward", "weights", weights.len())?;
        ws.check_owner(self)?;
        check_tokens("ids", ws.shape(), ids)?;
        check_tokens("targets", ws.shape(), targets)?;
        let (batch, time) = ws.shape();
        let pass = self.pass(weights, batch, time, ws.table.as_ref(), interrupt);
        pass.walk(&mut ws.buffers, ids, |pass, slot, _| pass.attend(slot))
    }

    pub(super) fn check_arena(&self, op: &'static str, arg: &'static str, len: usize) -> Result<()> {
        if len == self.num_params() {
            return Ok(());
        }
        Err(Error::Shape { op, arg, want: vec![self.num_params()], got: vec![len] })
    }
}

fn check_tokens(arg: &'static str, (batch, time): (usize, usize), tokens: &[i32]) -> Result<()> {
    if tokens.len() == batch * time {
        return Ok(());
    }
    Err(Error::Shape { op: "decoder", arg, want: vec![batch, time], got: vec![tokens.len()] })
}

fn sum(losses: &[f32], targets: &[i32], options: &LossOptions) -> LossSum {
    let count = targets.iter().filter(|t| **t != options.ignore_index).count();
    LossSum { sum: losses.iter().map(|loss| f64::from(*loss)).sum(), count }
}
