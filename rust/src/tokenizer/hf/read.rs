//! `tokenizer.json` to a pipeline.

use serde_json::Value;

use super::super::model_file::{Kind, MAX_SCORE, Piece};
use super::added::{AddedToken, Matcher};
use super::bpe::Bpe;
use super::decode::Decoder;
use super::json::At;
use super::names::{MAX_TOKENS, Names};
use super::offsets::Trim;
use super::text::Text;
use super::unigram::Unigram;
use super::{Model, Pipeline, as_read, normalize, split};
use crate::error::{Error, Result};

/// Whether a file is JSON rather than a SentencePiece model: an object with a key.
pub(in super::super) fn is_json(bytes: &[u8]) -> bool {
    let mut marks = bytes.iter().filter(|byte| !byte.is_ascii_whitespace());
    marks.next() == Some(&b'{') && matches!(marks.next(), Some(b'"' | b'}'))
}

/// The tokens with a meaning, by the keys of `KEYS`; `None` where the usual names are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    pub names: [Option<String>; 4],
}

/// Names that mean begin and end of a text in the files in use, in the order they are looked for.
const USUAL: [&[&str]; 4] = [
    &["<unk>", "<unk|LLM-jp>", "[UNK]"],
    &["<s>", "<s|LLM-jp>", "<|begin_of_text|>", "<|startoftext|>", "[BOS]", "<|endoftext|>"],
    &["</s>", "</s|LLM-jp>", "<|end_of_text|>", "[EOS]", "<|endoftext|>"],
    &["<pad>", "<pad|LLM-jp>", "<|padding|>", "<|pad|>", "[PAD]"],
];

impl SpecialTokens {
    pub const KEYS: [&'static str; 4] = ["unk_token", "bos_token", "eos_token", "pad_token"];

    /// Takes what `other` names.
    pub(in super::super) fn update(&mut self, other: Self) {
        for (name, other) in self.names.iter_mut().zip(other.names) {
            *name = other.or_else(|| name.take());
        }
    }

    /// What `tokenizer_config.json` or `special_tokens_map.json` names.
    pub(in super::super) fn read(config: &Value) -> Self {
        let names = Self::KEYS.map(|key| {
            let value = config.get(key)?;
            value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
        });
        Self { names }
    }

    /// The id of each: of the name that is given, else of the first usual one among special tokens.
    fn ids(&self, names: &Names, added: &[AddedToken<'_>], unknown: Option<u32>) -> [Option<u32>; 4] {
        let known = |name: &str| {
            let added = added.iter().find(|token| token.content == name).map(|token| token.id);
            added.or_else(|| names.model_id(name))
        };
        let special = |name: &&str| added.iter().find(|token| token.special && token.content == *name);
        let mut ids = [0, 1, 2, 3].map(|which: usize| match &self.names[which] {
            Some(name) => known(name),
            None => USUAL[which].iter().find_map(special).map(|token| token.id),
        });
        if self.names[0].is_none() {
            ids[0] = unknown.or(ids[0]);
        }
        ids
    }
}

/// A pipeline and what a vocabulary needs of it.
pub(in super::super) struct Reading {
    pub(in super::super) pipeline: Pipeline,
    /// The scores of the model's tokens, where it has any.
    pub(in super::super) scores: Vec<f64>,
    /// unk, bos, eos, pad.
    pub(in super::super) specials: [Option<u32>; 4],
}

impl Reading {
    /// Every token as a piece: special ones as control pieces, the unknown one as itself.
    pub(in super::super) fn pieces(&self) -> Vec<Piece<'_>> {
        let names = &self.pipeline.names;
        let score = |id: u32| self.scores.get(id as usize).map_or(0.0, |score| *score as f32);
        let kind = |id: u32| match names.is_special(id) {
            _ if self.specials[0] == Some(id) => Kind::Unknown,
            true => Kind::Control,
            false => Kind::Normal,
        };
        names.all().map(|(id, text)| Piece { text, score: score(id), kind: kind(id) }).collect()
    }
}

/// # Errors
/// `Tokenizer` naming the place of what is damaged; `UnsupportedModel` naming the component.
pub(in super::super) fn read(bytes: &[u8], specials: &SpecialTokens) -> Result<Reading> {
    let json: Value = serde_json::from_slice(bytes)
        .map_err(|error| Error::Tokenizer(format!("tokenizer.json: this is no sound JSON: {error}")))?;
    of_value(&json, specials)
}

/// The pipeline of what `export` writes, with special tokens not looked for in text.
///
/// # Errors
/// As `read`.
pub(in super::super) fn of_export(mut json: Value) -> Result<Pipeline> {
    json["added_tokens"] = Value::Null;
    Ok(of_value(&json, &SpecialTokens::default())?.pipeline)
}

fn of_value(json: &Value, specials: &SpecialTokens) -> Result<Reading> {
    let root = At::root(json);
    let model = root.get("model").ok_or_else(|| {
        root.wrong("\"model\" is missing; is it a `tokenizer.json` or a SentencePiece `.model` file?")
    })?;
    let (normalizer, normalizer_name) = normalize::read(root.get("normalizer").as_ref())?;
    let (splits, byte_level) = split::read(root.get("pre_tokenizer").as_ref())?;
    let added = added_tokens(&root)?;
    let (mut names, scores, unknown, engine) = match model_type(&model)? {
        "Unigram" => unigram(&model, &added)?,
        "BPE" => bpe(&model, &added, byte_level)?,
        other => return Err(model.refused(&format!("the model {other}"))),
    };
    let (raw, normalized) = matchers(&root, &added, &normalizer, &mut names)?;
    let specials = specials.ids(&names, &added, unknown);
    let pipeline = Pipeline {
        names,
        raw,
        normalized,
        normalizer,
        normalizer_name,
        splits,
        trim: Trim::read(root.get("post_processor").as_ref())?,
        decoder: Decoder::read(root.get("decoder").as_ref())?,
        model: engine,
    };
    Ok(Reading { pipeline, scores, specials })
}

/// Old files leave the name out.
fn model_type<'j>(model: &At<'j>) -> Result<&'j str> {
    if model.get("type").is_none() && model.get("merges").is_some() {
        return Ok("BPE");
    }
    model.kind()
}

fn added_tokens<'j>(root: &At<'j>) -> Result<Vec<AddedToken<'j>>> {
    let Some(at) = root.get("added_tokens") else { return Ok(Vec::new()) };
    let tokens: Vec<AddedToken<'j>> = at.items()?.iter().map(AddedToken::read).collect::<Result<_>>()?;
    Ok(tokens.into_iter().filter(|token| !token.content.is_empty()).collect())
}

/// Those that are looked for in the text as it is, and those in normalised text.
fn matchers(
    root: &At<'_>,
    added: &[AddedToken<'_>],
    normalizer: &[normalize::Step],
    names: &mut Names,
) -> Result<(Matcher, Matcher)> {
    let own = added.iter().filter(|token| !token.normalized).map(|token| (token.content.to_owned(), token));
    let mut spare = Text::default();
    let mut normal = |token: &AddedToken<'_>| {
        let mut text = Text::default();
        text.push_as(token.content, (0, 0));
        normalize::run(normalizer, &mut text, &mut spare);
        names.set_written(token.id, &text.text);
        text.text
    };
    let normalized: Vec<_> =
        added.iter().filter(|token| token.normalized).map(|token| (normal(token), token)).collect();
    Ok((Matcher::new(root, own)?, Matcher::new(root, normalized.into_iter())?))
}

type Parts = (Names, Vec<f64>, Option<u32>, Model);

fn unigram(model: &At<'_>, added: &[AddedToken<'_>]) -> Result<Parts> {
    let at = model.need("vocab")?;
    let Some(list) = at.value().as_array() else { return Err(at.wrong("expected a list of [token, score]")) };
    let mut vocab = Vec::with_capacity(list.len());
    for (id, pair) in list.iter().enumerate() {
        let read = || Some((pair.get(0)?.as_str()?, pair.get(1)?.as_f64()?));
        let (text, score) = read()
            .filter(|_| pair.as_array().is_some_and(|pair| pair.len() == 2))
            .ok_or_else(|| at.wrong(&format!("token {id} must be [\"token\", score]")))?;
        if score.is_nan() || score.abs() > f64::from(MAX_SCORE) {
            return Err(at.wrong(&format!("the score of token {id} is {score}, not within {MAX_SCORE:e}")));
        }
        vocab.push((text, score));
    }
    let texts: Vec<&str> = vocab.iter().map(|(text, _)| *text).collect();
    let names = Names::new(&at, &texts, added)?;
    let unknown = model.number("unk_id")?;
    let unknown = u32::try_from(unknown).ok().filter(|id| (*id as usize) < vocab.len());
    let unknown = unknown.ok_or_else(|| model.wrong("unk_id is outside the vocabulary"))?;
    let bytes = model.flag("byte_fallback", false)?.then(|| names.bytes());
    let scores = vocab.iter().map(|(_, score)| *score).collect();
    vocab.iter_mut().for_each(|(_, score)| *score = as_read(*score));
    let engine = Unigram::new(&vocab, unknown, bytes)?;
    Ok((names, scores, Some(unknown), Model::Unigram(Box::new(engine))))
}

fn bpe(model: &At<'_>, added: &[AddedToken<'_>], byte_level: bool) -> Result<Parts> {
    let at = model.need("vocab")?;
    let texts = by_id(&at)?;
    let names = Names::new(&at, &texts, added)?;
    let engine = Bpe::read(model, &names, &texts, byte_level)?;
    let unknown = model.opt_text("unk_token")?.and_then(|token| names.model_id(token));
    Ok((names, Vec::new(), unknown, Model::Bpe(Box::new(engine))))
}

/// `{token: id}` in order of ids, which must be all from 0 on.
fn by_id<'j>(at: &At<'j>) -> Result<Vec<&'j str>> {
    let Some(map) = at.value().as_object() else { return Err(at.wrong("expected {token: id}")) };
    if map.len() > MAX_TOKENS {
        return Err(at.wrong(&format!("more than {MAX_TOKENS} tokens are not supported")));
    }
    let mut texts: Vec<Option<&str>> = vec![None; map.len()];
    for (token, id) in map {
        let wrong = |what: &str| at.wrong(&format!("the id of {token:?} {what}"));
        let id = id.as_u64().ok_or_else(|| wrong("is no whole number"))?;
        let slot = usize::try_from(id)
            .ok()
            .and_then(|id| texts.get_mut(id))
            .ok_or_else(|| wrong(&format!("is {id}, but ids must be 0 to {} without holes", map.len() - 1)))?;
        if let Some(other) = slot.replace(token) {
            return Err(wrong(&format!("is {id}, which is that of {other:?} too")));
        }
    }
    // As many ids as slots, none twice: every slot is filled.
    Ok(texts.into_iter().flatten().collect())
}
