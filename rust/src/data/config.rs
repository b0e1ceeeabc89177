//! Which datasets a run reads, and how they become samples.

use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Where the three parts (train, valid, test) come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Sources {
    /// One dataset, its documents cut by `split` ("969, 30, 1").
    Split { path: PathBuf, split: String },
    /// Explicit sets for each part.
    Lists { train: Vec<Source>, valid: Vec<Source>, test: Vec<Source> },
}

/// A dataset prefix (without `.bin`/`.idx`), its label twin and its weight in the blend.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    pub path: PathBuf,
    pub labels: Option<PathBuf>,
    pub weight: f64,
}

/// How documents become samples of `seq_length + 1` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Packed,
    PackUntilOverflow,
    Unpacked,
}

/// Whose index arrays are built: they differ in the last epoch and in the split's rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexFlavor {
    Neox,
    Megatron,
}

#[derive(Debug, Clone, PartialEq)]
pub struct DataConfig {
    pub sources: Sources,
    pub packing: Packing,
    /// With a packing other than `Packed`: keep documents longer than `seq_length + 1`, cut.
    pub allow_chopped: bool,
    pub flavor: IndexFlavor,
    pub weight_by_num_documents: bool,
    pub weighted_sampler_alpha: f64,
    /// No loss where the input token is `eod`.
    pub eod_mask_loss: bool,
    /// The id of the end-of-document token, where the run knows it.
    pub eod: Option<u32>,
    /// Tokens of a sample's input.
    pub seq_length: usize,
    pub seed: u32,
    /// Samples wanted of train, valid, test; `None` for train means one epoch (`train_epochs`).
    pub samples: [Option<usize>; 3],
    /// Ids at or above it are refused by name (the padded vocabulary).
    pub vocab_size: usize,
}

/// The words of `pack_impl`.
impl FromStr for Packing {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        match word {
            "packed" => Ok(Self::Packed),
            "pack_until_overflow" => Ok(Self::PackUntilOverflow),
            "unpacked" => Ok(Self::Unpacked),
            _ => Err(Error::Config(format!("packing `{word}`: packed, pack_until_overflow or unpacked"))),
        }
    }
}

impl FromStr for IndexFlavor {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        match word {
            "neox" => Ok(Self::Neox),
            "megatron" => Ok(Self::Megatron),
            _ => Err(Error::Config(format!("index flavor `{word}`: neox or megatron"))),
        }
    }
}
