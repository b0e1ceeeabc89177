//! Megatron datasets: `.bin/.idx`, splits, sample indices, blends, batches; and making them from text.
//!
//! `format` is the bytes, `indexed` reads them, `writer` writes them, `verify` checks them whole.
//! `split`, `sample_index`, `whole` and `blend` decide what a sample is and in which order samples
//! come, as GPT-NeoX or Megatron-LM do; `build` puts them together. `preprocess` tokenizes text.

mod blend;
mod build;
mod config;
pub mod fingerprint;
mod format;
mod indexed;
mod mt19937;
mod packed;
pub mod preprocess;
mod sample;
mod sample_index;
pub mod split;
mod verify;
mod whole;
mod writer;

pub use blend::weights_by_documents;
pub use build::{Parts, build};
pub use config::{DataConfig, IndexFlavor, Packing, Source, Sources};
pub use format::TokenType;
pub use indexed::IndexedDataset;
pub use mt19937::Mt19937;
pub use sample_index::{IndexRequest, SampleIndex};
pub use verify::{Report, verify};
pub use writer::{DatasetWriter, Progress, Written};

use crate::error::Result;

/// An endless, seekable sequence of samples: item `i` is the same for every process and resume.
pub trait Samples: Send + Sync {
    /// Samples before the sequence repeats; never 0.
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        false
    }

    /// Writes item `index` (modulo `len`): `seq_length` inputs and as many targets, where
    /// `IGNORE` means no loss.
    ///
    /// # Errors
    /// `CorruptDataset` naming dataset, document and place of an id outside the vocabulary.
    fn fill(&self, index: usize, inputs: &mut [i32], targets: &mut [i32]) -> Result<()>;
}

/// The target that takes no part in the loss (torch's `ignore_index`).
pub const IGNORE: i32 = -100;
