//! The shared, immutable part of a tokenizer.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};

use super::automaton::{Automaton, Entry};
use super::bpe::Bpe;
use super::compat::Compat;
use super::hf::{self, SpecialTokens};
use super::model_file::{Kind, MAX_SCORE, ModelFile, ModelType};
use super::normalizer::{Normalized, Normalizer};
use super::reader::Alphabet;
use super::surfaces::Surfaces;
use super::symbols::Symbols;
use super::vocab::Vocab;
use super::worker::Worker;
use crate::error::{Error, Result};
use crate::files::write_atomically;

/// What an unknown character costs below the worst piece.
const UNKNOWN_PENALTY: f32 = 10.0;

/// A SentencePiece model, ready to encode. Cloning shares it.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) vocab: Vocab,
    pub(super) normalizer: Normalizer,
    denormalizer: Option<Normalizer>,
    pub(super) engine: Engine,
    /// For unigram models.
    pub(super) alphabet: Alphabet,
    pub(super) unk_surface: String,
    compat: Compat,
    normalizer_name: String,
    /// Made when something is first decoded.
    pub(super) surfaces: OnceLock<Surfaces>,
    fingerprint: String,
    model: Vec<u8>,
    lowest_score: f32,
}

pub(super) enum Engine {
    Current(Automaton<f32>),
    Classic(Automaton<f64>),
    HuggingFace(Automaton<f64>),
    Bpe(Bpe),
    /// A `tokenizer.json`, and which tokens its folder or caller named; `None` where it is what
    /// `export` makes of a SentencePiece model.
    Json(Box<hf::Pipeline>, Option<SpecialTokens>),
}

impl Tokenizer {
    /// A SentencePiece model, a `tokenizer.json`, or a folder with one.
    ///
    /// # Errors
    /// `Io` where the file cannot be read; as `from_bytes`, naming the file.
    pub fn from_file(path: &Path, compat: Compat) -> Result<Self> {
        let specials = if path.is_dir() { folder_specials(path)? } else { SpecialTokens::default() };
        Self::from_file_with(path, compat, specials)
    }

    /// As `from_file`; `specials` says which tokens of a `tokenizer.json` have a meaning.
    ///
    /// # Errors
    /// As `from_file`.
    pub fn from_file_with(path: &Path, compat: Compat, specials: SpecialTokens) -> Result<Self> {
        let path = if path.is_dir() { &path.join("tokenizer.json") } else { path };
        let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
        let named = |what: String| format!("{}: {}", path.display(), what.trim_start_matches("tokenizer.json: "));
        Self::from_bytes_with(bytes, compat, specials).map_err(|error| match error {
            Error::Tokenizer(what) => Error::Tokenizer(named(what)),
            Error::UnsupportedModel(what) => Error::UnsupportedModel(named(what)),
            other => other,
        })
    }

    /// # Errors
    /// `Tokenizer` where `bytes` are not a sound model; `UnsupportedModel` naming what it needs.
    pub fn from_bytes(bytes: Vec<u8>, compat: Compat) -> Result<Self> {
        Self::from_bytes_with(bytes, compat, SpecialTokens::default())
    }

    /// As `from_bytes`; `specials` says which tokens of a `tokenizer.json` have a meaning.
    ///
    /// # Errors
    /// As `from_bytes`.
    pub fn from_bytes_with(bytes: Vec<u8>, compat: Compat, specials: SpecialTokens) -> Result<Self> {
        if hf::is_json(&bytes) {
            return Self::from_json(bytes, compat, specials);
        }
        if specials != SpecialTokens::default() {
            let text = "special_tokens are for a tokenizer.json; a SentencePiece model names its own";
            return Err(Error::UnsupportedInput(text.to_owned()));
        }
        Self::from_model(bytes, compat)
    }

    fn from_json(bytes: Vec<u8>, compat: Compat, specials: SpecialTokens) -> Result<Self> {
        if compat == Compat::SentencePieceClassic {
            let text =
                format!("compat=\"{compat}\" is for SentencePiece models; a tokenizer.json has the ids of \"hf\"");
            return Err(Error::UnsupportedModel(text));
        }
        let reading = hf::read(&bytes, &specials)?;
        let file = ModelFile { pieces: reading.pieces(), ..ModelFile::empty() };
        let mut vocab = Vocab::new(&file)?;
        vocab.set_specials(reading.specials);
        let inner = Inner {
            alphabet: Alphabet::default(),
            surfaces: OnceLock::new(),
            vocab,
            normalizer: Normalizer::new(&file.normalizer, Symbols::default(), false)?,
            denormalizer: None,
            unk_surface: String::new(),
            compat: Compat::HuggingFace,
            normalizer_name: reading.pipeline.normalizer_name().to_owned(),
            fingerprint: fingerprint(&bytes),
            lowest_score: lowest_score(&file),
            engine: Engine::Json(Box::new(reading.pipeline), Some(specials)),
            model: bytes,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn from_model(bytes: Vec<u8>, compat: Compat) -> Result<Self> {
        let file = ModelFile::parse(&bytes)?;
        let vocab = Vocab::new(&file)?;
        let of_user = file.pieces.iter().filter(|p| p.kind == Kind::UserDefined).map(|p| p.text);
        let normalizer = Normalizer::new(&file.normalizer, Symbols::new(of_user), file.whitespace_as_suffix)?;
        let denormalizer = match &file.denormalizer {
            Some(spec) if !spec.charsmap.is_empty() => Some(Normalizer::new(spec, Symbols::default(), false)?),
            _ => None,
        };
        let engine = match (file.model_type, compat) {
            (ModelType::Unigram, Compat::SentencePiece) => Engine::Current(current(&file)?),
            (ModelType::Unigram, Compat::SentencePieceClassic) => Engine::Classic(classic(&file)?),
            (_, Compat::HuggingFace) => hugging_face(&file, &bytes)?,
            // Every version merges alike.
            (ModelType::Bpe, _) => Engine::Bpe(Bpe::new(&file, &vocab)),
        };
        let (unk_surface, normalizer_name) = (file.unk_surface.to_owned(), file.normalizer.name.to_owned());
        let lowest_score = lowest_score(&file);
        let alphabet = match &engine {
            Engine::Current(automaton) => Alphabet::new(&automaton.codes, &normalizer),
            Engine::Classic(automaton) | Engine::HuggingFace(automaton) => Alphabet::new(&automaton.codes, &normalizer),
            Engine::Bpe(_) | Engine::Json(..) => Alphabet::default(),
        };
        let inner = Inner {
            alphabet,
            vocab,
            normalizer,
            denormalizer,
            engine,
            unk_surface,
            compat,
            normalizer_name,
            surfaces: OnceLock::new(),
            fingerprint: fingerprint(&bytes),
            lowest_score,
            model: bytes,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The buffers with which one thread encodes.
    pub fn worker(&self) -> Worker {
        Worker::new(Arc::clone(&self.inner))
    }

    /// The text of `ids`. Control pieces are dropped; bytes that form no character become U+FFFD.
    ///
    /// # Errors
    /// `UnsupportedInput` naming the place of an id outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        match &self.inner.engine {
            Engine::Json(pipeline, Some(_)) => pipeline.decode(ids),
            _ => super::decode::decode(&self.inner, ids),
        }
    }

    pub fn vocab_size(&self) -> usize {
        self.inner.vocab.len()
    }

    /// `None` where there is no such piece, never the unknown id.
    pub fn piece_to_id(&self, piece: &str) -> Option<u32> {
        self.inner.vocab.id(piece)
    }

    pub fn id_to_piece(&self, id: u32) -> Option<&str> {
        self.inner.vocab.piece(id)
    }

    /// The score of a piece in the model file.
    pub fn score(&self, id: u32) -> Option<f32> {
        self.inner.vocab.scores.get(id as usize).copied()
    }

    pub(super) fn lowest_score(&self) -> f32 {
        self.inner.lowest_score
    }

    /// Whether the piece has no text of its own, such as `</s>`.
    pub fn is_control(&self, id: u32) -> bool {
        self.inner.vocab.kinds.get(id as usize) == Some(&Kind::Control)
    }

    pub fn unk_id(&self) -> Option<u32> {
        self.inner.vocab.special(0)
    }

    pub fn bos_id(&self) -> Option<u32> {
        self.inner.vocab.special(1)
    }

    pub fn eos_id(&self) -> Option<u32> {
        self.inner.vocab.special(2)
    }

    pub fn pad_id(&self) -> Option<u32> {
        self.inner.vocab.special(3)
    }

    /// The id that ends a document: of the piece asked for, else of the first of
    /// `<|endoftext|>`, `<EOD|LLM-jp>`, `<EOD>` that the model has.
    ///
    /// # Errors
    /// `Tokenizer` naming what was looked for and the candidates; never a stand-in id.
    pub fn eod(&self, piece: Option<&str>) -> Result<u32> {
        self.inner.vocab.eod(piece)
    }

    /// # Errors
    /// `Tokenizer` where the model has no such piece; `name` is `bos`, `eos`, `unk` or `pad`.
    pub fn require(&self, id: Option<u32>, name: &str) -> Result<u32> {
        id.ok_or_else(|| Error::Tokenizer(format!("the model has no {name} piece")))
    }

    /// `unigram` or `bpe`.
    pub fn model_type(&self) -> &'static str {
        match &self.inner.engine {
            Engine::Current(_) | Engine::Classic(_) | Engine::HuggingFace(_) => "unigram",
            Engine::Bpe(_) => "bpe",
            Engine::Json(pipeline, _) => pipeline.model_type(),
        }
    }

    /// SHA-256 of the model file, in hexadecimal.
    pub fn fingerprint(&self) -> &str {
        &self.inner.fingerprint
    }

    pub fn compat(&self) -> Compat {
        self.inner.compat
    }

    /// `identity`, `nmt_nfkc`, ... as the model file names it.
    pub fn normalizer_name(&self) -> &str {
        &self.inner.normalizer_name
    }

    /// The precompiled character map of the normaliser; empty for `identity`.
    ///
    /// # Errors
    /// None for a model that could be built.
    pub fn charsmap(&self) -> Result<Vec<u8>> {
        Ok(ModelFile::parse(&self.inner.model)?.normalizer.charsmap.to_vec())
    }

    /// Which tokens a `tokenizer.json`'s folder or caller named; empty for SentencePiece models.
    pub fn special_tokens(&self) -> SpecialTokens {
        match &self.inner.engine {
            Engine::Json(_, Some(specials)) => specials.clone(),
            _ => SpecialTokens::default(),
        }
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// The engine of a `tokenizer.json` that was read.
    pub(super) fn pipeline(&self) -> Option<&hf::Pipeline> {
        match &self.inner.engine {
            Engine::Json(pipeline, Some(_)) => Some(pipeline),
            _ => None,
        }
    }

    /// The model file as it was read.
    pub fn model_bytes(&self) -> &[u8] {
        &self.inner.model
    }

    /// Writes the model file.
    ///
    /// # Errors
    /// `Io` naming the path.
    pub fn save(&self, path: &Path) -> Result<()> {
        use std::io::Write;
        write_atomically(path, |file| file.write_all(&self.inner.model).map_err(Error::io(path, "write")))
    }
}

/// The tokens that a folder's other files name.
fn folder_specials(folder: &Path) -> Result<SpecialTokens> {
    let mut specials = SpecialTokens::default();
    for name in ["special_tokens_map.json", "tokenizer_config.json"] {
        let path = folder.join(name);
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            read => read.map_err(Error::io(&path, "read"))?,
        };
        let config = serde_json::from_slice(&bytes)
            .map_err(|error| Error::Tokenizer(format!("{}: this is no JSON: {error}", path.display())))?;
        specials.update(SpecialTokens::read(&config));
    }
    Ok(specials)
}

impl Inner {
    pub(super) fn denormalize(&self, text: String) -> String {
        let Some(denormalizer) = &self.denormalizer else { return text };
        let mut out = Normalized::default();
        denormalizer.normalize(text.as_bytes(), &mut out);
        out.text
    }
}

fn fingerprint(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The pieces that text can match. One with a plain space never does where spaces are escaped.
fn matchable<'f>(file: &'f ModelFile<'_>) -> impl Iterator<Item = (u32, &'f super::model_file::Piece<'f>)> {
    let escapes = file.normalizer.escape_whitespaces;
    let pieces = file.pieces.iter().enumerate().map(|(id, piece)| (id as u32, piece));
    pieces
        .filter(move |(_, p)| matches!(p.kind, Kind::Normal | Kind::UserDefined) && !(escapes && p.text.contains(' ')))
}

/// Of the normal pieces; without any it is very high, as in the reference.
fn lowest_score(file: &ModelFile<'_>) -> f32 {
    let normal = file.pieces.iter().filter(|p| p.kind == Kind::Normal);
    normal.map(|p| p.score).fold(MAX_SCORE, f32::min)
}

fn unknown_score(file: &ModelFile<'_>) -> f32 {
    lowest_score(file) - UNKNOWN_PENALTY
}

/// So high that a user-defined symbol always wins over what it is made of.
pub(super) fn user_defined_score(piece: &str) -> f32 {
    (0.1 * (piece.len() as f64 - 1.0)) as f32
}

fn current(file: &ModelFile<'_>) -> Result<Automaton<f32>> {
    let entries: Vec<_> = matchable(file)
        .map(|(id, piece)| {
            let score = if piece.kind == Kind::UserDefined { user_defined_score(piece.text) } else { piece.score };
            Entry { text: piece.text, id, score }
        })
        .collect();
    Automaton::new(&entries, unknown_score(file))
}

fn classic(file: &ModelFile<'_>) -> Result<Automaton<f64>> {
    let normal = file.pieces.iter().filter(|p| p.kind == Kind::Normal);
    let highest = normal.map(|p| p.score).fold(f32::MIN_POSITIVE, f32::max);
    let entries: Vec<_> = matchable(file)
        .map(|(id, piece)| {
            let bonus = f64::from(piece.text.len() as f32 * highest) - 0.1;
            let score = if piece.kind == Kind::UserDefined { bonus } else { f64::from(piece.score) };
            Entry { text: piece.text, id, score }
        })
        .collect();
    Automaton::new(&entries, f64::from(unknown_score(file)))
}

/// What Hugging Face makes of our `tokenizer.json`, special tokens not looked for in text.
fn hugging_face(file: &ModelFile<'_>, bytes: &[u8]) -> Result<Engine> {
    super::export::refuse(file)?;
    let plain = Tokenizer::from_bytes(bytes.to_vec(), Compat::SentencePiece)?;
    let rewrites = !file.normalizer.charsmap.is_empty() || file.normalizer.remove_extra_whitespaces;
    if file.model_type == ModelType::Bpe || rewrites {
        let json = plain.tokenizer_json(file)?;
        return Ok(Engine::Json(Box::new(hf::of_export(json)?), None));
    }
    // Text is normalised as here, and every piece can match, with its score there.
    let scores: Vec<f64> = plain.hugging_face_scores(file).into_iter().map(hf::as_read).collect();
    let unknown = scores.iter().copied().fold(f64::MAX, f64::min) - f64::from(UNKNOWN_PENALTY);
    let pieces = file.pieces.iter().zip(scores).enumerate().filter(|(_, (piece, _))| !piece.text.contains(' '));
    let entries: Vec<_> = pieces.map(|(id, (piece, score))| Entry { text: piece.text, id: id as u32, score }).collect();
    Ok(Engine::HuggingFace(Automaton::new(&entries, unknown)?))
}
