//! Where a run begins: anew, at a checkpoint, or with somebody's weights.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::manifest::{DataRecord, Manifest, ScheduleRecord};
use super::{store, verify};
use crate::error::{Error, Result};
use crate::train::config::CheckpointConfig;

/// What the caller wants when there is a checkpoint, and when there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Go on where there is a checkpoint, else begin.
    Auto,
    /// Begin; a `save` folder with checkpoints is refused.
    Never,
    /// Go on; without a checkpoint, an error.
    Must,
}

/// Where a run begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::train) enum Start {
    Fresh,
    /// Checkpoint `iteration` of `dir`.
    Continue {
        dir: PathBuf,
        iteration: usize,
    },
    /// The weights of checkpoint `iteration` of `dir`, at step 0.
    Finetune {
        dir: PathBuf,
        iteration: usize,
    },
    /// The weights of a folder of `transformers`, at step 0.
    Weights(PathBuf),
}

/// Decides, and says in `notes` what a user should know.
///
/// A `save` folder of its own that holds checkpoints comes first: it is this run, interrupted. Then
/// `load`, as GPT-NeoX has it, or a folder of `transformers` there.
///
/// # Errors
/// `Config` for contradictions; `Checkpoint` when what was asked for is absent or a pickle; `Io`.
pub(in crate::train) fn find(config: &CheckpointConfig, resume: Resume, notes: &mut Vec<String>) -> Result<Start> {
    let (save, load) = (config.save.as_deref(), config.load.as_deref());
    let one_folder = matches!((save, load), (Some(save), Some(load)) if same(save, load));
    let saved = save.map_or(Ok(None), store::latest)?;
    if resume == Resume::Never && saved.is_some() {
        return Err(occupied(save, saved));
    }
    if config.finetune && (load.is_none() || one_folder) {
        let what = "`finetune` starts at step 0 with the weights in `load`: give a `load` folder other than `save`";
        return Err(Error::Config(what.into()));
    }
    let start = match (config.iteration, saved, load) {
        (Some(wanted), ..) => numbered(config, wanted)?,
        (None, Some(iteration), _) => save.map(|dir| Start::Continue { dir: dir.to_owned(), iteration }),
        (None, None, Some(load)) => elsewhere(load, config.finetune)?,
        (None, None, None) => None,
    };
    let start = start.filter(|s| resume != Resume::Never || !matches!(s, Start::Continue { .. }));
    match start {
        Some(start) => Ok(start),
        None if resume == Resume::Must || config.finetune => Err(nothing(load.or(save))),
        None => {
            if let Some(load) = load.filter(|_| resume == Resume::Auto && !one_folder) {
                notes.push(format!("no checkpoint in {}; beginning at step 0", load.display()));
            }
            Ok(Start::Fresh)
        }
    }
}

fn same(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    real(a) == real(b)
}

fn occupied(save: Option<&Path>, saved: Option<usize>) -> Error {
    let (path, step) = (save.unwrap_or(Path::new("")).to_owned(), saved.unwrap_or(0));
    let what = format!(
        "holds checkpoints already (global_step{step}), and the run shall not go on from them; \
         choose another `save` folder, or resume"
    );
    Error::Checkpoint { path, what }
}

fn nothing(dir: Option<&Path>) -> Error {
    match dir {
        Some(dir) => Error::Checkpoint { path: dir.to_owned(), what: "holds no checkpoint to go on from".into() },
        None => Error::Config("nothing to go on from: the run has neither `save` nor `load`".into()),
    }
}

/// The step that `iteration` asks for, in `save` or in `load`.
fn numbered(config: &CheckpointConfig, iteration: usize) -> Result<Option<Start>> {
    let dirs: Vec<&Path> = if config.finetune { vec![] } else { vec![config.save.as_deref()] }
        .into_iter()
        .chain([config.load.as_deref()])
        .flatten()
        .collect();
    if let Some(dir) = dirs.iter().find(|dir| store::folder(dir, iteration).exists()) {
        let dir = dir.to_path_buf();
        let finetune = config.finetune;
        return Ok(Some(if finetune {
            Start::Finetune { dir, iteration }
        } else {
            Start::Continue { dir, iteration }
        }));
    }
    let Some(dir) = dirs.first() else {
        return Err(Error::Config(format!("`iteration: {iteration}` needs a `load` or `save` folder")));
    };
    let steps: Vec<String> = store::list(dir)?.iter().map(usize::to_string).collect();
    let there = if steps.is_empty() { "none".into() } else { steps.join(", ") };
    let what = format!("`iteration: {iteration}` is not among the checkpoints here (there: {there})");
    Err(Error::Checkpoint { path: dir.to_path_buf(), what })
}

/// What `load` holds.
fn elsewhere(load: &Path, finetune: bool) -> Result<Option<Start>> {
    if verify::is_pickle(load) {
        return Err(verify::refuse_pickle(load));
    }
    let dir = load.to_owned();
    if let Some(iteration) = store::latest(load)? {
        return Ok(Some(if finetune {
            Start::Finetune { dir, iteration }
        } else {
            Start::Continue { dir, iteration }
        }));
    }
    if load.join("config.json").is_file() && is_model(load) {
        return Ok(Some(Start::Weights(dir)));
    }
    match verify::first_pickle(load) {
        Some(pickle) => Err(verify::refuse_pickle(&pickle)),
        None => Ok(None),
    }
}

fn is_model(dir: &Path) -> bool {
    ["model.safetensors", "model.safetensors.index.json"].iter().any(|name| dir.join(name).is_file())
}

/// Keys of which a checkpoint and its run must agree: they shape the tensors or the mathematics.
const MODEL_KEYS: [&str; 27] = [
    "num_layers",
    "hidden_size",
    "num_attention_heads",
    "num_kv_heads",
    "intermediate_size",
    "expansion_factor",
    "ffn_hidden_size",
    "mlp_multiple_of",
    "max_position_embeddings",
    "make_vocab_size_divisible_by",
    "padded_vocab_size",
    "tokenizer_type",
    "model_parallel_size",
    "norm",
    "layernorm_epsilon",
    "rms_norm_epsilon",
    "activation",
    "bias_gelu_fusion",
    "pos_emb",
    "rotary_pct",
    "rotary_emb_base",
    "gpt_j_residual",
    "no_weight_tying",
    "use_bias_in_norms",
    "use_bias_in_attn_linear",
    "use_bias_in_mlp",
    "use_qk_layernorm",
];

/// Keys that decide which sample comes when.
const ORDER_KEYS: [&str; 3] = ["seq_length", "seed", "pack_impl"];

/// # Errors
/// `Checkpoint` listing each key that differs, with both values, and what to do.
pub(in crate::train) fn compare(folder: &Path, manifest: &Manifest, config: &Value, data: &DataRecord) -> Result<()> {
    let refuse = |what: String| Err(Error::Checkpoint { path: folder.to_owned(), what });
    let model = differences(&MODEL_KEYS, &manifest.config, config);
    if !model.is_empty() {
        return refuse(format!("holds another model: {}", model.join("; ")));
    }
    let advice = "the order of samples would change; to start at step 0 with these weights, set `finetune: true`, \
                  `load` this folder and `save` to another";
    let order = differences(&ORDER_KEYS, &manifest.config, config);
    if !order.is_empty() {
        return refuse(format!("was trained with other settings: {}; {advice}", order.join("; ")));
    }
    if manifest.data.fingerprint != data.fingerprint {
        return refuse(format!("was trained on other data (its fingerprint differs); {advice}"));
    }
    Ok(())
}

fn differences(keys: &[&str], before: &Value, now: &Value) -> Vec<String> {
    let differ = |key: &&&str| !equal(&before[**key], &now[**key]);
    keys.iter().filter(differ).map(|key| format!("{key} is {} there, {} here", before[*key], now[*key])).collect()
}

/// 1 and 1.0 are one number.
fn equal(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// The schedule to go on with. `None`: the config's.
///
/// # Errors
/// `Checkpoint` listing each value that differs, unless the config says which side wins.
pub(in crate::train) fn choose_schedule(
    folder: &Path,
    config: &CheckpointConfig,
    before: &ScheduleRecord,
    now: &ScheduleRecord,
) -> Result<Option<ScheduleRecord>> {
    if config.use_checkpoint_lr_scheduler {
        return Ok(Some(before.clone()));
    }
    let values = |record| serde_json::to_value(record).map_err(|e| Error::Internal(e.to_string()));
    let (was, is) = (values(before)?, values(now)?);
    let keys: Vec<&str> = is.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
    let differing = differences(&keys, &was, &is);
    if config.override_lr_scheduler || differing.is_empty() {
        return Ok(None);
    }
    let what = format!(
        "has another learning-rate schedule: {}; set `override_lr_scheduler: true` to take the config's, or \
         `use_checkpoint_lr_scheduler: true` to keep the checkpoint's",
        differing.join("; ")
    );
    Err(Error::Checkpoint { path: folder.to_owned(), what })
}
