//! What a worker does: a chunk of text in, stored tokens out.

use std::borrow::Cow;

use super::chunks::Chunk;
use super::inputs::Format;
use super::{Encode, OnError, Options, json};
use crate::error::{Error, Result};

/// The tokens of one chunk for one key.
#[derive(Default)]
pub(super) struct Tokens {
    /// As they stand in the `.bin`.
    pub(super) bytes: Vec<u8>,
    /// Tokens of each document.
    pub(super) lengths: Vec<usize>,
    pub(super) empty: u64,
    pub(super) text_bytes: u64,
    pub(super) characters: u64,
}

/// A document that could not be used.
pub(super) struct Reject {
    /// From 0 within the chunk; `None` where the file is the document.
    pub(super) line: Option<u64>,
    pub(super) what: String,
}

#[derive(Default)]
pub(super) struct Encoded {
    pub(super) tokens: Vec<Tokens>,
    pub(super) rejects: Vec<Reject>,
    pub(super) lines: u64,
    pub(super) blank: u64,
}

/// Encodes a chunk. With `OnError::Raise` it stops at the first document that cannot be used, which
/// is then the last of `rejects`.
///
/// # Errors
/// What the encoder reports, other than a text that it cannot take.
pub(super) fn encode(chunk: &Chunk, options: &Options, encoder: &mut dyn Encode) -> Result<Encoded> {
    let mut encoded = Encoded::default();
    encoded.tokens.resize_with(options.keys.len(), Tokens::default);
    let mut work = Work { options, encoder, encoded, ids: Vec::new() };
    let bytes = without_mark(chunk);
    if chunk.format == Format::TextFile {
        work.document(bytes, None, chunk.format)?;
    } else {
        work.lines(bytes, chunk.format)?;
    }
    Ok(work.encoded)
}

/// Without the byte order mark that some editors put before the first line.
pub(super) fn without_mark(chunk: &Chunk) -> &[u8] {
    let mark = b"\xef\xbb\xbf";
    if chunk.start == 0 { chunk.bytes.strip_prefix(mark).unwrap_or(&chunk.bytes) } else { &chunk.bytes }
}

/// The lines of a chunk, without their ends.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

pub(super) fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

/// The texts of a document: one a key, or all of it.
///
/// # Errors
/// A sentence on what is wrong.
pub(super) fn texts<'a>(bytes: &'a [u8], format: Format, keys: &[String]) -> Result<Vec<Cow<'a, str>>, String> {
    let text = std::str::from_utf8(bytes).map_err(|e| format!("invalid UTF-8 at byte {}", e.valid_up_to()))?;
    if format == Format::JsonLines { json::texts(text, keys) } else { Ok(vec![Cow::Borrowed(text)]) }
}

struct Work<'a> {
    options: &'a Options,
    encoder: &'a mut dyn Encode,
    encoded: Encoded,
    ids: Vec<u32>,
}

impl Work<'_> {
    fn lines(&mut self, bytes: &[u8], format: Format) -> Result<()> {
        for (number, line) in lines(bytes).enumerate() {
            self.encoded.lines += 1;
            if is_blank(line) {
                self.encoded.blank += 1;
                continue;
            }
            self.document(line, Some(number as u64), format)?;
            if self.options.on_error == OnError::Raise && !self.encoded.rejects.is_empty() {
                break;
            }
        }
        Ok(())
    }

    fn document(&mut self, bytes: &[u8], line: Option<u64>, format: Format) -> Result<()> {
        if let Err(what) = self.try_document(bytes, format)? {
            self.encoded.rejects.push(Reject { line, what });
        }
        Ok(())
    }

    /// The inner error is the document's fault, the outer one is not.
    fn try_document(&mut self, bytes: &[u8], format: Format) -> Result<Result<(), String>> {
        match texts(bytes, format, &self.options.keys) {
            Ok(texts) => self.texts(&texts),
            Err(what) => Ok(Err(what)),
        }
    }

    /// Encodes all texts of a document before any is taken, so that keys stay in step.
    fn texts(&mut self, texts: &[impl AsRef<str>]) -> Result<Result<(), String>> {
        let before: Vec<usize> = self.encoded.tokens.iter().map(|tokens| tokens.bytes.len()).collect();
        let mut counts = Vec::with_capacity(texts.len());
        for (slot, text) in texts.iter().enumerate() {
            match self.text(slot, text.as_ref())? {
                Ok(count) => counts.push(count),
                Err(what) => {
                    let bytes = self.encoded.tokens.iter_mut().map(|tokens| &mut tokens.bytes);
                    bytes.zip(before).for_each(|(bytes, len)| bytes.truncate(len));
                    return Ok(Err(what));
                }
            }
        }
        for ((tokens, count), text) in self.encoded.tokens.iter_mut().zip(counts).zip(texts) {
            tokens.count(count, text.as_ref());
        }
        Ok(Ok(()))
    }

    /// Stores the tokens of one text; gives their number, 0 for a text without any.
    fn text(&mut self, slot: usize, text: &str) -> Result<Result<usize, String>> {
        let Options { bos, eod, kind, vocab_size, .. } = *self.options;
        self.ids.clear();
        match self.encoder.encode(text, &mut self.ids) {
            Ok(()) => {}
            Err(Error::Tokenizer(what)) => return Ok(Err(what)),
            Err(other) => return Err(other),
        }
        if self.ids.is_empty() {
            return Ok(Ok(0));
        }
        if let Some(id) = self.ids.iter().find(|&&id| id as usize >= vocab_size) {
            let what = format!("the tokenizer gave id {id}, but its vocabulary has {vocab_size}");
            return Err(Error::Tokenizer(what));
        }
        let bytes = &mut self.encoded.tokens[slot].bytes;
        let before = bytes.len();
        for id in bos.into_iter().chain(self.ids.iter().copied()).chain(eod) {
            kind.push(bytes, i64::from(id));
        }
        Ok(Ok((bytes.len() - before) / kind.size()))
    }
}

impl Tokens {
    fn count(&mut self, tokens: usize, text: &str) {
        if tokens == 0 {
            self.empty += 1;
            return;
        }
        self.lengths.push(tokens);
        self.text_bytes += text.len() as u64;
        // Every byte but the continuation bytes of UTF-8 starts a character.
        self.characters += text.bytes().filter(|byte| byte & 0xc0 != 0x80).count() as u64;
    }
}
