//! Optimizer and learning-rate schedule.

use crate::error::{Error, Result};
use crate::train::config::run::{
    DecayStyle, LossReduction, OptimizerConfig, ScheduleConfig, ScheduleFlavor, ScheduleFractions,
};
use crate::train::config::types::Value;
use crate::train::config::values::Values;

pub(super) fn optimizer(values: &mut Values) -> Result<OptimizerConfig> {
    if values.given("optimizer") {
        for key in ["optimizer.type", "optimizer.params"] {
            if !values.given(key) {
                return Err(Error::Config(format!(
                    "{} needs the keys \"type\" and \"params\"",
                    values.at("optimizer")
                )));
            }
        }
        if !values.given("optimizer.params.lr") {
            let at = values.at("optimizer.params");
            return Err(Error::Config(format!("{at} needs the learning rate \"lr\"")));
        }
    }
    let kind = values.text("optimizer.type")?;
    if kind.starts_with("CPU_") {
        let at = values.at("optimizer.type");
        values.warn(format!("{at} {kind} is the same as Adam here"));
    }
    Ok(OptimizerConfig {
        lr: values.float("optimizer.params.lr")?,
        betas: betas(values)?,
        eps: values.float("optimizer.params.eps")?,
        weight_decay: weight_decay(values)?,
        gradient_clipping: values.float("gradient_clipping")?,
    })
}

/// Both dropouts are 0 in every published recipe, and the kernels have none.
pub(super) fn no_dropout(values: &Values) -> Result<()> {
    for name in ["attention_dropout", "hidden_dropout"] {
        let share = values.float(name)?;
        if share != 0.0 {
            return Err(Error::Config(format!("{} {share} must be 0: dropout is not supported", values.at(name))));
        }
    }
    Ok(())
}

fn betas(values: &Values) -> Result<(f64, f64)> {
    match values.floats("optimizer.params.betas")?.as_deref() {
        Some([first, second]) if *first < 1.0 && *second < 1.0 => Ok((*first, *second)),
        _ => Err(Error::Config(format!(
            "{} must be two numbers, each from 0 to below 1",
            values.at("optimizer.params.betas")
        ))),
    }
}

/// The top-level key wins over the optimizer's.
fn weight_decay(values: &mut Values) -> Result<f64> {
    let top = values.float("weight_decay")?;
    let decay = match values.opt_float("optimizer.params.weight_decay")? {
        Some(inner) if !values.given("weight_decay") => inner,
        Some(inner) if inner != top => {
            let (key, winner) = (values.at("optimizer.params.weight_decay"), values.at("weight_decay"));
            values.warn(format!("{key} {inner} is overruled by {winner} {top}"));
            top
        }
        _ => top,
    };
    values.derive("weight_decay", Value::Float(decay));
    Ok(decay)
}

/// The schedule, and which of its lengths are shares of a run of still unknown length.
pub(super) fn schedule(
    values: &mut Values,
    lr: f64,
    train_iters: Option<usize>,
) -> Result<(ScheduleConfig, ScheduleFractions)> {
    let min_lr = values.float("min_lr")?;
    if min_lr > lr {
        return Err(Error::Config(format!("{} {min_lr} is larger than the learning rate {lr}", values.at("min_lr"))));
    }
    if values.bool("override_lr_scheduler")? && values.bool("use_checkpoint_lr_scheduler")? {
        return Err(Error::Config(format!(
            "{} and {} exclude each other; set one to false",
            values.at("override_lr_scheduler"),
            values.at("use_checkpoint_lr_scheduler")
        )));
    }
    let fractions = fractions(values)?;
    let decay_iters = decay_iters(values, train_iters, &fractions)?;
    let warmup_iters = match fractions.warmup {
        Some(share) => share * decay_iters as f64,
        None => values.usize("lr_warmup_iters")? as f64,
    };
    let style = style(values)?;
    let schedule = ScheduleConfig {
        flavor: flavor(values)?,
        style,
        lr,
        min_lr,
        warmup_iters,
        decay_iters,
        wsd_decay_iters: wsd_decay(values, style, decay_iters, warmup_iters)?,
    };
    check_lengths(values, &schedule, train_iters)?;
    // A length in steps is final; a share matters only until the data gives the number of steps.
    let decay = fractions.decay.filter(|_| train_iters.is_none());
    Ok((schedule, ScheduleFractions { decay, ..fractions }))
}

fn fractions(values: &mut Values) -> Result<ScheduleFractions> {
    for (steps, share) in [("lr_decay_iters", "lr_decay_fraction"), ("lr_warmup_iters", "warmup")] {
        if values.given(steps) && values.given(share) {
            return Err(Error::Config(format!(
                "{} and {} exclude each other; remove one",
                values.at(steps),
                values.at(share)
            )));
        }
    }
    let warmup = match values.given("lr_warmup_iters") {
        true => None,
        false => Some(values.float("warmup")?),
    };
    if warmup.is_none() {
        values.forget("warmup");
    }
    let decay = match values.given("lr_decay_iters") {
        true => None,
        false => Some(values.opt_float("lr_decay_fraction")?.unwrap_or(1.0)),
    };
    Ok(ScheduleFractions { warmup, decay })
}

/// 0 where only the data will tell.
fn decay_iters(values: &Values, train_iters: Option<usize>, fractions: &ScheduleFractions) -> Result<usize> {
    match (fractions.decay, train_iters) {
        (None, _) => values.usize("lr_decay_iters"),
        (Some(_), None) => Ok(0),
        (Some(share), Some(iters)) => Ok(((iters as f64 * share).floor() as usize).max(1)),
    }
}

fn style(values: &Values) -> Result<DecayStyle> {
    Ok(match values.text("lr_decay_style")?.as_str() {
        "constant" => DecayStyle::Constant,
        "cosine" => DecayStyle::Cosine,
        "exponential" => DecayStyle::Exponential,
        "wsd" => DecayStyle::Wsd,
        _ => DecayStyle::Linear,
    })
}

fn flavor(values: &Values) -> Result<ScheduleFlavor> {
    let megatron = values.text("schedule_flavor")? == "megatron";
    Ok(if megatron { ScheduleFlavor::Megatron } else { ScheduleFlavor::Neox })
}

fn wsd_decay(values: &Values, style: DecayStyle, decay: usize, warmup: f64) -> Result<usize> {
    let steps = values.opt_usize("lr_wsd_decay_iters")?;
    match (style, steps) {
        (DecayStyle::Wsd, None) => Err(Error::Config(format!(
            "{} wsd needs \"lr_wsd_decay_iters\", the steps of its final decay",
            values.at("lr_decay_style")
        ))),
        (DecayStyle::Wsd, Some(steps)) if decay > 0 && steps as f64 + warmup > decay as f64 => {
            Err(Error::Config(format!(
                "{} {steps} and a warm-up of {warmup} steps are more than the {decay} steps until the end of the decay",
                values.at("lr_wsd_decay_iters")
            )))
        }
        (DecayStyle::Wsd, Some(steps)) => Ok(steps),
        (_, Some(_)) => {
            Err(Error::Config(format!("{} is of lr_decay_style wsd only", values.at("lr_wsd_decay_iters"))))
        }
        (_, None) => Ok(0),
    }
}

fn check_lengths(values: &mut Values, schedule: &ScheduleConfig, train_iters: Option<usize>) -> Result<()> {
    let decay = schedule.decay_iters;
    if decay > 0 && schedule.warmup_iters > decay as f64 {
        return Err(Error::Config(format!(
            "{} {} is longer than the {decay} steps until the end of the decay",
            values.at("lr_warmup_iters"),
            schedule.warmup_iters
        )));
    }
    if let Some(iters) = train_iters.filter(|iters| *iters > decay && schedule.style != DecayStyle::Constant) {
        let given = values.given("lr_decay_iters");
        let at = values.at(if given { "lr_decay_iters" } else { "lr_decay_fraction" });
        values.warn(format!(
            "{at} gives {decay} steps of decay, fewer than train_iters {iters}: then the learning rate stays at its end"
        ));
    }
    if decay > 0 {
        values.derive("lr_decay_iters", Value::Int(decay as i64));
        values.forget("lr_decay_fraction");
    }
    Ok(())
}

pub(super) fn loss_reduction(values: &Values) -> Result<LossReduction> {
    let tokens = values.text("loss_reduction")? == "global_tokens";
    Ok(if tokens { LossReduction::GlobalTokens } else { LossReduction::Microbatch })
}
