//! The decoder: an immutable description. Weights, gradients and activations are the caller's.

use super::layout::{Layout, Param, Projection};
use super::pass::Pass;
use super::workspace::{Buffers, Keep, Scratch, Sizes, Workspace};
use super::{Init, ModelConfig, init};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::ops::backend::{Backend, Cpu};
use crate::ops::linear;
use crate::ops::linear_cross_entropy::LossOptions;
use crate::tensor::{View, ViewMut};

/// Rows of logits made at a time.
const LOGIT_ROWS: usize = 256;

/// A decoder of the GPT-NeoX or the Llama family, or anything between.
#[derive(Debug, Clone)]
pub struct Decoder {
    config: ModelConfig,
    layout: Layout,
}

/// A pass that has gone forward, its activations, and a place for the losses.
type Walked<'a, T, B> = (Pass<'a, B, T>, &'a mut Buffers<B, T>, &'a mut <B as Backend>::Buffer<f32>);

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
        self.workspace_on(&Cpu, batch, time, recompute_layers)
    }

    /// The same for a decoder that runs elsewhere.
    ///
    /// # Errors
    /// As [`Self::workspace`]; `Error::Device`.
    pub fn workspace_on<T: Element, B: Backend>(
        &self,
        on: &B,
        batch: usize,
        time: usize,
        recompute_layers: Option<usize>,
    ) -> Result<Workspace<T, B>> {
        let keep = Keep::Blocks(recompute_layers.unwrap_or(self.config.num_layers));
        Workspace::allocate(on, &self.config, Sizes::new(&self.config, batch, time, keep)?)
    }

    /// A workspace that serves [`Self::loss`] alone, of the least size.
    ///
    /// # Errors
    /// As [`Self::workspace`].
    pub fn inference_workspace<T: Element>(&self, batch: usize, time: usize) -> Result<Workspace<T>> {
        Workspace::allocate(&Cpu, &self.config, Sizes::new(&self.config, batch, time, Keep::Nothing)?)
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
    pub fn forward_backward<T: Element, B: Backend>(
        &self,
        weights: B::Slice<'_, T>,
        grads: B::SliceMut<'_, f32>,
        ws: &mut Workspace<T, B>,
        ids: &[i32],
        targets: &[i32],
        grad_scale: f32,
        options: &LossOptions,
        interrupt: Interrupt,
    ) -> Result<LossSum> {
        self.pass_forward_backward(weights, grads, ws, ids, targets, grad_scale, options, interrupt)?;
        ws.loss_sum(targets, options)
    }

    /// The same without a look at the losses, which a device need not have computed yet: they stay in the workspace.
    ///
    /// # Errors
    /// As [`Self::forward_backward`].
    pub fn pass_forward_backward<T: Element, B: Backend>(
        &self,
        weights: B::Slice<'_, T>,
        mut grads: B::SliceMut<'_, f32>,
        ws: &mut Workspace<T, B>,
        ids: &[i32],
        targets: &[i32],
        grad_scale: f32,
        options: &LossOptions,
        interrupt: Interrupt,
    ) -> Result<()> {
        self.check_arena("forward_backward", "grads", B::len(B::seen(&grads)))?;
        if !ws.buffers.sizes.trains() {
            return Err(Error::UnsupportedInput("an inference workspace keeps nothing for a backward pass".into()));
        }
        let tokens = self.tokens(ws, ids, targets, options)?;
        let (pass, buffers, losses) = self.forward(B::shorten(weights), ws, &tokens, interrupt)?;
        let Scratch { normed, branch, .. } = &mut buffers.scratch;
        let width = pass.width();
        let (dx, x) = (pass.rows_mut(B::write(branch), width)?, pass.rows(B::read(normed), width)?);
        let (w, dw) = (pass.output()?, B::part_mut(B::lend(&mut grads), self.layout.output.clone()));
        let dw = B::view_mut(dw, &[self.config.vocab_size, width])?;
        let (losses, targets) = (B::write(losses), &tokens.targets);
        pass.on.linear_cross_entropy_backward(losses, dx, dw, x, w, targets, grad_scale, options, interrupt)?;
        pass.walk_back(buffers, grads, &tokens.ids)
    }

    /// As [`Self::forward_backward`], without gradients.
    ///
    /// # Errors
    /// As [`Self::forward_backward`].
    pub fn loss<T: Element, B: Backend>(
        &self,
        weights: B::Slice<'_, T>,
        ws: &mut Workspace<T, B>,
        ids: &[i32],
        targets: &[i32],
        options: &LossOptions,
        interrupt: Interrupt,
    ) -> Result<LossSum> {
        let tokens = self.tokens(ws, ids, targets, options)?;
        let (pass, buffers, losses) = self.forward(B::shorten(weights), ws, &tokens, interrupt)?;
        let (x, w) = (pass.rows(B::read(&buffers.scratch.normed), pass.width())?, pass.output()?);
        pass.on.linear_cross_entropy(B::write(losses), x, w, &tokens.targets, options, interrupt)?;
        ws.loss_sum(targets, options)
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
        let tokens = self.tokens(&ws, ids, ids, &LossOptions::default())?;
        self.forward(weights, &mut ws, &tokens, interrupt)?;
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

    pub(super) fn pass<'a, B: Backend, T: Element>(
        &'a self,
        on: &'a B,
        weights: B::Slice<'a, T>,
        batch: usize,
        time: usize,
        table: Option<&'a B::Table>,
        interrupt: Interrupt<'a>,
    ) -> Pass<'a, B, T> {
        let projection = Projection::of(&self.config);
        let (config, layout) = (&self.config, &self.layout);
        Pass { on, config, layout, projection, weights, batch, time, start: 0, table, interrupt }
    }

    /// Ids and targets where the workspace is.
    fn tokens<'a, T: Element, B: Backend>(
        &self,
        ws: &Workspace<T, B>,
        ids: &'a [i32],
        targets: &'a [i32],
        options: &LossOptions,
    ) -> Result<Tokens<'a, B>> {
        ws.check_owner(self)?;
        check_tokens("ids", ws.shape(), ids)?;
        check_tokens("targets", ws.shape(), targets)?;
        let vocab = self.config.vocab_size;
        let ids = ws.on.ids("embedding", ids, vocab, None)?;
        let targets = ws.on.ids("linear_cross_entropy", targets, vocab, Some(options.ignore_index))?;
        Ok(Tokens { ids, targets })
    }

    /// Up to the final norm's output, in `scratch.normed`; then what goes on from there.
    fn forward<'a, T: Element, B: Backend>(
        &'a self,
        weights: B::Slice<'a, T>,
        ws: &'a mut Workspace<T, B>,
        tokens: &Tokens<'_, B>,
        interrupt: Interrupt<'a>,
    ) -> Result<Walked<'a, T, B>> {
        self.check_arena("forward", "weights", B::len(weights))?;
        let (batch, time) = ws.shape();
        let Workspace { on, buffers, losses, table, .. } = ws;
        let pass = self.pass(&*on, weights, batch, time, table.as_ref(), interrupt);
        pass.walk(buffers, &tokens.ids, |pass, slot, _| pass.attend(slot))?;
        Ok((pass, buffers, losses))
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

/// What a pass is given.
struct Tokens<'a, B: Backend> {
    ids: B::Ids<'a>,
    targets: B::Ids<'a>,
}

impl LossSum {
    pub fn of(losses: &[f32], targets: &[i32], options: &LossOptions) -> Self {
        let count = targets.iter().filter(|t| **t != options.ignore_index).count();
        Self { sum: losses.iter().map(|loss| f64::from(*loss)).sum(), count }
    }
}
