//! Encoding with buffers that one thread owns.

use std::sync::Arc;

use super::automaton::Automaton;
use super::hf;
use super::merge::Merger;
use super::normalizer::Normalized;
use super::reader::Reader;
use super::tokenizer::{Engine, Inner};
use super::unigram::{Classic, Current, HuggingFace, Plain, Rule, Search, Step};
use super::vocab::Vocab;

/// Encodes texts one after the other, reusing its buffers.
pub struct Worker {
    pub(super) model: Arc<Inner>,
    buffers: Buffers,
    pub(super) normalized: Normalized,
}

/// A text: `str`, or bytes that may not be UTF-8.
#[derive(Debug, Clone, Copy)]
pub enum Text<'t> {
    Str(&'t str),
    Bytes(&'t [u8]),
}

impl<'t> From<&'t str> for Text<'t> {
    fn from(text: &'t str) -> Self {
        Self::Str(text)
    }
}

impl<'t> From<&'t [u8]> for Text<'t> {
    fn from(bytes: &'t [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'t> Text<'t> {
    pub(super) fn bytes(self) -> &'t [u8] {
        match self {
            Self::Str(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }

    fn valid(self) -> Option<&'t str> {
        match self {
            Self::Str(text) => Some(text),
            Self::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
        }
    }
}

enum Buffers {
    Current(Search<Current>),
    Classic(Search<Classic>),
    HuggingFace(Search<HuggingFace>),
    Bpe(Box<Merger>),
    Json(Box<hf::Worker>),
}

/// A piece of a text and the bytes of the text that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// `None` for an unknown character of a model without byte fallback and unknown piece.
    pub id: Option<u32>,
    pub piece: String,
    /// The bytes `begin..end` of the input. The bytes of one unknown character share its place:
    /// the last has it, the others are empty and stand at its beginning.
    pub begin: usize,
    pub end: usize,
}

impl Worker {
    pub(super) fn new(model: Arc<Inner>) -> Self {
        let buffers = match &model.engine {
            Engine::Current(_) => Buffers::Current(Search::default()),
            Engine::Classic(_) => Buffers::Classic(Search::default()),
            Engine::HuggingFace(_) => Buffers::HuggingFace(Search::default()),
            Engine::Bpe(_) => Buffers::Bpe(Box::default()),
            Engine::Json(..) => Buffers::Json(Box::new(hf::Worker::new())),
        };
        Self { model, buffers, normalized: Normalized::default() }
    }

    /// Appends the ids of `text` to `out`. No begin, end or document piece is added. A byte that
    /// is not UTF-8 counts as U+FFFD, as in the reference.
    pub fn encode<'t>(&mut self, text: impl Into<Text<'t>>, out: &mut Vec<u32>) {
        self.encode_all([text.into()].into_iter(), out, |_| {});
    }

    /// Appends the ids of each of `texts` to `out`; `each` gets what `out` then holds, in order.
    pub fn encode_all<'t>(
        &mut self,
        texts: impl Iterator<Item = Text<'t>>,
        out: &mut Vec<u32>,
        each: impl FnMut(usize),
    ) {
        let Self { model, buffers, normalized } = self;
        match (buffers, &model.engine) {
            (Buffers::Current(search), Engine::Current(automaton)) => {
                encode_all(model, automaton, search, normalized, texts, out, each);
            }
            (Buffers::Classic(search), Engine::Classic(automaton)) => {
                encode_all(model, automaton, search, normalized, texts, out, each);
            }
            (Buffers::HuggingFace(search), Engine::HuggingFace(automaton)) => {
                encode_all(model, automaton, search, normalized, texts, out, each);
            }
            (Buffers::Bpe(merger), Engine::Bpe(bpe)) => {
                let mut each = each;
                for text in texts {
                    model.normalizer.normalize(text.bytes(), normalized);
                    merger.run(bpe, &model.vocab, &normalized.text);
                    Emitter::emit(&model.vocab, merger.steps.iter().rev().copied(), out);
                    each(out.len());
                }
            }
            (Buffers::Json(worker), Engine::Json(pipeline, _)) => {
                let mut each = each;
                for text in texts {
                    if !text.bytes().is_empty() {
                        worker.encode(pipeline, text.bytes(), out);
                    }
                    each(out.len());
                }
            }
            // A worker is made from the engine it runs.
            _ => {}
        }
    }

    /// The tokens of `text` with their names and places: normalised text for known pieces and
    /// runs of unknown characters, `<0x0A>` for bytes.
    pub fn tokens<'t>(&mut self, text: impl Into<Text<'t>>) -> Vec<Token> {
        let text = text.into().bytes();
        if let Engine::Json(pipeline, _) = &self.model.engine {
            let piece = |id| self.model.vocab.piece(id).unwrap_or_default().to_owned();
            let token = |t: hf::Placed| Token { id: Some(t.id), piece: piece(t.id), begin: t.span.0, end: t.span.1 };
            return pipeline.tokens(text).into_iter().map(token).collect();
        }
        let Self { model, buffers, .. } = self;
        let mut normalized = Normalized { text: String::new(), origin: Some(Vec::new()) };
        model.normalizer.normalize(text, &mut normalized);
        let origin = normalized.origin.unwrap_or_default();
        tokens(&buffers.steps(model, &normalized.text), &model.vocab, &origin)
    }

    /// The score of the best path of normalised text, `None` where it has unknown characters.
    pub(super) fn path_score(&mut self, text: &str) -> Option<f64> {
        let Self { model, buffers, .. } = self;
        let score = |step: &Step| match step {
            Step::Known { id } => Some(f64::from(model.vocab.scores[*id as usize])),
            Step::Unknown(_) => None,
        };
        buffers.steps(model, text).iter().map(score).sum()
    }
}

impl Buffers {
    /// The pieces of normalised text.
    fn steps(&mut self, model: &Inner, text: &str) -> Vec<Step> {
        match (self, &model.engine) {
            (Self::Current(search), Engine::Current(automaton)) => steps(search, automaton, text),
            (Self::Classic(search), Engine::Classic(automaton)) => steps(search, automaton, text),
            (Self::HuggingFace(search), Engine::HuggingFace(automaton)) => steps(search, automaton, text),
            (Self::Bpe(merger), Engine::Bpe(bpe)) => {
                merger.run(bpe, &model.vocab, text);
                merger.steps.clone()
            }
            // A worker is made from the engine it runs.
            _ => Vec::new(),
        }
    }
}

fn steps<R: Rule>(search: &mut Search<R>, automaton: &Automaton<R::Score>, text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut each = |search: &Search<R>| search.backwards(|step| steps.push(step));
    search.add(automaton, Plain(text), &mut each);
    search.finish(automaton, &mut each);
    steps.reverse();
    steps
}

fn encode_all<'t, R: Rule>(
    model: &Inner,
    automaton: &Automaton<R::Score>,
    search: &mut Search<R>,
    normalized: &mut Normalized,
    texts: impl Iterator<Item = Text<'t>>,
    out: &mut Vec<u32>,
    mut each: impl FnMut(usize),
) {
    let normalizer = &model.normalizer;
    let mut done = |search: &Search<R>| {
        let start = out.len();
        let mut emitter = Emitter { vocab: &model.vocab, out, after_unknown: false };
        search.backwards(|step| emitter.push(step));
        out[start..].reverse();
        each(out.len());
    };
    for text in texts {
        match text.valid() {
            Some(text) => search.add(automaton, Reader::new(&model.alphabet, normalizer, text), &mut done),
            None => {
                normalizer.normalize(text.bytes(), normalized);
                search.add(automaton, Plain(&normalized.text), &mut done);
            }
        }
    }
    search.finish(automaton, &mut done);
}

/// Steps, last first, to ids: unknown characters become their bytes, or one unknown piece for
/// each run of them.
pub(super) struct Emitter<'a> {
    vocab: &'a Vocab,
    out: &'a mut Vec<u32>,
    after_unknown: bool,
}

impl<'a> Emitter<'a> {
    /// Appends the ids of `steps`, last first, in the order of the text.
    pub(super) fn emit(vocab: &'a Vocab, steps: impl Iterator<Item = Step>, out: &'a mut Vec<u32>) {
        let start = out.len();
        let mut emitter = Emitter { vocab, out, after_unknown: false };
        steps.for_each(|step| emitter.push(step));
        emitter.out[start..].reverse();
    }

    #[inline(always)]
    fn push(&mut self, step: Step) {
        match step {
            Step::Known { id } => {
                self.out.push(id);
                self.after_unknown = false;
            }
            Step::Unknown(character) => self.push_unknown(character),
        }
    }

    fn push_unknown(&mut self, character: char) {
        match (&self.vocab.bytes, self.vocab.unknown) {
            (Some(bytes), _) => {
                let mut buffer = [0; 4];
                let utf8 = character.encode_utf8(&mut buffer).as_bytes();
                self.out.extend(utf8.iter().rev().map(|b| bytes[usize::from(*b)]));
            }
            (None, Some(unknown)) if !self.after_unknown => self.out.push(unknown),
            _ => {}
        }
        self.after_unknown = true;
    }
}

/// `origin`: for each byte of the normalised text, and its end, the byte of the input.
fn tokens(steps: &[Step], vocab: &Vocab, origin: &[usize]) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::with_capacity(steps.len());
    let (mut at, mut after_unknown) = (0, false);
    for step in steps {
        let length = match step {
            Step::Known { id } => vocab.piece(*id).map_or(0, str::len),
            Step::Unknown(character) => character.len_utf8(),
        };
        let (begin, end) = (origin[at], origin[at + length]);
        at += length;
        match (*step, &vocab.bytes) {
            (Step::Known { id }, _) => {
                let piece = vocab.piece(id).unwrap_or_default().to_owned();
                tokens.push(Token { id: Some(id), piece, begin, end });
            }
            (Step::Unknown(character), Some(bytes)) => {
                let mut buffer = [0; 4];
                for byte in character.encode_utf8(&mut buffer).bytes() {
                    let id = Some(bytes[usize::from(byte)]);
                    tokens.push(Token { id, piece: format!("<0x{byte:02X}>"), begin, end: begin });
                }
                tokens.iter_mut().rev().take(1).for_each(|last| last.end = end);
            }
            (Step::Unknown(character), None) => match tokens.last_mut() {
                Some(run) if after_unknown => {
                    run.piece.push(character);
                    run.end = end;
                }
                _ => tokens.push(Token { id: vocab.unknown, piece: character.to_string(), begin, end }),
            },
        }
        after_unknown = matches!(step, Step::Unknown(_));
    }
    tokens
}

/// Turns places in bytes of `text` into places in characters.
pub fn bytes_to_characters(tokens: &mut [Token], text: &str) {
    let mut numbers = vec![0; text.len() + 1];
    for (number, (at, _)) in text.char_indices().enumerate() {
        numbers[at] = number;
    }
    numbers[text.len()] = text.chars().count();
    for token in tokens {
        (token.begin, token.end) = (numbers[token.begin], numbers[token.end]);
    }
}
