//! Tokenizers: text to ids and back, with the ids of the `sentencepiece` package for its models and
//! of Hugging Face `tokenizers` for a `tokenizer.json`.
//!
//! A [`Tokenizer`] is immutable and shared; each thread makes a [`Worker`], which owns the
//! buffers, so that a text costs no allocation once they have grown.

mod automaton;
mod base64;
mod batch;
mod bpe;
mod characters;
mod charsmap;
mod checks;
mod codes;
mod compat;
mod decode;
mod double_array;
mod export;
mod export_bpe;
mod hf;
mod merge;
mod model_file;
mod normalizer;
mod origins;
mod places;
mod reader;
mod roles;
mod sample;
mod sample_bpe;
mod surfaces;
mod symbols;
#[expect(clippy::module_inception, reason = "the type that gives the module its name")]
mod tokenizer;
pub mod train;
mod trie;
mod unigram;
mod utf8;
mod vocab;
mod wire;
mod worker;

pub use batch::{Batch, BatchOptions, default_threads};
pub use compat::Compat;
pub use export::Export;
pub use hf::SpecialTokens;
pub use model_file::ModelType;
pub use places::{Place, Placed, Unit};
pub use sample::Sampling;
pub use tokenizer::Tokenizer;
pub use worker::{Text, Worker};
