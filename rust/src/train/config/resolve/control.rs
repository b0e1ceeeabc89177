//! Batch, length of the run, checkpoints, logging, generation.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::tensor::Device;
use crate::train::config::run::{CheckpointConfig, CheckpointEvery, GenerateConfig, LogConfig};
use crate::train::config::types::Value;
use crate::train::config::values::Values;

/// Sequences of a step, of a pass, and passes of a step.
pub(super) struct Batch {
    pub(super) sequences: usize,
    pub(super) micro: usize,
    pub(super) accumulation: usize,
}

const STEP: &str = "train_batch_size";
const MICRO: &str = "train_micro_batch_size_per_gpu";
const ACCUMULATION: &str = "gradient_accumulation_steps";

/// sequences = micro · accumulation; two of the three give the third.
pub(super) fn batch(values: &mut Values) -> Result<Batch> {
    let step = values.opt_usize(STEP)?;
    let micro = values.opt_usize(MICRO)?;
    let accumulation = values.opt_usize(ACCUMULATION)?;
    let batch = match (step, micro, accumulation) {
        (None, None, _) => {
            return Err(Error::Config(format!("{STEP:?} or {MICRO:?} is missing: sequences of a step or of a pass")));
        }
        (Some(step), Some(micro), None) => {
            Batch { sequences: step, micro, accumulation: quotient(values, step, micro, MICRO)? }
        }
        (Some(step), None, gas) => {
            let gas = gas.unwrap_or(1);
            Batch { sequences: step, micro: quotient(values, step, gas, ACCUMULATION)?, accumulation: gas }
        }
        (step, Some(micro), gas) => {
            let gas = gas.unwrap_or(1);
            let product = micro.checked_mul(gas).filter(|product| i64::try_from(*product).is_ok());
            let sequences =
                product.ok_or_else(|| Error::Config(format!("{} {micro} is too large", values.at(MICRO))))?;
            if let Some(step) = step.filter(|step| *step != sequences) {
                return Err(Error::Config(format!(
                    "{} {step} is not {micro} x {gas} ({}, {}); remove one of the three",
                    values.at(STEP),
                    values.at(MICRO),
                    values.at(ACCUMULATION)
                )));
            }
            Batch { sequences, micro, accumulation: gas }
        }
    };
    values.derive(STEP, Value::Int(batch.sequences as i64));
    values.derive(MICRO, Value::Int(batch.micro as i64));
    values.derive(ACCUMULATION, Value::Int(batch.accumulation as i64));
    Ok(batch)
}

fn quotient(values: &Values, step: usize, divisor: usize, name: &str) -> Result<usize> {
    if step.is_multiple_of(divisor) {
        return Ok(step / divisor);
    }
    Err(Error::Config(format!("{} {step} is not a multiple of {} {divisor}", values.at(STEP), values.at(name))))
}

/// How long the run is and when it evaluates.
pub(super) struct Length {
    pub(super) train_iters: Option<usize>,
    pub(super) train_epochs: Option<usize>,
    pub(super) eval_interval: usize,
    pub(super) eval_iters: usize,
}

pub(super) fn length(values: &Values) -> Result<Length> {
    let train_iters = values.opt_usize("train_iters")?;
    let train_epochs = values.opt_usize("train_epochs")?;
    match (train_iters, train_epochs) {
        (Some(_), Some(_)) => Err(Error::Config(format!(
            "{} and {} exclude each other; remove one",
            values.at("train_iters"),
            values.at("train_epochs")
        ))),
        (None, None) => Err(Error::Config("\"train_iters\" or \"train_epochs\" is missing: how long to train".into())),
        _ => Ok(Length {
            train_iters,
            train_epochs,
            eval_interval: values.usize("eval_interval")?,
            eval_iters: values.usize("eval_iters")?,
        }),
    }
}

/// `checkpoint_activations` in blocks of `checkpoint_num_layers`.
pub(super) fn recompute(values: &Values, layers: usize) -> Result<Option<usize>> {
    let block = values.usize("checkpoint_num_layers")?.min(layers);
    Ok(values.bool("checkpoint_activations")?.then_some(block))
}

pub(super) fn checkpoint(values: &Values) -> Result<CheckpointConfig> {
    let path = |name: &str| values.opt_text(name).map(|path| path.map(PathBuf::from));
    let every = every(values)?;
    let extra = values.ints("extra_save_iters")?;
    if values.given("save") && every == CheckpointEvery::Never && extra.is_none() {
        return Err(Error::Config(format!(
            "{} needs \"checkpoint_factor\" or \"extra_save_iters\": when to save",
            values.at("save")
        )));
    }
    Ok(CheckpointConfig {
        save: path("save")?,
        load: path("load")?,
        every,
        extra_save_iters: extra.unwrap_or_default(),
        keep_last_n: values.opt_usize("keep_last_n_checkpoints")?,
        no_save_optim: values.bool("no_save_optim")?,
        no_load_optim: values.bool("no_load_optim")?,
        finetune: values.bool("finetune")?,
        iteration: values.opt_usize("iteration")?,
        override_lr_scheduler: values.bool("override_lr_scheduler")?,
        use_checkpoint_lr_scheduler: values.bool("use_checkpoint_lr_scheduler")?,
    })
}

fn every(values: &Values) -> Result<CheckpointEvery> {
    let Some(factor) = values.opt_float("checkpoint_factor")? else { return Ok(CheckpointEvery::Never) };
    let at = values.at("checkpoint_factor");
    if values.text("checkpoint_scale")? == "log" {
        if factor <= 1.0 {
            return Err(Error::Config(format!("{at} {factor} must be above 1 with checkpoint_scale log")));
        }
        return Ok(CheckpointEvery::Log(factor));
    }
    // Beyond 2^53 not every whole number is a float.
    if factor.fract() != 0.0 || factor > 9e15 {
        return Err(Error::Config(format!("{at} {factor} must be a whole number of steps")));
    }
    Ok(CheckpointEvery::Steps(factor as usize))
}

pub(super) fn log(values: &Values) -> Result<LogConfig> {
    Ok(LogConfig {
        log_interval: values.usize("log_interval")?,
        log_dir: values.opt_text("log_dir")?.map(PathBuf::from),
        tensorboard_dir: values.opt_text("tensorboard_dir")?.map(PathBuf::from),
        use_wandb: values.opt_bool("use_wandb")?,
        wandb_project: values.text("wandb_project")?,
        wandb_group: values.opt_text("wandb_group")?,
        wandb_run_name: values.opt_text("wandb_run_name")?,
        wandb_team: values.opt_text("wandb_team")?,
        wandb_host: values.text("wandb_host")?,
        peak_theoretical_tflops: values.opt_float("peak_theoretical_tflops")?,
    })
}

pub(super) fn generate(values: &mut Values) -> Result<GenerateConfig> {
    let input = values.opt_text("sample_input_file")?;
    let default = if input.is_some() { "input-file" } else { "unconditional" };
    let text_gen_type = values.opt_text("text_gen_type")?.unwrap_or_else(|| default.into());
    values.derive("text_gen_type", Value::Text(text_gen_type.clone()));
    Ok(GenerateConfig {
        text_gen_type,
        sample_input_file: input.map(PathBuf::from),
        sample_output_file: values.text("sample_output_file")?.into(),
        num_samples: values.usize("num_samples")?,
        maximum_tokens: values.usize("maximum_tokens")?,
        temperature: values.float("temperature")?,
        top_p: values.float("top_p")?,
        top_k: values.usize("top_k")?,
        prompt_end: values.text("prompt_end")?,
    })
}

pub(super) fn seed(values: &Values) -> Result<u32> {
    super::small(values, "seed")
}

/// `cpu`, `cuda` (the first GPU) or `cuda:N`.
pub(super) fn device(values: &Values) -> Result<Device> {
    let name = values.text("device")?;
    let digits = |number: &&str| number.bytes().all(|byte| byte.is_ascii_digit());
    let number = match name.as_str() {
        "cpu" => return Ok(Device::Cpu),
        "cuda" => Some(0),
        other => other.strip_prefix("cuda:").filter(digits).and_then(|number| number.parse().ok()),
    };
    let wrong = || Error::Config(format!("{} must be cpu, cuda or cuda:N, got {name:?}", values.at("device")));
    number.map(Device::Cuda).ok_or_else(wrong)
}
