//! Shape, positions, norms, activation, initial weights.

use serde_json::Value as Json;

use super::mlp;
use crate::error::{Error, Result};
use crate::model::{Activation, Bias, Init, InitMethod, ModelConfig, Norm, Position};
use crate::train::config::types::Value;
use crate::train::config::values::Values;

/// Sizes above it are mistakes; products of two stay far from overflow.
const LARGEST: usize = 1 << 31;

pub(super) fn model(values: &mut Values, tokens: usize) -> Result<ModelConfig> {
    let num_layers = size(values, "num_layers")?;
    let hidden_size = size(values, "hidden_size")?;
    let num_attention_heads = size(values, "num_attention_heads")?;
    let max_position_embeddings = size(values, "max_position_embeddings")?;
    let seq_length = size(values, "seq_length")?;
    if seq_length > max_position_embeddings {
        return Err(Error::Config(format!(
            "{} {seq_length} is larger than {} {max_position_embeddings}; make the second at least as large",
            values.at("seq_length"),
            values.at("max_position_embeddings")
        )));
    }
    if !hidden_size.is_multiple_of(num_attention_heads) {
        return Err(Error::Config(format!(
            "{} {hidden_size} is not a multiple of {} {num_attention_heads}",
            values.at("hidden_size"),
            values.at("num_attention_heads")
        )));
    }
    let num_kv_heads = kv_heads(values, num_attention_heads)?;
    attention_types(values, num_layers)?;
    let head_dim = hidden_size / num_attention_heads;
    let norm = norm(values)?;
    let (activation, gated) = activation(values)?;
    Ok(ModelConfig {
        num_layers,
        hidden_size,
        num_attention_heads,
        num_kv_heads,
        head_dim,
        ffn_hidden_size: mlp::width(values, hidden_size, gated)?,
        vocab_size: padded_vocabulary(values, tokens)?,
        max_position_embeddings,
        norm,
        norm_eps: values.float(if norm == Norm::LayerNorm { "layernorm_epsilon" } else { "rms_norm_epsilon" })?,
        activation,
        gated,
        position: position(values, head_dim)?,
        parallel_residual: values.bool("gpt_j_residual")?,
        bias: Bias {
            norm: norm == Norm::LayerNorm && values.bool("use_bias_in_norms")?,
            attention: values.bool("use_bias_in_attn_linear")?,
            mlp: values.bool("use_bias_in_mlp")?,
        },
        tie_word_embeddings: !values.bool("no_weight_tying")?,
        sliding_window: None,
    })
}

fn size(values: &Values, name: &str) -> Result<usize> {
    let value = values.usize(name)?;
    if value > LARGEST {
        return Err(Error::Config(format!("{} {value} is too large", values.at(name))));
    }
    Ok(value)
}

fn kv_heads(values: &mut Values, heads: usize) -> Result<usize> {
    let kv = values.opt_usize("num_kv_heads")?.unwrap_or(heads);
    if !heads.is_multiple_of(kv) {
        return Err(Error::Config(format!(
            "{} {kv} does not divide {} {heads}",
            values.at("num_kv_heads"),
            values.at("num_attention_heads")
        )));
    }
    values.derive("num_kv_heads", Value::Int(kv as i64));
    Ok(kv)
}

fn norm(values: &Values) -> Result<Norm> {
    Ok(if values.text("norm")? == "rmsnorm" { Norm::RmsNorm } else { Norm::LayerNorm })
}

fn activation(values: &mut Values) -> Result<(Activation, bool)> {
    let tanh = values.bool("bias_gelu_fusion")?;
    let name = values.text("activation")?;
    if tanh && values.bool("onnx_safe")? {
        return Err(Error::Config(format!(
            "{} and {} exclude each other; remove onnx_safe",
            values.at("onnx_safe"),
            values.at("bias_gelu_fusion")
        )));
    }
    if tanh && name != "gelu" {
        let at = values.at("bias_gelu_fusion");
        values.warn(format!("{at} has no effect with activation {name}"));
    }
    Ok(match name.as_str() {
        "gelu" if tanh => (Activation::GeluTanh, false),
        "geglu" => (Activation::Gelu, true),
        "swiglu" => (Activation::Silu, true),
        "silu" | "swish" => (Activation::Silu, false),
        "relu" => (Activation::Relu, false),
        _ => (Activation::Gelu, false),
    })
}

fn position(values: &Values, head_dim: usize) -> Result<Position> {
    match values.text("pos_emb")?.as_str() {
        "rotary" => {
            let share = values.float("rotary_pct")?;
            // int(d * pct), as upstream rounds
            let ndims = (head_dim as f64 * share) as usize;
            if ndims == 0 || !ndims.is_multiple_of(2) {
                return Err(Error::Config(format!(
                    "{} {share} of a head of {head_dim} rotates {ndims} dimensions; it must be an even number above 0",
                    values.at("rotary_pct")
                )));
            }
            Ok(Position::Rotary { ndims, base: values.float("rotary_emb_base")? })
        }
        "none" => Ok(Position::None),
        _ => Ok(Position::Learned),
    }
}

/// `[[[types], n], …]`: the types in turn, n times each; `"all"` fills the layers.
fn attention_types(values: &Values, layers: usize) -> Result<()> {
    let Some(Json::Array(items)) = values.json("attention_config") else { return Ok(()) };
    let at = values.at("attention_config");
    let form = || Error::Config(format!("{at} must have the form [[[\"global\"], {layers}]]"));
    let mut total = 0usize;
    for item in &items {
        let (types, times) = match item {
            Json::String(_) => (std::slice::from_ref(item), Some(1)),
            Json::Array(pair) => match pair.as_slice() {
                [Json::Array(types), Json::Number(times)] => (types.as_slice(), times.as_u64()),
                [Json::Array(types), Json::String(all)] if all == "all" && !types.is_empty() => {
                    (types.as_slice(), (layers.is_multiple_of(types.len())).then(|| (layers / types.len()) as u64))
                }
                _ => return Err(form()),
            },
            _ => return Err(form()),
        };
        for name in types {
            attention_type(name.as_str().ok_or_else(form)?, &at)?;
        }
        let times = times.and_then(|times| usize::try_from(times).ok()).ok_or_else(form)?;
        total = types.len().checked_mul(times).and_then(|more| total.checked_add(more)).ok_or_else(form)?;
    }
    if total != layers {
        return Err(Error::Config(format!("{at} describes {total} layers, but num_layers is {layers}")));
    }
    Ok(())
}

fn attention_type(name: &str, at: &str) -> Result<()> {
    match name {
        "global" | "flash" => Ok(()),
        "local" | "sparse_fixed" | "sparse_variable" | "bigbird" | "bslongformer" | "gmlp" | "amlp" | "rwkv"
        | "mamba" => Err(Error::Config(format!(
            "{at}: attention type {name:?} is known to GPT-NeoX but not supported here; use \"global\" or \"flash\""
        ))),
        _ => Err(Error::Config(format!("{at}: unknown attention type {name:?}; use \"global\" or \"flash\""))),
    }
}

fn padded_vocabulary(values: &mut Values, tokens: usize) -> Result<usize> {
    if tokens > LARGEST {
        return Err(Error::Config(format!("{} {tokens} is too large", values.at("vocab_size"))));
    }
    values.derive("vocab_size", Value::Int(tokens as i64));
    let padded = tokens.next_multiple_of(size(values, "make_vocab_size_divisible_by")?);
    if padded > LARGEST {
        return Err(Error::Config(format!("a vocabulary padded to {padded} is too large")));
    }
    if let Some(written) = values.opt_usize("padded_vocab_size")?.filter(|written| *written != padded) {
        return Err(Error::Config(format!(
            "{} {written}: {tokens} tokens are padded to {padded}; remove it, or set \"vocab_size\" and \
             \"make_vocab_size_divisible_by\" to what you mean",
            values.at("padded_vocab_size")
        )));
    }
    values.derive("padded_vocab_size", Value::Int(padded as i64));
    Ok(padded)
}

pub(super) fn init(values: &Values, model: &ModelConfig) -> Result<Init> {
    let std = values.float("init_method_std")?;
    let method = |name: &str| Ok(init_method(&values.text(name)?, std, model.hidden_size, model.num_layers));
    Ok(Init { method: method("init_method")?, output_method: method("output_layer_init_method")? })
}

/// σ is `init_method_std`, h the hidden size, L the layers.
fn init_method(name: &str, sigma: f64, hidden: usize, layers: usize) -> InitMethod {
    let (h, l) = (hidden as f64, layers as f64);
    let std = match name {
        "xavier_uniform" => return InitMethod::XavierUniform,
        "xavier_normal" => return InitMethod::XavierNormal,
        "scaled_normal" => sigma / (2.0 * l).sqrt(),
        "single_residual_scaled_normal" => sigma / l.sqrt(),
        "small_init" => (2.0 / (5.0 * h)).sqrt(),
        "wang_init" => 2.0 / (l * h.sqrt()),
        _ => sigma,
    };
    InitMethod::Normal { std }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_standard_deviations() {
        let std = |name, h, l| match init_method(name, 0.02, h, l) {
            InitMethod::Normal { std } => std,
            other => panic!("{other:?}"),
        };
        assert!((std("small_init", 2048, 24) - 0.0139754).abs() < 1e-7);
        assert!((std("wang_init", 2048, 24) - 0.00184142).abs() < 1e-8);
        assert!((std("small_init", 5120, 40) - 0.00883883).abs() < 1e-8);
        assert!((std("wang_init", 5120, 40) - 0.000698771).abs() < 1e-9);
        assert_eq!(std("normal", 512, 8), 0.02);
        assert_eq!(std("scaled_normal", 512, 8), 0.005);
        assert_eq!(std("single_residual_scaled_normal", 512, 16), 0.005);
    }
}
