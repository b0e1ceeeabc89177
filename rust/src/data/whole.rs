//! `pack_until_overflow` and `unpacked`: samples that hold whole documents, for labelled data.
//!
//! Both first shuffle the numbers 0..n (the training order), then go through the documents until n
//! samples exist. Documents without any label are passed over, and longer ones than a sample are
//! cut, or passed over too where `allow_chopped` is false. GPT-NeoX builds the same samples but for
//! two slips that are not copied: it ignores where the part of a split starts, and puts the first
//! token of the next document behind a sample.

use std::ops::Range;

use super::config::Packing;
use super::mt19937::Mt19937;
use super::sample::{Piece, SampleReader};
use super::{IGNORE, Samples};
use crate::error::{Error, Result};

pub(super) struct WholeDocuments {
    reader: SampleReader,
    /// Sequence numbers, sample by sample.
    documents: Vec<u32>,
    /// Where each sample starts in `documents`; one more entry than samples.
    starts: Vec<usize>,
    shuffle: Vec<u32>,
}

impl WholeDocuments {
    /// # Errors
    /// `Config` where no document can be used; `CorruptDataset` for labels out of range.
    pub(super) fn build(
        reader: SampleReader,
        part: Range<usize>,
        packing: Packing,
        allow_chopped: bool,
        samples: usize,
        seed: u32,
    ) -> Result<Self> {
        check_width(&part, samples)?;
        let mut rng = Mt19937::new(seed);
        let mut shuffle: Vec<u32> = (0..samples as u32).collect();
        rng.shuffle(&mut shuffle);
        let mut walk = Walk::new(&reader, part, packing, allow_chopped, rng);
        let (documents, starts) = match packing {
            Packing::Unpacked => one_each(&mut walk, samples)?,
            _ => until_overflow(&mut walk, samples)?,
        };
        Ok(Self { reader, documents, starts, shuffle })
    }
}

fn check_width(part: &Range<usize>, samples: usize) -> Result<()> {
    let limit = u32::MAX as usize;
    if part.end < limit && samples < limit {
        return Ok(());
    }
    let documents = part.end;
    Err(Error::Config(format!("{documents} documents for {samples} samples; 2^32 - 2 of each is the most")))
}

type Arrays = (Vec<u32>, Vec<usize>);

fn one_each(walk: &mut Walk, samples: usize) -> Result<Arrays> {
    let documents: Result<Vec<u32>> = (0..samples).map(|_| walk.next()).collect();
    Ok((documents?, (0..=samples).collect()))
}

/// Appends documents to a sample until the next one would not fit.
fn until_overflow(walk: &mut Walk, samples: usize) -> Result<Arrays> {
    let room = walk.reader.seq_length + 1;
    let (mut documents, mut starts, mut length) = (Vec::new(), Vec::new(), 0);
    loop {
        let document = walk.next()?;
        let size = walk.reader.data.size(document as usize);
        if starts.is_empty() || length + size > room {
            starts.push(documents.len());
            length = 0;
            if starts.len() > samples {
                return Ok((documents, starts));
            }
        }
        documents.push(document);
        length += size;
    }
}

/// The usable documents, pass after pass.
struct Walk<'a> {
    reader: &'a SampleReader,
    order: Vec<u32>,
    at: usize,
    /// Usable documents met in this pass.
    met: usize,
    /// Reshuffles the order before each pass; `None` keeps the order of the file.
    rng: Option<Mt19937>,
    allow_chopped: bool,
    /// Whether each document holds a label, once known.
    labelled: Vec<Option<bool>>,
    first: usize,
}

impl<'a> Walk<'a> {
    fn new(reader: &'a SampleReader, part: Range<usize>, packing: Packing, allow_chopped: bool, rng: Mt19937) -> Self {
        let mut rng = (packing != Packing::Unpacked).then_some(rng);
        let mut order: Vec<u32> = part.clone().map(|i| i as u32).collect();
        if let Some(rng) = &mut rng {
            rng.shuffle(&mut order);
        }
        Self { reader, order, at: 0, met: 0, rng, allow_chopped, labelled: vec![None; part.len()], first: part.start }
    }

    fn next(&mut self) -> Result<u32> {
        loop {
            if self.at == self.order.len() {
                self.start_again()?;
            }
            let document = self.order[self.at];
            self.at += 1;
            if self.usable(document as usize)? {
                self.met += 1;
                return Ok(document);
            }
        }
    }

    fn start_again(&mut self) -> Result<()> {
        if self.met == 0 {
            return Err(Error::Config(format!(
                "{}: none of the {} documents can be used: each is longer than seq_length + 1 (with allow_chopped \
                 false), empty or without a label",
                self.reader.data.prefix().display(),
                self.order.len()
            )));
        }
        if let Some(rng) = &mut self.rng {
            rng.shuffle(&mut self.order);
        }
        (self.at, self.met) = (0, 0);
        Ok(())
    }

    fn usable(&mut self, document: usize) -> Result<bool> {
        let size = self.reader.data.size(document);
        if size == 0 || (!self.allow_chopped && size > self.reader.seq_length + 1) {
            return Ok(false);
        }
        let slot = document - self.first;
        if let Some(known) = self.labelled[slot] {
            return Ok(known);
        }
        let found = self.has_label(document, size)?;
        self.labelled[slot] = Some(found);
        Ok(found)
    }

    fn has_label(&self, document: usize, size: usize) -> Result<bool> {
        let Some(labels) = &self.reader.labels else { return Ok(true) };
        let mut values = vec![0; size.min(self.reader.seq_length + 1)];
        labels.labels(document, 0, &mut values, self.reader.vocab_size, IGNORE)?;
        Ok(values.iter().any(|&label| label != IGNORE))
    }
}

impl Samples for WholeDocuments {
    fn len(&self) -> usize {
        self.shuffle.len()
    }

    fn fill(&self, index: usize, inputs: &mut [i32], targets: &mut [i32]) -> Result<()> {
        let sample = self.shuffle[index % self.len()] as usize;
        let documents = &self.documents[self.starts[sample]..self.starts[sample + 1]];
        let pieces = documents.iter().map(|&document| -> Piece {
            let document = document as usize;
            (document, 0..self.reader.data.size(document))
        });
        self.reader.fill(pieces, inputs, targets)
    }
}
