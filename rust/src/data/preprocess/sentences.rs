//! The sentences of text files, for those who train on text rather than tokenize it.

use std::sync::Arc;

use super::inputs::{Input, Parquet};
use super::read::Documents;
use crate::error::Result;

/// Some sentences in the order of the text.
pub struct Sentences<'a> {
    pub texts: &'a [&'a str],
    /// Bytes of the input files read so far, and of all of them.
    pub bytes_read: u64,
    pub bytes_total: u64,
}

/// Hands all lines of the documents of `inputs` to `take`, in order, batch by batch, until it says `false`.
///
/// # Errors
/// Those of [`Documents`]; what `take` returns.
pub fn sentences(
    inputs: &[Input],
    key: &str,
    parquet: Option<Arc<dyn Parquet>>,
    mut take: impl FnMut(&Sentences<'_>) -> Result<bool>,
) -> Result<()> {
    let bytes_total = inputs.iter().map(|input| input.len).sum();
    let mut documents = Documents::new(inputs, key, parquet, false);
    while let Some(batch) = documents.next() {
        let batch = batch?;
        let lines = batch.documents.iter().flat_map(|document| document.text.split('\n'));
        let texts: Vec<&str> = lines.map(|line| line.strip_suffix('\r').unwrap_or(line)).collect();
        if !take(&Sentences { texts: &texts, bytes_read: documents.bytes_read(), bytes_total })? {
            break;
        }
    }
    Ok(())
}
