//! Reading a folder: find the weights, check their names, fill the arena.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::tensors::TensorFile;
use super::{TokenIds, config};
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::model::Decoder;
use crate::model::layout::Family;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A model read from a folder.
#[derive(Debug)]
pub struct Imported<T> {
    pub decoder: Decoder,
    pub weights: Vec<T>,
    pub token_ids: TokenIds,
}

/// Reads a folder into f32.
///
/// # Errors
/// As [`import_as`].
pub fn import(dir: &Path) -> Result<(Decoder, Vec<f32>)> {
    let Imported { decoder, weights, .. } = import_as(dir)?;
    Ok((decoder, weights))
}

/// Reads a folder, converting each tensor to T.
///
/// # Errors
/// `Error::UnsupportedModel` naming the key, file or tensor that does not fit; `Error::Io`.
pub fn import_as<T: Element>(dir: &Path) -> Result<Imported<T>> {
    refuse_non_folder(dir)?;
    let mut files = find(dir)?;
    let (config, token_ids) = config::read(&dir.join("config.json"))?;
    let decoder = Decoder::new(config).map_err(|e| refuse(&dir.join("config.json"), e))?;
    let places = places(dir, &files)?;
    check_names(dir, &decoder, &places)?;
    let mut weights = vec![T::default(); decoder.num_params()];
    for param in decoder.params() {
        let stored = stored_name(&param.name, &places);
        let file = &mut files[places[stored]];
        file.read(stored, &param.shape, &mut weights[param.range()])?;
    }
    check_tied(&decoder, &mut files, &places, &weights)?;
    Ok(Imported { decoder, weights, token_ids })
}

fn refuse(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::UnsupportedModel(format!("{}: {what}", path.display()))
}

fn refuse_non_folder(dir: &Path) -> Result<()> {
    if dir.is_file() {
        return Err(refuse(dir, "give the folder that holds config.json and model.safetensors, not a file in it"));
    }
    std::fs::metadata(dir).map_err(Error::io(dir, "open")).map(|_| ())
}

/// The safetensors files of a folder.
fn find(dir: &Path) -> Result<Vec<TensorFile>> {
    let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
    if single.exists() {
        return Ok(vec![TensorFile::open(&single)?]);
    }
    if index.exists() {
        return shards(dir, &index)?.iter().map(|path| TensorFile::open(path)).collect();
    }
    Err(no_weights(dir))
}

/// What stands in the folder instead: a pickle is named, for it would run code when loaded.
fn no_weights(dir: &Path) -> Error {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let pickle = |name: &&String| {
        [".bin", ".bin.index.json", ".pt", ".pth", ".ckpt", ".pkl"].iter().any(|end| name.ends_with(end))
    };
    match names.iter().find(pickle) {
        Some(name) => refuse(
            &dir.join(name),
            format!("is a pickle, which can run code when loaded; convert the model to {SINGLE} with transformers"),
        ),
        None => refuse(dir, format!("holds neither {SINGLE} nor {INDEX}")),
    }
}

/// The files that the index names, each once.
fn shards(dir: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let text = std::fs::read(index).map_err(Error::io(index, "read"))?;
    let parsed: Value = serde_json::from_slice(&text).map_err(|e| refuse(index, format!("not JSON: {e}")))?;
    let map = parsed.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| refuse(index, "has no `weight_map` object"))?;
    let file = |value: &Value| match value.as_str() {
        Some(name) if !name.contains(['/', '\\']) && name.ends_with(".safetensors") => Ok(name.to_owned()),
        _ => Err(refuse(index, format!("`weight_map` names {value}; wanted a .safetensors file of this folder"))),
    };
    let names: BTreeSet<_> = map.values().map(file).collect::<Result<_>>()?;
    Ok(names.iter().map(|name| dir.join(name)).collect())
}

/// Which file holds each tensor.
fn places(dir: &Path, files: &[TensorFile]) -> Result<BTreeMap<String, usize>> {
    let mut places = BTreeMap::new();
    for (i, file) in files.iter().enumerate() {
        for name in file.names() {
            if places.insert(name.clone(), i).is_some() {
                return Err(refuse(dir, format!("tensor `{name}` stands in two files")));
            }
        }
    }
    Ok(places)
}

/// The name under which the file has the tensor: GPT-NeoX heads are called either way.
fn stored_name<'a>(name: &'a str, places: &BTreeMap<String, usize>) -> &'a str {
    match name {
        "embed_out.weight" if !places.contains_key(name) => "lm_head.weight",
        _ => name,
    }
}

/// The head's names in a file, whether or not the model has a matrix of its own.
fn heads(decoder: &Decoder) -> &'static [&'static str] {
    match Family::of(decoder.config()) {
        Family::Neox => &["embed_out.weight", "lm_head.weight"],
        Family::Llama => &["lm_head.weight"],
    }
}

/// Buffers of old files, which hold nothing that is not computed anyway.
fn is_stray(name: &str) -> bool {
    [".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq"].iter().any(|end| name.ends_with(end))
}

fn check_names(dir: &Path, decoder: &Decoder, places: &BTreeMap<String, usize>) -> Result<()> {
    let wanted: BTreeSet<_> = decoder.params().iter().map(|p| stored_name(&p.name, places)).collect();
    let missing: Vec<_> = wanted.iter().filter(|name| !places.contains_key(**name)).collect();
    let known =
        |name: &String| wanted.contains(name.as_str()) || is_stray(name) || heads(decoder).contains(&name.as_str());
    let foreign: Vec<_> = places.keys().filter(|name| !known(name)).collect();
    match (missing.first(), foreign.first()) {
        (None, None) => Ok(()),
        (Some(first), _) => Err(refuse(dir, format!("{} tensors are missing, the first is `{first}`", missing.len()))),
        (None, Some(first)) => {
            Err(refuse(dir, format!("{} tensors have no place in this model, the first is `{first}`", foreign.len())))
        }
    }
}

/// A tied model may store its head, provided that it is the embedding.
fn check_tied<T: Element>(
    decoder: &Decoder,
    files: &mut [TensorFile],
    places: &BTreeMap<String, usize>,
    weights: &[T],
) -> Result<()> {
    let Some(head) = heads(decoder).iter().find(|head| places.contains_key(**head)) else { return Ok(()) };
    if !decoder.config().tie_word_embeddings {
        return Ok(());
    }
    let embedding = &decoder.params()[0];
    let mut stored = vec![T::default(); embedding.len];
    files[places[*head]].read(head, &embedding.shape, &mut stored)?;
    if stored == weights[embedding.range()] {
        return Ok(());
    }
    let key = "`tie_word_embeddings` is true";
    Err(Error::UnsupportedModel(format!("{key}, but `{head}` differs from `{}`", embedding.name)))
}
