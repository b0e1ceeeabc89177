//! `config.json` of the GPT-NeoX and Llama classes, both ways.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::keys::Keys;
use super::{ExportOptions, TokenIds};
use crate::error::{Error, Result};
use crate::model::config::activation_name;
use crate::model::{Activation, Bias, ModelConfig, Norm, Position};

/// The class of `transformers` that holds a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Neox,
    Llama,
    /// Llama's mathematics, and a window.
    Mistral,
}

/// # Errors
/// `Error::UnsupportedModel` naming the key that asks for what no decoder here computes.
pub(super) fn read(path: &Path) -> Result<(ModelConfig, TokenIds)> {
    let keys = Keys::read(path)?;
    let config = match class(&keys)? {
        Class::Neox => neox(&keys),
        class => llama(&keys, class),
    }?;
    let one = |key| keys.ids(key).map(|ids| ids.first().copied());
    Ok((config, TokenIds { bos: one("bos_token_id")?, eos: keys.ids("eos_token_id")?, pad: one("pad_token_id")? }))
}

fn class(keys: &Keys) -> Result<Class> {
    let named = keys.get("architectures").and_then(Value::as_array).and_then(|all| all.first()).and_then(Value::as_str);
    let (key, name) = match (named, keys.str("model_type")?) {
        (Some(name), _) => ("architectures", name),
        (None, Some(name)) => ("model_type", name),
        (None, None) => return Err(keys.refuse("model_type", "is missing")),
    };
    match name {
        "GPTNeoXForCausalLM" | "gpt_neox" => Ok(Class::Neox),
        "LlamaForCausalLM" | "llama" => Ok(Class::Llama),
        "MistralForCausalLM" | "mistral" => Ok(Class::Mistral),
        other => {
            let known = "GPTNeoXForCausalLM, LlamaForCausalLM and MistralForCausalLM";
            Err(keys.refuse(key, format!("is `{other}`; only {known} are supported")))
        }
    }
}

fn neox(keys: &Keys) -> Result<ModelConfig> {
    refuse_foreign(keys)?;
    let (hidden_size, heads) = (keys.require("hidden_size")?, keys.require("num_attention_heads")?);
    let head_dim = head_dim(keys, hidden_size, heads)?;
    let rotary = Rope::read(keys, "rotary_emb_base", &["rotary_pct", "partial_rotary_factor"], 0.25)?;
    let attention = keys.bool("attention_bias")?.unwrap_or(true);
    Ok(ModelConfig {
        num_layers: keys.require("num_hidden_layers")?,
        hidden_size,
        num_attention_heads: heads,
        num_kv_heads: heads,
        head_dim,
        ffn_hidden_size: keys.require("intermediate_size")?,
        vocab_size: keys.require("vocab_size")?,
        max_position_embeddings: keys.usize("max_position_embeddings")?.unwrap_or(2048),
        norm: Norm::LayerNorm,
        norm_eps: keys.f64("layer_norm_eps")?.unwrap_or(1e-5),
        activation: activation(keys, "gelu")?,
        gated: false,
        position: rotary.position(keys, head_dim)?,
        parallel_residual: keys.bool("use_parallel_residual")?.unwrap_or(true),
        bias: Bias { norm: true, attention, mlp: true },
        tie_word_embeddings: keys.bool("tie_word_embeddings")?.unwrap_or(false),
        sliding_window: None,
    })
}

fn llama(keys: &Keys, class: Class) -> Result<ModelConfig> {
    refuse_foreign(keys)?;
    let (hidden_size, heads) = (keys.require("hidden_size")?, keys.require("num_attention_heads")?);
    let head_dim = head_dim(keys, hidden_size, heads)?;
    let kv_default = if class == Class::Mistral { 8 } else { heads };
    let rotary = Rope::read(keys, "rope_theta", &["partial_rotary_factor"], 1.0)?;
    let flag = |key| -> Result<bool> { Ok(class == Class::Llama && keys.bool(key)?.unwrap_or(false)) };
    Ok(ModelConfig {
        num_layers: keys.require("num_hidden_layers")?,
        hidden_size,
        num_attention_heads: heads,
        num_kv_heads: keys.usize("num_key_value_heads")?.unwrap_or(kv_default),
        head_dim,
        ffn_hidden_size: keys.require("intermediate_size")?,
        vocab_size: keys.require("vocab_size")?,
        max_position_embeddings: keys.usize("max_position_embeddings")?.unwrap_or(max_positions(class)),
        norm: Norm::RmsNorm,
        norm_eps: keys.f64("rms_norm_eps")?.unwrap_or(1e-6),
        activation: activation(keys, "silu")?,
        gated: true,
        position: rotary.position(keys, head_dim)?,
        parallel_residual: false,
        bias: Bias { norm: false, attention: flag("attention_bias")?, mlp: flag("mlp_bias")? },
        tie_word_embeddings: keys.bool("tie_word_embeddings")?.unwrap_or(false),
        sliding_window: window(keys, class)?,
    })
}

fn max_positions(class: Class) -> usize {
    if class == Class::Mistral { 4096 * 32 } else { 2048 }
}

/// Keys that change the computation in ways no decoder here follows.
fn refuse_foreign(keys: &Keys) -> Result<()> {
    for key in ["quantization_config", "compression_config"] {
        if keys.get(key).is_some() {
            return Err(keys.refuse(key, "is set; quantised weights are not supported"));
        }
    }
    for key in ["is_encoder_decoder", "add_cross_attention"] {
        if keys.bool(key)? == Some(true) {
            return Err(keys.refuse(key, "is true; only plain decoders are supported"));
        }
    }
    Ok(())
}

/// A window as long as the positions cuts nothing; `MistralConfig` without the key means 4096.
fn window(keys: &Keys, class: Class) -> Result<Option<usize>> {
    if class != Class::Mistral {
        return Ok(None);
    }
    let window = if keys.names("sliding_window") { keys.usize("sliding_window")? } else { Some(4096) };
    let positions = keys.usize("max_position_embeddings")?.unwrap_or(max_positions(class));
    match window {
        Some(0) => Err(keys.refuse("sliding_window", "is 0; a token sees itself at least")),
        window => Ok(window.filter(|window| *window < positions)),
    }
}

fn head_dim(keys: &Keys, hidden_size: usize, heads: usize) -> Result<usize> {
    if let Some(dim) = keys.usize("head_dim")? {
        return Ok(dim);
    }
    if heads == 0 || !hidden_size.is_multiple_of(heads) {
        return Err(
            keys.refuse("num_attention_heads", format!("is {heads}, which does not divide hidden_size {hidden_size}"))
        );
    }
    Ok(hidden_size / heads)
}

fn activation(keys: &Keys, default: &str) -> Result<Activation> {
    match keys.str("hidden_act")?.unwrap_or(default) {
        "gelu" | "gelu_python" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
        "silu" | "swish" => Ok(Activation::Silu),
        "relu" => Ok(Activation::Relu),
        other => Err(keys.refuse("hidden_act", format!("is `{other}`; gelu, gelu_new, silu and relu are supported"))),
    }
}

/// The rotary settings, whichever generation of `transformers` wrote them.
struct Rope {
    base: f64,
    factor: f64,
    /// Llama's class rotates whole heads whatever the factor says.
    whole: bool,
}

impl Rope {
    /// `rope_parameters` (v5) counts first, then `rope_scaling` (v4), then the plain keys. Two answers
    /// that differ are refused.
    fn read(keys: &Keys, base_key: &str, factor_keys: &[&str], default: f64) -> Result<Self> {
        let nested: Vec<_> = ["rope_parameters", "rope_scaling"]
            .iter()
            .filter_map(|key| keys.object(key).transpose())
            .collect::<Result<_>>()?;
        for rope in &nested {
            refuse_scaling(rope)?;
        }
        let all = |names: &[&str]| -> Result<Vec<f64>> {
            let everywhere = nested.iter().chain([keys]).flat_map(|keys| names.iter().map(move |name| keys.f64(name)));
            everywhere.filter_map(Result::transpose).collect()
        };
        let base = agreed(keys, base_key, &all(&[base_key, "rope_theta"])?)?.unwrap_or(1e4);
        let factor = agreed(keys, factor_keys[0], &all(factor_keys)?)?.unwrap_or(default);
        Ok(Self { base, factor, whole: default == 1.0 })
    }

    fn position(&self, keys: &Keys, head_dim: usize) -> Result<Position> {
        if self.whole && self.factor != 1.0 {
            return Err(
                keys.refuse("partial_rotary_factor", format!("is {}; this class rotates whole heads", self.factor))
            );
        }
        if !(0.0..=1.0).contains(&self.factor) {
            return Err(keys.refuse("rotary_pct", format!("must lie between 0 and 1, got {}", self.factor)));
        }
        Ok(Position::Rotary { ndims: (head_dim as f64 * self.factor) as usize, base: self.base })
    }
}

fn refuse_scaling(rope: &Keys) -> Result<()> {
    for key in ["rope_type", "type"] {
        match rope.str(key)? {
            None | Some("default") => {}
            Some(other) => {
                return Err(rope.refuse(key, format!("is `{other}`; only unscaled rotary positions are supported")));
            }
        }
    }
    match rope.get("factor").and_then(Value::as_f64) {
        Some(factor) if factor != 1.0 => Err(rope.refuse("factor", format!("is {factor}; scaling is not supported"))),
        _ => Ok(()),
    }
}

fn agreed(keys: &Keys, key: &str, found: &[f64]) -> Result<Option<f64>> {
    match found {
        [first, rest @ ..] if rest.iter().any(|other| other != first) => {
            Err(keys.refuse(key, format!("has contradicting values: {found:?}")))
        }
        _ => Ok(found.first().copied()),
    }
}

/// The class that computes exactly what `config` computes.
///
/// # Errors
/// `Error::UnsupportedModel` with every key that stands in the way.
pub(super) fn exportable(config: &ModelConfig) -> Result<Class> {
    let (neox, llama) = (neox_obstacles(config), llama_obstacles(config));
    if neox.is_empty() {
        return Ok(Class::Neox);
    }
    if llama.is_empty() {
        return Ok(Class::Llama);
    }
    if config.sliding_window.is_some() {
        let mistral = mistral_obstacles(config);
        if mistral.is_empty() {
            return Ok(Class::Mistral);
        }
        return Err(Error::UnsupportedModel(format!(
            "no class of transformers computes this model. For MistralForCausalLM, which has a window, change {}",
            list(&mistral)
        )));
    }
    Err(Error::UnsupportedModel(format!(
        "no class of transformers computes this model. For GPTNeoXForCausalLM change {}; for LlamaForCausalLM change {}",
        list(&neox),
        list(&llama)
    )))
}

fn list(keys: &[&str]) -> String {
    keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}

fn obstacles(checks: &[(&'static str, bool)]) -> Vec<&'static str> {
    checks.iter().filter(|(_, fits)| !fits).map(|(key, _)| *key).collect()
}

fn square(config: &ModelConfig) -> bool {
    config.num_attention_heads * config.head_dim == config.hidden_size
}

fn neox_obstacles(config: &ModelConfig) -> Vec<&'static str> {
    obstacles(&[
        ("norm", config.norm == Norm::LayerNorm),
        ("activation", !config.gated),
        ("num_kv_heads", config.num_kv_heads == config.num_attention_heads),
        ("pos_emb", matches!(config.position, Position::Rotary { .. })),
        ("head_dim", square(config)),
        ("sliding_window", config.sliding_window.is_none()),
    ])
}

fn llama_obstacles(config: &ModelConfig) -> Vec<&'static str> {
    let window = obstacles(&[("sliding_window", config.sliding_window.is_none())]);
    [llama_shape(config), window].concat()
}

fn mistral_obstacles(config: &ModelConfig) -> Vec<&'static str> {
    let biases =
        obstacles(&[("use_bias_in_attn_linear", !config.bias.attention), ("use_bias_in_mlp", !config.bias.mlp)]);
    [llama_shape(config), biases].concat()
}

/// What keeps a model from being made of Llama's layers.
fn llama_shape(config: &ModelConfig) -> Vec<&'static str> {
    let whole = match config.position {
        Position::Rotary { ndims, .. } => ndims == config.head_dim,
        Position::Learned | Position::None => true,
    };
    obstacles(&[
        ("norm", config.norm == Norm::RmsNorm),
        ("activation", config.gated && config.activation == Activation::Silu),
        ("pos_emb", matches!(config.position, Position::Rotary { .. })),
        ("rotary_pct", whole),
        ("gpt_j_residual", !config.parallel_residual),
        ("num_attention_heads", config.hidden_size.is_multiple_of(config.num_attention_heads)),
    ])
}

/// The object of `config.json`.
pub(super) fn write(config: &ModelConfig, class: Class, options: &ExportOptions) -> Map<String, Value> {
    let mut all = common(config, options);
    let own = match class {
        Class::Neox => neox_keys(config, options),
        Class::Llama => llama_keys(config),
        Class::Mistral => mistral_keys(config),
    };
    all.extend(own);
    all.extend(token_ids(&options.token_ids));
    all
}

/// `bos_token_id` and its like; ids that are not known are null, so that no class default slips in.
pub(super) fn token_ids(ids: &TokenIds) -> Map<String, Value> {
    let eos = match ids.eos.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        many => json!(many),
    };
    object(json!({"bos_token_id": ids.bos, "eos_token_id": eos, "pad_token_id": ids.pad}))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn common(config: &ModelConfig, options: &ExportOptions) -> Map<String, Value> {
    object(json!({
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.ffn_hidden_size,
        "max_position_embeddings": config.max_position_embeddings,
        "attention_bias": config.bias.attention,
        "attention_dropout": 0.0,
        "tie_word_embeddings": config.tie_word_embeddings,
        "initializer_range": options.initializer_range,
        "use_cache": true,
        "torch_dtype": options.dtype.name(),
        "dtype": options.dtype.name(),
    }))
}

fn neox_keys(config: &ModelConfig, options: &ExportOptions) -> Map<String, Value> {
    let (factor, base) = rotary_factor(config);
    let hidden_act = options.hidden_act.as_deref().unwrap_or(activation_name::of(config.activation));
    object(json!({
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "hidden_act": hidden_act,
        "layer_norm_eps": config.norm_eps,
        "use_parallel_residual": config.parallel_residual,
        "hidden_dropout": 0.0,
        "classifier_dropout": 0.1,
        "rotary_pct": factor,
        "rotary_emb_base": base,
        "rope_parameters": {"rope_type": "default", "rope_theta": base, "partial_rotary_factor": factor},
    }))
}

fn llama_keys(config: &ModelConfig) -> Map<String, Value> {
    let (_, base) = rotary_factor(config);
    object(json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": activation_name::of(config.activation),
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.norm_eps,
        "mlp_bias": config.bias.mlp,
        "pretraining_tp": 1,
        "rope_theta": base,
        "rope_parameters": {"rope_type": "default", "rope_theta": base},
    }))
}

fn mistral_keys(config: &ModelConfig) -> Map<String, Value> {
    let mut keys = llama_keys(config);
    keys.retain(|key, _| key != "mlp_bias" && key != "pretraining_tp");
    keys.extend(object(json!({
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": config.sliding_window,
    })));
    keys
}

/// The share of a head that rotates, such that int(head_dim · share) is exact; and theta.
fn rotary_factor(config: &ModelConfig) -> (f64, f64) {
    let Position::Rotary { ndims, base } = config.position else { return (0.0, 1e4) };
    let dim = config.head_dim as f64;
    let mut factor = ndims as f64 / dim;
    while ((dim * factor) as usize) < ndims {
        factor = factor.next_up();
    }
    (factor, base)
}
