//! Normalizers of `tokenizer.json`.

use std::mem::swap;

use unicode_normalization::char::canonical_combining_class;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick, is_nfkc_quick};

use super::json::At;
use super::pattern::Pattern;
use super::precompiled::Precompiled;
use super::text::Text;
use crate::error::Result;

pub(super) enum Step {
    Replace { pattern: Pattern, content: String },
    Prepend(String),
    Compose(Form),
    Precompiled(Box<Precompiled>),
    Strip { left: bool, right: bool },
}

#[derive(Clone, Copy)]
pub(super) enum Form {
    Nfc,
    Nfkc,
}

/// The steps of a normalizer, if there is one, and its name.
///
/// # Errors
/// `UnsupportedModel` naming a component that is not supported.
pub(super) fn read(at: Option<&At<'_>>) -> Result<(Vec<Step>, String)> {
    let mut steps = Vec::new();
    let mut names = Vec::new();
    if let Some(at) = at {
        read_into(at, &mut steps, &mut names)?;
    }
    let name = if names.is_empty() { "identity".to_owned() } else { names.join(", ") };
    Ok((steps, name))
}

fn read_into(at: &At<'_>, steps: &mut Vec<Step>, names: &mut Vec<&'static str>) -> Result<()> {
    let (name, step) = match at.kind()? {
        "Sequence" => {
            let items = at.need("normalizers")?.items()?;
            return items.iter().try_for_each(|item| read_into(item, steps, names));
        }
        "NFC" => ("NFC", Step::Compose(Form::Nfc)),
        "NFKC" => ("NFKC", Step::Compose(Form::Nfkc)),
        "Prepend" => ("Prepend", Step::Prepend(at.need_text("prepend")?.to_owned())),
        "Replace" => {
            let pattern = replaced(&at.need("pattern")?)?;
            ("Replace", Step::Replace { pattern, content: at.need_text("content")?.to_owned() })
        }
        "Precompiled" => ("Precompiled", Step::Precompiled(Box::new(Precompiled::read(at)?))),
        "Strip" => {
            let side = |key| {
                at.need(key)?.value().as_bool().ok_or_else(|| at.wrong(&format!("{key:?} must be true or false")))
            };
            ("Strip", Step::Strip { left: side("strip_left")?, right: side("strip_right")? })
        }
        other => return Err(at.refused(&format!("the normalizer {other}"))),
    };
    steps.push(step);
    names.push(name);
    Ok(())
}

/// `{"String": ...}` or `{"Regex": ...}`.
pub(super) fn replaced(at: &At<'_>) -> Result<Pattern> {
    match (at.get("String"), at.get("Regex")) {
        (Some(text), None) => Pattern::literal(&text, text.text()?),
        (None, Some(regex)) => Pattern::new(&regex, regex.text()?),
        _ => Err(at.wrong("expected {\"String\": ...} or {\"Regex\": ...}")),
    }
}

/// Runs the steps over `text`.
pub(super) fn run(steps: &[Step], text: &mut Text, spare: &mut Text) {
    for step in steps {
        if text.text.is_empty() {
            return;
        }
        spare.clear(text.start());
        match step {
            Step::Replace { pattern, content } => replace(pattern, content, text, spare),
            Step::Prepend(content) => {
                spare.push_as(content, text.span(0));
                spare.push_part(text, 0, text.text.len());
            }
            Step::Compose(form) if form.is_normal(&text.text) => continue,
            Step::Compose(form) => form.compose(text, spare),
            Step::Precompiled(map) => map.run(text, spare),
            Step::Strip { left, right } => strip(*left, *right, text, spare),
        }
        swap(text, spare);
    }
}

fn replace(pattern: &Pattern, content: &str, text: &Text, out: &mut Text) {
    let mut done = 0;
    pattern.each_match(&text.text, |start, end| {
        out.push_part(text, done, start);
        out.push_as(content, text.span_of_replacement(start, end));
        done = end;
    });
    out.push_part(text, done, text.text.len());
}

fn strip(left: bool, right: bool, text: &Text, out: &mut Text) {
    let end = if right { text.text.trim_end().len() } else { text.text.len() };
    let start = if left { end - text.text[..end].trim_start().len() } else { 0 };
    out.push_part(text, start, end);
}

impl Form {
    fn is_normal(self, text: &str) -> bool {
        let quick = match self {
            Self::Nfc => is_nfc_quick(text.chars()),
            Self::Nfkc => is_nfkc_quick(text.chars()),
        };
        quick == IsNormalized::Yes
    }

    /// Whether nothing before the character can change with it.
    fn begins(self, character: char) -> bool {
        let first = match self {
            Self::Nfc => character.nfd().next(),
            Self::Nfkc => character.nfkd().next(),
        };
        first.is_some_and(|first| {
            canonical_combining_class(first) == 0 && is_nfc_quick(std::iter::once(first)) == IsNormalized::Yes
        })
    }

    fn compose(self, text: &Text, out: &mut Text) {
        let mut from = 0;
        let starts = text.text.char_indices().skip(1).filter(|(_, c)| self.begins(*c)).map(|(at, _)| at);
        for to in starts.chain([text.text.len()]) {
            let part = &text.text[from..to];
            let composed: String = match self {
                Self::Nfc => part.nfc().collect(),
                Self::Nfkc => part.nfkc().collect(),
            };
            if composed == part {
                out.push_part(text, from, to);
            } else {
                self.push_composed(&composed, text, (from, to), out);
            }
            from = to;
        }
    }

    /// Each new character stands for the old one of its number, the later ones for the last.
    fn push_composed(self, composed: &str, text: &Text, (from, to): (usize, usize), out: &mut Text) {
        let mut places = text.text[from..to].char_indices().map(|(at, _)| from + at);
        let mut place = from;
        for character in composed.chars() {
            place = places.next().unwrap_or(place);
            out.push_as(character.encode_utf8(&mut [0; 4]), text.span(place));
        }
    }
}
