//! The documents of text files, one after the other, without tokens.

use std::path::PathBuf;
use std::sync::Arc;

use super::chunks::{Chunk, Chunks, Filled, Position};
use super::inputs::{Format, Input, Meter, Parquet};
use super::texts::Texts;
use super::{place, work};
use crate::error::{Error, Result};

/// A text, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    pub text: String,
    pub path: PathBuf,
    /// From 1; `None` where the file is the document.
    pub line: Option<u64>,
}

/// Reads inputs a batch of documents at a time, in constant memory.
pub struct Documents {
    chunks: Chunks,
    key: [String; 1],
    /// The input that is being read, and its lines so far.
    input: usize,
    lines: u64,
    /// A document that cannot be used is told apart instead of ending the iteration.
    skip: bool,
}

/// Some documents, and what was wrong with those left out.
#[derive(Debug, Default)]
pub struct Batch {
    pub documents: Vec<Document>,
    pub errors: Vec<String>,
}

impl Documents {
    pub fn new(inputs: &[Input], key: &str, parquet: Option<Arc<dyn Parquet>>, skip: bool) -> Self {
        let key = [key.to_owned()];
        let chunks = Chunks::new(inputs, &key, parquet, Position::default(), Arc::new(Meter::default()));
        Self { chunks, key, input: 0, lines: 0, skip }
    }

    /// Bytes of the input files read so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.chunks.bytes_read()
    }

    fn batch(&mut self, chunk: &Chunk) -> Result<Batch> {
        if chunk.input != self.input {
            (self.input, self.lines) = (chunk.input, 0);
        }
        let mut batch = Batch::default();
        let bytes = work::without_mark(chunk);
        if chunk.format == Format::TextFile {
            self.add(&mut batch, chunk, bytes, None)?;
            return Ok(batch);
        }
        for line in work::lines(bytes) {
            self.lines += 1;
            if !work::is_blank(line) {
                self.add(&mut batch, chunk, line, Some(self.lines))?;
            }
        }
        Ok(batch)
    }

    fn add(&self, batch: &mut Batch, chunk: &Chunk, bytes: &[u8], line: Option<u64>) -> Result<()> {
        let path = &self.chunks.input(chunk).path;
        let mut texts = Texts::default();
        match work::texts(bytes, chunk.format, &self.key, &mut texts) {
            Ok(()) => {
                let texts = texts.iter().map(|text| Document { text: text.to_owned(), path: path.clone(), line });
                batch.documents.extend(texts);
            }
            Err(what) if self.skip => batch.errors.push(format!("{}: {what}", place(path, line))),
            Err(what) => {
                let what = line.map_or_else(|| what.clone(), |line| format!("line {line}: {what}"));
                return Err(Error::CorruptDataset { path: path.clone(), what });
            }
        }
        Ok(())
    }
}

impl Iterator for Documents {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        let chunk = self.chunks.next(Filled::default()).transpose()?;
        Some(chunk.and_then(|chunk| self.batch(&chunk)))
    }
}
