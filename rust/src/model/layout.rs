//! Where each parameter stands in the arena: HF tensor names, shapes, offsets.
//!
//! What one matmul reads stands together: `q|k|v` and `gate|up`, and their biases likewise. A
//! tensor of the GPT-NeoX family (layernorm, ungated MLP, as many KV heads as heads) carries its
//! NeoX name and the interleaved `query_key_value`; every other decoder carries Llama's names.

use std::ops::Range;

use super::{ModelConfig, Norm, Position};
use crate::error::{Error, Result};
use crate::ops::attention::Heads;

/// A tensor of the model, under its HF name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    pub name: String,
    pub shape: Vec<usize>,
    /// First element in the arena.
    pub offset: usize,
    pub len: usize,
    /// False for the parameters of norms and for biases, which AdamW leaves undecayed.
    pub decay: bool,
    /// What an initialiser needs to know.
    pub(super) role: Role,
}

impl Param {
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Embeddings and matrices that read the residual stream. `fan_out` is that of the fused matrix.
    Matrix {
        fan_in: usize,
        fan_out: usize,
    },
    /// Matrices that write into the residual stream.
    Output {
        fan_in: usize,
        fan_out: usize,
    },
    Scale,
    Bias,
}

/// Whose names the tensors carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Neox,
    Llama,
}

impl Family {
    pub(super) fn of(config: &ModelConfig) -> Self {
        let multi_head = config.num_kv_heads == config.num_attention_heads;
        if config.norm == Norm::LayerNorm && !config.gated && multi_head { Self::Neox } else { Self::Llama }
    }
}

/// A norm's scale and shift, as arena ranges.
#[derive(Debug, Clone)]
pub(super) struct NormParams {
    pub weight: Range<usize>,
    pub bias: Option<Range<usize>>,
}

/// A (possibly fused) linear layer, as arena ranges: weight (outputs, inputs), bias (outputs).
#[derive(Debug, Clone)]
pub(super) struct LinearParams {
    pub weight: Range<usize>,
    pub bias: Option<Range<usize>>,
    pub outputs: usize,
    pub inputs: usize,
}

/// A weight's range and that of its bias, which stands behind it.
pub(super) fn range_with(weight: &Range<usize>, bias: Option<&Range<usize>>) -> Range<usize> {
    debug_assert!(bias.is_none_or(|bias| bias.start == weight.end), "a bias follows its weight");
    weight.start..bias.map_or(weight.end, |bias| bias.end)
}

#[derive(Debug, Clone)]
pub(super) struct LayerParams {
    pub attention_norm: NormParams,
    pub qkv: LinearParams,
    pub dense: LinearParams,
    pub mlp_norm: NormParams,
    /// `dense_h_to_4h`, or `gate|up`.
    pub up: LinearParams,
    pub down: LinearParams,
}

#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub params: Vec<Param>,
    pub embedding: Range<usize>,
    pub positions: Option<Range<usize>>,
    pub layers: Vec<LayerParams>,
    pub final_norm: NormParams,
    /// The embedding's own range when tied.
    pub output: Range<usize>,
    pub len: usize,
}

/// How q, k and v lie in a row of the fused projection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Projection {
    pub row: usize,
    pub q: Heads,
    pub k: Heads,
    pub v: Heads,
}

impl Projection {
    pub(super) fn of(config: &ModelConfig) -> Self {
        let (heads, kv_heads, dim) = (config.num_attention_heads, config.num_kv_heads, config.head_dim);
        let part = |offset, stride, count| Heads { offset, stride, count, dim };
        let row = (heads + 2 * kv_heads) * dim;
        match Family::of(config) {
            Family::Neox => {
                Self { row, q: part(0, 3 * dim, heads), k: part(dim, 3 * dim, heads), v: part(2 * dim, 3 * dim, heads) }
            }
            Family::Llama => Self {
                row,
                q: part(0, dim, heads),
                k: part(heads * dim, dim, kv_heads),
                v: part((heads + kv_heads) * dim, dim, kv_heads),
            },
        }
    }
}

/// Hands out arena ranges in order.
struct Builder {
    params: Vec<Param>,
    len: usize,
    bias: super::Bias,
    layer_norm: bool,
}

impl Builder {
    fn push(&mut self, name: String, shape: &[usize], role: Role) -> Range<usize> {
        let (offset, len) = (self.len, shape.iter().product::<usize>());
        let decay = matches!(role, Role::Matrix { .. } | Role::Output { .. });
        self.params.push(Param { name, shape: shape.to_vec(), offset, len, decay, role });
        self.len += len;
        offset..offset + len
    }

    fn table(&mut self, name: &str, rows: usize, width: usize) -> Range<usize> {
        self.push(format!("{name}.weight"), &[rows, width], Role::Matrix { fan_in: width, fan_out: rows })
    }

    fn norm(&mut self, name: &str, width: usize) -> NormParams {
        let weight = self.push(format!("{name}.weight"), &[width], Role::Scale);
        let biased = self.layer_norm && self.bias.norm;
        let bias = biased.then(|| self.push(format!("{name}.bias"), &[width], Role::Bias));
        NormParams { weight, bias }
    }

    /// Matrices that share their input: all weights, then all biases.
    fn linear(&mut self, parts: &[(String, usize)], inputs: usize, bias: bool, output: bool) -> LinearParams {
        let outputs = parts.iter().map(|(_, rows)| rows).sum::<usize>();
        let (fan_in, fan_out) = (inputs, outputs);
        let role = if output { Role::Output { fan_in, fan_out } } else { Role::Matrix { fan_in, fan_out } };
        let start = self.len;
        for (name, rows) in parts {
            self.push(format!("{name}.weight"), &[*rows, inputs], role);
        }
        let weight = start..self.len;
        for (name, rows) in parts.iter().filter(|_| bias) {
            self.push(format!("{name}.bias"), &[*rows], Role::Bias);
        }
        LinearParams { bias: bias.then_some(weight.end..self.len), weight, outputs, inputs }
    }

    fn layer(&mut self, prefix: &str, config: &ModelConfig) -> LayerParams {
        let (width, heads, ffn) =
            (config.hidden_size, config.num_attention_heads * config.head_dim, config.ffn_hidden_size);
        let names = Names::of(config);
        let named = |parts: &[(&str, usize)]| -> Vec<_> {
            parts.iter().map(|(name, rows)| (format!("{prefix}.{name}"), *rows)).collect()
        };
        let kv = config.num_kv_heads * config.head_dim;
        let qkv = match names.qkv {
            [one] => named(&[(one, heads + 2 * kv)]),
            [q, k, v] => named(&[(q, heads), (k, kv), (v, kv)]),
            _ => Vec::new(),
        };
        let up = if config.gated {
            named(&[("mlp.gate_proj", ffn), ("mlp.up_proj", ffn)])
        } else {
            named(&[(names.up, ffn)])
        };
        let bias = self.bias;
        LayerParams {
            attention_norm: self.norm(&format!("{prefix}.input_layernorm"), width),
            qkv: self.linear(&qkv, width, bias.attention, false),
            dense: self.linear(&named(&[(names.dense, width)]), heads, bias.attention, true),
            mlp_norm: self.norm(&format!("{prefix}.post_attention_layernorm"), width),
            up: self.linear(&up, width, bias.mlp, false),
            down: self.linear(&named(&[(names.down, width)]), ffn, bias.mlp, true),
        }
    }
}

/// The parts of tensor names that differ between the families.
struct Names {
    embedding: &'static str,
    positions: &'static str,
    layers: &'static str,
    qkv: &'static [&'static str],
    dense: &'static str,
    up: &'static str,
    down: &'static str,
    final_norm: &'static str,
    output: &'static str,
}

impl Names {
    fn of(config: &ModelConfig) -> &'static Self {
        match Family::of(config) {
            Family::Neox => &NEOX,
            Family::Llama => &LLAMA,
        }
    }
}

const NEOX: Names = Names {
    embedding: "gpt_neox.embed_in",
    positions: "gpt_neox.embed_positions",
    layers: "gpt_neox.layers",
    qkv: &["attention.query_key_value"],
    dense: "attention.dense",
    up: "mlp.dense_h_to_4h",
    down: "mlp.dense_4h_to_h",
    final_norm: "gpt_neox.final_layer_norm",
    output: "embed_out",
};

const LLAMA: Names = Names {
    embedding: "model.embed_tokens",
    positions: "model.embed_positions",
    layers: "model.layers",
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    dense: "self_attn.o_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
    final_norm: "model.norm",
    output: "lm_head",
};

impl Layout {
    /// # Errors
    /// `Error::Config` when an extent is zero, contradicts another, or overflows.
    pub(super) fn new(config: &ModelConfig) -> Result<Self> {
        check(config)?;
        let names = Names::of(config);
        let (width, vocab) = (config.hidden_size, config.vocab_size);
        let layer_norm = config.norm == Norm::LayerNorm;
        let mut b = Builder { params: Vec::new(), len: 0, bias: config.bias, layer_norm };
        let embedding = b.table(names.embedding, vocab, width);
        let learned = config.position == Position::Learned;
        let positions = learned.then(|| b.table(names.positions, config.max_position_embeddings, width));
        let layers = (0..config.num_layers).map(|i| b.layer(&format!("{}.{i}", names.layers), config)).collect();
        let final_norm = b.norm(names.final_norm, width);
        let output = if config.tie_word_embeddings { embedding.clone() } else { b.table(names.output, vocab, width) };
        Ok(Self { params: b.params, embedding, positions, layers, final_norm, output, len: b.len })
    }
}

/// Every extent is positive and fits its neighbours, and the arena can be addressed.
fn check(config: &ModelConfig) -> Result<()> {
    let extents = [
        ("num_layers", config.num_layers),
        ("hidden_size", config.hidden_size),
        ("num_attention_heads", config.num_attention_heads),
        ("num_kv_heads", config.num_kv_heads),
        ("head_dim", config.head_dim),
        ("ffn_hidden_size", config.ffn_hidden_size),
        ("vocab_size", config.vocab_size),
        ("max_position_embeddings", config.max_position_embeddings),
    ];
    if let Some((key, _)) = extents.iter().find(|(_, value)| *value == 0) {
        return Err(Error::Config(format!("`{key}` must be at least 1, got 0")));
    }
    check_heads(config)?;
    if !(config.norm_eps.is_finite() && config.norm_eps >= 0.0) {
        return Err(Error::Config(format!("`norm_eps` must be a finite number >= 0, got {}", config.norm_eps)));
    }
    // Token ids are i32; and the largest tensors must be addressable several times over.
    let too_large = || Error::Config("the model's extents multiply to more than this machine can address".into());
    if i32::try_from(config.vocab_size).is_err() {
        return Err(Error::Config(format!("`vocab_size` must be below 2^31, got {}", config.vocab_size)));
    }
    count(config).filter(|n| *n < usize::MAX as u128 / 64).map(|_| ()).ok_or_else(too_large)
}

fn check_heads(config: &ModelConfig) -> Result<()> {
    if config.sliding_window == Some(0) {
        return Err(Error::Config("`sliding_window` must be at least 1 (a token sees itself), got 0".into()));
    }
    if !config.num_attention_heads.is_multiple_of(config.num_kv_heads) {
        let (heads, kv) = (config.num_attention_heads, config.num_kv_heads);
        return Err(Error::Config(format!(
            "`num_attention_heads` ({heads}) must be a multiple of `num_kv_heads` ({kv})"
        )));
    }
    if let Position::Rotary { ndims, base } = config.position {
        let dim = config.head_dim;
        if ndims == 0 || ndims > dim || !ndims.is_multiple_of(2) {
            return Err(Error::Config(format!(
                "the rotary dimensions of a head must be an even number from 2 to head_dim ({dim}), got {ndims}; \
                 change `rotary_pct`"
            )));
        }
        if !(base.is_finite() && base > 0.0) {
            return Err(Error::Config(format!("`rotary_emb_base` must be a positive number, got {base}")));
        }
    }
    Ok(())
}

/// An upper bound of the parameter count, in arithmetic that cannot wrap unnoticed.
fn count(config: &ModelConfig) -> Option<u128> {
    let [l, h, a, d, f, v, p] = [
        config.num_layers,
        config.hidden_size,
        config.num_attention_heads,
        config.head_dim,
        config.ffn_hidden_size,
        config.vocab_size,
        config.max_position_embeddings,
    ]
    .map(|x| x as u128);
    let layer =
        a.checked_mul(d)?.checked_mul(4)?.checked_add(f.checked_mul(3)?)?.checked_add(16)?.checked_mul(h + 1)?;
    let tables = v.checked_mul(2)?.checked_add(p)?.checked_mul(h)?;
    layer.checked_mul(l)?.checked_add(tables)
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
