//! Tests of the trainer as a whole, on a model of some thousand weights.

mod resume;
mod steps;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::checkpoint::Resume;
use super::config::*;
use super::{StepReport, Trainer};
use crate::data::{DataConfig, DatasetWriter, IndexFlavor, Packing, Sources, TokenType};
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::model::{Activation, Bias, Init, InitMethod, ModelConfig, Norm, Position};
use crate::tensor::Device;

const VOCAB: usize = 29;
const TIME: usize = 8;

/// Documents that count up by `salt`: learnt in a few steps.
fn write_data(prefix: &Path, salt: i64) {
    let mut writer = DatasetWriter::create(prefix, TokenType::U16).unwrap();
    for document in 0..40 {
        let ids: Vec<i64> = (0..50).map(|i| (document + i * salt) % VOCAB as i64).collect();
        writer.sequence(&ids).unwrap();
        writer.end_document().unwrap();
    }
    writer.finish().unwrap();
}

fn model() -> ModelConfig {
    ModelConfig {
        num_layers: 2,
        hidden_size: 16,
        num_attention_heads: 2,
        num_kv_heads: 2,
        head_dim: 8,
        ffn_hidden_size: 32,
        vocab_size: VOCAB,
        max_position_embeddings: 16,
        norm: Norm::LayerNorm,
        norm_eps: 1e-5,
        activation: Activation::Gelu,
        gated: false,
        position: Position::Rotary { ndims: 4, base: 1e4 },
        parallel_residual: true,
        bias: Bias { norm: true, attention: true, mlp: true },
        tie_word_embeddings: false,
        sliding_window: None,
    }
}

fn data(dir: &Path) -> DataConfig {
    DataConfig {
        sources: Sources::Split { path: dir.join("data"), split: "80,10,10".into() },
        packing: Packing::Packed,
        allow_chopped: true,
        flavor: IndexFlavor::Neox,
        weight_by_num_documents: false,
        weighted_sampler_alpha: 1.0,
        eod_mask_loss: false,
        eod: Some(0),
        seq_length: TIME,
        seed: 1234,
        samples: [Some(48), Some(16), Some(8)],
        vocab_size: VOCAB,
    }
}

/// Twelve steps of four sequences in two micro-batches; checkpoints every three in `dir/run`.
fn config(dir: &Path) -> RunConfig {
    RunConfig {
        model: model(),
        init: Init { method: InitMethod::Normal { std: 0.1 }, output_method: InitMethod::Normal { std: 0.1 } },
        tokenizer: TokenizerConfig { kind: TokenizerType::Spm, vocab_file: None, merge_file: None, eod_token: None },
        data: Some(data(dir)),
        precision: Precision::Fp32,
        scaler: ScalerConfig {
            loss_scale: 0.0,
            initial_scale_power: 8,
            loss_scale_window: 4,
            hysteresis: 1,
            min_loss_scale: 1.0,
            abort_at_min: true,
        },
        optimizer: OptimizerConfig {
            lr: 1e-2,
            betas: (0.9, 0.95),
            eps: 1e-8,
            weight_decay: 0.1,
            gradient_clipping: 1.0,
        },
        schedule: ScheduleConfig {
            flavor: ScheduleFlavor::Neox,
            style: DecayStyle::Cosine,
            lr: 1e-2,
            min_lr: 1e-3,
            warmup_iters: 2.0,
            decay_iters: 12,
            wsd_decay_iters: 0,
        },
        schedule_fractions: ScheduleFractions { warmup: None, decay: None },
        seq_length: TIME,
        train_batch_size: 4,
        micro_batch_size: 2,
        gradient_accumulation_steps: 2,
        train_iters: Some(12),
        train_epochs: None,
        eval_interval: 4,
        eval_iters: 1,
        exit_interval: None,
        device: Device::Cpu,
        loss_reduction: LossReduction::Microbatch,
        z_loss: 0.0,
        recompute_layers: None,
        checkpoint: checkpoints(dir),
        log: log(),
        generate: generate(),
        seed: 1234,
        warnings: Vec::new(),
    }
}

fn checkpoints(dir: &Path) -> CheckpointConfig {
    CheckpointConfig {
        save: Some(dir.join("run")),
        load: None,
        every: CheckpointEvery::Steps(3),
        extra_save_iters: Vec::new(),
        keep_last_n: None,
        no_save_optim: false,
        no_load_optim: false,
        finetune: false,
        iteration: None,
        override_lr_scheduler: false,
        use_checkpoint_lr_scheduler: false,
    }
}

fn log() -> LogConfig {
    LogConfig {
        log_interval: 10,
        log_dir: None,
        tensorboard_dir: None,
        use_wandb: Some(false),
        wandb_project: String::new(),
        wandb_group: None,
        wandb_run_name: None,
        wandb_team: None,
        wandb_host: String::new(),
        peak_theoretical_tflops: None,
    }
}

fn generate() -> GenerateConfig {
    GenerateConfig {
        text_gen_type: "unconditional".into(),
        sample_input_file: None,
        sample_output_file: "samples.txt".into(),
        num_samples: 1,
        maximum_tokens: 4,
        temperature: 0.0,
        top_p: 0.0,
        top_k: 0,
        prompt_end: "\n".into(),
    }
}

fn resolved(run: &RunConfig) -> Value {
    json!({"num_layers": run.model.num_layers, "hidden_size": run.model.hidden_size, "seed": run.seed,
           "seq_length": run.seq_length})
}

/// A folder with data for `config`.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_data(&dir.path().join("data"), 5);
    dir
}

fn start(run: RunConfig) -> Result<Trainer> {
    let resolved = resolved(&run);
    Trainer::new(run, resolved, Resume::Auto, Interrupt::NEVER)
}

fn train(trainer: &mut Trainer, steps: usize) -> Vec<StepReport> {
    (0..steps).map(|_| trainer.step(Interrupt::NEVER).unwrap()).collect()
}

/// Everything that a step may change, as bits.
fn state(trainer: &Trainer) -> (Vec<u32>, Vec<u32>, Vec<u32>, String) {
    let bits = |arena: &[f32]| arena.iter().map(|value| value.to_bits()).collect();
    let [m, v] = trainer.moments().unwrap();
    let rest = format!("{:?} {:?}", trainer.progress(), trainer.scaler);
    (bits(&trainer.model_weights().unwrap()), bits(&m), bits(&v), rest)
}

/// An interrupt that comes at the `n`th look.
fn at_look(n: usize, looks: &AtomicUsize) -> impl Fn() -> bool + Sync {
    move || looks.fetch_add(1, Ordering::SeqCst) == n
}
