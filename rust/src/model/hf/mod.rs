//! Folders of `transformers`: `config.json` and safetensors, both ways, for the GPT-NeoX and Llama
//! classes. What a class cannot compute exactly is refused by key; pickles are refused by name.

mod config;
mod export;
mod import;
mod keys;
mod tensors;

use crate::dtype::DType;

pub use export::export;
pub use import::{Imported, import, import_as};

/// Ids with a meaning, as `config.json` and `generation_config.json` carry them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenIds {
    pub bos: Option<i32>,
    /// Any of these ends a text.
    pub eos: Vec<i32>,
    pub pad: Option<i32>,
}

/// How a folder is written.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// Storage of the weights.
    pub dtype: DType,
    /// A file larger than this many bytes is split; a single tensor never is.
    pub max_shard_bytes: usize,
    pub token_ids: TokenIds,
    /// Written to `config.json`; has no effect on a trained model.
    pub initializer_range: f64,
    /// Another word for the activation (GPT-NeoX class only), for parity with upstream's exporter,
    /// which writes `gelu` for models trained with the tanh form.
    pub hidden_act: Option<String>,
    /// Further files of the folder, such as the tokenizer's: name and content.
    pub files: Vec<(String, Vec<u8>)>,
    /// Replace a folder that holds a `config.json` already.
    pub overwrite: bool,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            dtype: DType::F32,
            max_shard_bytes: 5_000_000_000,
            token_ids: TokenIds::default(),
            initializer_range: 0.02,
            hidden_act: None,
            files: Vec::new(),
            overwrite: false,
        }
    }
}
