//! Ids with the places of the text that they stand for, without an allocation a token.

use std::collections::VecDeque;
use std::ops::Range;

use super::automaton::Automaton;
use super::characters::to_characters;
use super::hf;
use super::normalizer::Normalized;
use super::origins::{Backwards, Origins};
use super::sample::{Sampling, draw};
use super::tokenizer::{Engine, Inner};
use super::unigram::{Plain, Rule, Search, Step};
use super::vocab::Vocab;
use super::worker::{Buffers, Text, Watched, Worker};
use crate::interrupt::Interrupt;

/// What a place is counted in: bytes of UTF-8, or characters, of which a byte that is not UTF-8
/// is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Characters,
}

/// A token stands for `[begin, end)` of its text. The bytes of one unknown character share its
/// place: the last has it, the others are empty and stand at its beginning.
pub type Place = [i64; 2];

/// Ids and their places, one after the other.
#[derive(Debug, Default)]
pub struct Placed {
    pub ids: Vec<u32>,
    pub places: Vec<Place>,
}

/// The buffers of one thread.
pub(super) struct Buffer {
    normalized: Normalized,
    spare: Vec<Origins>,
    json: Option<Box<hf::Worker>>,
}

impl Default for Buffer {
    fn default() -> Self {
        Self { normalized: Normalized::tracked(), spare: Vec::new(), json: None }
    }
}

impl Worker {
    /// As `encode_all`, with the places.
    pub fn place_all<'t>(
        &mut self,
        texts: impl Iterator<Item = Text<'t>>,
        unit: Unit,
        interrupt: Interrupt<'_>,
        out: &mut Placed,
        mut each: impl FnMut(usize),
    ) {
        let Self { model, buffers, places: buffer, .. } = self;
        match (buffers, &model.engine) {
            (Buffers::Current(search), Engine::Current(automaton)) => {
                place_all(model, automaton, search, buffer, texts, unit, interrupt, out, each);
            }
            (Buffers::Classic(search), Engine::Classic(automaton)) => {
                place_all(model, automaton, search, buffer, texts, unit, interrupt, out, each);
            }
            (Buffers::HuggingFace(search), Engine::HuggingFace(automaton)) => {
                place_all(model, automaton, search, buffer, texts, unit, interrupt, out, each);
            }
            (Buffers::Bpe(merger), Engine::Bpe(bpe)) => {
                for text in texts {
                    let Normalized { text: normalized, origins: Some(origins) } = buffer.normalize(model, text) else {
                        continue;
                    };
                    merger.run(bpe, &model.vocab, normalized, interrupt);
                    let steps = merger.steps.iter().rev().copied();
                    Placer::run(&model.vocab, origins, normalized.len(), steps, text, unit, out, None);
                    each(out.ids.len());
                }
            }
            (Buffers::Json(_), Engine::Json(pipeline, _)) => {
                let worker = buffer.json.get_or_insert_with(|| Box::new(hf::Worker::tracked()));
                for text in texts {
                    let start = out.places.len();
                    if interrupt.check().is_ok() {
                        worker.place(pipeline, text.bytes(), interrupt, |id, (begin, end)| {
                            out.ids.push(id);
                            out.places.push([begin as i64, end as i64]);
                        });
                    }
                    if unit == Unit::Characters {
                        to_characters(&mut out.places[start..], text);
                    }
                    each(out.ids.len());
                }
            }
            // A worker is made from the engine it runs.
            _ => {}
        }
    }

    /// As `sample`, with the places.
    pub fn sample_placed<'t>(
        &mut self,
        text: impl Into<Text<'t>>,
        sampling: &Sampling,
        number: u64,
        unit: Unit,
        out: &mut Placed,
    ) {
        let (Self { model, places: buffer, .. }, text) = (self, text.into());
        let Normalized { text: normalized, origins: Some(origins) } = buffer.normalize(model, text) else { return };
        let steps = draw(model, normalized, sampling, number);
        Placer::run(&model.vocab, origins, normalized.len(), steps.into_iter(), text, unit, out, None);
    }

    /// Appends the tokens of one text, and gives the normalised text of those that are unknown, by
    /// their numbers in it.
    pub fn place<'t>(
        &mut self,
        text: impl Into<Text<'t>>,
        unit: Unit,
        interrupt: Interrupt<'_>,
        out: &mut Placed,
    ) -> Vec<(usize, String)> {
        let text = text.into();
        if matches!(self.model.engine, Engine::Json(..)) {
            self.place_all([text].into_iter(), unit, interrupt, out, |_| {});
            return Vec::new();
        }
        let Self { model, buffers, places: buffer, .. } = self;
        let Normalized { text: normalized, origins: Some(origins) } = buffer.normalize(model, text) else {
            return Vec::new();
        };
        let steps = buffers.steps(model, normalized, interrupt).into_iter().rev();
        let mut unknowns = Vec::new();
        Placer::run(&model.vocab, origins, normalized.len(), steps, text, unit, out, Some(&mut unknowns));
        unknowns.into_iter().rev().map(|(number, place)| (number, normalized[place].to_owned())).collect()
    }
}

impl Buffer {
    fn normalize(&mut self, model: &Inner, text: Text<'_>) -> &Normalized {
        model.normalizer.normalize_text(text, &mut self.normalized);
        &self.normalized
    }
}

/// A text whose best path is not known yet.
struct Waiting<'t> {
    text: Text<'t>,
    origins: Origins,
    /// Of the normalised text, in bytes.
    length: usize,
}

fn place_all<'t, R: Rule>(
    model: &Inner,
    automaton: &Automaton<R::Score>,
    search: &mut Search<R>,
    buffer: &mut Buffer,
    texts: impl Iterator<Item = Text<'t>>,
    unit: Unit,
    interrupt: Interrupt<'_>,
    out: &mut Placed,
    mut each: impl FnMut(usize),
) {
    let Buffer { normalized, spare, .. } = buffer;
    let mut waiting: VecDeque<Waiting<'t>> = VecDeque::new();
    let mut done = |search: &Search<R>, waiting: &mut VecDeque<Waiting<'t>>, spare: &mut Vec<Origins>| {
        let Some(Waiting { text, origins, length }) = waiting.pop_front() else { return };
        let mut placer = Placer::new(&model.vocab, &origins, length, out, None);
        let start = placer.start;
        search.backwards(|step| placer.push(step));
        finish(out, start, text, unit);
        spare.push(origins);
        each(out.ids.len());
    };
    for text in texts {
        model.normalizer.normalize_text(text, normalized);
        let origins = normalized.origins.replace(spare.pop().unwrap_or_default()).unwrap_or_default();
        waiting.push_back(Waiting { text, origins, length: normalized.text.len() });
        let source = Watched::new(Plain(&normalized.text), interrupt);
        search.add(automaton, source, &mut |search: &Search<R>| done(search, &mut waiting, spare));
    }
    search.finish(automaton, &mut |search: &Search<R>| done(search, &mut waiting, spare));
}

/// Steps, last first, to ids and places. Unknown characters become their bytes, or one unknown
/// piece for each run of them.
struct Placer<'a> {
    vocab: &'a Vocab,
    out: &'a mut Placed,
    start: usize,
    origins: Backwards<'a>,
    /// Where the last step began, in normalised text and in the input.
    at: usize,
    begin: usize,
    after_unknown: bool,
    unknowns: Option<&'a mut Vec<(usize, Range<usize>)>>,
}

impl<'a> Placer<'a> {
    fn new(
        vocab: &'a Vocab,
        origins: &'a Origins,
        length: usize,
        out: &'a mut Placed,
        unknowns: Option<&'a mut Vec<(usize, Range<usize>)>>,
    ) -> Self {
        let (start, begin) = (out.ids.len(), origins.end());
        let origins = origins.backwards();
        Self { vocab, out, start, origins, at: length, begin, after_unknown: false, unknowns }
    }

    fn run(
        vocab: &Vocab,
        origins: &Origins,
        length: usize,
        steps: impl Iterator<Item = Step>,
        text: Text<'_>,
        unit: Unit,
        out: &mut Placed,
        mut unknowns: Option<&mut Vec<(usize, Range<usize>)>>,
    ) {
        let mut placer = Placer::new(vocab, origins, length, out, unknowns.as_deref_mut());
        let start = placer.start;
        steps.for_each(|step| placer.push(step));
        let last = out.ids.len().saturating_sub(1);
        for (number, _) in unknowns.into_iter().flatten() {
            *number = last - *number;
        }
        finish(out, start, text, unit);
    }

    #[inline(always)]
    fn push(&mut self, step: Step) {
        match step {
            Step::Known { id } => {
                let end = self.back(self.vocab.length(id));
                self.give(id, self.begin, end);
                self.after_unknown = false;
            }
            Step::Unknown(character) => self.push_unknown(character),
        }
    }

    /// Goes back by a piece; gives where it ends in the input.
    #[inline(always)]
    fn back(&mut self, length: usize) -> usize {
        // An interruption leaves pieces out.
        self.at = self.at.saturating_sub(length);
        std::mem::replace(&mut self.begin, self.origins.origin(self.at))
    }

    #[inline(always)]
    fn give(&mut self, id: u32, begin: usize, end: usize) {
        self.out.ids.push(id);
        self.out.places.push([begin as i64, end as i64]);
    }

    #[cold]
    fn push_unknown(&mut self, character: char) {
        let mut end = self.back(character.len_utf8());
        match (&self.vocab.bytes, self.vocab.unknown) {
            (Some(bytes), _) => {
                let mut buffer = [0; 4];
                for byte in character.encode_utf8(&mut buffer).bytes().rev() {
                    self.give(bytes[usize::from(byte)], self.begin, end);
                    end = self.begin;
                }
            }
            (None, Some(_)) if self.after_unknown => {
                if let Some(place) = self.out.places.last_mut() {
                    place[0] = self.begin as i64;
                }
                if let Some((_, place)) = self.unknowns.as_mut().and_then(|unknowns| unknowns.last_mut()) {
                    place.start = self.at;
                }
            }
            (None, Some(unknown)) => {
                if let Some(unknowns) = &mut self.unknowns {
                    unknowns.push((self.out.ids.len(), self.at..self.at + character.len_utf8()));
                }
                self.give(unknown, self.begin, end);
            }
            // A model has the one or the other.
            (None, None) => {}
        }
        self.after_unknown = true;
    }
}

/// Brings what was pushed last first into the order of the text.
fn finish(out: &mut Placed, start: usize, text: Text<'_>, unit: Unit) {
    out.ids[start..].reverse();
    out.places[start..].reverse();
    if unit == Unit::Characters {
        to_characters(&mut out.places[start..], text);
    }
}
