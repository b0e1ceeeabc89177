//! What a decoder is made of. Every value is resolved: no default is looked up later.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
pub use crate::ops::activation::Activation;

/// Which normalisation stands before attention, before the MLP and at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    LayerNorm,
    RmsNorm,
}

/// How a token knows its place.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// The first `ndims` of each head rotate (half rotation, not interleaved).
    Rotary {
        ndims: usize,
        base: f64,
    },
    /// A table of `max_position_embeddings` rows, added to the token embedding.
    Learned,
    None,
}

/// Which linear layers and norms have a bias. `norm` has no meaning for RMSNorm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bias {
    pub norm: bool,
    pub attention: bool,
    pub mlp: bool,
}

/// A decoder of the GPT-NeoX or the Llama family, or anything between.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    pub num_layers: usize,
    pub hidden_size: usize,
    pub num_attention_heads: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    /// Width between the two matrices of the MLP (HF's `intermediate_size`).
    pub ffn_hidden_size: usize,
    /// Rows of the embedding, padding included.
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    pub norm: Norm,
    pub norm_eps: f64,
    #[serde(with = "activation_name")]
    pub activation: Activation,
    pub gated: bool,
    pub position: Position,
    /// x + Attn(LN₁x) + MLP(LN₂x) instead of two residual steps (`gpt_j_residual`).
    pub parallel_residual: bool,
    pub bias: Bias,
    pub tie_word_embeddings: bool,
    /// Keys that a token sees, its own and those before it (HF's `sliding_window`); None: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sliding_window: Option<usize>,
}

/// Weights before the first step: N(0, std) for all matrices, biases 0, norm weights 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Init {
    /// Embeddings, QKV, first MLP matrices, output matrix.
    pub method: InitMethod,
    /// Attention output and second MLP matrix.
    pub output_method: InitMethod,
}

/// How a matrix is filled (specs of GPT-NeoX `init_methods.py`).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InitMethod {
    Normal {
        std: f64,
    },
    /// Glorot: U(−√(6/(fan_in+fan_out)), +…).
    XavierUniform,
    /// Glorot: N(0, √(2/(fan_in+fan_out))).
    XavierNormal,
}

impl ModelConfig {
    /// Reads the JSON object that [`Self::to_json`] writes.
    ///
    /// # Errors
    /// `Error::Config` naming the field that is missing, unknown or of another type.
    pub fn from_json(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|e| Error::Config(format!("model configuration: {e}")))
    }

    /// All fields, as a JSON object.
    ///
    /// # Errors
    /// `Error::Internal` should a field have no JSON form.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::Internal(format!("model configuration: {e}")))
    }
}

impl Init {
    /// # Errors
    /// `Error::Config` naming the field that is missing, unknown or of another type.
    pub fn from_json(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|e| Error::Config(format!("initialisation: {e}")))
    }
}

/// HF's words for the activations.
pub(super) mod activation_name {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::Activation;

    pub(in crate::model) const ALL: [(&str, Activation); 4] = [
        ("gelu", Activation::Gelu),
        ("gelu_new", Activation::GeluTanh),
        ("silu", Activation::Silu),
        ("relu", Activation::Relu),
    ];

    pub(in crate::model) fn of(activation: Activation) -> &'static str {
        ALL.iter().find(|(_, other)| *other == activation).map_or("gelu", |(name, _)| *name)
    }

    pub(super) fn serialize<S: Serializer>(activation: &Activation, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(of(*activation))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Activation, D::Error> {
        let name = String::deserialize(deserializer)?;
        let known = ALL.iter().find(|(other, _)| *other == name).map(|(_, activation)| *activation);
        known.ok_or_else(|| D::Error::custom(format!("unknown activation `{name}`; gelu, gelu_new, silu or relu")))
    }
}
