//! From a `DataConfig` to the three sequences of samples of a run.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::blend::{Blend, normalized, normalized_as_numpy, weights_by_documents};
use super::config::{DataConfig, IndexFlavor, Packing, Source, Sources};
use super::indexed::IndexedDataset;
use super::packed::Packed;
use super::sample::{SampleReader, check_twins};
use super::sample_index::{IndexRequest, SampleIndex};
use super::whole::WholeDocuments;
use super::{Samples, fingerprint, split};
use crate::error::{Error, Result};

/// What a run reads.
pub struct Parts {
    pub train: Arc<dyn Samples>,
    pub valid: Option<Arc<dyn Samples>>,
    pub test: Option<Arc<dyn Samples>>,
    /// Changes when the content of any dataset changes (see `fingerprint`).
    pub fingerprint: String,
    /// What a user should know, a sentence each.
    pub warnings: Vec<String>,
}

const NAMES: [&str; 3] = ["train", "valid", "test"];

/// Opens the datasets and builds their indices.
///
/// # Errors
/// `Config` for values that give no samples, `Io` and `CorruptDataset` for files.
pub fn build(config: &DataConfig) -> Result<Parts> {
    let mut builder = Builder { config, open: HashMap::new(), prints: Vec::new(), warnings: Vec::new() };
    builder.check()?;
    let [train, valid, test] = match &config.sources {
        Sources::Split { path, split } => builder.split(path, split)?,
        Sources::Lists { train, valid, test } => builder.lists([train, valid, test])?,
    };
    let train = train.ok_or_else(|| Error::Config("no training documents: the train part is empty".into()))?;
    let fingerprint = fingerprint::of_all(builder.prints.iter().map(String::as_str));
    Ok(Parts { train, valid, test, fingerprint, warnings: builder.warnings })
}

struct Builder<'a> {
    config: &'a DataConfig,
    open: HashMap<PathBuf, Arc<IndexedDataset>>,
    prints: Vec<String>,
    warnings: Vec<String>,
}

type Part = Option<Arc<dyn Samples>>;

impl Builder<'_> {
    fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::Config(what.into()));
        let c = self.config;
        if c.vocab_size == 0 || c.vocab_size > i32::MAX as usize {
            return Err(Error::Config(format!("vocab_size {}: 1 to 2^31 - 1", c.vocab_size)));
        }
        if c.eod_mask_loss && c.eod.is_none() {
            return wrong("eod_mask_loss needs the id of the end-of-document token (`eod_token`)");
        }
        if c.packing != Packing::Packed && c.samples[0].is_none() {
            return wrong("train_epochs works with pack_impl `packed` only; give train_iters");
        }
        Ok(())
    }

    fn split(&mut self, path: &Path, split: &str) -> Result<[Part; 3]> {
        let source = Source { path: path.to_owned(), labels: None, weight: 1.0 };
        let reader = self.reader(&source)?;
        let n = reader.data.len();
        let bounds = split::bounds(split, n, self.config.flavor)?;
        let mut parts = [None, None, None];
        for (i, part) in parts.iter_mut().enumerate() {
            let range = bounds[i]..bounds[i + 1];
            let wanted = self.config.samples[i] != Some(0);
            if range.is_empty() && wanted {
                let name = NAMES[i];
                self.warnings
                    .push(format!("split \"{split}\" leaves no {name} documents of {n} in {}", path.display()));
            }
            if !range.is_empty() && wanted {
                *part = Some(self.samples(reader.clone(), range, self.config.samples[i])?);
            }
        }
        Ok(parts)
    }

    fn lists(&mut self, lists: [&[Source]; 3]) -> Result<[Part; 3]> {
        let mut parts = [None, None, None];
        for (i, (part, sources)) in parts.iter_mut().zip(lists).enumerate() {
            if !sources.is_empty() && self.config.samples[i] != Some(0) {
                *part = Some(self.blend(NAMES[i], sources, self.config.samples[i])?);
            }
        }
        Ok(parts)
    }

    fn blend(&mut self, name: &str, sources: &[Source], wanted: Option<usize>) -> Result<Arc<dyn Samples>> {
        let mut readers = sources.iter().map(|source| self.reader(source)).collect::<Result<Vec<_>>>()?;
        let mut weights = self.weights(sources, &readers)?;
        self.drop_unused(name, &mut readers, &mut weights);
        let mut sets = Vec::with_capacity(readers.len());
        for (reader, weight) in readers.into_iter().zip(&weights) {
            let all = 0..reader.data.len();
            sets.push(self.samples(reader, all, wanted.map(|n| self.share(n, *weight)))?);
        }
        let lengths = sets.iter().map(|set| set.len());
        let (len, weights) = match wanted {
            // One epoch: each set in proportion to its length, so that each sample comes once.
            None => (lengths.clone().sum(), normalized(&lengths.map(|n| n as f64).collect::<Vec<_>>())?),
            Some(n) => (self.blended_len(n, &weights, lengths.sum()), self.blending_weights(weights)),
        };
        Ok(Arc::new(Blend::new(sets, weights, len)))
    }

    /// The weights that decide how many samples each set must hold.
    fn weights(&self, sources: &[Source], readers: &[SampleReader]) -> Result<Vec<f64>> {
        if self.config.weight_by_num_documents {
            let documents: Vec<usize> = readers.iter().map(|reader| reader.data.len()).collect();
            return normalized(&weights_by_documents(&documents, self.config.weighted_sampler_alpha));
        }
        let given: Vec<f64> = sources.iter().map(|source| source.weight).collect();
        let plain = normalized(&given)?;
        Ok(match self.config.flavor {
            IndexFlavor::Neox => plain,
            IndexFlavor::Megatron => normalized_as_numpy(&given),
        })
    }

    /// A set of weight 0 gives no sample (upstream's greedy rule may take one of it).
    fn drop_unused(&mut self, name: &str, readers: &mut Vec<SampleReader>, weights: &mut Vec<f64>) {
        for (reader, _) in readers.iter().zip(weights.iter()).filter(|(_, weight)| **weight == 0.0) {
            let path = reader.data.prefix().display();
            self.warnings.push(format!("{path} has weight 0 in the {name} data and is not used"));
        }
        let mut keep = weights.clone().into_iter().map(|weight| weight > 0.0);
        readers.retain(|_| keep.next() == Some(true));
        weights.retain(|weight| *weight > 0.0);
    }

    /// Samples that a set of this weight must hold, with half a percent to spare.
    fn share(&self, samples: usize, weight: f64) -> usize {
        match self.config.flavor {
            IndexFlavor::Neox => (samples as f64 * weight * 1.005).ceil() as usize,
            IndexFlavor::Megatron => ((samples as f64 * weight).ceil() * 1.005).ceil() as usize,
        }
    }

    fn blended_len(&self, samples: usize, weights: &[f64], sum: usize) -> usize {
        match self.config.flavor {
            IndexFlavor::Neox => sum,
            IndexFlavor::Megatron => weights.iter().map(|w| (samples as f64 * w).ceil() as usize).sum(),
        }
    }

    fn blending_weights(&self, weights: Vec<f64>) -> Vec<f64> {
        match self.config.flavor {
            IndexFlavor::Neox => normalized_as_numpy(&weights),
            IndexFlavor::Megatron => weights,
        }
    }

    fn samples(
        &mut self,
        reader: SampleReader,
        documents: Range<usize>,
        samples: Option<usize>,
    ) -> Result<Arc<dyn Samples>> {
        let c = self.config;
        if c.packing != Packing::Packed {
            return Ok(Arc::new(self.whole(reader, documents, samples)?));
        }
        let request = IndexRequest { documents, seq_length: c.seq_length, seed: c.seed, samples, flavor: c.flavor };
        let named = |e| match e {
            Error::Config(what) => Error::Config(format!("{}: {what}", reader.data.prefix().display())),
            other => other,
        };
        let index = SampleIndex::build(&request, |i| reader.data.size(i)).map_err(named)?;
        let len = match c.flavor {
            IndexFlavor::Neox => (index.shuffle.len() - 1).max(1),
            IndexFlavor::Megatron => index.shuffle.len(),
        };
        Ok(Arc::new(Packed::new(reader, index, len)))
    }

    fn whole(&self, reader: SampleReader, part: Range<usize>, samples: Option<usize>) -> Result<WholeDocuments> {
        let c = self.config;
        if c.packing == Packing::Unpacked && reader.labels.is_none() {
            return Err(Error::Config("pack_impl `unpacked` needs label datasets (train_label_data_paths)".into()));
        }
        let samples = samples.unwrap_or(part.len()).max(1);
        WholeDocuments::build(reader, part, c.packing, c.allow_chopped, samples, c.seed)
    }

    fn reader(&mut self, source: &Source) -> Result<SampleReader> {
        let data = self.open(&source.path)?;
        if data.is_empty() {
            let what = "no sequences; is it the right file?".into();
            return Err(Error::CorruptDataset { path: data.idx_path(), what });
        }
        let labels = source.labels.as_ref().map(|path| self.open(path)).transpose()?;
        if let Some(labels) = &labels {
            check_twins(&data, labels)?;
        }
        let masked = if self.config.eod_mask_loss { self.config.eod.map(|id| id as i32) } else { None };
        let (seq_length, vocab_size) = (self.config.seq_length, self.config.vocab_size);
        Ok(SampleReader { data, labels, seq_length, vocab_size, masked })
    }

    /// Opens each dataset once, and adds it to the fingerprint.
    fn open(&mut self, path: &Path) -> Result<Arc<IndexedDataset>> {
        if let Some(dataset) = self.open.get(path) {
            return Ok(dataset.clone());
        }
        let dataset = Arc::new(IndexedDataset::open(path)?);
        self.prints.push(fingerprint::of_dataset(&dataset)?);
        self.open.insert(path.to_owned(), dataset.clone());
        Ok(dataset)
    }
}
