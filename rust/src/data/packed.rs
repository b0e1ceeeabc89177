//! `Packed`: documents joined end to end and cut into samples of equal length.

use super::Samples;
use super::sample::{Piece, SampleReader};
use super::sample_index::SampleIndex;
use crate::error::Result;

/// Items of a `SampleIndex` in training order.
///
/// With NeoX's arrays `len` is one less than the samples at hand, as NeoX reports it. The item that
/// is left over is served too when it is asked for by number (a blend does); numbers beyond wrap.
pub(super) struct Packed {
    reader: SampleReader,
    index: SampleIndex,
    len: usize,
}

impl Packed {
    pub(super) fn new(reader: SampleReader, index: SampleIndex, len: usize) -> Self {
        Self { reader, index, len }
    }

    /// The pieces of sample `k`: from row `k` through row `k + 1`, whose token is the last one.
    fn pieces(&self, k: usize) -> impl Iterator<Item = Piece> + Clone {
        let [first, from] = self.index.samples[k];
        let [last, to] = self.index.samples[k + 1];
        (first..=last).map(move |place| {
            let document = self.index.documents[place as usize] as usize;
            let start = if place == first { from as usize } else { 0 };
            let end = if place == last { to as usize + 1 } else { self.reader.data.size(document) };
            (document, start..end)
        })
    }
}

impl Samples for Packed {
    fn len(&self) -> usize {
        self.len
    }

    fn fill(&self, index: usize, inputs: &mut [i32], targets: &mut [i32]) -> Result<()> {
        let item = if index < self.index.shuffle.len() { index } else { index % self.len };
        let sample = self.index.shuffle[item] as usize;
        self.reader.fill(self.pieces(sample), inputs, targets)
    }
}
