//! The sentences of text files, for those who train on text rather than tokenize it.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::chunks::{Chunk, Chunks, Position};
use super::inputs::{Format, Input, Meter};
use super::work::without_mark;
use super::{json, place};
use crate::error::{Error, Result};

/// Some sentences in the order of the text.
pub struct Batch<'a> {
    pub sentences: &'a [&'a str],
    /// Bytes of the input files read so far, and of all of them.
    pub bytes_read: u64,
    pub bytes_total: u64,
}

/// Hands all lines of `inputs` to `take`, in order, batch by batch, until it says `false`. Of JSON
/// Lines it takes the lines of the text under `key`.
///
/// # Errors
/// `CorruptDataset` naming file and line where a line is not UTF-8 or no such JSON; what `take` returns.
pub fn sentences(inputs: &[Input], key: &str, mut take: impl FnMut(&Batch<'_>) -> Result<bool>) -> Result<()> {
    let meter = Arc::new(Meter::default());
    let bytes_total = inputs.iter().map(|input| input.len).sum();
    let keys = [key.to_owned()];
    let mut line = 0;
    for chunk in Chunks::new(inputs, Position::default(), meter.clone()) {
        let chunk = chunk?;
        if chunk.start == 0 {
            line = 0;
        }
        let texts = texts(&chunk, &keys, &inputs[chunk.input], &mut line)?;
        let sentences: Vec<&str> = texts.iter().flat_map(|text| text.split('\n')).map(without_return).collect();
        let bytes_read = meter.bytes.load(Ordering::Relaxed);
        if !take(&Batch { sentences: &sentences, bytes_read, bytes_total })? {
            break;
        }
    }
    Ok(())
}

fn without_return(line: &str) -> &str {
    line.strip_suffix('\r').unwrap_or(line)
}

/// The texts of a chunk; `line` counts on.
fn texts<'c>(chunk: &'c Chunk, keys: &[String], input: &Input, line: &mut u64) -> Result<Vec<Cow<'c, str>>> {
    let bytes = without_mark(chunk);
    let mut texts = Vec::new();
    for bytes in bytes.strip_suffix(b"\n").unwrap_or(bytes).split(|byte| *byte == b'\n') {
        *line += 1;
        let bad = |what: String| Error::CorruptDataset { path: place(&input.path, Some(*line)).into(), what };
        let text = std::str::from_utf8(bytes)
            .map_err(|e| bad(format!("invalid UTF-8 at byte {}; convert the file first", e.valid_up_to())))?;
        if chunk.format != Format::JsonLines {
            texts.push(Cow::Borrowed(text));
        } else if !text.trim().is_empty() {
            texts.extend(json::texts(text, keys).map_err(bad)?);
        }
    }
    Ok(texts)
}
