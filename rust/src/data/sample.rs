//! Pieces of documents become one sample: inputs, targets, and no loss where none is wanted.

use std::ops::Range;
use std::sync::Arc;

use super::IGNORE;
use super::indexed::IndexedDataset;
use crate::error::{Error, Result};

/// A dataset, its labels where the loss is not on every token, and the form of a sample.
#[derive(Clone)]
pub(super) struct SampleReader {
    pub(super) data: Arc<IndexedDataset>,
    pub(super) labels: Option<Arc<IndexedDataset>>,
    pub(super) seq_length: usize,
    pub(super) vocab_size: usize,
    /// No loss where the input is this token.
    pub(super) masked: Option<i32>,
}

/// Tokens `range` of a sequence.
pub(super) type Piece = (usize, Range<usize>);

impl SampleReader {
    /// Joins `pieces` to `seq_length + 1` tokens (cut, or filled up with id 0 and no loss) and writes
    /// the inputs and the targets, which are one token ahead.
    pub(super) fn fill(
        &self,
        pieces: impl Iterator<Item = Piece> + Clone,
        inputs: &mut [i32],
        targets: &mut [i32],
    ) -> Result<()> {
        let s = self.seq_length;
        for (arg, out) in [("inputs", &*inputs), ("targets", &*targets)] {
            if out.len() != s {
                return Err(Error::Shape { op: "samples", arg, want: vec![s], got: vec![out.len()] });
            }
        }
        let mut tokens = vec![0; s + 1];
        let filled = join(pieces.clone(), &mut tokens, |i, start, out| self.data.ids(i, start, out, self.vocab_size))?;
        inputs.copy_from_slice(&tokens[..s]);
        if let Some(labels) = &self.labels {
            join(pieces, &mut tokens, |i, start, out| labels.labels(i, start, out, self.vocab_size, IGNORE))?;
        }
        tokens[filled..].fill(IGNORE);
        targets.copy_from_slice(&tokens[1..]);
        if let Some(eod) = self.masked {
            inputs.iter().zip(targets).filter(|(id, _)| **id == eod).for_each(|(_, target)| *target = IGNORE);
        }
        Ok(())
    }
}

/// Reads the pieces one after the other until `out` is full; gives how many tokens there were.
fn join(
    pieces: impl Iterator<Item = Piece>,
    out: &mut [i32],
    read: impl Fn(usize, usize, &mut [i32]) -> Result<()>,
) -> Result<usize> {
    let mut at = 0;
    for (document, range) in pieces {
        let n = range.len().min(out.len() - at);
        read(document, range.start, &mut out[at..at + n])?;
        at += n;
    }
    Ok(at)
}

/// A label set must mirror its tokens sequence by sequence.
pub(super) fn check_twins(data: &IndexedDataset, labels: &IndexedDataset) -> Result<()> {
    let differ = |what: String| Err(Error::CorruptDataset { path: labels.idx_path(), what });
    if data.len() != labels.len() {
        let (path, n, m) = (data.prefix().display(), data.len(), labels.len());
        return differ(format!("{m} label sequences for the {n} of {path}"));
    }
    match (0..data.len()).find(|&i| data.size(i) != labels.size(i)) {
        None => Ok(()),
        Some(i) => differ(format!(
            "sequence {i} has {} labels for the {} tokens of {}",
            labels.size(i),
            data.size(i),
            data.prefix().display()
        )),
    }
}
