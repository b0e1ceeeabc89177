//! Whose ids are meant where implementations differ.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// sentencepiece changed the arithmetic of unigram models in 0.2.2, which changes ids of ordinary
/// text at near ties and in long documents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compat {
    /// sentencepiece 0.2.2 and later.
    #[default]
    SentencePiece,
    /// sentencepiece up to 0.2.1.
    SentencePieceClassic,
    /// Hugging Face tokenizers, reading the folder that `export` writes.
    HuggingFace,
}

impl Compat {
    const NAMES: [(&'static str, Self); 3] = [
        ("sentencepiece", Self::SentencePiece),
        ("sentencepiece<=0.2.1", Self::SentencePieceClassic),
        ("hf", Self::HuggingFace),
    ];
}

impl FromStr for Compat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, compat)| *compat).ok_or_else(|| {
            let known = Self::NAMES.map(|(known, _)| format!("\"{known}\"")).join(", ");
            Error::UnsupportedInput(format!("compat must be one of {known}, not \"{name}\""))
        })
    }
}

impl fmt::Display for Compat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(_, compat)| compat == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}
