//! Encoding with buffers that one thread owns.

use std::sync::Arc;

use super::automaton::Automaton;
use super::codes::Codes;
use super::hf;
use super::merge::Merger;
use super::normalizer::Normalized;
use super::places;
use super::reader::Reader;
use super::tokenizer::{Engine, Inner};
use super::unigram::{Block, Classic, Current, HuggingFace, Plain, Rule, Search, Source, Step};
use super::vocab::Vocab;
use crate::interrupt::Interrupt;

/// Encodes texts one after the other, reusing its buffers.
pub struct Worker {
    pub(super) model: Arc<Inner>,
    pub(super) buffers: Buffers,
    pub(super) normalized: Normalized,
    pub(super) places: places::Buffer,
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
    /// In bytes.
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(self) -> usize {
        self.bytes().len()
    }

    pub(super) fn bytes(self) -> &'t [u8] {
        match self {
            Self::Str(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }

    pub(super) fn valid(self) -> Option<&'t str> {
        match self {
            Self::Str(text) => Some(text),
            Self::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
        }
    }
}

pub(super) enum Buffers {
    Current(Search<Current>),
    Classic(Search<Classic>),
    HuggingFace(Search<HuggingFace>),
    Bpe(Box<Merger>),
    Json(Box<hf::Worker>),
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
        Self { model, buffers, normalized: Normalized::default(), places: places::Buffer::default() }
    }

    /// Appends the ids of `text` to `out`. No begin, end or document piece is added. A byte that
    /// is not UTF-8 counts as U+FFFD, as in the reference.
    pub fn encode<'t>(&mut self, text: impl Into<Text<'t>>, out: &mut Vec<u32>) {
        self.encode_all([text.into()].into_iter(), Interrupt::NEVER, out, |_| {});
    }

    /// Appends the ids of each of `texts` to `out`; `each` gets what `out` then holds, in order.
    /// After an interruption, ids are missing: ask whether there was one.
    pub fn encode_all<'t>(
        &mut self,
        texts: impl Iterator<Item = Text<'t>>,
        interrupt: Interrupt<'_>,
        out: &mut Vec<u32>,
        each: impl FnMut(usize),
    ) {
        let Self { model, buffers, normalized, .. } = self;
        match (buffers, &model.engine) {
            (Buffers::Current(search), Engine::Current(automaton)) => {
                encode_all(model, automaton, search, normalized, texts, interrupt, out, each);
            }
            (Buffers::Classic(search), Engine::Classic(automaton)) => {
                encode_all(model, automaton, search, normalized, texts, interrupt, out, each);
            }
            (Buffers::HuggingFace(search), Engine::HuggingFace(automaton)) => {
                encode_all(model, automaton, search, normalized, texts, interrupt, out, each);
            }
            (Buffers::Bpe(merger), Engine::Bpe(bpe)) => {
                let mut each = each;
                for text in texts {
                    model.normalizer.normalize_text(text, normalized);
                    merger.run(bpe, &model.vocab, &normalized.text, interrupt);
                    Emitter::emit(&model.vocab, merger.steps.iter().rev().copied(), out);
                    each(out.len());
                }
            }
            (Buffers::Json(worker), Engine::Json(pipeline, _)) => {
                let mut each = each;
                for text in texts {
                    if !text.bytes().is_empty() && interrupt.check().is_ok() {
                        worker.encode(pipeline, text.bytes(), interrupt, out);
                    }
                    each(out.len());
                }
            }
            // A worker is made from the engine it runs.
            _ => {}
        }
    }

    /// The score of the best path of normalised text, `None` where it has unknown characters.
    pub(super) fn path_score(&mut self, text: &str) -> Option<f64> {
        let Self { model, buffers, .. } = self;
        let score = |step: &Step| match step {
            Step::Known { id } => Some(f64::from(model.vocab.scores[*id as usize])),
            Step::Unknown(_) => None,
        };
        buffers.steps(model, text, Interrupt::NEVER).iter().map(score).sum()
    }
}

impl Buffers {
    /// The pieces of normalised text.
    pub(super) fn steps(&mut self, model: &Inner, text: &str, interrupt: Interrupt<'_>) -> Vec<Step> {
        match (self, &model.engine) {
            (Self::Current(search), Engine::Current(automaton)) => steps(search, automaton, text, interrupt),
            (Self::Classic(search), Engine::Classic(automaton)) => steps(search, automaton, text, interrupt),
            (Self::HuggingFace(search), Engine::HuggingFace(automaton)) => steps(search, automaton, text, interrupt),
            (Self::Bpe(merger), Engine::Bpe(bpe)) => {
                merger.run(bpe, &model.vocab, text, interrupt);
                merger.steps.clone()
            }
            // A worker is made from the engine it runs.
            _ => Vec::new(),
        }
    }
}

fn steps<R: Rule>(
    search: &mut Search<R>,
    automaton: &Automaton<R::Score>,
    text: &str,
    interrupt: Interrupt<'_>,
) -> Vec<Step> {
    let mut steps = Vec::new();
    let source = Watched::new(Plain(text), interrupt);
    search.run(automaton, source, |search| search.backwards(|step| steps.push(step)));
    steps.reverse();
    steps
}

/// A text that ends at once when the user asks to stop.
pub(super) struct Watched<'i, S> {
    source: S,
    interrupt: Interrupt<'i>,
    /// A text that is read in one go is too short to ask.
    asks: bool,
}

impl<'i, S> Watched<'i, S> {
    pub(super) fn new(source: S, interrupt: Interrupt<'i>) -> Self {
        Self { source, interrupt, asks: false }
    }
}

impl<S: Source> Source for Watched<'_, S> {
    #[inline(always)]
    fn read(&mut self, codes: &Codes, block: &mut Block, full: usize) -> bool {
        if std::mem::replace(&mut self.asks, true) && self.interrupt.check().is_err() {
            return true;
        }
        self.source.read(codes, block, full)
    }
}

fn encode_all<'t, R: Rule>(
    model: &Inner,
    automaton: &Automaton<R::Score>,
    search: &mut Search<R>,
    normalized: &mut Normalized,
    texts: impl Iterator<Item = Text<'t>>,
    interrupt: Interrupt<'_>,
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
            Some(text) => {
                let reader = Reader::new(&model.alphabet, normalizer, text);
                search.add(automaton, Watched::new(reader, interrupt), &mut done);
            }
            None => {
                normalizer.normalize(text.bytes(), normalized);
                search.add(automaton, Watched::new(Plain(&normalized.text), interrupt), &mut done);
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
