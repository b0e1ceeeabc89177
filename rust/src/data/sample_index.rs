//! Packed samples: the documents of some epochs in random order, cut into pieces of equal length.
//!
//! The tokens of the shuffled documents form one stream. Sample `k` is its tokens `k*s ..= k*s + s`
//! (s inputs and, shifted by one, s targets), so neighbours share one token. A second shuffle gives
//! the order in which samples are used. Both arrays equal those of GPT-NeoX or Megatron-LM.

use std::ops::Range;

use super::config::IndexFlavor;
use super::mt19937::Mt19937;
use crate::error::{Error, Result};

/// The three index arrays; 4 bytes a document and epoch, 12 a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleIndex {
    /// Sequence numbers in the order of the stream.
    pub documents: Vec<u32>,
    /// Row `k`: the place in `documents` of token `k*s` of the stream, and its offset there. One more
    /// row than samples.
    pub samples: Vec<[u32; 2]>,
    /// The sample that stands at each place of the training order.
    pub shuffle: Vec<u32>,
}

/// What the arrays are built from.
#[derive(Debug, Clone)]
pub struct IndexRequest {
    /// Sequences of this part of the dataset.
    pub documents: Range<usize>,
    pub seq_length: usize,
    pub seed: u32,
    /// Samples wanted; `None`: one epoch.
    pub samples: Option<usize>,
    pub flavor: IndexFlavor,
}

/// How many epochs the stream holds, and whether the last one is shuffled apart.
struct Plan {
    epochs: u64,
    tokens: u64,
    samples: u64,
    /// Megatron: samples before the last epoch, where few of the last are needed.
    before_last: Option<u64>,
}

impl SampleIndex {
    /// Builds the arrays in time linear in documents x epochs + samples. `size(i)` is the tokens of
    /// sequence `i`.
    ///
    /// # Errors
    /// `Config` where the documents hold too few tokens for a single sample, or too many for 32 bits.
    pub fn build(request: &IndexRequest, size: impl Fn(usize) -> usize) -> Result<Self> {
        let plan = Plan::new(request, &size)?;
        let mut rng = Mt19937::new(request.seed);
        let documents = documents(request, &plan, &mut rng);
        let samples = rows(&documents, &plan, request.seq_length as u64, &size);
        let shuffle = shuffle(&plan, &mut rng);
        Ok(Self { documents, samples, shuffle })
    }
}

impl Plan {
    fn new(request: &IndexRequest, size: impl Fn(usize) -> usize) -> Result<Self> {
        let (s, range) = (request.seq_length as u64, &request.documents);
        let tokens: u64 = range.clone().map(|i| size(i) as u64).sum();
        let few = |n: u64| {
            Error::Config(format!(
                "{} documents with {n} tokens make no sample of seq_length {s} + 1; use more text or a smaller \
                 seq_length",
                range.len()
            ))
        };
        let wanted = request.samples.map(|n| n as u64);
        if s == 0 || tokens == 0 {
            return Err(few(tokens));
        }
        // The least whole number of epochs with epochs * tokens >= n * s + 1, but at least one.
        let epochs = wanted.map_or(1, |n| (n * s + 1).div_ceil(tokens));
        let samples = (epochs * tokens - 1) / s;
        if samples == 0 {
            return Err(few(tokens));
        }
        check_width(epochs, range.end as u64, samples)?;
        let before_last = match (request.flavor, wanted) {
            (IndexFlavor::Megatron, Some(n)) if epochs > 1 => separate(epochs, tokens, s, n),
            _ => None,
        };
        Ok(Self { epochs, tokens, samples, before_last })
    }
}

/// Megatron shuffles the last epoch by itself if less than 80 % of its samples are needed: gives the
/// number of samples before it.
fn separate(epochs: u64, tokens: u64, s: u64, wanted: u64) -> Option<u64> {
    let before = ((epochs - 1) * tokens - 1) / s;
    let per_epoch = (tokens - 1) / s;
    let needed = wanted.saturating_sub(before);
    (needed < (0.8 * per_epoch as f64) as u64).then_some(before)
}

fn check_width(epochs: u64, documents: u64, samples: u64) -> Result<()> {
    let limit = u64::from(u32::MAX) - 1;
    if documents.saturating_mul(epochs) < limit && samples < limit {
        return Ok(());
    }
    Err(Error::Config(format!(
        "{documents} documents x {epochs} epochs = {samples} samples; an index holds 2^32 - 2 of each at most: train \
         for fewer iterations, or split the dataset"
    )))
}

fn documents(request: &IndexRequest, plan: &Plan, rng: &mut Mt19937) -> Vec<u32> {
    let per_epoch = request.documents.len();
    let mut documents = Vec::with_capacity(per_epoch * plan.epochs as usize);
    for _ in 0..plan.epochs {
        documents.extend(request.documents.clone().map(|i| i as u32));
    }
    let last = if plan.before_last.is_some() { per_epoch } else { 0 };
    let (first, last) = documents.split_at_mut(per_epoch * plan.epochs as usize - last);
    rng.shuffle(first);
    rng.shuffle(last);
    documents
}

fn rows(documents: &[u32], plan: &Plan, s: u64, size: impl Fn(usize) -> usize) -> Vec<[u32; 2]> {
    let mut rows = Vec::with_capacity(plan.samples as usize + 1);
    // Row 0 is (0, 0) even where the first documents are empty.
    rows.push([0, 0]);
    let (mut start, mut next) = (0, s);
    for (place, &document) in documents.iter().enumerate() {
        let end = start + size(document as usize) as u64;
        while next < end && rows.len() as u64 <= plan.samples {
            rows.push([place as u32, (next - start) as u32]);
            next += s;
        }
        start = end;
    }
    debug_assert_eq!((start, rows.len() as u64), (plan.epochs * plan.tokens, plan.samples + 1));
    rows
}

fn shuffle(plan: &Plan, rng: &mut Mt19937) -> Vec<u32> {
    let mut order: Vec<u32> = (0..plan.samples as u32).collect();
    let (first, last) = order.split_at_mut(plan.before_last.unwrap_or(plan.samples) as usize);
    rng.shuffle(first);
    rng.shuffle(last);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [usize; 6] = [5, 3, 7, 2, 6, 4];

    fn build(samples: Option<usize>, flavor: IndexFlavor) -> SampleIndex {
        let request = IndexRequest { documents: 0..6, seq_length: 4, seed: 1234, samples, flavor };
        SampleIndex::build(&request, |i| SIZES[i]).unwrap()
    }

    fn neox_golden() -> SampleIndex {
        SampleIndex {
            documents: vec![1, 2, 5, 2, 3, 4, 1, 0, 4, 5, 0, 3],
            samples: [
                (0, 0),
                (1, 1),
                (1, 5),
                (2, 2),
                (3, 2),
                (3, 6),
                (5, 1),
                (5, 5),
                (7, 0),
                (7, 4),
                (8, 3),
                (9, 1),
                (10, 1),
                (11, 0),
            ]
            .map(|(a, b)| [a, b])
            .to_vec(),
            shuffle: vec![7, 11, 2, 3, 1, 9, 5, 4, 0, 8, 6, 10, 12],
        }
    }

    #[test]
    fn neox_equals_its_golden() {
        assert_eq!(build(Some(10), IndexFlavor::Neox), neox_golden());
    }

    #[test]
    fn megatron_equals_its_goldens() {
        assert_eq!(build(Some(10), IndexFlavor::Megatron), neox_golden());
        let separate = build(Some(8), IndexFlavor::Megatron);
        assert_eq!(separate.documents, [2, 1, 5, 0, 4, 3, 0, 4, 3, 2, 5, 1]);
        let rows = [
            (0, 0),
            (0, 4),
            (1, 1),
            (2, 2),
            (3, 2),
            (4, 1),
            (4, 5),
            (6, 1),
            (7, 0),
            (7, 4),
            (9, 0),
            (9, 4),
            (10, 1),
            (11, 1),
        ];
        assert_eq!(separate.samples, rows.map(|(a, b)| [a, b]));
        assert_eq!(separate.shuffle, [1, 0, 3, 2, 5, 4, 8, 9, 11, 7, 10, 12, 6]);
    }

    #[test]
    fn one_epoch_where_no_count_is_given() {
        let index = build(None, IndexFlavor::Neox);
        assert_eq!((index.documents.len(), index.shuffle.len()), (6, 6));
    }

    #[test]
    fn empty_documents_change_no_token() {
        let sizes = [0usize, 5, 0, 0, 3, 0];
        let request =
            IndexRequest { documents: 0..6, seq_length: 2, seed: 3, samples: Some(3), flavor: IndexFlavor::Neox };
        let index = SampleIndex::build(&request, |i| sizes[i]).unwrap();
        for row in &index.samples[1..] {
            assert!((row[1] as usize) < sizes[index.documents[row[0] as usize] as usize]);
        }
    }

    #[test]
    fn too_little_text_is_an_error() {
        for (sizes, s) in [([0usize, 0], 4), ([1, 0], 4), ([2, 2], 4)] {
            let request =
                IndexRequest { documents: 0..2, seq_length: s, seed: 1, samples: None, flavor: IndexFlavor::Neox };
            assert!(matches!(SampleIndex::build(&request, |i| sizes[i]), Err(Error::Config(_))));
        }
    }
}
