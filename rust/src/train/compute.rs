//! What a step works on, where the run's device is: masters, gradients, moments, rounded weights, activations.
//! Masters, gradients and moments are always f32; the passes run in the run's precision.

use std::borrow::Cow;
use std::ops::Range;

use super::config::{OptimizerConfig, Precision};
use super::optimizer::{Optimizer, Update};
use crate::data::IGNORE;
use crate::dtype::{DType, Element, bf16, f16};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::model::{Decoder, LossSum, Workspace};
#[cfg(feature = "cuda")]
use crate::ops::backend::Cuda;
use crate::ops::backend::{Backend, Clipping, Cpu};
use crate::ops::linear_cross_entropy::LossOptions;
use crate::tensor::Device;

/// The extents of a pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct PassShape {
    pub batch: usize,
    pub time: usize,
    pub recompute_layers: Option<usize>,
}

/// One f32 value for each parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arena {
    Weights,
    Gradients,
    /// AdamW's m.
    First,
    /// AdamW's v.
    Second,
}

/// What the passes of a step left in the gradient arena.
pub(super) struct Gradient {
    pub loss: f64,
    /// L2 norm, unscaled.
    pub norm: f64,
}

/// Ids, targets, and what each target weighs in the step's loss.
pub(super) type MicroBatch<'a> = ((&'a [i32], &'a [i32]), f64);

/// The extra terms of a loss; `z_loss` times the squared log of the softmax's denominator.
pub(super) fn loss_options(z_loss: f64) -> LossOptions {
    LossOptions { ignore_index: IGNORE, label_smoothing: 0.0, z_loss: z_loss as f32 }
}

pub(super) trait Compute: Send {
    /// The type of weights and activations in the passes.
    fn dtype(&self) -> DType;

    /// Bytes of the activations.
    fn activation_bytes(&self) -> usize;

    /// On the host, after all that was asked for before.
    fn arena(&self, which: Arena) -> Result<Cow<'_, [f32]>>;

    /// Lets `change` work on an arena on the host, which a device then takes over.
    fn fill(&mut self, which: Arena, change: &mut dyn FnMut(&mut [f32]) -> Result<()>) -> Result<()>;

    /// Rounds the masters after they changed, but for `update`, which does so itself.
    fn refresh(&mut self) -> Result<()>;

    /// The gradient of the step's loss, `clipping.loss_scale` times as large. Waits for the device at its end.
    ///
    /// # Errors
    /// As `Decoder::forward_backward`.
    fn gradient(
        &mut self,
        decoder: &Decoder,
        batches: &mut dyn Iterator<Item = MicroBatch>,
        clipping: Clipping,
        options: &LossOptions,
        interrupt: Interrupt,
    ) -> Result<Gradient>;

    /// AdamW's step with the gradient that `gradient` made, unscaled and clipped.
    fn update(&mut self, update: Update) -> Result<()>;

    /// The losses alone.
    ///
    /// # Errors
    /// As `Decoder::loss`.
    fn loss(
        &mut self,
        decoder: &Decoder,
        tokens: (&[i32], &[i32]),
        options: &LossOptions,
        interrupt: Interrupt,
    ) -> Result<LossSum>;

    /// L2 norm of a stretch of the gradients.
    fn norm(&self, range: Range<usize>) -> Result<f64>;

    /// The first value of a stretch that is NaN or infinite, and its place there.
    fn first_non_finite(&self, which: Arena, range: Range<usize>) -> Result<Option<(usize, f32)>>;

    /// The masters on the host; all other memory is given back.
    fn into_weights(self: Box<Self>) -> Result<Vec<f32>>;
}

/// Memory for a run.
///
/// # Errors
/// As `Decoder::workspace`; `Device`, saying what is missing, or what takes less memory.
pub(super) fn compute(
    device: Device,
    decoder: &Decoder,
    precision: Precision,
    optimizer: OptimizerConfig,
    shape: PassShape,
) -> Result<Box<dyn Compute>> {
    match device {
        Device::Cpu => on(&Cpu, decoder, precision, optimizer, shape),
        #[cfg(feature = "cuda")]
        Device::Cuda(ordinal) => on(&Cuda::new(ordinal)?, decoder, precision, optimizer, shape).map_err(no_room),
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => Err(Error::Device(crate::tensor::WITHOUT_CUDA.into())),
    }
}

#[cfg(feature = "cuda")]
fn no_room(error: Error) -> Error {
    let Error::Device(what) = error else { return error };
    Error::Device(format!(
        "{what}. `llmjp-core plan` tells what the run takes; a smaller `train_micro_batch_size_per_gpu` or `seq_length` \
         takes less, and so does `checkpoint_activations: true`"
    ))
}

fn on<B: Backend>(
    on: &B,
    decoder: &Decoder,
    precision: Precision,
    optimizer: OptimizerConfig,
    shape: PassShape,
) -> Result<Box<dyn Compute>> {
    Ok(match precision {
        Precision::Fp32 => Box::new(On::new(on, Unrounded, decoder, optimizer, shape)?),
        Precision::Fp16 => Box::new(On::new(on, Rounded::<B, f16>::new(on, decoder)?, decoder, optimizer, shape)?),
        Precision::Bf16 => Box::new(On::new(on, Rounded::<B, bf16>::new(on, decoder)?, decoder, optimizer, shape)?),
    })
}

/// Where the weights of the passes stand.
trait Weights<B: Backend>: Send {
    type T: Element;
    fn read<'a>(&'a self, masters: &'a B::Buffer<f32>) -> B::Slice<'a, Self::T>;
    /// What has to follow the masters.
    fn rounded(&mut self) -> Option<B::SliceMut<'_, Self::T>>;
}

/// The masters themselves.
struct Unrounded;

impl<B: Backend> Weights<B> for Unrounded {
    type T = f32;

    fn read<'a>(&'a self, masters: &'a B::Buffer<f32>) -> B::Slice<'a, f32> {
        B::read(masters)
    }

    fn rounded(&mut self) -> Option<B::SliceMut<'_, f32>> {
        None
    }
}

struct Rounded<B: Backend, T: Element>(B::Buffer<T>);

impl<B: Backend, T: Element> Rounded<B, T> {
    fn new(on: &B, decoder: &Decoder) -> Result<Self> {
        Ok(Self(on.zeros(decoder.num_params())?))
    }
}

impl<B: Backend, T: Element> Weights<B> for Rounded<B, T> {
    type T = T;

    fn read<'a>(&'a self, _: &'a B::Buffer<f32>) -> B::Slice<'a, T> {
        B::read(&self.0)
    }

    fn rounded(&mut self) -> Option<B::SliceMut<'_, T>> {
        Some(B::write(&mut self.0))
    }
}

struct On<B: Backend, W: Weights<B>> {
    on: B,
    masters: B::Buffer<f32>,
    grads: B::Buffer<f32>,
    optimizer: Optimizer<B>,
    weights: W,
    workspace: Workspace<W::T, B>,
    /// Of each micro-batch so far, until the step's end.
    losses: Vec<B::Buffer<f32>>,
    /// Of the gradient that waits for its update.
    factor: Option<B::Factor>,
}

impl<B: Backend, W: Weights<B>> On<B, W> {
    fn new(on: &B, weights: W, decoder: &Decoder, optimizer: OptimizerConfig, shape: PassShape) -> Result<Self> {
        let len = decoder.num_params();
        Ok(Self {
            on: on.clone(),
            masters: on.zeros(len)?,
            grads: on.zeros(len)?,
            optimizer: Optimizer::new(on, optimizer, decoder.params())?,
            weights,
            workspace: decoder.workspace_on(on, shape.batch, shape.time, shape.recompute_layers)?,
            losses: Vec::new(),
            factor: None,
        })
    }

    fn buffer(&self, which: Arena) -> B::Slice<'_, f32> {
        B::read(match which {
            Arena::Weights => &self.masters,
            Arena::Gradients => &self.grads,
            Arena::First => &self.optimizer.m,
            Arena::Second => &self.optimizer.v,
        })
    }
}

impl<B: Backend, W: Weights<B>> Compute for On<B, W> {
    fn dtype(&self) -> DType {
        W::T::DTYPE
    }

    fn activation_bytes(&self) -> usize {
        self.workspace.bytes()
    }

    fn arena(&self, which: Arena) -> Result<Cow<'_, [f32]>> {
        self.on.download(self.buffer(which))
    }

    fn fill(&mut self, which: Arena, change: &mut dyn FnMut(&mut [f32]) -> Result<()>) -> Result<()> {
        let buffer = match which {
            Arena::Weights => &mut self.masters,
            Arena::Gradients => &mut self.grads,
            Arena::First => &mut self.optimizer.m,
            Arena::Second => &mut self.optimizer.v,
        };
        self.on.fill(B::write(buffer), change)
    }

    fn refresh(&mut self) -> Result<()> {
        let Some(low) = self.weights.rounded() else { return Ok(()) };
        self.on.cast(low, B::read(&self.masters))
    }

    fn gradient(
        &mut self,
        decoder: &Decoder,
        batches: &mut dyn Iterator<Item = MicroBatch>,
        clipping: Clipping,
        options: &LossOptions,
        interrupt: Interrupt,
    ) -> Result<Gradient> {
        self.factor = None;
        self.on.clear(B::write(&mut self.grads))?;
        let (weights, grads, ws) = (self.weights.read(&self.masters), &mut self.grads, &mut self.workspace);
        let mut passed = Vec::new();
        for ((ids, targets), weight) in batches {
            let scale = (clipping.loss_scale * weight) as f32;
            decoder.pass_forward_backward(weights, B::write(grads), ws, ids, targets, scale, options, interrupt)?;
            if passed.len() == self.losses.len() {
                self.losses.push(self.on.zeros(ids.len())?);
            }
            ws.swap_losses(&mut self.losses[passed.len()]);
            passed.push((targets, weight));
        }
        let (norm, factor) = self.on.clip(B::read(grads), clipping)?;
        self.factor = Some(factor);
        let mut loss = 0.0;
        for (losses, (targets, weight)) in self.losses.iter().zip(passed) {
            loss += LossSum::of(&self.on.download(B::read(losses))?, targets, options).sum * weight;
        }
        Ok(Gradient { loss, norm })
    }

    fn update(&mut self, update: Update) -> Result<()> {
        let factor = self.factor.take().ok_or_else(|| Error::Internal("an update without a gradient".into()))?;
        let (masters, low) = (B::write(&mut self.masters), self.weights.rounded());
        self.optimizer.step(&self.on, masters, low, B::read(&self.grads), &factor, update)
    }

    fn loss(
        &mut self,
        decoder: &Decoder,
        (ids, targets): (&[i32], &[i32]),
        options: &LossOptions,
        interrupt: Interrupt,
    ) -> Result<LossSum> {
        decoder.loss(self.weights.read(&self.masters), &mut self.workspace, ids, targets, options, interrupt)
    }

    fn norm(&self, range: Range<usize>) -> Result<f64> {
        self.on.norm(B::part(B::read(&self.grads), range))
    }

    fn first_non_finite(&self, which: Arena, range: Range<usize>) -> Result<Option<(usize, f32)>> {
        let part = B::part(self.buffer(which), range);
        let Some(place) = self.on.first_non_finite(part)? else { return Ok(None) };
        let value = self.on.download(B::part(part, place..place + 1))?;
        Ok(value.first().map(|value| (place, *value)))
    }

    fn into_weights(self: Box<Self>) -> Result<Vec<f32>> {
        B::into_host(self.masters)
    }
}
