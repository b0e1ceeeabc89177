//! Unigram models as `tokenizers` runs them: sums in f64, every token of the vocabulary can match.

use super::super::automaton::{Automaton, Entry};
use super::super::unigram::{HuggingFace, Plain, Search, Step};
use super::super::worker::Watched;
use super::names::Names;
use crate::error::Result;
use crate::interrupt::Interrupt;

/// What an unknown character costs below the worst token.
const UNKNOWN_PENALTY: f64 = 10.0;

pub(super) struct Unigram {
    automaton: Automaton<f64>,
    unknown: u32,
    /// The tokens `<0x00>` to `<0xFF>`, if the model has byte fallback.
    bytes: Option<Box<[Option<u32>; 256]>>,
}

impl Unigram {
    /// # Errors
    /// `UnsupportedModel` for what no automaton can be made of.
    pub(super) fn new(vocab: &[(&str, f64)], unknown: u32, bytes: Option<Box<[Option<u32>; 256]>>) -> Result<Self> {
        let lowest = vocab.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min);
        let tokens = vocab.iter().enumerate().filter(|(_, (text, _))| !text.is_empty());
        let entries: Vec<_> = tokens.map(|(id, &(text, score))| Entry { text, id: id as u32, score }).collect();
        Ok(Self { automaton: Automaton::new(&entries, lowest - UNKNOWN_PENALTY)?, unknown, bytes })
    }
}

#[derive(Default)]
pub(super) struct Finder {
    search: Search<HuggingFace>,
    steps: Vec<Step>,
}

impl Finder {
    /// Gives the tokens of `word` with their places in it.
    pub(super) fn run(
        &mut self,
        model: &Unigram,
        names: &Names,
        word: &str,
        interrupt: Interrupt<'_>,
        mut give: impl FnMut(u32, usize, usize),
    ) {
        let steps = &mut self.steps;
        steps.clear();
        let source = Watched::new(Plain(word), interrupt);
        self.search.run(&model.automaton, source, |search| search.backwards(|step| steps.push(step)));
        let mut at = 0;
        // Unknown characters side by side are one token.
        let mut unknown_from = None;
        for step in self.steps.iter().rev() {
            let (known, length) = match *step {
                Step::Known { id } => ((id != model.unknown).then_some(id), names.length(id)),
                Step::Unknown(character) => (None, character.len_utf8()),
            };
            match known {
                None => _ = unknown_from.get_or_insert(at),
                Some(id) => {
                    if let Some(from) = unknown_from.take() {
                        model.give_unknown(names, word, from, at, &mut give);
                    }
                    give(id, at, at + length);
                }
            }
            at += length;
        }
        if let Some(from) = unknown_from {
            model.give_unknown(names, word, from, at, &mut give);
        }
    }
}

impl Unigram {
    #[cold]
    fn give_unknown(
        &self,
        names: &Names,
        word: &str,
        from: usize,
        to: usize,
        give: &mut impl FnMut(u32, usize, usize),
    ) {
        let text = &word[from..to];
        if let Some(id) = names.model_id(text) {
            return give(id, from, to);
        }
        let all = |bytes: &[Option<u32>; 256]| text.bytes().all(|byte| bytes[usize::from(byte)].is_some());
        match self.bytes.as_deref().filter(|bytes| all(bytes)) {
            Some(bytes) => text.bytes().filter_map(|b| bytes[usize::from(b)]).for_each(|id| give(id, from, to)),
            None => give(self.unknown, from, to),
        }
    }
}
