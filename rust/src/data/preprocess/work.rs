//! What a worker does: a chunk of text in, stored tokens out.

use super::chunks::{Chunk, TARGET};
use super::inputs::Format;
use super::texts::Texts;
use super::{Encode, OnError, Options, json};
use crate::error::{Error, Result};

/// Bytes of text that are encoded at a time: enough for an encoder that works on several texts at once,
/// few enough to stay in the cache.
const BATCH: usize = 1 << 16;

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

/// Buffers that a worker keeps from chunk to chunk.
#[derive(Default)]
pub(super) struct Scratch {
    store: String,
    ids: Vec<u32>,
    /// Where the ids of each text end.
    ends: Vec<usize>,
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

/// Encodes a chunk into `tokens`, which were used before. With `OnError::Raise` it stops at the first
/// document that cannot be used, which is then the last of `rejects`.
///
/// # Errors
/// What the encoder reports, other than a text that it cannot take.
pub(super) fn encode(
    chunk: &Chunk,
    tokens: Vec<Tokens>,
    options: &Options,
    encoder: &mut dyn Encode,
    scratch: &mut Scratch,
) -> Result<Encoded> {
    let mut tokens: Vec<Tokens> = tokens.into_iter().map(Tokens::again).collect();
    tokens.resize_with(options.keys.len(), Tokens::default);
    let encoded = Encoded { tokens, ..Encoded::default() };
    let texts = Texts::with_store(again(std::mem::take(&mut scratch.store), String::capacity));
    let mut work = Work { options, encoder, scratch, encoded, texts, lines: Vec::new() };
    let bytes = without_mark(chunk);
    if chunk.format == Format::TextFile {
        work.document(bytes, None, chunk.format)?;
    } else {
        work.lines(bytes, chunk.format)?;
    }
    work.flush()?;
    work.scratch.store = work.texts.into_store();
    Ok(work.encoded)
}

/// `buffer`, unless an unusual text made it large.
fn again<T: Default>(buffer: T, capacity: impl Fn(&T) -> usize) -> T {
    if capacity(&buffer) > 4 * TARGET { T::default() } else { buffer }
}

/// Without the byte order mark that some editors put before the first line.
pub(super) fn without_mark(chunk: &Chunk) -> &[u8] {
    let mark = b"\xef\xbb\xbf";
    let bytes = chunk.text.bytes();
    if chunk.start == 0 { bytes.strip_prefix(mark).unwrap_or(bytes) } else { bytes }
}

/// The lines of a chunk, without their ends.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(bytes.strip_suffix(b"\n").unwrap_or(bytes));
    std::iter::from_fn(move || {
        let bytes = rest?;
        let end = memchr::memchr(b'\n', bytes);
        rest = end.map(|end| &bytes[end + 1..]);
        let line = &bytes[..end.unwrap_or(bytes.len())];
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    })
}

pub(super) fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

/// Appends the texts of a document: one a key, or all of it.
///
/// # Errors
/// A sentence on what is wrong.
pub(super) fn texts<'l>(bytes: &'l [u8], format: Format, keys: &[String], texts: &mut Texts<'l>) -> Result<(), String> {
    let text = simdutf8::compat::from_utf8(bytes);
    let text = text.map_err(|e| format!("invalid UTF-8 at byte {}", e.valid_up_to()))?;
    match format {
        Format::JsonLines => json::texts(text, keys, texts),
        Format::TextFile | Format::TextLines => {
            texts.push(text.into());
            Ok(())
        }
    }
}

struct Work<'w, 'l> {
    options: &'w Options,
    encoder: &'w mut dyn Encode,
    scratch: &'w mut Scratch,
    encoded: Encoded,
    /// Of the documents that wait to be encoded: a text for each key, and the line.
    texts: Texts<'l>,
    lines: Vec<Option<u64>>,
}

impl<'l> Work<'_, 'l> {
    fn lines(&mut self, bytes: &'l [u8], format: Format) -> Result<()> {
        for (number, line) in lines(bytes).enumerate() {
            self.encoded.lines += 1;
            if is_blank(line) {
                self.encoded.blank += 1;
                continue;
            }
            self.document(line, Some(number as u64), format)?;
            if self.stopped() {
                break;
            }
        }
        Ok(())
    }

    fn stopped(&self) -> bool {
        self.options.on_error == OnError::Raise && !self.encoded.rejects.is_empty()
    }

    fn document(&mut self, bytes: &'l [u8], line: Option<u64>, format: Format) -> Result<()> {
        match texts(bytes, format, &self.options.keys, &mut self.texts) {
            Ok(()) => self.lines.push(line),
            Err(what) => {
                // What is wrong with earlier documents comes first.
                self.flush()?;
                if !self.stopped() {
                    self.encoded.rejects.push(Reject { line, what });
                }
            }
        }
        if self.texts.bytes() >= BATCH { self.flush() } else { Ok(()) }
    }

    /// Encodes the documents that wait.
    fn flush(&mut self) -> Result<()> {
        let keys = self.options.keys.len();
        let mut first = 0;
        while first < self.lines.len() && !self.stopped() {
            let failed = self.encode(first * keys)?;
            // A document is taken whole, so that keys stay in step.
            let documents = self.scratch.ends.len() / keys;
            self.take(first, documents)?;
            first += documents;
            if let Some(what) = failed {
                self.encoded.rejects.push(Reject { line: self.lines[first], what });
                first += 1;
            }
        }
        self.texts.clear();
        self.lines.clear();
        Ok(())
    }

    /// Encodes the texts from one on, up to one that cannot be encoded.
    fn encode(&mut self, from: usize) -> Result<Option<String>> {
        let Scratch { ids, ends, .. } = &mut *self.scratch;
        *ids = again(std::mem::take(ids), Vec::capacity);
        ids.clear();
        ends.clear();
        match self.encoder.encode(&mut self.texts.from(from), ids, ends) {
            Ok(()) if ends.len() == self.texts.len() - from => Ok(None),
            Ok(()) => Err(Error::Internal("the tokenizer left out texts".into())),
            Err(Error::Tokenizer(what)) => Ok(Some(what)),
            Err(other) => Err(other),
        }
    }

    /// Stores the encoded texts of so many documents.
    fn take(&mut self, first: usize, documents: usize) -> Result<()> {
        let (options, Scratch { ids, ends, .. }) = (self.options, &*self.scratch);
        let keys = options.keys.len();
        let mut texts = self.texts.from(first * keys);
        let mut start = 0;
        for ends in ends.chunks_exact(keys).take(documents) {
            for ((tokens, end), text) in self.encoded.tokens.iter_mut().zip(ends).zip(&mut texts) {
                tokens.add(text, &ids[start..*end], options)?;
                start = *end;
            }
        }
        Ok(())
    }
}

impl Tokens {
    /// For another chunk.
    fn again(self) -> Self {
        let (mut bytes, mut lengths) = (again(self.bytes, Vec::capacity), again(self.lengths, Vec::capacity));
        bytes.clear();
        lengths.clear();
        Self { bytes, lengths, ..Self::default() }
    }

    fn add(&mut self, text: &str, ids: &[u32], options: &Options) -> Result<()> {
        let Options { bos, eod, kind, vocab_size, .. } = *options;
        let Some(largest) = ids.iter().max() else {
            self.empty += 1;
            return Ok(());
        };
        if *largest as usize >= vocab_size {
            let what = format!("the tokenizer gave id {largest}, but its vocabulary has {vocab_size}");
            return Err(Error::Tokenizer(what));
        }
        kind.extend(&mut self.bytes, bos.as_slice());
        kind.extend(&mut self.bytes, ids);
        kind.extend(&mut self.bytes, eod.as_slice());
        self.lengths.push(ids.len() + usize::from(bos.is_some()) + usize::from(eod.is_some()));
        self.text_bytes += text.len() as u64;
        self.characters += text.chars().count() as u64;
        Ok(())
    }
}
