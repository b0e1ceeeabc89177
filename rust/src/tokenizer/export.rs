//! A folder that Hugging Face `AutoTokenizer` opens, with the same ids.
//!
//! Hugging Face puts every piece of the vocabulary among the strings that text can match, control
//! and byte pieces too. They get a score just below that of their own characters, so that no best
//! path ever takes them (`export_bpe` says what becomes of merges). What stays different: sums run in f64, so near ties may fall otherwise;
//! an unknown character may cost more where such a score is the lowest of all; and `</s>` typed in
//! a text becomes the piece where its characters are not in the vocabulary.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::base64;
use super::charsmap::Charsmap;
use super::compat::Compat;
use super::hf::Pipeline;
use super::model_file::{Kind, ModelFile, ModelType, Piece};
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::files::write_atomically;

/// How a folder is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Export {
    /// Whether `</s>` and the like typed in a text become the special piece, as chat templates
    /// want. Off: they are plain characters, as in SentencePiece. A `tokenizer.json` always does.
    pub parse_special: bool,
}

impl Tokenizer {
    /// Writes `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json` and
    /// `tokenizer.model` into `dir`, which is made where it is missing.
    ///
    /// # Errors
    /// `UnsupportedModel` for what the format cannot say; `Io` naming the file.
    pub fn export(&self, dir: &Path, options: Export) -> Result<()> {
        if let Some(pipeline) = self.pipeline() {
            return self.export_json(pipeline, dir);
        }
        let file = ModelFile::parse(self.model_bytes())?;
        refuse(&file)?;
        // Scores of reserved pieces are made from paths, which are SentencePiece's.
        let tokenizer = match self.compat() {
            Compat::HuggingFace => {
                Self::from_bytes(self.model_bytes().to_vec(), Compat::SentencePiece)?.tokenizer_json(&file)?
            }
            _ => self.tokenizer_json(&file)?,
        };
        std::fs::create_dir_all(dir).map_err(Error::io(dir, "create"))?;
        write_json(&dir.join("tokenizer.json"), &tokenizer)?;
        let specials = self.specials_json(|id| id);
        write_json(&dir.join("tokenizer_config.json"), &config_json(&specials, options))?;
        write_json(&dir.join("special_tokens_map.json"), &specials)?;
        self.save(&dir.join("tokenizer.model"))
    }

    /// The `tokenizer.json` as it was read, and what `transformers` wants beside it. Only tokens
    /// that are special there already are named: naming one makes it special.
    fn export_json(&self, pipeline: &Pipeline, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(Error::io(dir, "create"))?;
        self.save(&dir.join("tokenizer.json"))?;
        let special = |id: Option<u32>| id.filter(|id| pipeline.is_special(*id));
        let specials = self.specials_json(special);
        let config = config_json(&specials, Export { parse_special: true });
        write_json(&dir.join("tokenizer_config.json"), &config)?;
        write_json(&dir.join("special_tokens_map.json"), &specials)
    }

    pub(super) fn tokenizer_json(&self, file: &ModelFile<'_>) -> Result<Value> {
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added_tokens(file),
            "normalizer": normalizer(file)?,
            "pre_tokenizer": null,
            "post_processor": null,
            "decoder": decoder(file),
            "model": match file.model_type {
                ModelType::Unigram => self.unigram_json(file),
                ModelType::Bpe => super::export_bpe::model_json(file)?,
            },
        }))
    }

    fn unigram_json(&self, file: &ModelFile<'_>) -> Value {
        let scores = self.hugging_face_scores(file);
        let vocab: Vec<Value> =
            file.pieces.iter().zip(scores).map(|(piece, score)| json!([piece.text, score])).collect();
        let unk = file.pieces.iter().position(|p| p.kind == Kind::Unknown);
        json!({"type": "Unigram", "unk_id": unk, "vocab": vocab, "byte_fallback": file.byte_fallback})
    }

    /// The score of every piece in `tokenizer.json`. A reserved piece whose characters are not all
    /// known cannot be kept from matching: it gets the lowest score.
    pub(super) fn hugging_face_scores(&self, file: &ModelFile<'_>) -> Vec<f64> {
        let mut worker = self.worker();
        let lowest = f64::from(self.lowest_score());
        let score = |piece: &Piece<'_>| match piece.kind {
            Kind::Normal => f64::from(piece.score),
            Kind::UserDefined => f64::from(super::tokenizer::user_defined_score(piece.text)),
            _ => worker.path_score(piece.text).map_or(lowest, |score| score - 1.0),
        };
        file.pieces.iter().map(score).collect()
    }

    /// The special pieces under the names that `transformers` uses.
    fn specials_json(&self, keep: impl Fn(Option<u32>) -> Option<u32>) -> Value {
        let named = [
            ("bos_token", self.bos_id()),
            ("eos_token", self.eos_id()),
            ("unk_token", self.unk_id()),
            ("pad_token", self.pad_id()),
        ];
        let piece = |(name, id): (&str, Option<u32>)| Some((name.to_owned(), json!(self.id_to_piece(keep(id)?)?)));
        Value::Object(named.into_iter().filter_map(piece).collect())
    }
}

fn config_json(specials: &Value, options: Export) -> Value {
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": false,
        "add_eos_token": false,
        "clean_up_tokenization_spaces": false,
        "split_special_tokens": !options.parse_special,
    });
    if let (Value::Object(config), Value::Object(specials)) = (&mut config, specials) {
        config.extend(specials.clone());
    }
    config
}

/// # Errors
/// `UnsupportedModel` naming what `tokenizer.json` cannot say.
pub(super) fn refuse(file: &ModelFile<'_>) -> Result<()> {
    let spec = &file.normalizer;
    let has_symbols = file.pieces.iter().any(|p| p.kind == Kind::UserDefined);
    let is_bpe = file.model_type == ModelType::Bpe;
    let mut names = HashSet::new();
    let rewrites = !spec.charsmap.is_empty() || spec.remove_extra_whitespaces;
    let reasons = [
        (is_bpe && has_symbols, "BPE models with user-defined symbols"),
        (!spec.escape_whitespaces, "models that keep spaces as spaces (escape_whitespaces off)"),
        (file.whitespace_as_suffix, "models with the space at the end (treat_whitespace_as_suffix)"),
        (has_symbols && rewrites, "models with user-defined symbols and a normaliser that may change them"),
        (file.pieces.iter().all(|p| p.kind != Kind::Unknown), "models without an unknown piece"),
        (file.pieces.iter().any(|p| p.kind == Kind::Unused), "models with unused pieces"),
        (!file.pieces.iter().all(|p| names.insert(p.text)), "models with one name for two pieces"),
        (file.denormalizer.as_ref().is_some_and(|d| !d.charsmap.is_empty()), "models with a denormaliser"),
    ];
    match reasons.iter().find(|(refused, _)| *refused) {
        Some((_, what)) => Err(cannot(what)),
        None => Ok(()),
    }
}

pub(super) fn cannot(what: &str) -> Error {
    Error::UnsupportedModel(format!("{what} cannot be exported to Hugging Face yet"))
}

fn added_tokens(file: &ModelFile<'_>) -> Vec<Value> {
    let pieces = file.pieces.iter().enumerate();
    let special = pieces.filter(|(_, p)| matches!(p.kind, Kind::Control | Kind::Unknown));
    let token = |(id, piece): (usize, &Piece<'_>)| {
        json!({
            "id": id, "content": piece.text, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    special.map(token).collect()
}

fn normalizer(file: &ModelFile<'_>) -> Result<Value> {
    let spec = &file.normalizer;
    let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let mut steps = Vec::new();
    if !spec.charsmap.is_empty() {
        let pairs = voiced_kana(&Charsmap::new(spec.charsmap)?);
        steps.extend(pairs.into_iter().map(|(from, to)| replace(json!({"String": from}), &to)));
        steps.push(json!({"type": "Precompiled", "precompiled_charsmap": base64::encode(spec.charsmap)}));
    }
    if spec.remove_extra_whitespaces {
        steps.push(replace(json!({"Regex": r"\A +| +\z"}), ""));
        steps.push(replace(json!({"Regex": " {2,}"}), " "));
    }
    if spec.add_dummy_prefix {
        steps.push(json!({"type": "Prepend", "prepend": "\u{2581}"}));
    }
    steps.push(replace(json!({"String": " "}), "\u{2581}"));
    Ok(json!({"type": "Sequence", "normalizers": steps}))
}

/// Hugging Face applies a map to single characters of long grapheme clusters, so that it misses
/// the rules for kana with a voicing mark of its own; these go in front.
fn voiced_kana(map: &Charsmap) -> Vec<(String, String)> {
    let full = ('\u{3041}'..='\u{30ff}').flat_map(|kana| ['\u{3099}', '\u{309a}'].map(|mark| (kana, mark)));
    let half = ('\u{ff66}'..='\u{ff9d}').flat_map(|kana| ['\u{ff9e}', '\u{ff9f}'].map(|mark| (kana, mark)));
    let rule = |(kana, mark)| {
        let pair = String::from_iter([kana, mark]);
        let (to, length) = map.longest_rule(pair.as_bytes())?;
        (length == pair.len()).then(|| (pair.clone(), to.to_owned()))
    };
    full.chain(half).filter_map(rule).collect()
}

fn decoder(file: &ModelFile<'_>) -> Value {
    let spec = &file.normalizer;
    let mut steps = vec![json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "})];
    if file.byte_fallback {
        steps.push(json!({"type": "ByteFallback"}));
    }
    steps.push(json!({"type": "Fuse"}));
    if spec.add_dummy_prefix || spec.remove_extra_whitespaces {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    write_atomically(path, |file| {
        serde_json::to_writer(&mut *file, value).map_err(|e| Error::io(path, "write")(e.into()))?;
        file.write_all(b"\n").map_err(Error::io(path, "write"))
    })
}
