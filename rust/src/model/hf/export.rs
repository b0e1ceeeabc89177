//! Writing a folder: everything is written beside it, then renamed into place.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::tensors::{self, Source};
use super::{ExportOptions, config};
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::files;
use crate::model::layout::Family;
use crate::model::{Decoder, ModelConfig, Norm};

/// Writes `dir` as a folder that `transformers` opens: whole, or not at all.
///
/// # Errors
/// `Error::UnsupportedModel` with the list of keys that no class of `transformers` can follow;
/// `Error::Io`, also when `dir` holds something that `overwrite` does not cover.
pub fn export<T: Element>(decoder: &Decoder, weights: &[T], dir: &Path, options: &ExportOptions) -> Result<()> {
    let class = config::exportable(decoder.config())?;
    if weights.len() != decoder.num_params() {
        let (want, got) = (vec![decoder.num_params()], vec![weights.len()]);
        return Err(Error::Shape { op: "export", arg: "weights", want, got });
    }
    if dir.file_name().is_none() {
        return Err(Error::UnsupportedInput(format!("`{}` does not name a new folder", dir.display())));
    }
    check_target(dir, options.overwrite)?;
    let aside = files::aside(dir);
    let written = fill(&aside, decoder, weights, class, options).and_then(|()| replace(&aside, dir));
    if written.is_err() {
        // The first error is the one to report; a leftover temporary folder is harmless.
        let _ = fs::remove_dir_all(&aside);
    }
    written
}

/// An absent or empty folder is free; one with a `config.json` may be replaced when asked.
fn check_target(dir: &Path, overwrite: bool) -> Result<()> {
    let occupied = |action| Error::io(dir, action)(std::io::Error::from_raw_os_error(libc::EEXIST));
    let entries = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => return Err(Error::io(dir, "write a model folder")(e)),
    };
    match (entries, overwrite, dir.join("config.json").is_file()) {
        (false, ..) | (true, true, true) => Ok(()),
        (true, true, false) => Err(occupied("replace a folder that is no model folder")),
        (true, false, _) => Err(occupied("write a model folder over this one (pass overwrite=True to replace it)")),
    }
}

fn fill<T: Element>(
    aside: &Path,
    decoder: &Decoder,
    weights: &[T],
    class: config::Class,
    options: &ExportOptions,
) -> Result<()> {
    fs::create_dir_all(aside).map_err(Error::io(aside, "create"))?;
    write_weights(aside, &sources(decoder, weights), options)?;
    write_json(&aside.join("config.json"), config::write(decoder.config(), class, options))?;
    let mut generation = config::token_ids(&options.token_ids);
    generation.retain(|_, value| !value.is_null());
    generation.insert("_from_model_config".into(), json!(true));
    write_json(&aside.join("generation_config.json"), generation)?;
    for (name, content) in &options.files {
        write_bytes(&aside.join(plain(name)?), content)?;
    }
    files::sync_dir(aside)
}

/// A further file stays inside the folder and replaces none of ours.
fn plain(name: &str) -> Result<&str> {
    let ours = name.ends_with(".safetensors") || name == "config.json" || name == "model.safetensors.index.json";
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) || ours {
        return Err(Error::UnsupportedInput(format!("`{name}` cannot be a further file of a model folder")));
    }
    Ok(name)
}

/// Puts the finished folder in place of what stands there.
fn replace(aside: &Path, dir: &Path) -> Result<()> {
    let rename = |from: &Path, to: &Path| fs::rename(from, to).map_err(Error::io(to, "rename into place"));
    let old = old_name(dir);
    let occupied = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if occupied {
        rename(dir, &old)?;
    }
    if let Err(error) = rename(aside, dir) {
        if occupied {
            rename(&old, dir)?;
        }
        return Err(error);
    }
    if occupied {
        fs::remove_dir_all(&old).map_err(Error::io(&old, "remove"))?;
    }
    files::sync_dir(dir.parent().unwrap_or(Path::new(".")))
}

fn old_name(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.old", std::process::id()));
    dir.with_file_name(name)
}

fn write_bytes(path: &Path, content: &[u8]) -> Result<()> {
    files::write_atomically(path, |out| std::io::Write::write_all(out, content).map_err(Error::io(path, "write")))
}

fn write_json(path: &Path, value: Map<String, Value>) -> Result<()> {
    let text = serde_json::to_vec_pretty(&Value::Object(value)).map_err(|e| Error::Internal(e.to_string()))?;
    write_bytes(path, &[text, b"\n".to_vec()].concat())
}

/// Every tensor that the class wants, sorted by name; biases that the model lacks are zeros.
fn sources<'w, T: Element>(decoder: &Decoder, weights: &'w [T]) -> Vec<Source<'w, T>> {
    let own = decoder.params().iter().map(|p| Source {
        name: p.name.clone(),
        shape: p.shape.clone(),
        values: Some(&weights[p.range()]),
    });
    let absent =
        absent_biases(decoder.config()).into_iter().map(|(name, len)| Source { name, shape: vec![len], values: None });
    let mut all: Vec<_> = own.chain(absent).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// GPT-NeoX's class always has biases in its norms and its MLP.
fn absent_biases(config: &ModelConfig) -> Vec<(String, usize)> {
    let mut absent = Vec::new();
    if Family::of(config) != Family::Neox || config.norm != Norm::LayerNorm {
        return absent;
    }
    let (width, ffn) = (config.hidden_size, config.ffn_hidden_size);
    for i in 0..config.num_layers {
        let layer = |name: &str| format!("gpt_neox.layers.{i}.{name}.bias");
        if !config.bias.norm {
            absent.extend([(layer("input_layernorm"), width), (layer("post_attention_layernorm"), width)]);
        }
        if !config.bias.mlp {
            absent.extend([(layer("mlp.dense_h_to_4h"), ffn), (layer("mlp.dense_4h_to_h"), width)]);
        }
    }
    if !config.bias.norm {
        absent.push(("gpt_neox.final_layer_norm.bias".into(), width));
    }
    absent
}

/// One file, or shards with their index.
fn write_weights<T: Element>(dir: &Path, sources: &[Source<T>], options: &ExportOptions) -> Result<()> {
    let shards = shards(sources, options);
    if let [one] = shards.as_slice() {
        return tensors::write(&dir.join("model.safetensors"), one, options.dtype);
    }
    let mut map = Map::new();
    for (k, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", k + 1, shards.len());
        tensors::write(&dir.join(&name), shard, options.dtype)?;
        map.extend(shard.iter().map(|source| (source.name.clone(), json!(name))));
    }
    let total: usize = sources.iter().map(|source| source.bytes(options.dtype)).sum();
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    let Value::Object(index) = index else { return Err(Error::Internal("the index is an object".into())) };
    write_json(&dir.join("model.safetensors.index.json"), index)
}

/// Consecutive tensors, as many as fit a shard; at least one each.
fn shards<'s, 'w, T: Element>(sources: &'s [Source<'w, T>], options: &ExportOptions) -> Vec<Vec<&'s Source<'w, T>>> {
    let mut shards: Vec<Vec<&Source<T>>> = vec![Vec::new()];
    let mut filled = 0;
    for source in sources {
        let bytes = source.bytes(options.dtype);
        if filled > 0 && filled + bytes > options.max_shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push(source);
        }
    }
    shards
}
