//! Encoding with buffers that one thread owns.

use std::sync::Arc;

use super::automaton::Automaton;
use super::hf;
use super::merge::Merger;
use super::normalizer::Normalized;
use super::tokenizer::{Engine, Inner};
use super::unigram::{Classic, Current, HuggingFace, Rule, Search, Step};
use super::vocab::Vocab;

/// Encodes texts one after the other, reusing its buffers.
pub struct Worker {
    pub(super) model: Arc<Inner>,
    buffers: Buffers,
    pub(super) normalized: Normalized,
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
    pub fn encode(&mut self, text: &[u8], out: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        if let (Buffers::Json(worker), Engine::Json(pipeline, _)) = (&mut self.buffers, &self.model.engine) {
            return worker.encode(pipeline, text, out);
        }
        let is_plain = self.model.normalizer.is_plain() && !matches!(self.buffers, Buffers::Bpe(_));
        let plain = if is_plain { std::str::from_utf8(text).ok() } else { None };
        let Self { model, buffers, normalized } = self;
        match plain {
            Some(text) => buffers.run_plain(model, text),
            None => {
                model.normalizer.normalize(text, normalized);
                buffers.run(model, &normalized.text);
            }
        }
        buffers.emit(&model.vocab, out);
    }

    /// The tokens of `text` with their names and places: normalised text for known pieces and
    /// runs of unknown characters, `<0x0A>` for bytes.
    pub fn tokens(&mut self, text: &[u8]) -> Vec<Token> {
        if let Engine::Json(pipeline, _) = &self.model.engine {
            let piece = |id| self.model.vocab.piece(id).unwrap_or_default().to_owned();
            let token = |t: hf::Placed| Token { id: Some(t.id), piece: piece(t.id), begin: t.span.0, end: t.span.1 };
            return pipeline.tokens(text).into_iter().map(token).collect();
        }
        let Self { model, buffers, .. } = self;
        let mut normalized = Normalized { text: String::new(), origin: Some(Vec::new()) };
        model.normalizer.normalize(text, &mut normalized);
        buffers.run(model, &normalized.text);
        let origin = normalized.origin.unwrap_or_default();
        tokens(&buffers.steps(), &model.vocab, &origin)
    }

    /// The score of the best path of normalised text, `None` where it has unknown characters.
    pub(super) fn path_score(&mut self, text: &str) -> Option<f64> {
        let Self { model, buffers, .. } = self;
        buffers.run(model, text);
        let score = |step: &Step| match step {
            Step::Known { id } => Some(f64::from(model.vocab.scores[*id as usize])),
            Step::Unknown(_) => None,
        };
        buffers.steps().iter().map(score).sum()
    }
}

impl Buffers {
    fn run(&mut self, model: &Inner, text: &str) {
        match (self, &model.engine) {
            (Self::Current(search), Engine::Current(automaton)) => search.run(automaton, text.chars()),
            (Self::Classic(search), Engine::Classic(automaton)) => search.run(automaton, text.chars()),
            (Self::HuggingFace(search), Engine::HuggingFace(automaton)) => search.run(automaton, text.chars()),
            (Self::Bpe(merger), Engine::Bpe(bpe)) => merger.run(bpe, &model.vocab, text),
            // A worker is made from the engine it runs.
            _ => {}
        }
    }

    /// Text whose only normalisation is its spaces, without a copy of it.
    fn run_plain(&mut self, model: &Inner, text: &str) {
        let prefix = model.normalizer.adds_dummy_prefix();
        match (self, &model.engine) {
            (Self::Current(search), Engine::Current(automaton)) => run_plain(search, automaton, text, prefix),
            (Self::Classic(search), Engine::Classic(automaton)) => run_plain(search, automaton, text, prefix),
            (Self::HuggingFace(search), Engine::HuggingFace(automaton)) => run_plain(search, automaton, text, prefix),
            _ => {}
        }
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        match self {
            Self::Current(search) => search.backwards(|step| steps.push(step)),
            Self::Classic(search) => search.backwards(|step| steps.push(step)),
            Self::HuggingFace(search) => search.backwards(|step| steps.push(step)),
            Self::Bpe(merger) => return merger.steps.clone(),
            Self::Json(_) => return steps,
        }
        steps.reverse();
        steps
    }

    fn emit(&self, vocab: &Vocab, out: &mut Vec<u32>) {
        let start = out.len();
        let mut emitter = Emitter { vocab, out, after_unknown: false };
        match self {
            Self::Current(search) => search.backwards(|step| emitter.push(step)),
            Self::Classic(search) => search.backwards(|step| emitter.push(step)),
            Self::HuggingFace(search) => search.backwards(|step| emitter.push(step)),
            Self::Bpe(merger) => merger.steps.iter().rev().for_each(|step| emitter.push(*step)),
            // Its own worker gives its ids out.
            Self::Json(_) => {}
        }
        out[start..].reverse();
    }
}

fn run_plain<R: Rule>(search: &mut Search<R>, automaton: &Automaton<R::Score>, text: &str, prefix: bool) {
    let escaped = text.chars().map(|c| if c == ' ' { '\u{2581}' } else { c });
    search.run(automaton, prefix.then_some('\u{2581}').into_iter().chain(escaped));
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
