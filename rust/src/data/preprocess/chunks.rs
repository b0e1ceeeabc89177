//! Cutting the inputs into chunks of whole lines (or whole files), one file at a time.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::inputs::{Format, Input, Meter, Parquet};
use crate::error::{Error, Result};

/// Text that one worker handles at a time. Chunks follow the input alone, so results do not depend
/// on the number of workers.
const TARGET: usize = 1 << 18;

pub(super) struct Chunk {
    /// Which input.
    pub(super) input: usize,
    pub(super) format: Format,
    /// Where `bytes` start in the input's text.
    pub(super) start: u64,
    pub(super) bytes: Vec<u8>,
    /// What comes after it.
    pub(super) next: Position,
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

    fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        while let Some(input) = self.inputs.get(self.position.input).cloned() {
            if self.open.is_none() {
                let parquet = self.parquet.as_deref();
                self.open = Some(input.open(self.position.byte, &self.meter, &self.keys, parquet)?);
            }
            let bytes = self.fill(&input)?;
            let Position { input: at, byte: start } = self.position;
            let end = bytes.is_none() || input.format == Format::TextFile;
            self.position.byte += bytes.as_ref().map_or(0, Vec::len) as u64;
            if end {
                self.open = None;
                self.position = Position { input: at + 1, byte: 0 };
            }
            // An empty file is an empty document; a file of lines without any is nothing.
            if bytes.is_some() || input.format == Format::TextFile {
                let bytes = bytes.unwrap_or_default();
                return Ok(Some(Chunk { input: at, format: input.format, start, bytes, next: self.position }));
            }
        }
        Ok(None)
    }

    /// The next whole lines of the open input; `None` at its end.
    fn fill(&mut self, input: &Input) -> Result<Option<Vec<u8>>> {
        let Some(reader) = &mut self.open else { return Ok(None) };
        let mut bytes = std::mem::take(&mut self.rest);
        let mut searched = 0;
        loop {
            let whole_lines = input.format != Format::TextFile && bytes.len() >= TARGET;
            if whole_lines && let Some(end) = memchr::memrchr(b'\n', &bytes[searched..]) {
                self.rest = bytes.split_off(searched + end + 1);
                return Ok(Some(bytes));
            }
            if whole_lines {
                searched = bytes.len();
            }
            let before = bytes.len();
            let n = reader.by_ref().take(TARGET as u64).read_to_end(&mut bytes);
            n.map_err(|e| input.read_error(e, self.position.byte + before as u64))?;
            if bytes.len() == before {
                return Ok((!bytes.is_empty()).then_some(bytes));
            }
        }
    }
}

impl Iterator for Chunks {
    type Item = Result<Chunk, Error>;

    /// After an error the iteration ends.
    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_chunk();
        if next.is_err() {
            self.position.input = self.inputs.len();
        }
        next.transpose()
    }
}
