//! Tokenizers in Hugging Face's `tokenizer.json`, with the ids of `tokenizers` and
//! `add_special_tokens=False`: added tokens are cut out, the rest is normalised, cut into words,
//! and each word goes through the model. What is not supported is refused by name.

mod added;
mod bpe;
mod cover;
mod decode;
mod gpt2;
mod json;
mod letters;
mod merge;
mod names;
mod normalize;
mod offsets;
mod pattern;
mod precompiled;
mod read;
mod score;
mod split;
mod text;
mod trie;
mod unigram;

use added::{Matcher, Part};
use bpe::{Bpe, Merger};
use decode::Decoder;
use names::Names;
pub(super) use score::as_read;
use split::Splitter;
use text::{Span, Text};
use unigram::{Finder, Unigram};

pub use read::SpecialTokens;
pub(super) use read::{is_json, of_export, read};

use crate::error::Result;
use crate::interrupt::Interrupt;

/// Words between two questions whether to stop.
const PATIENCE: usize = 4096;

/// What a `tokenizer.json` describes.
pub(super) struct Pipeline {
    names: Names,
    /// Found in the text as it is, and in normalised text.
    raw: Matcher,
    normalized: Matcher,
    normalizer: Vec<normalize::Step>,
    normalizer_name: String,
    splits: Vec<split::Step>,
    trim: Option<offsets::Trim>,
    decoder: Decoder,
    model: Model,
}

enum Model {
    Bpe(Box<Bpe>),
    Unigram(Box<Unigram>),
}

/// The buffers with which one thread encodes.
pub(super) struct Worker {
    /// The input between added tokens, normalised.
    part: Text,
    spare: Text,
    splitter: Splitter,
    finder: Finder,
    merger: Merger,
    lossy: String,
}

impl Pipeline {
    pub(super) fn normalizer_name(&self) -> &str {
        &self.normalizer_name
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        self.names.is_special(id)
    }

    pub(super) fn model_type(&self) -> &'static str {
        match self.model {
            Model::Bpe(_) => "bpe",
            Model::Unigram(_) => "unigram",
        }
    }

    /// # Errors
    /// `UnsupportedInput` naming the place of an id outside the vocabulary.
    pub(super) fn decode(&self, ids: &[u32]) -> Result<String> {
        let mut tokens = Vec::with_capacity(ids.len());
        for (place, id) in ids.iter().enumerate() {
            let text = self.names.text(*id, place)?;
            if !self.names.is_special(*id) {
                tokens.push(self.names.written(*id).unwrap_or(text).to_owned());
            }
        }
        Ok(self.decoder.run(tokens))
    }
}

impl Worker {
    pub(super) fn new() -> Self {
        Self::with(false)
    }

    /// One that knows the places of tokens.
    pub(super) fn tracked() -> Self {
        Self::with(true)
    }

    fn with(tracked: bool) -> Self {
        let text = || if tracked { Text::tracked() } else { Text::default() };
        Self {
            part: text(),
            spare: text(),
            splitter: Splitter::new(tracked),
            finder: Finder::default(),
            merger: Merger::default(),
            lossy: String::new(),
        }
    }

    /// Appends the ids of `text`; a byte that is not UTF-8 counts as U+FFFD. An interruption leaves
    /// some out.
    pub(super) fn encode(&mut self, pipeline: &Pipeline, text: &[u8], interrupt: Interrupt<'_>, out: &mut Vec<u32>) {
        match std::str::from_utf8(text) {
            Ok(text) => self.run(pipeline, text, interrupt, |id, _| out.push(id)),
            Err(_) => {
                let mut lossy = std::mem::take(&mut self.lossy);
                lossy.clear();
                super::utf8::push_lossy(&mut lossy, text);
                self.run(pipeline, &lossy, interrupt, |id, _| out.push(id));
                self.lossy = lossy;
            }
        }
    }

    fn run(&mut self, pipeline: &Pipeline, text: &str, interrupt: Interrupt<'_>, mut give: impl FnMut(u32, Span)) {
        pipeline.raw.split(text, |part| match part {
            Part::Token { id, from, to } => give(id, (from, to)),
            Part::Text { from, to } => self.run_part(pipeline, &text[from..to], from, interrupt, &mut give),
        });
    }

    /// A part of the input that begins at its byte `at`.
    fn run_part(
        &mut self,
        pipeline: &Pipeline,
        text: &str,
        at: usize,
        interrupt: Interrupt<'_>,
        give: &mut impl FnMut(u32, Span),
    ) {
        self.part.set_input(text, at);
        normalize::run(&pipeline.normalizer, &mut self.part, &mut self.spare);
        let Self { part, splitter, finder, merger, .. } = self;
        pipeline.normalized.split(&part.text, |found| match found {
            Part::Token { id, from, to } => give(id, part.span_of(from, to)),
            Part::Text { from, to } => {
                splitter.begin(part, from, to);
                splitter.run(&pipeline.splits, at == 0 && from == 0);
                let Splitter { text, words, .. } = &*splitter;
                for (number, &(begin, end)) in words.iter().enumerate() {
                    if number % PATIENCE == PATIENCE - 1 && interrupt.check().is_err() {
                        return;
                    }
                    let word = &text.text[begin..end];
                    let give = |id, from, to| give(id, text.span_of(begin + from, begin + to));
                    match &pipeline.model {
                        Model::Bpe(model) => merger.run(model, word, give),
                        Model::Unigram(model) => finder.run(model, &pipeline.names, word, interrupt, give),
                    }
                }
            }
        });
    }
}
