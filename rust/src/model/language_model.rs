//! A decoder with weights in one storage type: what `lc.Model` holds.

use std::path::Path;

use super::hf::{self, ExportOptions, Imported, TokenIds};
use super::{Decoder, GenerateOptions, Init, Likelihood, ModelConfig, Param};
use crate::dtype::{DType, Element, bf16, f16};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::memory::zeros;
use crate::ops::linear_cross_entropy::LossOptions;

#[derive(Debug)]
enum Weights {
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
}

/// `$weights` bound to the vector, whatever it holds.
macro_rules! on_weights {
    ($self:expr, $weights:ident => $body:expr) => {
        match &$self.weights {
            Weights::F32($weights) => $body,
            Weights::F16($weights) => $body,
            Weights::BF16($weights) => $body,
        }
    };
}

/// A model that may be asked: for logits, losses, gradients, text.
#[derive(Debug)]
pub struct LanguageModel {
    decoder: Decoder,
    weights: Weights,
    token_ids: TokenIds,
}

impl LanguageModel {
    /// Reads a folder of `transformers`; `dtype` stores the weights and every activation.
    ///
    /// # Errors
    /// As [`hf::import_as`].
    pub fn load(dir: &Path, dtype: DType) -> Result<Self> {
        fn read<T: Element>(dir: &Path, wrap: fn(Vec<T>) -> Weights) -> Result<LanguageModel> {
            let Imported { decoder, weights, token_ids } = hf::import_as(dir)?;
            Ok(LanguageModel { decoder, weights: wrap(weights), token_ids })
        }
        match dtype {
            DType::F32 => read(dir, Weights::F32),
            DType::F16 => read(dir, Weights::F16),
            DType::BF16 => read(dir, Weights::BF16),
        }
    }

    /// A model with random weights.
    ///
    /// # Errors
    /// As [`Decoder::new`].
    pub fn initialized(config: ModelConfig, init: &Init, seed: u64, dtype: DType) -> Result<Self> {
        let decoder = Decoder::new(config)?;
        let mut weights = zeros(decoder.num_params());
        decoder.initialize(&mut weights, init, seed)?;
        Self::new(decoder, weights, dtype, TokenIds::default())
    }

    /// # Errors
    /// `Error::Shape` unless `weights` fills the decoder's arena.
    pub fn new(decoder: Decoder, weights: Vec<f32>, dtype: DType, token_ids: TokenIds) -> Result<Self> {
        fn rounded<T: Element>(weights: &[f32]) -> Vec<T> {
            weights.iter().map(|value| T::from_f32(*value)).collect()
        }
        decoder.check_arena("Model", "weights", weights.len())?;
        let weights = match dtype {
            DType::F32 => Weights::F32(weights),
            DType::F16 => Weights::F16(rounded(&weights)),
            DType::BF16 => Weights::BF16(rounded(&weights)),
        };
        Ok(Self { decoder, weights, token_ids })
    }

    /// A model made of named tensors: name, shape, values.
    ///
    /// # Errors
    /// `Error::UnsupportedInput` naming a tensor that is missing or has no place; `Error::Shape`.
    pub fn from_tensors(config: ModelConfig, tensors: &[(String, Vec<usize>, Vec<f32>)], dtype: DType) -> Result<Self> {
        let decoder = Decoder::new(config)?;
        let mut weights = zeros(decoder.num_params());
        for param in decoder.params() {
            let missing = || Error::UnsupportedInput(format!("tensor `{}` is missing", param.name));
            let (_, shape, values) = tensors.iter().find(|(name, ..)| *name == param.name).ok_or_else(missing)?;
            if *shape != param.shape || values.len() != param.len {
                let what = format!("tensor `{}` must have shape {:?}, got {shape:?}", param.name, param.shape);
                return Err(Error::UnsupportedInput(what));
            }
            weights[param.range()].copy_from_slice(values);
        }
        let foreign = |name: &String| decoder.params().iter().all(|p| p.name != *name);
        if let Some((name, ..)) = tensors.iter().find(|(name, ..)| foreign(name)) {
            return Err(Error::UnsupportedInput(format!("tensor `{name}` has no place in this model")));
        }
        Self::new(decoder, weights, dtype, TokenIds::default())
    }

    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    pub fn token_ids(&self) -> &TokenIds {
        &self.token_ids
    }

    pub fn dtype(&self) -> DType {
        match self.weights {
            Weights::F32(_) => DType::F32,
            Weights::F16(_) => DType::F16,
            Weights::BF16(_) => DType::BF16,
        }
    }

    /// One tensor's values, in f32.
    pub fn tensor(&self, param: &Param) -> Vec<f32> {
        on_weights!(self, weights => weights[param.range()].iter().map(|value| value.to_f32()).collect())
    }

    /// Logits (B, T, V) of ids (B, T).
    ///
    /// # Errors
    /// As [`Decoder::logits`].
    pub fn logits(&self, ids: &[i32], batch: usize, time: usize, interrupt: Interrupt) -> Result<Vec<f32>> {
        on_weights!(self, weights => self.decoder.logits(weights, ids, batch, time, interrupt))
    }

    /// Mean cross-entropy over the targets that are not ignored; NaN when all are.
    ///
    /// # Errors
    /// As [`Decoder::loss`].
    pub fn loss(
        &self,
        ids: &[i32],
        targets: &[i32],
        (batch, time): (usize, usize),
        options: &LossOptions,
        interrupt: Interrupt,
    ) -> Result<f64> {
        fn run<T: Element>(
            decoder: &Decoder,
            weights: &[T],
            ids: &[i32],
            targets: &[i32],
            (batch, time): (usize, usize),
            options: &LossOptions,
            interrupt: Interrupt,
        ) -> Result<f64> {
            let mut ws = decoder.inference_workspace(batch, time)?;
            let loss = decoder.loss(weights, &mut ws, ids, targets, options, interrupt)?;
            Ok(loss.sum / loss.count as f64)
        }
        on_weights!(self, w => run(&self.decoder, w, ids, targets, (batch, time), options, interrupt))
    }

    /// Gradients of [`Self::loss`] in f32, one arena; and the loss.
    ///
    /// # Errors
    /// As [`Decoder::forward_backward`].
    pub fn gradients(
        &self,
        ids: &[i32],
        targets: &[i32],
        (batch, time): (usize, usize),
        recompute: Option<usize>,
        options: &LossOptions,
        interrupt: Interrupt,
    ) -> Result<(f64, Vec<f32>)> {
        fn run<T: Element>(
            decoder: &Decoder,
            weights: &[T],
            ids: &[i32],
            targets: &[i32],
            (batch, time): (usize, usize),
            recompute: Option<usize>,
            options: &LossOptions,
            interrupt: Interrupt,
        ) -> Result<(f64, Vec<f32>)> {
            let mut ws = decoder.workspace(batch, time, recompute)?;
            let mut grads = zeros(decoder.num_params());
            let count = targets.iter().filter(|target| **target != options.ignore_index).count();
            let scale = 1.0 / count.max(1) as f32;
            let loss =
                decoder.forward_backward(weights, &mut grads[..], &mut ws, ids, targets, scale, options, interrupt)?;
            Ok((loss.sum / loss.count as f64, grads))
        }
        on_weights!(self, w => run(&self.decoder, w, ids, targets, (batch, time), recompute, options, interrupt))
    }

    /// Continues each prompt; new tokens alone.
    ///
    /// # Errors
    /// As [`Decoder::generate`].
    pub fn generate(
        &self,
        prompts: &[Vec<i32>],
        options: &GenerateOptions,
        interrupt: Interrupt,
    ) -> Result<Vec<Vec<i32>>> {
        let one = |(sequence, prompt): (u32, &Vec<i32>)| on_weights!(self, weights => self.decoder.generate(weights, prompt, options, sequence, interrupt));
        (0..).zip(prompts).map(one).collect()
    }

    /// log p(continuation | context) for each continuation.
    ///
    /// # Errors
    /// As [`Decoder::loglikelihood`].
    pub fn loglikelihood(&self, pairs: &[(Vec<i32>, Vec<i32>)], interrupt: Interrupt) -> Result<Vec<Likelihood>> {
        let one = |(context, continuation): &(Vec<i32>, Vec<i32>)| on_weights!(self, weights => self.decoder.loglikelihood(weights, context, continuation, interrupt));
        pairs.iter().map(one).collect()
    }

    /// Writes a folder that `transformers` opens.
    ///
    /// # Errors
    /// As [`hf::export`].
    pub fn save(&self, dir: &Path, options: &ExportOptions) -> Result<()> {
        on_weights!(self, weights => hf::export(&self.decoder, weights, dir, options))
    }
}

impl std::fmt::Display for LanguageModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ModelConfig { num_layers, hidden_size, num_attention_heads, num_kv_heads, vocab_size, .. } =
            self.decoder.config();
        write!(f, "{num_layers} layers x {hidden_size}, {num_attention_heads} heads")?;
        if num_kv_heads != num_attention_heads {
            write!(f, " ({num_kv_heads} for keys and values)")?;
        }
        write!(f, ", vocabulary {vocab_size}, {} parameters, {}", self.decoder.num_params(), self.dtype().name())
    }
}
