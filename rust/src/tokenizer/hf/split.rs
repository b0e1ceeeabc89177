//! Pre-tokenizers of `tokenizer.json`: text into words, each encoded by itself.

use std::mem::swap;

use super::gpt2;
use super::json::At;
use super::normalize::replaced;
use super::pattern::Pattern;
use super::text::Text;
use crate::error::Result;

pub(super) enum Step {
    /// A space in front of each word that has none.
    PrefixSpace,
    Gpt2(Box<gpt2::Words>),
    Split {
        pattern: Pattern,
        behavior: Behavior,
        invert: bool,
    },
    Digits {
        each: bool,
    },
    Metaspace(Metaspace),
    /// White space goes.
    Spaces,
}

/// What becomes of a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behavior {
    Removed,
    Isolated,
    MergedWithPrevious,
    MergedWithNext,
}

pub(super) struct Metaspace {
    symbol: String,
    prepend: Prepend,
    split: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prepend {
    First,
    Never,
    Always,
}

impl Prepend {
    /// Of a Metaspace, pre-tokenizer or decoder.
    ///
    /// # Errors
    /// `Tokenizer` for a word that is none of the three.
    pub(super) fn read(at: &At<'_>) -> Result<Self> {
        let scheme = match at.opt_text("prepend_scheme")? {
            None | Some("always") => Self::Always,
            Some("first") => Self::First,
            Some("never") => Self::Never,
            Some(other) => return Err(at.wrong(&format!("prepend_scheme {other:?} is none of always, first, never"))),
        };
        Ok(if at.flag("add_prefix_space", true)? { scheme } else { Self::Never })
    }
}

/// The steps, and whether the words are bytes under other letters.
///
/// # Errors
/// `UnsupportedModel` naming a component that is not supported.
pub(super) fn read(at: Option<&At<'_>>) -> Result<(Vec<Step>, bool)> {
    let (mut steps, mut byte_level) = (Vec::new(), false);
    if let Some(at) = at {
        read_into(at, &mut steps, &mut byte_level)?;
    }
    Ok((steps, byte_level))
}

fn read_into(at: &At<'_>, steps: &mut Vec<Step>, byte_level: &mut bool) -> Result<()> {
    let kind = at.kind()?;
    if *byte_level {
        return Err(at.refused(&format!("a pre-tokenizer {kind} behind ByteLevel")));
    }
    match kind {
        "Sequence" => {
            let items = at.need("pretokenizers")?.items()?;
            return items.iter().try_for_each(|item| read_into(item, steps, byte_level));
        }
        "ByteLevel" => {
            if at.flag("add_prefix_space", true)? {
                steps.push(Step::PrefixSpace);
            }
            if at.flag("use_regex", true)? {
                steps.push(Step::Gpt2(Box::new(gpt2::Words::new())));
            }
            *byte_level = true;
        }
        "Split" => {
            let pattern = replaced(&at.need("pattern")?)?;
            steps.push(Step::Split { pattern, behavior: behavior(at)?, invert: at.flag("invert", false)? });
        }
        "Digits" => steps.push(Step::Digits { each: at.flag("individual_digits", false)? }),
        "Metaspace" => steps.push(Step::Metaspace(Metaspace {
            symbol: at.need_character("replacement")?.to_string(),
            prepend: Prepend::read(at)?,
            split: at.flag("split", true)?,
        })),
        "WhitespaceSplit" => steps.push(Step::Spaces),
        other => return Err(at.refused(&format!("the pre-tokenizer {other}"))),
    }
    Ok(())
}

fn behavior(at: &At<'_>) -> Result<Behavior> {
    Ok(match at.need_text("behavior")? {
        "Removed" => Behavior::Removed,
        "Isolated" => Behavior::Isolated,
        "MergedWithPrevious" => Behavior::MergedWithPrevious,
        "MergedWithNext" => Behavior::MergedWithNext,
        other => return Err(at.refused(&format!("the split behavior {other:?}"))),
    })
}

/// A word: bytes `.0 .. .1` of the text.
pub(super) type Word = (usize, usize);

/// Text in words, with what the steps need to make new ones.
pub(super) struct Splitter {
    pub(super) text: Text,
    pub(super) words: Vec<Word>,
    spare_text: Text,
    spare_words: Vec<Word>,
}

impl Splitter {
    pub(super) fn new(tracked: bool) -> Self {
        let text = || if tracked { Text::tracked() } else { Text::default() };
        Self { text: text(), words: Vec::new(), spare_text: text(), spare_words: Vec::new() }
    }

    /// Takes bytes `from..to` of `text`, as one word.
    pub(super) fn begin(&mut self, text: &Text, from: usize, to: usize) {
        self.text.clear(text.start());
        self.text.push_part(text, from, to);
        self.words.clear();
        if from < to {
            self.words.push((0, to - from));
        }
    }

    /// Runs the steps; `at_start`: whether the text is the beginning of the whole input.
    pub(super) fn run(&mut self, steps: &[Step], at_start: bool) {
        for step in steps {
            match step {
                Step::PrefixSpace => self.prefix_spaces(),
                Step::Gpt2(words) => self.each_word(|text, out| {
                    let mut at = 0;
                    while at < text.len() {
                        let end = at + words.first(&text[at..]);
                        out((at, end));
                        at = end;
                    }
                }),
                Step::Split { pattern, behavior, invert } => {
                    self.each_word(|text, out| behavior.cut(text, |each| pattern.each_match(text, each), *invert, out));
                }
                Step::Digits { each } => self.each_word(|text, out| {
                    let find = |mut found: &mut dyn FnMut(usize, usize)| digits(text, *each, &mut found);
                    Behavior::Isolated.cut(text, find, false, out);
                }),
                Step::Metaspace(metaspace) => self.metaspace(metaspace, at_start),
                Step::Spaces => self.each_word(|text, out| {
                    let find = |each: &mut dyn FnMut(usize, usize)| {
                        text.match_indices(char::is_whitespace).for_each(|(at, found)| each(at, at + found.len()));
                    };
                    Behavior::Removed.cut(text, find, false, out);
                }),
            }
        }
    }

    /// Cuts each word; `cut` gives its parts as places in the word.
    fn each_word(&mut self, cut: impl Fn(&str, &mut dyn FnMut(Word))) {
        self.spare_words.clear();
        for &(from, to) in &self.words {
            let words = &mut self.spare_words;
            cut(&self.text.text[from..to], &mut |(begin, end)| {
                if begin < end {
                    words.push((from + begin, from + end));
                }
            });
        }
        swap(&mut self.words, &mut self.spare_words);
    }

    fn prefix_spaces(&mut self) {
        let Self { text, words, .. } = self;
        if words.iter().all(|(from, _)| text.text.as_bytes()[*from] == b' ') {
            return;
        }
        self.rewrite(|text, (from, to), out| {
            if !text.text[from..to].starts_with(' ') {
                out.push_as(" ", text.span(from));
            }
            out.push_part(text, from, to);
        });
    }

    fn metaspace(&mut self, metaspace: &Metaspace, at_start: bool) {
        let Metaspace { symbol, prepend, split } = metaspace;
        self.rewrite(|text, (from, to), out| {
            let prefixed = text.text[from..].starts_with([' ']) || text.text[from..].starts_with(symbol.as_str());
            let wanted = match prepend {
                Prepend::Always => true,
                Prepend::First => at_start && from == 0,
                Prepend::Never => false,
            };
            if wanted && !prefixed {
                out.push_as(symbol, text.span(from));
            }
            let mut done = from;
            for space in memchr::memchr_iter(b' ', &text.text.as_bytes()[from..to]).map(|at| from + at) {
                out.push_part(text, done, space);
                out.push_as(symbol, text.span(space));
                done = space + 1;
            }
            out.push_part(text, done, to);
        });
        if *split {
            self.each_word(|text, out| {
                let find = |each: &mut dyn FnMut(usize, usize)| {
                    text.match_indices(symbol.as_str()).for_each(|(at, found)| each(at, at + found.len()));
                };
                Behavior::MergedWithNext.cut(text, find, false, out);
            });
        }
    }

    /// Writes every word anew.
    fn rewrite(&mut self, write: impl Fn(&Text, Word, &mut Text)) {
        self.spare_text.clear(self.text.start());
        for word in &mut self.words {
            let from = self.spare_text.text.len();
            write(&self.text, *word, &mut self.spare_text);
            *word = (from, self.spare_text.text.len());
        }
        swap(&mut self.text, &mut self.spare_text);
    }
}

fn digits(text: &str, each: bool, found: &mut dyn FnMut(usize, usize)) {
    let mut run: Option<(usize, usize)> = None;
    for (at, character) in text.char_indices().filter(|(_, c)| c.is_numeric()) {
        let end = at + character.len_utf8();
        match run {
            Some((from, to)) if to == at && !each => run = Some((from, end)),
            _ => {
                if let Some((from, to)) = run.replace((at, end)) {
                    found(from, to);
                }
            }
        }
    }
    if let Some((from, to)) = run {
        found(from, to);
    }
}

impl Behavior {
    /// Gives the words of `text`; `find` gives its matches in order.
    fn cut(self, text: &str, find: impl FnOnce(&mut dyn FnMut(usize, usize)), invert: bool, out: &mut dyn FnMut(Word)) {
        // Matches and what is between them, in turn.
        let mut parts = Vec::new();
        let mut done = 0;
        find(&mut |from, to| {
            if done < from {
                parts.push(((done, from), invert));
            }
            if from < to {
                parts.push(((from, to), !invert));
            }
            done = to;
        });
        if done < text.len() {
            parts.push(((done, text.len()), invert));
        }
        match self {
            Self::Isolated => parts.iter().for_each(|(word, _)| out(*word)),
            Self::Removed => parts.iter().filter(|(_, is_match)| !is_match).for_each(|(word, _)| out(*word)),
            Self::MergedWithPrevious => {
                merged(parts.iter().copied(), |(from, _), (_, to)| (from, to)).iter().for_each(|word| out(*word));
            }
            Self::MergedWithNext => {
                let mut words = merged(parts.iter().rev().copied(), |(_, to), (from, _)| (from, to));
                words.reverse();
                words.iter().for_each(|word| out(*word));
            }
        }
    }
}

/// Joins each match to the part before it, unless that is a match too.
fn merged(parts: impl Iterator<Item = (Word, bool)>, join: impl Fn(Word, Word) -> Word) -> Vec<Word> {
    let (mut words, mut after_match) = (Vec::new(), false);
    for (word, is_match) in parts {
        match words.last_mut() {
            Some(last) if is_match && !after_match => *last = join(*last, word),
            _ => words.push(word),
        }
        after_match = is_match;
    }
    words
}
