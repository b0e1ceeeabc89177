//! The passes of a step in the run's precision. Masters and gradients are always f32.

use crate::data::IGNORE;
use crate::dtype::{DType, Element, bf16, f16};
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::memory::zeros;
use crate::model::{Decoder, LossSum, Workspace};
use crate::ops::cast;
use crate::ops::linear_cross_entropy::LossOptions;
use crate::train::config::Precision;

/// Rounded weights and the activations of one micro-batch.
#[derive(Debug)]
pub(super) struct Rounded<T> {
    weights: Vec<T>,
    workspace: Workspace<T>,
}

#[derive(Debug)]
pub(super) enum Compute {
    F32(Workspace<f32>),
    F16(Rounded<f16>),
    Bf16(Rounded<bf16>),
}

/// The extents of a pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct PassShape {
    pub batch: usize,
    pub time: usize,
    pub recompute_layers: Option<usize>,
}

/// The extra terms of a loss; `z_loss` times the squared log of the softmax's denominator.
pub(super) fn loss_options(z_loss: f64) -> LossOptions {
    LossOptions { ignore_index: IGNORE, label_smoothing: 0.0, z_loss: z_loss as f32 }
}

fn rounded<T: Element>(decoder: &Decoder, shape: PassShape) -> Result<Rounded<T>> {
    let workspace = decoder.workspace(shape.batch, shape.time, shape.recompute_layers)?;
    Ok(Rounded { weights: zeros(decoder.num_params()), workspace })
}

impl Compute {
    /// # Errors
    /// As `Decoder::workspace`.
    pub(super) fn new(decoder: &Decoder, precision: Precision, shape: PassShape) -> Result<Self> {
        Ok(match precision {
            Precision::Fp32 => Self::F32(decoder.workspace(shape.batch, shape.time, shape.recompute_layers)?),
            Precision::Fp16 => Self::F16(rounded(decoder, shape)?),
            Precision::Bf16 => Self::Bf16(rounded(decoder, shape)?),
        })
    }

    pub(super) fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F16(_) => DType::F16,
            Self::Bf16(_) => DType::BF16,
        }
    }

    /// Bytes of the activations.
    pub(super) fn activation_bytes(&self) -> usize {
        match self {
            Self::F32(workspace) => workspace.bytes(),
            Self::F16(rounded) => rounded.workspace.bytes(),
            Self::Bf16(rounded) => rounded.workspace.bytes(),
        }
    }

    /// Rounds the masters after they changed.
    ///
    /// # Errors
    /// `Shape` when `masters` is not the decoder's arena.
    pub(super) fn refresh(&mut self, masters: &[f32]) -> Result<()> {
        match self {
            Self::F32(_) => Ok(()),
            Self::F16(rounded) => cast::from_f32(&mut rounded.weights, masters),
            Self::Bf16(rounded) => cast::from_f32(&mut rounded.weights, masters),
        }
    }

    /// `grads` += `grad_scale` * sum of the gradients of the targets' losses.
    ///
    /// # Errors
    /// As `Decoder::forward_backward`.
    pub(super) fn forward_backward(
        &mut self,
        decoder: &Decoder,
        masters: &[f32],
        grads: &mut [f32],
        (ids, targets): (&[i32], &[i32]),
        grad_scale: f32,
        options: &LossOptions,
        interrupt: Interrupt,
    ) -> Result<LossSum> {
        match self {
            Self::F32(ws) => decoder.forward_backward(masters, grads, ws, ids, targets, grad_scale, options, interrupt),
            Self::F16(Rounded { weights, workspace }) => {
                decoder.forward_backward(weights, grads, workspace, ids, targets, grad_scale, options, interrupt)
            }
            Self::Bf16(Rounded { weights, workspace }) => {
                decoder.forward_backward(weights, grads, workspace, ids, targets, grad_scale, options, interrupt)
            }
        }
    }

    /// The losses alone.
    ///
    /// # Errors
    /// As `Decoder::loss`.
    pub(super) fn loss(
        &mut self,
        decoder: &Decoder,
        masters: &[f32],
        (ids, targets): (&[i32], &[i32]),
        options: &LossOptions,
        interrupt: Interrupt,
    ) -> Result<LossSum> {
        match self {
            Self::F32(ws) => decoder.loss(masters, ws, ids, targets, options, interrupt),
            Self::F16(Rounded { weights, workspace }) => {
                decoder.loss(weights, workspace, ids, targets, options, interrupt)
            }
            Self::Bf16(Rounded { weights, workspace }) => {
                decoder.loss(weights, workspace, ids, targets, options, interrupt)
            }
        }
    }
}
