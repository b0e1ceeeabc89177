//! How many tokens the run has and which one ends a document, from the tokenizer's file.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value as Json;

use super::run::TokenizerType;
use super::values::Values;
use crate::error::{Error, Result};
use crate::tokenizer::{Compat, Tokenizer};

/// The piece that ends a document unless `eod_token` names another.
const END_OF_DOCUMENT: &str = "<|endoftext|>";

/// GPT-NeoX's byte-level tokenizer: ids are bytes, moved up by its special tokens.
const CHAR_LEVEL_TOKENS: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vocabulary {
    /// Before padding.
    pub(crate) tokens: usize,
    /// `None` where no tokenizer file is at hand.
    pub(crate) eod: Option<u32>,
}

pub(crate) fn kind(values: &Values) -> Result<TokenizerType> {
    Ok(match values.text("tokenizer_type")?.as_str() {
        "SPMTokenizer" => TokenizerType::Spm,
        "HFTokenizer" => TokenizerType::HfTokenizer,
        "CharLevelTokenizer" => TokenizerType::CharLevel,
        _ => TokenizerType::Gpt2Bpe,
    })
}

/// From `vocab_file`; `vocab_size` stands in for a file that is not at hand, or enlarges it.
///
/// # Errors
/// `Config`: no size from either, a file larger than `vocab_size`, no end-of-document piece.
pub(crate) fn resolve(values: &mut Values) -> Result<Vocabulary> {
    let kind = kind(values)?;
    let written = values.opt_usize("vocab_size")?;
    let found = match (kind, values.opt_text("vocab_file")?) {
        (TokenizerType::CharLevel, _) => Some(Vocabulary { tokens: CHAR_LEVEL_TOKENS, eod: Some(0) }),
        (_, Some(file)) if Path::new(&file).exists() => Some(read(values, kind, Path::new(&file))?),
        (_, Some(file)) if written.is_some() => {
            let at = values.at("vocab_file");
            values.warn(format!("{at} {file:?} does not exist; \"vocab_size\" is taken as it is"));
            None
        }
        (_, Some(file)) => {
            let at = values.at("vocab_file");
            return Err(Error::Config(format!(
                "{at} {file:?} does not exist; correct the path, or set \"vocab_size\" to do without the file"
            )));
        }
        (_, None) => None,
    };
    match (written, found) {
        (Some(tokens), Some(found)) if tokens < found.tokens => Err(Error::Config(format!(
            "{} {tokens} is less than the {} tokens of {}",
            values.at("vocab_size"),
            found.tokens,
            values.at("vocab_file")
        ))),
        (Some(tokens), found) => Ok(Vocabulary { tokens, eod: found.and_then(|found| found.eod) }),
        (None, Some(found)) => Ok(found),
        (None, None) => Err(Error::Config(
            "the size of the vocabulary is unknown: set \"vocab_file\" (the tokenizer) or \"vocab_size\"".into(),
        )),
    }
}

fn read(values: &Values, kind: TokenizerType, file: &Path) -> Result<Vocabulary> {
    let name = values.opt_text("eod_token")?;
    let wanted = name.as_deref().unwrap_or(END_OF_DOCUMENT);
    let (tokens, eod) = match kind {
        TokenizerType::Spm => sentencepiece(file, wanted)?,
        _ => {
            let pieces = json_pieces(kind, file)?;
            (pieces.len(), pieces.get(wanted).copied())
        }
    };
    if eod.is_none() {
        return Err(Error::Config(format!(
            "{}: {} has no piece {wanted:?}; name its end-of-document piece as \"eod_token\"",
            values.at(if name.is_some() { "eod_token" } else { "vocab_file" }),
            file.display()
        )));
    }
    Ok(Vocabulary { tokens, eod })
}

fn sentencepiece(file: &Path, eod: &str) -> Result<(usize, Option<u32>)> {
    let tokenizer = Tokenizer::from_file(file, Compat::default())?;
    Ok((tokenizer.vocab_size(), tokenizer.piece_to_id(eod)))
}

/// Pieces of `tokenizer.json` (model and added tokens) or of GPT-2's `vocab.json`.
fn json_pieces(kind: TokenizerType, file: &Path) -> Result<HashMap<String, u32>> {
    let bytes = std::fs::read(file).map_err(Error::io(file, "read"))?;
    let json: Json = serde_json::from_slice(&bytes)
        .map_err(|error| Error::Tokenizer(format!("{}: no JSON: {error}", file.display())))?;
    let found = match kind {
        TokenizerType::Gpt2Bpe => pieces(&json),
        _ => hugging_face(&json),
    };
    found.ok_or_else(|| {
        let what = if kind == TokenizerType::Gpt2Bpe { "GPT-2's vocab.json" } else { "a tokenizer.json" };
        Error::Tokenizer(format!("{}: this is not {what}", file.display()))
    })
}

fn hugging_face(json: &Json) -> Option<HashMap<String, u32>> {
    let mut found = pieces(json.get("model")?.get("vocab")?)?;
    for added in json.get("added_tokens").and_then(Json::as_array).into_iter().flatten() {
        found.insert(added.get("content")?.as_str()?.into(), id(added.get("id")?)?);
    }
    Some(found)
}

/// `{piece: id}`, or the Unigram model's `[[piece, score], …]`.
fn pieces(vocabulary: &Json) -> Option<HashMap<String, u32>> {
    match vocabulary {
        Json::Object(map) => map.iter().map(|(piece, value)| Some((piece.clone(), id(value)?))).collect(),
        Json::Array(list) => {
            let piece = |(i, pair): (usize, &Json)| Some((pair.get(0)?.as_str()?.to_owned(), u32::try_from(i).ok()?));
            list.iter().enumerate().map(piece).collect()
        }
        _ => None,
    }
}

fn id(value: &Json) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}
