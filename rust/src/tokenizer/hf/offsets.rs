//! Tokens with their places in the input, as `tokenizers` reports them.

use std::borrow::Cow;

use super::super::utf8::first_char;
use super::json::At;
use super::text::Span;
use super::{Pipeline, Worker};
use crate::error::Result;
use crate::interrupt::Interrupt;

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

    /// Shortens the place of `token` by as many characters as it has spaces at its ends.
    fn apply(self, is_first: bool, token: &str, text: &str, span: &mut Span) {
        let is_space = |c: &char| *c == 'Ġ' || c.is_whitespace();
        let mut leading = token.chars().take_while(is_space).count();
        let trailing = token.chars().rev().take_while(is_space).count();
        if (is_first || span.0 == 0) && self.add_prefix_space && leading == 1 {
            // The one that was added.
            leading = 0;
        }
        let inside = &text[span.0..span.1];
        let dropped: usize = inside.chars().take(leading).map(char::len_utf8).sum();
        span.0 += dropped;
        let dropped: usize = text[span.0..span.1].chars().rev().take(trailing).map(char::len_utf8).sum();
        span.1 -= dropped;
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

impl Worker {
    /// Gives the tokens of `text` with their places; after an interruption, some.
    pub(in super::super) fn place(
        &mut self,
        pipeline: &Pipeline,
        text: &[u8],
        interrupt: Interrupt<'_>,
        mut give: impl FnMut(u32, Span),
    ) {
        let lossy = Lossy::new(text);
        let mut number = 0;
        self.run(pipeline, &lossy.text, interrupt, |id, mut span| {
            if let (Some(trim), Ok(token)) = (pipeline.trim, pipeline.names.text(id, number)) {
                // An added token counts with the spaces that it took.
                let token = if pipeline.names.is_added(id) { &lossy.text[span.0..span.1] } else { token };
                trim.apply(number == 0, token, &lossy.text, &mut span);
            }
            number += 1;
            give(id, (lossy.origin(span.0), lossy.origin(span.1)));
        });
    }
}
