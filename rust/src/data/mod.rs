//! Megatron datasets: `.bin/.idx`, splits, sample indices, blends, batches.

mod config;

pub use config::{DataConfig, IndexFlavor, Packing, Source, Sources};

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
