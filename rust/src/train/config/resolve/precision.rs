//! Precision, loss scaling, and what of ZeRO matters to one process.

use super::small;
use crate::error::{Error, Result};
use crate::train::config::run::{Precision, ScalerConfig};
use crate::train::config::values::{Value, Values};

/// From `precision`, `fp16.enabled` and `bf16.enabled`, which must agree.
pub(super) fn precision(values: &mut Values) -> Result<Precision> {
    check_type(values)?;
    let fp16 = enabled(values, "fp16", "fp16.enabled")?;
    let bf16 = enabled(values, "bf16", "bf16.enabled")?;
    let named = values.opt_text("precision")?;
    if fp16 && bf16 {
        return Err(Error::Config(format!(
            "{} and {} are both enabled; disable one",
            values.at("fp16"),
            values.at("bf16")
        )));
    }
    let from_sections = if fp16 { Some("fp16") } else { bf16.then_some("bfloat16") };
    let name = match (named.as_deref(), from_sections) {
        (Some(name), Some(section)) if name != section => {
            let key = if fp16 { "fp16" } else { "bf16" };
            return Err(Error::Config(format!(
                "{} {name} contradicts {}, which is enabled",
                values.at("precision"),
                values.at(key)
            )));
        }
        (Some(name), _) => name.to_owned(),
        (None, section) => section.unwrap_or("fp32").to_owned(),
    };
    values.derive("precision", Value::Text(name.clone()));
    values.derive("fp16.enabled", Value::Bool(name == "fp16"));
    values.derive("bf16.enabled", Value::Bool(name == "bfloat16"));
    Ok(match name.as_str() {
        "fp16" => Precision::Fp16,
        "bfloat16" => Precision::Bf16,
        _ => Precision::Fp32,
    })
}

fn enabled(values: &Values, section: &str, key: &str) -> Result<bool> {
    if values.given(section) && !values.given(key) {
        return Err(Error::Config(format!("{} needs the key \"enabled\": true or false", values.at(section))));
    }
    values.bool(key)
}

/// `fp16: {type: bfloat16}` trains fp16 upstream, which nobody who writes it wants.
fn check_type(values: &Values) -> Result<()> {
    match values.opt_text("fp16.type")?.map(|name| name.to_ascii_lowercase()).as_deref() {
        None | Some("fp16") => Ok(()),
        Some("bfloat16" | "bf16") => Err(Error::Config(format!(
            "{}: GPT-NeoX trains fp16 in spite of it; write `bf16: {{enabled: true}}` for bfloat16, or remove the key \
             for fp16",
            values.at("fp16.type")
        ))),
        Some(other) => Err(Error::Config(format!("{} may be fp16 only, got {other:?}", values.at("fp16.type")))),
    }
}

/// ZeRO's stage; stages that split gradients or weights need other processes.
pub(super) fn zero_stage(values: &mut Values) -> Result<usize> {
    if values.given("zero_optimization") && !values.given("zero_optimization.stage") {
        return Err(Error::Config(format!("{} needs the key \"stage\": 0 or 1", values.at("zero_optimization"))));
    }
    let stage = values.opt_usize("zero_optimization.stage")?.unwrap_or(0);
    match stage {
        0 | 1 => {
            values.derive("zero_optimization.stage", Value::Int(stage as i64));
            Ok(stage)
        }
        2 | 3 => Err(Error::Config(format!(
            "{} {stage} splits gradients or weights over processes: it needs a distributed engine, and none is part \
             of this trainer; set it to 1",
            values.at("zero_optimization.stage")
        ))),
        _ => Err(Error::Config(format!("{} must be 0 to 3, got {stage}", values.at("zero_optimization.stage")))),
    }
}

/// DeepSpeed's loss scaler; its stage-0 optimizer knows no hysteresis and never aborts.
pub(super) fn scaler(values: &Values, stage: usize) -> Result<ScalerConfig> {
    let power = small(values, "fp16.initial_scale_power")?;
    if power > 127 {
        return Err(Error::Config(format!(
            "{} {power}: 2^{power} is beyond single precision",
            values.at("fp16.initial_scale_power")
        )));
    }
    Ok(ScalerConfig {
        loss_scale: values.float("fp16.loss_scale")?,
        initial_scale_power: power,
        loss_scale_window: values.usize("fp16.loss_scale_window")? as u64,
        hysteresis: if stage == 0 { 1 } else { small(values, "fp16.hysteresis")? },
        min_loss_scale: values.float("fp16.min_loss_scale")?,
        abort_at_min: stage != 0,
    })
}
