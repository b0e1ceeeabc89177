//! Encoding with buffers that one thread owns.

use std::sync::Arc;

use super::automaton::Automaton;
use super::normalizer::Normalized;
use super::tokenizer::{Engine, Inner};
use super::unigram::{Classic, Current, Rule, Search, Step};
use super::vocab::Vocab;

/// Encodes texts one after the other, reusing its buffers.
pub struct Worker {
    model: Arc<Inner>,
    search: Searches,
    normalized: Normalized,
}

enum Searches {
    Current(Search<Current>),
    Classic(Search<Classic>),
}

impl Worker {
    pub(super) fn new(model: Arc<Inner>) -> Self {
        let search = match &model.engine {
            Engine::Current(automaton) => Searches::Current(Search::new(automaton)),
            Engine::Classic(automaton) => Searches::Classic(Search::new(automaton)),
        };
        Self { model, search, normalized: Normalized::default() }
    }

    /// Appends the ids of `text` to `out`. No begin, end or document piece is added. A byte that
    /// is not UTF-8 counts as U+FFFD, as in the reference.
    pub fn encode(&mut self, text: &[u8], out: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        let plain = if self.model.normalizer.is_plain() { std::str::from_utf8(text).ok() } else { None };
        let Self { model, search, normalized } = self;
        match plain {
            Some(text) => search.run_plain(model, text),
            None => {
                model.normalizer.normalize(text, normalized);
                search.run(model, &normalized.text);
            }
        }
        search.emit(&model.vocab, out);
    }
}

impl Worker {
    /// The pieces of `text` as the reference names them: normalised text for known pieces and runs
    /// of unknown ones, `<0x0A>` for bytes.
    pub fn encode_as_pieces(&mut self, text: &[u8]) -> Vec<String> {
        let Self { model, search, normalized } = self;
        model.normalizer.normalize(text, normalized);
        search.run(model, &normalized.text);
        search.pieces(&model.vocab)
    }

    /// The score of the best path of normalised text, `None` where it has unknown characters.
    pub(super) fn path_score(&mut self, text: &str) -> Option<f64> {
        let Self { model, search, .. } = self;
        search.run(model, text);
        let mut sum = Some(0.0);
        search.each(|step| {
            sum = match step {
                Step::Known { id, .. } => sum.map(|sum| sum + f64::from(model.vocab.scores[id as usize])),
                Step::Unknown(_) => None,
            };
        });
        sum
    }
}

impl Searches {
    fn run(&mut self, model: &Inner, text: &str) {
        match (self, &model.engine) {
            (Self::Current(search), Engine::Current(automaton)) => search.run(automaton, text.chars()),
            (Self::Classic(search), Engine::Classic(automaton)) => search.run(automaton, text.chars()),
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
            _ => {}
        }
    }

    fn each(&self, each: impl FnMut(Step)) {
        match self {
            Self::Current(search) => search.backwards(each),
            Self::Classic(search) => search.backwards(each),
        }
    }

    fn pieces(&self, vocab: &Vocab) -> Vec<String> {
        match self {
            Self::Current(search) => pieces(search, vocab),
            Self::Classic(search) => pieces(search, vocab),
        }
    }

    fn emit(&self, vocab: &Vocab, out: &mut Vec<u32>) {
        match self {
            Self::Current(search) => emit(search, vocab, out),
            Self::Classic(search) => emit(search, vocab, out),
        }
    }
}

fn run_plain<R: Rule>(search: &mut Search<R>, automaton: &Automaton<R::Score>, text: &str, prefix: bool) {
    let escaped = text.chars().map(|c| if c == ' ' { '\u{2581}' } else { c });
    search.run(automaton, prefix.then_some('\u{2581}').into_iter().chain(escaped));
}

/// Unknown characters become their bytes, or one unknown piece for each run of them.
fn emit<R: Rule>(search: &Search<R>, vocab: &Vocab, out: &mut Vec<u32>) {
    let start = out.len();
    let mut after_unknown = false;
    search.backwards(|step| match step {
        Step::Known { id, .. } => {
            out.push(id);
            after_unknown = false;
        }
        Step::Unknown(character) => {
            match (&vocab.bytes, vocab.unknown) {
                (Some(bytes), _) => {
                    let mut buffer = [0; 4];
                    let utf8 = character.encode_utf8(&mut buffer).as_bytes();
                    out.extend(utf8.iter().rev().map(|b| bytes[usize::from(*b)]));
                }
                (None, Some(unknown)) if !after_unknown => out.push(unknown),
                _ => {}
            }
            after_unknown = true;
        }
    });
    out[start..].reverse();
}

fn pieces<R: Rule>(search: &Search<R>, vocab: &Vocab) -> Vec<String> {
    let mut steps = Vec::new();
    search.backwards(|step| steps.push(step));
    let mut pieces = Vec::with_capacity(steps.len());
    let mut after_unknown = false;
    for step in steps.into_iter().rev() {
        match step {
            Step::Known { id, .. } => pieces.push(vocab.piece(id).unwrap_or_default().to_owned()),
            Step::Unknown(character) if vocab.bytes.is_some() => {
                let mut buffer = [0; 4];
                let bytes = character.encode_utf8(&mut buffer).bytes();
                pieces.extend(bytes.map(|byte| format!("<0x{byte:02X}>")));
            }
            Step::Unknown(character) => match pieces.last_mut() {
                Some(run) if after_unknown => run.push(character),
                _ => pieces.push(character.to_string()),
            },
        }
        after_unknown = matches!(step, Step::Unknown(_));
    }
    pieces
}
