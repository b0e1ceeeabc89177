//! Tokens with their places in the input, as `tokenizers` reports them.

use std::borrow::Cow;

use super::super::utf8::first_char;
use super::json::At;
use super::{Pipeline, Placed, Worker};
use crate::error::Result;

/// A post-processor that takes white space off the places of tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trim {
    add_prefix_space: bool,
}

impl Trim {
    /// Post-processors add special tokens, which are not wanted here, and may trim.
    ///
    /// # Errors
    /// `UnsupportedModel` naming a component that is not supported.
    pub(super) fn read(at: Option<&At<'_>>) -> Result<Option<Self>> {
        let Some(at) = at else { return Ok(None) };
        match at.kind()? {
            "TemplateProcessing" => Ok(None),
            "ByteLevel" if !at.flag("trim_offsets", true)? => Ok(None),
            "ByteLevel" => Ok(Some(Self { add_prefix_space: at.flag("add_prefix_space", true)? })),
            "Sequence" => {
                let items = at.need("processors")?.items()?;
                items.iter().try_fold(None, |found, item| Ok(Self::read(Some(item))?.or(found)))
            }
            other => Err(at.refused(&format!("the post-processor {other}"))),
        }
    }

    fn apply(self, is_first: bool, token: &str, placed: &mut Placed) {
        let is_space = |c: &char| *c == 'Ġ' || c.is_whitespace();
        // A space counts one byte, whatever letter stands for it.
        let length = |c: char| if c == 'Ġ' { 1 } else { c.len_utf8() };
        let leading = token.chars().take_while(is_space);
        let trailing: usize = token.chars().rev().take_while(is_space).map(length).sum();
        let (count, mut leading) = (leading.clone().count(), leading.map(length).sum::<usize>());
        let (begin, end) = &mut placed.span;
        if (is_first || *begin == 0) && self.add_prefix_space && count == 1 {
            // The one that was added.
            leading = 0;
        }
        *begin = (*begin + leading).min(*end);
        if *end >= trailing {
            *end = (*end - trailing).max(*begin);
        }
    }
}

/// Text whose every byte that is not UTF-8 became U+FFFD.
struct Lossy<'t> {
    text: Cow<'t, str>,
    /// For each byte of `text`, and its end, the byte of the input; none where they are the same.
    origins: Option<Vec<usize>>,
}

impl<'t> Lossy<'t> {
    fn new(bytes: &'t [u8]) -> Self {
        if let Ok(text) = std::str::from_utf8(bytes) {
            return Self { text: Cow::Borrowed(text), origins: None };
        }
        let (mut text, mut origins, mut at) = (String::new(), Vec::new(), 0);
        while at < bytes.len() {
            let (character, length) = first_char(&bytes[at..]).unwrap_or((char::REPLACEMENT_CHARACTER, 1));
            text.push(character);
            origins.resize(text.len(), at);
            at += length;
        }
        origins.push(at);
        Self { text: Cow::Owned(text), origins: Some(origins) }
    }

    fn origin(&self, at: usize) -> usize {
        self.origins.as_ref().map_or(at, |origins| origins[at.min(origins.len() - 1)])
    }
}

impl Pipeline {
    /// The tokens of `text` with their places.
    pub(in super::super) fn tokens(&self, text: &[u8]) -> Vec<Placed> {
        let mut worker = Worker::tracked();
        let mut tokens = Vec::new();
        let lossy = Lossy::new(text);
        worker.run(self, &lossy.text, |id, span| tokens.push(Placed { id, span }));
        for (at, placed) in tokens.iter_mut().enumerate() {
            if let (Some(trim), Ok(token)) = (self.trim, self.names.text(placed.id, at)) {
                trim.apply(at == 0, token, placed);
            }
            placed.span = (lossy.origin(placed.span.0), lossy.origin(placed.span.1));
        }
        tokens
    }
}
