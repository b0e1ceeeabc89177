//! Exact parameter counts, and the sizes beyond which a configuration is a mistake.

use serde::Serialize;

use super::run::RunConfig;
use crate::error::{Error, Result};
use crate::model::{ModelConfig, Position};

/// Parameters by what they do; a tied output matrix is counted as the embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Parameters {
    pub embedding: u64,
    /// A learned table of positions.
    pub position_embedding: u64,
    /// Layers and final norm.
    pub non_embedding: u64,
    pub output: u64,
    pub total: u64,
}

/// More parameters than this are a slip of the keyboard.
const MOST: u128 = 1 << 50;

impl Parameters {
    /// # Errors
    /// `Config` for a model of more than 2^50 parameters.
    pub fn of(model: &ModelConfig) -> Result<Self> {
        let table = wide(model.vocab_size) * wide(model.hidden_size);
        let learned = model.position == Position::Learned;
        let positions = if learned { wide(model.max_position_embeddings) * wide(model.hidden_size) } else { 0 };
        let layers = wide(model.num_layers) * layer(model) + norm(model);
        let output = if model.tie_word_embeddings { 0 } else { table };
        let total = table + positions + layers + output;
        if total > MOST {
            return Err(Error::Config(format!("the model would have {total} parameters; check its sizes")));
        }
        let narrow = |count: u128| count as u64; // each part is at most the total
        Ok(Self {
            embedding: narrow(table),
            position_embedding: narrow(positions),
            non_embedding: narrow(layers),
            output: narrow(output),
            total: narrow(total),
        })
    }
}

fn wide(value: usize) -> u128 {
    value as u128
}

fn norm(model: &ModelConfig) -> u128 {
    wide(model.hidden_size) * if model.bias.norm { 2 } else { 1 }
}

/// Rows of q|k|v.
fn attention_rows(model: &ModelConfig) -> u128 {
    (wide(model.num_attention_heads) + 2 * wide(model.num_kv_heads)) * wide(model.head_dim)
}

/// Rows of the MLP's first matrix.
fn mlp_rows(model: &ModelConfig) -> u128 {
    wide(model.ffn_hidden_size) * if model.gated { 2 } else { 1 }
}

fn layer(model: &ModelConfig) -> u128 {
    let h = wide(model.hidden_size);
    let heads = wide(model.num_attention_heads) * wide(model.head_dim);
    let attention = (attention_rows(model) + heads) * h;
    let mlp = (mlp_rows(model) + wide(model.ffn_hidden_size)) * h;
    let attention_bias = if model.bias.attention { attention_rows(model) + h } else { 0 };
    let mlp_bias = if model.bias.mlp { mlp_rows(model) + h } else { 0 };
    attention + mlp + attention_bias + mlp_bias + 2 * norm(model)
}

/// Refuses runs whose buffers could not be counted in bytes, long before they could be allocated.
///
/// # Errors
/// `Config`, as for `Parameters::of`.
pub(crate) fn check(run: &RunConfig) -> Result<()> {
    Parameters::of(&run.model)?;
    let model = &run.model;
    let tokens = wide(run.micro_batch_size) * wide(run.seq_length);
    let width =
        8 * wide(model.hidden_size) + 2 * attention_rows(model) + 2 * (mlp_rows(model) + wide(model.ffn_hidden_size));
    let elements = tokens * width * (wide(model.num_layers) + 2);
    if elements > MOST {
        return Err(Error::Config(format!(
            "a pass of {} sequences of {} tokens would keep {elements} activations; check \
             \"train_micro_batch_size_per_gpu\" and \"seq_length\"",
            run.micro_batch_size, run.seq_length
        )));
    }
    Ok(())
}
