//! The resolved run: every value is final, every combination checked.

use std::path::PathBuf;

use crate::data::DataConfig;
use crate::model::{Init, ModelConfig};
use crate::tensor::Device;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    Fp32,
    Fp16,
    Bf16,
}

/// AdamW with NeoX's names (DeepSpeed's "Adam" is AdamW).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerConfig {
    pub lr: f64,
    pub betas: (f64, f64),
    pub eps: f64,
    pub weight_decay: f64,
    /// Global L2 norm; 0 is off.
    pub gradient_clipping: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecayStyle {
    Constant,
    Linear,
    Cosine,
    Exponential,
    /// Warm-up, stable, decay (ours; linear tail).
    Wsd,
}

/// NeoX: warm-up is a fraction of the decay region, linear aims at 0. Megatron: see the spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScheduleFlavor {
    Neox,
    Megatron,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScheduleConfig {
    pub flavor: ScheduleFlavor,
    pub style: DecayStyle,
    pub lr: f64,
    pub min_lr: f64,
    /// Steps, may be fractional: `warmup · decay_iters`.
    pub warmup_iters: f64,
    pub decay_iters: usize,
    /// WSD only: steps of the final decay.
    pub wsd_decay_iters: usize,
}

/// What of the schedule was given as a share of a length that only the data tells (`train_epochs`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScheduleFractions {
    /// Warm-up as a share of the decay steps; `None` where it is given in steps.
    pub warmup: Option<f64>,
    /// Decay steps as a share of the run; `None` where they are given in steps.
    pub decay: Option<f64>,
}

/// DeepSpeed's fp16 loss scaling.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScalerConfig {
    /// 0 is dynamic.
    pub loss_scale: f64,
    pub initial_scale_power: u32,
    /// Steps.
    pub loss_scale_window: u64,
    /// 1 under ZeRO stage 0, which has no hysteresis and no abort.
    pub hysteresis: u32,
    pub min_loss_scale: f64,
    pub abort_at_min: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum CheckpointEvery {
    Never,
    Steps(usize),
    /// Saves where the step equals int(factor^k).
    Log(f64),
}

#[derive(Debug, Clone, PartialEq)]
pub struct CheckpointConfig {
    pub save: Option<PathBuf>,
    pub load: Option<PathBuf>,
    pub every: CheckpointEvery,
    pub extra_save_iters: Vec<usize>,
    pub keep_last_n: Option<usize>,
    pub no_save_optim: bool,
    pub no_load_optim: bool,
    pub finetune: bool,
    /// Load this step; error if absent.
    pub iteration: Option<usize>,
    pub override_lr_scheduler: bool,
    pub use_checkpoint_lr_scheduler: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct LogConfig {
    pub log_interval: usize,
    pub log_dir: Option<PathBuf>,
    pub tensorboard_dir: Option<PathBuf>,
    /// `None`: on only if an API key is found.
    pub use_wandb: Option<bool>,
    pub wandb_project: String,
    pub wandb_group: Option<String>,
    pub wandb_run_name: Option<String>,
    pub wandb_team: Option<String>,
    pub wandb_host: String,
    pub peak_theoretical_tflops: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenizerType {
    Spm,
    HfTokenizer,
    Gpt2Bpe,
    CharLevel,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TokenizerConfig {
    pub kind: TokenizerType,
    pub vocab_file: Option<PathBuf>,
    pub merge_file: Option<PathBuf>,
    /// Ours: the end-of-document piece where it is not `<|endoftext|>`.
    pub eod_token: Option<String>,
}

/// How the losses of micro-batches are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossReduction {
    /// Mean over each micro-batch's targets, then plain mean (upstream).
    Microbatch,
    /// Mean over all targets of the step.
    GlobalTokens,
}

/// `generate`'s keys.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateConfig {
    pub text_gen_type: String,
    pub sample_input_file: Option<PathBuf>,
    pub sample_output_file: PathBuf,
    pub num_samples: usize,
    pub maximum_tokens: usize,
    pub temperature: f64,
    pub top_p: f64,
    pub top_k: usize,
    pub prompt_end: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RunConfig {
    pub model: ModelConfig,
    pub init: Init,
    pub tokenizer: TokenizerConfig,
    /// `None` for a file set that names no data (a preset); training then says what is missing.
    pub data: Option<DataConfig>,
    /// Where it runs.
    pub device: Device,
    pub precision: Precision,
    pub scaler: ScalerConfig,
    pub optimizer: OptimizerConfig,
    /// Without `train_iters` its lengths are 0 until `RunConfig::set_train_iters`.
    pub schedule: ScheduleConfig,
    pub schedule_fractions: ScheduleFractions,
    /// Tokens of a sample's input.
    pub seq_length: usize,
    /// Sequences.
    pub train_batch_size: usize,
    pub micro_batch_size: usize,
    pub gradient_accumulation_steps: usize,
    /// Optimizer steps; `None` with `train_epochs` until the data is known.
    pub train_iters: Option<usize>,
    pub train_epochs: Option<usize>,
    pub eval_interval: usize,
    /// Optimizer steps' worth of batches.
    pub eval_iters: usize,
    pub exit_interval: Option<usize>,
    pub loss_reduction: LossReduction,
    pub z_loss: f64,
    /// Recompute the activations of blocks of this many layers; `None` keeps all.
    pub recompute_layers: Option<usize>,
    pub checkpoint: CheckpointConfig,
    pub log: LogConfig,
    pub generate: GenerateConfig,
    pub seed: u32,
    /// Once-only messages for the log: keys without effect, numbers given as text.
    pub warnings: Vec<String>,
}

impl RunConfig {
    /// Fixes the number of steps and with it every length that is a share of it. A run with
    /// `train_epochs` calls it once the data is known.
    pub fn set_train_iters(&mut self, iters: usize) {
        self.train_iters = Some(iters);
        if let Some(share) = self.schedule_fractions.decay {
            self.schedule.decay_iters = ((iters as f64 * share).floor() as usize).max(1);
        }
        if let Some(share) = self.schedule_fractions.warmup {
            self.schedule.warmup_iters = share * self.schedule.decay_iters as f64;
        }
    }
}
