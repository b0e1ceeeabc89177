//! Cutting the inputs into chunks of whole lines (or whole files), one file at a time.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::inputs::{Format, Input, Meter, Parquet};
use crate::error::Result;

/// Text that one worker handles at a time. Chunks follow the input alone, so results do not depend
/// on the number of workers.
pub(super) const TARGET: usize = 1 << 18;

pub(super) struct Chunk {
    /// Which input.
    pub(super) input: usize,
    pub(super) format: Format,
    /// Where `text` starts in the input's text.
    pub(super) start: u64,
    pub(super) text: Filled,
    /// What comes after it.
    pub(super) next: Position,
}

/// A buffer of which the first bytes are filled. It is not emptied to be filled again, which would cost
/// setting all of it to zero.
#[derive(Default)]
pub(super) struct Filled {
    buffer: Vec<u8>,
    len: usize,
}

impl Filled {
    /// For a new text; not what an unusually long one took.
    pub(super) fn again(self) -> Self {
        if self.buffer.len() > 4 * TARGET { Self::default() } else { Self { len: 0, ..self } }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    fn push(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        self.grow(end);
        self.buffer[self.len..end].copy_from_slice(bytes);
        self.len = end;
    }

    fn grow(&mut self, len: usize) {
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
    }

    /// Reads up to `end` bytes in all, less only at the end of the text.
    fn fill(&mut self, reader: &mut impl Read, end: usize) -> io::Result<()> {
        self.grow(end);
        while self.len < end {
            match reader.read(&mut self.buffer[self.len..end]) {
                Ok(0) => break,
                Ok(n) => self.len += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Where reading goes on: an input and a byte of its text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Position {
    pub(super) input: usize,
    pub(super) byte: u64,
}

pub(super) struct Chunks {
    inputs: Vec<Input>,
    /// The columns to read of Parquet.
    keys: Vec<String>,
    parquet: Option<Arc<dyn Parquet>>,
    meter: Arc<Meter>,
    /// Of the next chunk.
    position: Position,
    open: Option<Box<dyn Read + Send>>,
    /// Bytes read that belong to the next chunk.
    rest: Vec<u8>,
}

impl Chunks {
    pub(super) fn new(
        inputs: &[Input],
        keys: &[String],
        parquet: Option<Arc<dyn Parquet>>,
        position: Position,
        meter: Arc<Meter>,
    ) -> Self {
        let (inputs, keys) = (inputs.to_vec(), keys.to_vec());
        Self { inputs, keys, parquet, meter, position, open: None, rest: Vec::new() }
    }

    /// The input of a chunk.
    pub(super) fn input(&self, chunk: &Chunk) -> &Input {
        &self.inputs[chunk.input]
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.meter.bytes.load(Ordering::Relaxed)
    }

    /// The next chunk, in a buffer that was used before. After an error there is none.
    pub(super) fn next(&mut self, spare: Filled) -> Result<Option<Chunk>> {
        let next = self.next_chunk(spare.again());
        if next.is_err() {
            self.position.input = self.inputs.len();
        }
        next
    }

    fn next_chunk(&mut self, mut text: Filled) -> Result<Option<Chunk>> {
        while let Some(input) = self.inputs.get(self.position.input).cloned() {
            if self.open.is_none() {
                let parquet = self.parquet.as_deref();
                self.open = Some(input.open(self.position.byte, &self.meter, &self.keys, parquet)?);
            }
            let more = self.fill(&input, &mut text)?;
            let Position { input: at, byte: start } = self.position;
            self.position.byte += text.len as u64;
            if !more {
                self.open = None;
                self.position = Position { input: at + 1, byte: 0 };
            }
            // An empty file is an empty document; a file of lines without any is nothing.
            if text.len > 0 || input.format == Format::TextFile {
                return Ok(Some(Chunk { input: at, format: input.format, start, text, next: self.position }));
            }
        }
        Ok(None)
    }

    /// Fills `text` with the next whole lines of the open input; whether there may be more.
    fn fill(&mut self, input: &Input, text: &mut Filled) -> Result<bool> {
        let Some(reader) = &mut self.open else { return Ok(false) };
        text.push(&self.rest);
        self.rest.clear();
        let (mut searched, mut end) = (0, TARGET);
        loop {
            text.fill(reader, end).map_err(|e| input.read_error(e, self.position.byte + text.len as u64))?;
            if text.len < end {
                return Ok(false);
            }
            if input.format != Format::TextFile {
                if let Some(line) = memchr::memrchr(b'\n', &text.bytes()[searched..]) {
                    let whole = searched + line + 1;
                    self.rest.extend_from_slice(&text.bytes()[whole..]);
                    text.len = whole;
                    return Ok(true);
                }
                searched = text.len;
            }
            end = text.len + TARGET;
        }
    }
}
