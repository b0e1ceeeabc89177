//! The trainer: one optimizer step a call.
//!
//! A step: K micro-batches add up one gradient (f32), which is checked, clipped and given to AdamW.
//! On an error or an interrupt all state is as before the call; an update, once begun, is finished.
//!
//! A step whose loss or gradient is not finite is skipped: weights, moments and schedule stay, the
//! iteration and the data go on. fp16 lowers its loss scale then. After `SKIPS` in a row (fp16:
//! `FP16_SKIPS`), or when a weight itself is not finite, the step fails and names the tensor.

use std::borrow::Cow;
use std::time::Instant;

use serde_json::Value;

use super::batch::{Batch, BatchShape};
use super::checkpoint::{Progress, Store};
use super::compute::{Arena, Compute, Gradient, loss_options};
use super::config::{Precision, RunConfig};
use super::non_finite;
use super::optimizer::Update;
use super::report::{Evaluation, Part, StepReport, Timers};
use super::scaler::LossScaler;
use super::schedule::Schedule;
use crate::data::{Parts, Samples};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::model::Decoder;
use crate::ops::backend::Clipping;

/// Skipped steps in a row that end a bf16 or fp32 run: data alone explains one, seldom two.
pub const SKIPS: usize = 3;
/// The same for fp16, whose loss scale needs some steps to settle.
pub const FP16_SKIPS: usize = 50;

/// A run in progress. All memory of a step is taken when it is built.
pub struct Trainer {
    pub(super) run: RunConfig,
    pub(super) resolved: Value,
    pub(super) decoder: Decoder,
    /// The loss scale that the gradients carry.
    pub(super) grad_scale: f64,
    pub(super) compute: Box<dyn Compute>,
    pub(super) batch: Batch,
    pub(super) schedule: Schedule,
    pub(super) scaler: Option<LossScaler>,
    pub(super) data: Parts,
    pub(super) progress: Progress,
    pub(super) train_iters: usize,
    /// Skipped steps since the last update.
    pub(super) failures: usize,
    pub(super) store: Option<Store>,
    /// The step of the newest checkpoint that equals the present state.
    pub(super) saved: Option<usize>,
    pub(super) notes: Vec<String>,
}

impl Trainer {
    pub fn run(&self) -> &RunConfig {
        &self.run
    }

    /// Every key of the run with its final value.
    pub fn resolved(&self) -> &Value {
        &self.resolved
    }

    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The decoder and its f32 weights; all other memory is given back.
    ///
    /// # Errors
    /// `Device`, here and where else an arena is asked for.
    pub fn into_model(self) -> Result<(Decoder, Vec<f32>)> {
        Ok((self.decoder, self.compute.into_weights()?))
    }

    /// The f32 masters, one arena.
    ///
    /// # Errors
    /// As [`Self::into_model`].
    pub fn model_weights(&self) -> Result<Cow<'_, [f32]>> {
        self.compute.arena(Arena::Weights)
    }

    /// AdamW's m and v.
    ///
    /// # Errors
    /// As [`Self::into_model`].
    pub fn moments(&self) -> Result<[Cow<'_, [f32]>; 2]> {
        Ok([self.compute.arena(Arena::First)?, self.compute.arena(Arena::Second)?])
    }

    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Steps of the whole run.
    pub fn train_iters(&self) -> usize {
        self.train_iters
    }

    /// The type of weights and activations in the passes.
    pub fn dtype(&self) -> DType {
        self.compute.dtype()
    }

    /// Once-only messages about the data and where the run began; the config's own are `run().warnings`.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Bytes of the arenas and the activations.
    pub fn bytes(&self) -> usize {
        let rounded = if self.compute.dtype() == DType::F32 { 0 } else { self.compute.dtype().size() };
        self.decoder.num_params() * (16 + rounded) + self.compute.activation_bytes()
    }

    /// The L2 norm of each parameter's gradient in the newest step, unscaled and before clipping.
    ///
    /// # Errors
    /// `Device`.
    pub fn gradient_norms(&self) -> Result<Vec<(&str, f64)>> {
        let params = self.decoder.params().iter();
        params.map(|p| Ok((p.name.as_str(), self.compute.norm(p.range())? / self.grad_scale))).collect()
    }

    pub fn is_done(&self) -> bool {
        self.progress.iteration >= self.train_iters
    }

    /// `exit_interval`: the run shall stop here for now.
    pub fn should_exit(&self) -> bool {
        let n = self.progress.iteration;
        self.run.exit_interval.is_some_and(|every| every > 0 && n > 0 && n.is_multiple_of(every))
    }

    /// One step.
    ///
    /// # Errors
    /// `NonFinite` as described above; `Interrupted`; errors of the data. State is as before.
    pub fn step(&mut self, interrupt: Interrupt) -> Result<StepReport> {
        let begin = Instant::now();
        if self.is_done() {
            return Err(Error::UnsupportedInput(format!("all {} steps of this run are done", self.train_iters)));
        }
        self.batch.fill(self.data.train.as_ref(), self.progress.consumed_samples)?;
        let filled = begin.elapsed().as_secs_f64();
        let gradient = self.gradient(interrupt)?;
        interrupt.check()?;
        let passed = begin.elapsed().as_secs_f64();
        let (learning_rate, loss_scale) =
            (self.schedule.learning_rate(self.progress.schedule_steps), self.scaler.map(|s| s.scale()));
        let note = if gradient.loss.is_finite() && gradient.norm.is_finite() {
            self.update(learning_rate)?;
            None
        } else {
            Some(self.skip(&gradient)?)
        };
        self.advance(&gradient, note.is_some());
        let seconds = begin.elapsed().as_secs_f64();
        let timers = Timers { batch_generator: filled, forward_backward: passed - filled, optimizer: seconds - passed };
        let p = self.progress;
        Ok(StepReport {
            iteration: p.iteration,
            loss: gradient.loss,
            learning_rate,
            grad_norm: gradient.norm,
            loss_scale,
            skipped: note.is_some(),
            nan: !gradient.loss.is_finite(),
            note,
            samples: self.run.train_batch_size,
            tokens: self.run.train_batch_size * self.run.seq_length,
            consumed_samples: p.consumed_samples,
            consumed_tokens: p.consumed_tokens,
            skipped_total: p.skipped,
            nan_total: p.nan,
            epoch: p.consumed_samples as f64 / self.data.train.len() as f64,
            seconds,
            timers,
        })
    }

    /// Runs the micro-batches; those without targets take no part.
    fn gradient(&mut self, interrupt: Interrupt) -> Result<Gradient> {
        let loss_scale = self.scaler.map_or(1.0, |s| s.scale());
        self.grad_scale = loss_scale;
        let weights = self.batch.target_weights(self.run.loss_reduction);
        let mut batches = self.batch.micro_batches().zip(weights).filter(|(_, weight)| *weight > 0.0);
        let clipping = Clipping { loss_scale, max: self.run.optimizer.gradient_clipping };
        self.compute.gradient(&self.decoder, &mut batches, clipping, &loss_options(self.run.z_loss), interrupt)
    }

    fn update(&mut self, learning_rate: f64) -> Result<()> {
        let step = self.progress.optimizer_steps + 1;
        self.compute.update(Update { learning_rate, step })?;
        self.progress.optimizer_steps = step;
        self.progress.schedule_steps += 1;
        self.failures = 0;
        self.scaler.as_mut().map_or(Ok(()), |scaler| scaler.update(false))
    }

    /// Decides that the step is skipped, and says why.
    fn skip(&mut self, gradient: &Gradient) -> Result<String> {
        let step = self.progress.iteration + 1;
        if let Some(what) = non_finite::in_weights(&self.decoder, &*self.compute)? {
            return Err(Error::NonFinite(format!("step {step}: {what}; go on from an older checkpoint")));
        }
        let mut what = if gradient.loss.is_finite() {
            "the gradient is not finite".into()
        } else {
            format!("the loss is {}", gradient.loss)
        };
        if let Some(where_) = non_finite::in_gradients(&self.decoder, &*self.compute)? {
            what = format!("{what}: {where_}");
        }
        let limit = if self.run.precision == Precision::Fp16 { FP16_SKIPS } else { SKIPS };
        if self.failures + 1 >= limit {
            return Err(Error::NonFinite(format!(
                "step {step}: {what}; {limit} steps in a row were not finite. Lower the learning rate or check the \
                 data, and go on from an older checkpoint"
            )));
        }
        if let Some(scaler) = &mut self.scaler {
            scaler.update(true)?;
        }
        self.failures += 1;
        Ok(what)
    }

    fn advance(&mut self, gradient: &Gradient, skipped: bool) {
        let p = &mut self.progress;
        p.iteration += 1;
        p.consumed_samples += self.run.train_batch_size;
        p.consumed_tokens += (self.run.train_batch_size * self.run.seq_length) as u64;
        p.skipped += usize::from(skipped);
        p.nan += usize::from(!gradient.loss.is_finite());
    }

    /// Whether the validation data is due after this step.
    pub fn should_evaluate(&self) -> bool {
        let (n, every) = (self.progress.iteration, self.run.eval_interval);
        self.can_evaluate(Part::Valid) && every > 0 && n > 0 && n.is_multiple_of(every)
    }

    /// Whether the run has such data and evaluates at all.
    pub fn can_evaluate(&self, part: Part) -> bool {
        self.run.eval_iters > 0 && self.part(part).is_some()
    }

    fn part(&self, part: Part) -> Option<&dyn Samples> {
        match part {
            Part::Valid => self.data.valid.as_deref(),
            Part::Test => self.data.test.as_deref(),
        }
    }

    /// Loss on held-out data: `eval_iters` steps' worth of micro-batches.
    ///
    /// Every evaluation of a run takes the next stretch of the validation data, told by the
    /// iteration alone, so that a resumed run sees the same samples. The test data begins at 0.
    ///
    /// # Errors
    /// `UnsupportedInput` without such data; `Interrupted`; errors of the data.
    pub fn evaluate(&mut self, part: Part, interrupt: Interrupt) -> Result<Evaluation> {
        let begin = Instant::now();
        let iteration = self.progress.iteration;
        let first = match part {
            Part::Valid => iteration.saturating_sub(1) / self.run.eval_interval.max(1),
            Part::Test => 0,
        };
        let data = match part {
            Part::Valid => self.data.valid.clone(),
            Part::Test => self.data.test.clone(),
        };
        let data = data
            .filter(|_| self.run.eval_iters > 0)
            .ok_or_else(|| Error::UnsupportedInput("this run has no such held-out data, or eval_iters is 0".into()))?;
        let (mut sum, mut targets) = (0.0, 0);
        for i in 0..self.run.eval_iters {
            let at = (first * self.run.eval_iters + i) * self.run.train_batch_size;
            self.batch.fill(data.as_ref(), at)?;
            for tokens in self.batch.micro_batches() {
                let loss = self.compute.loss(&self.decoder, tokens, &loss_options(0.0), interrupt)?;
                sum += loss.sum;
                targets += loss.count;
            }
        }
        let loss = sum / targets as f64;
        Ok(Evaluation { iteration, loss, perplexity: loss.exp(), targets, seconds: begin.elapsed().as_secs_f64() })
    }
}

/// The extents of a step.
pub(super) fn batch_shape(run: &RunConfig) -> BatchShape {
    BatchShape { accumulation: run.gradient_accumulation_steps, micro: run.micro_batch_size, time: run.seq_length }
}
