//! Text to tokens: JSON Lines and text files in, one `.bin/.idx` pair a key out.
//!
//! A reader thread cuts the inputs into chunks, workers encode them, and the calling thread writes
//! the results in the order of the text. What is written does not depend on the number of workers;
//! memory is bounded by the chunks in flight. A document is one JSON object (or one text) and becomes
//! one sequence: `[bos] ids [eod]`. Empty documents are left out and counted.

mod chunks;
mod inputs;
mod journal;
mod json;
mod pipeline;
mod read;
mod rows;
mod saver;
mod scan;
mod sentences;
mod texts;
mod work;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::format::TokenType;
use super::writer::{DatasetWriter, Written};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;

pub use inputs::{Format, Input, Inputs, Parquet, expand};
pub use read::{Batch, Document, Documents};
pub use rows::{Column, push_rows};
pub use sentences::{Sentences, sentences};

/// A tokenizer's worker: owns its buffers, encodes one text after the other.
pub trait Encode: Send {
    /// Appends the ids of each of `texts` to `out`, without bos and eod, and what `out` then holds to `ends`.
    ///
    /// # Errors
    /// `Tokenizer` for a text that cannot be encoded, which is the one after those in `ends` (`OnError`
    /// decides then); anything else ends the run.
    fn encode(
        &mut self,
        texts: &mut dyn Iterator<Item = &str>,
        out: &mut Vec<u32>,
        ends: &mut Vec<usize>,
    ) -> Result<()>;
}

/// What happens to a document that cannot be read or encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// The run ends, naming file and line.
    Raise,
    /// It is left out, counted and listed.
    Skip,
}

#[derive(Clone)]
pub struct Options {
    pub inputs: Vec<Input>,
    /// JSON keys that hold text, and the dataset that each becomes.
    pub keys: Vec<String>,
    pub prefixes: Vec<PathBuf>,
    pub kind: TokenType,
    /// Of the tokenizer: its ids are below it.
    pub vocab_size: usize,
    /// Put before and after each document.
    pub bos: Option<u32>,
    pub eod: Option<u32>,
    pub workers: usize,
    pub on_error: OnError,
    /// Names the tokenizer's content; without it a killed run cannot be resumed.
    pub tokenizer: Option<String>,
    /// How often the work so far is made durable.
    pub sync_every: Duration,
    pub parquet: Option<Arc<dyn Parquet>>,
}

/// What became of the documents. The list of errors ends at `MAX_ERRORS`, the count does not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub keys: Vec<KeyCounts>,
    /// The input that is being read, and its lines so far.
    input: usize,
    lines_of_input: u64,
    pub lines: u64,
    /// Lines with nothing on them.
    pub blank_lines: u64,
    /// Documents left out by `OnError::Skip`.
    pub skipped: u64,
    pub errors: Vec<String>,
}

/// Errors that are listed by name.
pub const MAX_ERRORS: usize = 1000;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyCounts {
    pub documents: u64,
    pub tokens: u64,
    /// Documents that hold no text, or no token: left out.
    pub empty: u64,
    /// Of the texts that became tokens.
    pub text_bytes: u64,
    pub characters: u64,
}

/// What a run made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// One for each key.
    pub written: Vec<Written>,
    pub counts: Counts,
    /// Whether the run went on from where an earlier one was stopped.
    pub resumed: bool,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Of the first key.
    pub documents: u64,
    pub tokens: u64,
    pub skipped: u64,
    /// Bytes of the input files, as they lie on disk.
    pub bytes_read: u64,
    pub bytes_total: u64,
}

/// Tokenizes the inputs. `worker` makes an encoder for each thread; `observe` is told a few times a
/// second how far the run is, and at its end.
///
/// An interrupted or killed run leaves `*.partial` files and goes on from them when it is started
/// again with the same inputs, tokenizer and options. A failed write leaves nothing.
///
/// # Errors
/// `CorruptDataset` naming file and line of a document that cannot be used; `UnsupportedInput` where
/// no document is left; `Config` for options that contradict each other; `Io`; `Interrupted`.
pub fn run<'e>(
    options: &Options,
    worker: &(dyn Fn() -> Result<Box<dyn Encode + 'e>> + Sync),
    observe: &mut dyn FnMut(&Status) -> Result<()>,
    interrupt: Interrupt,
) -> Result<Summary> {
    check(options)?;
    for folder in options.prefixes.iter().filter_map(|prefix| prefix.parent()) {
        std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
    }
    let _lock = journal::Lock::take(&options.prefixes[0])?;
    let mut output = pipeline::Output::open(options, interrupt)?;
    let made = pipeline::run(options, &mut output, worker, observe, interrupt).and_then(|()| output.check_not_empty());
    if let Err(error) = made {
        output.abandon(&error, options);
        return Err(error);
    }
    output.finish(options)
}

fn check(options: &Options) -> Result<()> {
    let wrong = |what: String| Err(Error::Config(what));
    let (_, high) = options.kind.bounds();
    let Options { keys, prefixes, vocab_size, inputs, .. } = options;
    if keys.is_empty() || keys.len() != prefixes.len() {
        return wrong(format!("{} keys for {} outputs; one of each at least", keys.len(), prefixes.len()));
    }
    if let Some(twin) =
        prefixes.iter().enumerate().find_map(|(i, prefix)| prefixes[..i].contains(prefix).then_some(prefix))
    {
        return wrong(format!("two keys are written to {}", twin.display()));
    }
    if let Some(input) = inputs.iter().find(|input| input.format != Format::JsonLines)
        && keys.len() > 1
    {
        return wrong(format!("{} is plain text and has no keys; give a single key", input.path.display()));
    }
    if *vocab_size as u64 > high as u64 + 1 {
        return wrong(format!("{} holds ids up to {high}, the vocabulary has {vocab_size}", options.kind.name()));
    }
    for (name, id) in [("bos", options.bos), ("eod", options.eod)] {
        if let Some(id) = id.filter(|id| *id as usize >= *vocab_size) {
            return wrong(format!("{name} id {id} is outside the vocabulary of {vocab_size}"));
        }
    }
    if options.workers == 0 {
        return wrong("0 workers; at least one is needed".into());
    }
    Ok(())
}

/// The writers of a prefix each, with the parts of a resumable run.
fn open_writers(options: &Options, at: &[super::writer::Progress], interrupt: Interrupt) -> Result<Vec<DatasetWriter>> {
    let open = |(prefix, at): (&PathBuf, _)| DatasetWriter::open(prefix, options.kind, journal::PARTS, at, interrupt);
    let start = at.iter().copied().chain(std::iter::repeat(Default::default()));
    options.prefixes.iter().zip(start).map(open).collect()
}

/// `path`, or the folder it is in, for messages.
fn place(path: &Path, line: Option<u64>) -> String {
    line.map_or_else(|| path.display().to_string(), |line| format!("{}:{line}", path.display()))
}
