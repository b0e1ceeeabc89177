//! Datasets and what the run must know of its tokenizer.

use std::path::PathBuf;

use super::control::{Batch, Length};
use crate::data::{DataConfig, IndexFlavor, Packing, Source, Sources};
use crate::error::{Error, Result};
use crate::model::ModelConfig;
use crate::train::config::run::TokenizerConfig;
use crate::train::config::values::{Value, Values};
use crate::train::config::vocabulary;

const PARTS: [&str; 3] = ["train", "valid", "test"];

pub(super) fn tokenizer(values: &Values) -> Result<TokenizerConfig> {
    Ok(TokenizerConfig {
        kind: vocabulary::kind(values)?,
        vocab_file: values.opt_text("vocab_file")?.map(PathBuf::from),
        merge_file: values.opt_text("merge_file")?.map(PathBuf::from),
        eod_token: values.opt_text("eod_token")?,
    })
}

pub(super) fn data(
    values: &mut Values,
    model: &ModelConfig,
    batch: &Batch,
    length: &Length,
    eod: Option<u32>,
) -> Result<Option<DataConfig>> {
    let sources = sources(values)?;
    let packing = packing(values)?;
    let eod_mask_loss = values.bool("eod_mask_loss")?;
    check_packing(values, packing, sources.as_ref())?;
    check_epochs(values, packing, length)?;
    if eod_mask_loss && eod.is_none() {
        return Err(Error::Config(format!(
            "{} needs the end-of-document token: name the tokenizer's file as \"vocab_file\"",
            values.at("eod_mask_loss")
        )));
    }
    let Some(sources) = sources else { return Ok(None) };
    Ok(Some(DataConfig {
        sources,
        packing,
        allow_chopped: values.bool("allow_chopped")?,
        flavor: flavor(values)?,
        weight_by_num_documents: values.bool("weight_by_num_documents")?,
        weighted_sampler_alpha: values.float("weighted_sampler_alpha")?,
        eod_mask_loss,
        eod,
        seq_length: values.usize("seq_length")?,
        seed: super::control::seed(values)?,
        samples: samples(batch, length)?,
        vocab_size: model.vocab_size,
    }))
}

/// One path with a split, or three lists; `None` where no data is named.
fn sources(values: &mut Values) -> Result<Option<Sources>> {
    let path = values.opt_text("data_path")?;
    let split = values.text("split")?;
    check_split(values, &split)?;
    let given: Vec<_> = PARTS.iter().filter(|part| values.given(&format!("{part}_data_paths"))).collect();
    for part in PARTS {
        let labels = format!("{part}_label_data_paths");
        if values.given(&labels) && !values.given(&format!("{part}_data_paths")) {
            return Err(Error::Config(format!("{} needs \"{part}_data_paths\" beside it", values.at(&labels))));
        }
        let weights = format!("{part}_data_weights");
        if values.given(&weights) && !values.given(&format!("{part}_data_paths")) {
            return Err(Error::Config(format!("{} needs \"{part}_data_paths\" beside it", values.at(&weights))));
        }
    }
    match (path, given.len()) {
        (Some(_), 1..) => Err(Error::Config(format!(
            "{} and {} exclude each other; remove one",
            values.at("data_path"),
            values.at(&format!("{}_data_paths", given[0]))
        ))),
        (Some(path), _) => Ok(Some(Sources::Split { path: path.into(), split })),
        (None, 0) => Ok(None),
        (None, 3) => {
            let [train, valid, test] = PARTS.map(|part| list(values, part));
            Ok(Some(Sources::Lists { train: train?, valid: valid?, test: test? }))
        }
        (None, _) => {
            let missing =
                PARTS.iter().filter(|part| !given.contains(part)).map(|part| format!("\"{part}_data_paths\""));
            Err(Error::Config(format!(
                "{}: the lists for train, valid and test come together; {} is missing",
                values.at(&format!("{}_data_paths", given[0])),
                missing.collect::<Vec<_>>().join(" and ")
            )))
        }
    }
}

/// At most three shares, 0 or more, not all 0.
fn check_split(values: &Values, split: &str) -> Result<()> {
    let shares: Option<Vec<f64>> = split.split([',', '/']).map(|share| share.trim().parse().ok()).collect();
    let sum: f64 = shares.iter().flatten().sum();
    let usable = shares.is_some_and(|shares| shares.iter().all(|share| *share >= 0.0)) && sum > 0.0 && sum.is_finite();
    if usable {
        return Ok(());
    }
    Err(Error::Config(format!(
        "{} must be shares for train, valid and test such as \"969, 30, 1\", got {split:?}",
        values.at("split")
    )))
}

fn list(values: &mut Values, part: &'static str) -> Result<Vec<Source>> {
    let names = |suffix: &str| format!("{part}_{suffix}");
    let paths = values.texts(&names("data_paths"))?.unwrap_or_default();
    let at = values.at(&names("data_paths"));
    if paths.is_empty() {
        return Err(Error::Config(format!("{at} is empty; name at least one dataset")));
    }
    let weights = match values.floats(&names("data_weights"))? {
        Some(weights) => same_length(values, &names("data_weights"), weights, &at, paths.len())?,
        None => vec![1.0; paths.len()],
    };
    if weights.iter().sum::<f64>() <= 0.0 {
        return Err(Error::Config(format!("{} are all 0", values.at(&names("data_weights")))));
    }
    let labels = match values.texts(&names("label_data_paths"))? {
        Some(labels) => same_length(values, &names("label_data_paths"), labels, &at, paths.len())?,
        None => Vec::new(),
    };
    let key = match part {
        "train" => "train_data_weights",
        "valid" => "valid_data_weights",
        _ => "test_data_weights",
    };
    values.derive(key, Value::Floats(weights.clone()));
    let source = |(i, path): (usize, String)| Source {
        path: path.into(),
        labels: labels.get(i).map(PathBuf::from),
        weight: weights[i],
    };
    Ok(paths.into_iter().enumerate().map(source).collect())
}

fn same_length<T>(values: &Values, name: &str, items: Vec<T>, paths: &str, wanted: usize) -> Result<Vec<T>> {
    if items.len() != wanted {
        let got = items.len();
        return Err(Error::Config(format!("{} has {got} entries, but {paths} has {wanted}", values.at(name))));
    }
    Ok(items)
}

fn packing(values: &Values) -> Result<Packing> {
    Ok(match values.text("pack_impl")?.as_str() {
        "pack_until_overflow" => Packing::PackUntilOverflow,
        "unpacked" => Packing::Unpacked,
        _ => Packing::Packed,
    })
}

fn flavor(values: &Values) -> Result<IndexFlavor> {
    let megatron = values.text("index_flavor")? == "megatron";
    Ok(if megatron { IndexFlavor::Megatron } else { IndexFlavor::Neox })
}

fn check_packing(values: &Values, packing: Packing, sources: Option<&Sources>) -> Result<()> {
    let labelled = match sources {
        None => return Ok(()),
        Some(Sources::Split { .. }) => false,
        Some(Sources::Lists { train, .. }) => train.iter().all(|source| source.labels.is_some()),
    };
    if packing == Packing::Unpacked && !labelled {
        return Err(Error::Config(format!(
            "{} unpacked needs \"train_label_data_paths\": documents are padded, and only targets tell where they end",
            values.at("pack_impl")
        )));
    }
    Ok(())
}

/// An epoch is one pass over one packed order, so nothing may reweight it.
fn check_epochs(values: &Values, packing: Packing, length: &Length) -> Result<()> {
    if length.train_epochs.is_none() {
        return Ok(());
    }
    let weighted = values.floats("train_data_weights")?.is_some_and(|weights| weights.iter().any(|w| *w != 1.0));
    let culprit = if packing != Packing::Packed {
        "pack_impl"
    } else if values.bool("weight_by_num_documents")? {
        "weight_by_num_documents"
    } else if weighted {
        "train_data_weights"
    } else {
        return Ok(());
    };
    Err(Error::Config(format!(
        "{} and {} exclude each other; use \"train_iters\"",
        values.at("train_epochs"),
        values.at(culprit)
    )))
}

/// Train: all steps. Valid: an evaluation at each interval and one at the end. Test: one.
fn samples(batch: &Batch, length: &Length) -> Result<[Option<usize>; 3]> {
    let evaluations = length.train_iters.map_or(1, |iters| iters / length.eval_interval + 1);
    let count = |steps: Option<usize>| {
        let sequences = steps.and_then(|steps| steps.checked_mul(batch.sequences));
        sequences.ok_or_else(|| Error::Config("the run asks for more samples than can be counted".into()))
    };
    let train = length.train_iters.map(|iters| count(Some(iters))).transpose()?;
    Ok([train, Some(count(evaluations.checked_mul(length.eval_iters))?), Some(count(Some(length.eval_iters))?)])
}
