//! Typed keys to a `RunConfig`: every value derived, every combination checked.

mod control;
mod data;
pub(crate) mod mlp;
mod model;
mod optimizer;
mod precision;

use super::count;
use super::run::RunConfig;
use super::types::Value;
use super::values::Values;
use super::vocabulary;
use crate::error::{Error, Result};

/// Derives all that is not written, writes it back into `values`, and builds the run.
///
/// # Errors
/// `Config` naming the keys (with their places) that contradict each other or are missing.
pub(crate) fn run_config(values: &mut Values) -> Result<RunConfig> {
    let vocabulary = vocabulary::resolve(values)?;
    let model = model::model(values, vocabulary.tokens)?;
    let init = model::init(values, &model)?;
    let tokenizer = data::tokenizer(values)?;
    let batch = control::batch(values)?;
    let length = control::length(values)?;
    let precision = precision::precision(values)?;
    let stage = precision::zero_stage(values)?;
    let optimizer = optimizer::optimizer(values)?;
    optimizer::no_dropout(values)?;
    let (schedule, fractions) = optimizer::schedule(values, optimizer.lr, length.train_iters)?;
    let seq_length = values.usize("seq_length")?;
    let run = RunConfig {
        data: data::data(values, &model, &batch, &length, vocabulary.eod)?,
        scaler: precision::scaler(values, stage)?,
        loss_reduction: optimizer::loss_reduction(values)?,
        z_loss: values.float("z_loss")?,
        recompute_layers: control::recompute(values, model.num_layers)?,
        checkpoint: control::checkpoint(values)?,
        log: control::log(values)?,
        generate: control::generate(values)?,
        seed: control::seed(values)?,
        device: control::device(values)?,
        exit_interval: values.opt_usize("exit_interval")?,
        model,
        init,
        tokenizer,
        precision,
        optimizer,
        schedule,
        schedule_fractions: fractions,
        seq_length,
        train_batch_size: batch.sequences,
        micro_batch_size: batch.micro,
        gradient_accumulation_steps: batch.accumulation,
        train_iters: length.train_iters,
        train_epochs: length.train_epochs,
        eval_interval: length.eval_interval,
        eval_iters: length.eval_iters,
        warnings: Vec::new(),
    };
    count::check(&run)?;
    check_derived(values)?;
    Ok(RunConfig { warnings: values.warnings.clone(), ..run })
}

/// Keys that upstream derives may be written, but only with the value that follows.
fn check_derived(values: &Values) -> Result<()> {
    for (name, source) in [
        ("batch_size", "train_micro_batch_size_per_gpu"),
        ("clip_grad", "gradient_clipping"),
        ("lr", "optimizer.params.lr"),
        ("optimizer_type", "optimizer.type"),
        ("zero_stage", "zero_optimization.stage"),
    ] {
        if let Some(written) = values.value(name) {
            let wanted = values.value(source);
            let same = match (&written, &wanted) {
                (Value::Text(a), Some(Value::Text(b))) => a.eq_ignore_ascii_case(b),
                (a, b) => Some(a) == b.as_ref(),
            };
            if !same {
                let wanted = wanted.map_or("null".into(), |value| value.json().to_string());
                return Err(Error::Config(format!(
                    "{} is derived from {source:?} ({wanted}) and contradicts it; remove it",
                    values.at(name)
                )));
            }
        }
    }
    Ok(())
}

/// Narrows a count to the type that holds it.
fn small(values: &Values, name: &str) -> Result<u32> {
    let value = values.usize(name)?;
    u32::try_from(value).map_err(|_| Error::Config(format!("{} {value} is too large", values.at(name))))
}
