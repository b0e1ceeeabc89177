//! New scores for a trained vocabulary, and pieces that join it. Ids stay as they are.

use std::collections::HashSet;

use super::options::Options;
use super::progress::Progress;
use super::text::Text;
use super::unigram;
use super::write::Message as Writer;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use crate::tokenizer::model_file::{Kind, ModelFile, ModelType};
use crate::tokenizer::wire::{Message, Value};

/// A vocabulary to estimate anew.
pub struct Reestimate {
    model: Vec<u8>,
    added: Vec<String>,
    options: Options,
    charsmap: Vec<u8>,
}

impl Reestimate {
    /// # Errors
    /// `UnsupportedModel` for what has no scores to estimate; `Tokenizer` for pieces that cannot be added.
    pub fn new(tokenizer: &Tokenizer, added: Vec<String>) -> Result<Self> {
        let model = tokenizer.model_bytes().to_vec();
        let file = ModelFile::parse(&model)?;
        if file.model_type != ModelType::Unigram {
            let text = "only unigram models have scores that can be estimated; this one is of type BPE";
            return Err(Error::UnsupportedModel(text.to_owned()));
        }
        if !file.normalizer.escape_whitespaces {
            let text = "a model that leaves spaces as they are (escape_whitespaces=false) cannot be estimated anew";
            return Err(Error::UnsupportedModel(text.to_owned()));
        }
        let mut known: HashSet<&str> = file.pieces.iter().map(|p| p.text).collect();
        for piece in &added {
            check(piece)?;
            if !known.insert(piece) {
                return Err(Error::Tokenizer(format!("add_pieces: {piece:?} is a piece already, or named twice")));
            }
        }
        let options = options(&file);
        let charsmap = file.normalizer.charsmap.to_vec();
        Ok(Self { added, options, charsmap, model })
    }

    /// How text is to be read for it: its normaliser, its reserved symbols, and every character.
    pub fn options(&self) -> (&Options, &[u8]) {
        (&self.options, &self.charsmap)
    }

    /// The model after so many iterations on `text`.
    ///
    /// # Errors
    /// `Tokenizer` where no piece is in the text; `Interrupted`.
    pub fn run(&self, text: &Text, iterations: usize, progress: &Progress<'_>) -> Result<Vec<u8>> {
        let file = ModelFile::parse(&self.model)?;
        let normal: Vec<usize> = (0..file.pieces.len()).filter(|id| file.pieces[*id].kind == Kind::Normal).collect();
        let start = middle(normal.iter().map(|id| file.pieces[*id].score).collect());
        let of_model = normal.iter().map(|id| (file.pieces[*id].text, file.pieces[*id].score));
        let of_user = self.added.iter().map(|piece| (piece.as_str(), start));
        let vocabulary: Vec<(&str, f32)> = of_model.chain(of_user).collect();
        let scores = unigram::rescore(text, &vocabulary, iterations, progress)?;
        let (of_model, of_user) = scores.split_at(normal.len());
        let mut new = vec![None; file.pieces.len()];
        normal.iter().zip(of_model).for_each(|(id, score)| new[*id] = Some(*score));
        let added: Vec<(&str, f32)> = self.added.iter().map(String::as_str).zip(of_user.iter().copied()).collect();
        rewrite(&self.model, &new, &added)
    }
}

fn check(piece: &str) -> Result<()> {
    let what = match piece {
        "" => "is empty",
        _ if piece.contains(' ') => "has a space; a piece has \u{2581} in its place",
        _ if piece.contains(['\0', '\u{1f}', '\u{2585}']) => "has a reserved character",
        _ => return Ok(()),
    };
    Err(Error::Tokenizer(format!("add_pieces: {piece:?} {what}")))
}

/// The score an added piece starts from.
fn middle(mut scores: Vec<f32>) -> f32 {
    scores.sort_by(f32::total_cmp);
    scores.get(scores.len() / 2).copied().unwrap_or(0.0)
}

fn options(file: &ModelFile<'_>) -> Options {
    let of = |kind| move |p: &&crate::tokenizer::model_file::Piece<'_>| p.kind == kind;
    let texts = |kind| file.pieces.iter().filter(of(kind)).map(|p| p.text.to_owned());
    let unknown = texts(Kind::Unknown).next();
    Options {
        vocab_size: 1 << 22,
        character_coverage: 1.0,
        max_sentence_length: 1 << 30,
        unk_id: if unknown.is_some() { 0 } else { -1 },
        bos_id: -1,
        eos_id: -1,
        unk_piece: unknown.unwrap_or_default(),
        control_symbols: texts(Kind::Control).collect(),
        user_defined_symbols: texts(Kind::UserDefined).collect(),
        byte_fallback: file.byte_fallback,
        treat_whitespace_as_suffix: file.whitespace_as_suffix,
        add_dummy_prefix: file.normalizer.add_dummy_prefix,
        remove_extra_whitespaces: file.normalizer.remove_extra_whitespaces,
        ..Options::default()
    }
}

/// The model with new scores and more pieces; what else it says stays byte for byte.
fn rewrite(model: &[u8], scores: &[Option<f32>], added: &[(&str, f32)]) -> Result<Vec<u8>> {
    let (mut pieces, mut rest, mut id) = (Writer::default(), Writer::default(), 0);
    let mut message = Message::new(model, "model", 0);
    loop {
        let from = message.position();
        let Some((number, value)) = message.next_field()? else { break };
        let raw = &model[from..message.position()];
        match (number, value) {
            (1, Value::Bytes(bytes)) => {
                match scores[id] {
                    Some(score) => pieces.bytes(1, &with_score(bytes, score)?),
                    None => pieces.0.extend_from_slice(raw),
                }
                id += 1;
            }
            (2, Value::Bytes(bytes)) => rest.bytes(2, &with_size(bytes, scores.len() + added.len())?),
            _ => rest.0.extend_from_slice(raw),
        }
    }
    for (text, score) in added {
        let mut piece = Writer::default();
        piece.text(1, text);
        piece.float(2, *score);
        pieces.bytes(1, &piece.0);
    }
    pieces.0.append(&mut rest.0);
    Ok(pieces.0)
}

fn with_score(piece: &[u8], score: f32) -> Result<Vec<u8>> {
    let mut changed = without(piece, 2)?;
    changed.float(2, score);
    Ok(changed.0)
}

fn with_size(spec: &[u8], size: usize) -> Result<Vec<u8>> {
    let mut changed = without(spec, 4)?;
    changed.integer(4, size as i64);
    Ok(changed.0)
}

/// A message without the field of a number.
fn without(bytes: &[u8], dropped: u32) -> Result<Writer> {
    let (mut kept, mut message) = (Writer::default(), Message::new(bytes, "model", 0));
    loop {
        let from = message.position();
        let Some((number, _)) = message.next_field()? else { return Ok(kept) };
        if number != dropped {
            kept.0.extend_from_slice(&bytes[from..message.position()]);
        }
    }
}
