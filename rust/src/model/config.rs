//! What a decoder is made of. Every value is resolved: no default is looked up later.

/// Which normalisation stands before attention, before the MLP and at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    LayerNorm,
    RmsNorm,
}

pub use crate::ops::activation::Activation;

/// How a token knows its place.
#[derive(Debug, Clone, Copy, PartialEq)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bias {
    pub norm: bool,
    pub attention: bool,
    pub mlp: bool,
}

/// A decoder of the GPT-NeoX or the Llama family, or anything between.
#[derive(Debug, Clone, PartialEq)]
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
    pub activation: Activation,
    pub gated: bool,
    pub position: Position,
    /// x + Attn(LN₁x) + MLP(LN₂x) instead of two residual steps (`gpt_j_residual`).
    pub parallel_residual: bool,
    pub bias: Bias,
    pub tie_word_embeddings: bool,
}

/// Weights before the first step: N(0, std) for all matrices, biases 0, norm weights 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Init {
    /// Embeddings, QKV, first MLP matrices, output matrix.
    pub method: InitMethod,
    /// Attention output and second MLP matrix.
    pub output_method: InitMethod,
}

/// How a matrix is filled (specs of GPT-NeoX `init_methods.py`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum InitMethod {
    Normal {
        std: f64,
    },
    /// Glorot: U(−√(6/(fan_in+fan_out)), +…).
    XavierUniform,
    /// Glorot: N(0, √(2/(fan_in+fan_out))).
    XavierNormal,
}
