//! Checkpoints: a folder `global_step{N}` of safetensors and a manifest, whole or absent.
//!
//! | file | content |
//! |---|---|
//! | `model.safetensors` | the f32 weights under the names of `transformers` |
//! | `config.json`, `generation_config.json` | where a class of `transformers` computes this model: the folder opens there |
//! | `optimizer.safetensors` | `exp_avg.{name}` and `exp_avg_sq.{name}`, f32 |
//! | `manifest.json` | progress, schedule, scaler, data, configuration, SHA-256 of each file |
//! | `manifest.sha256` | SHA-256 of the manifest |

mod manifest;
mod resume;
mod store;
mod tensors;
mod verify;

use std::path::Path;

pub use manifest::{DataRecord, FileRecord, Manifest, Progress, RngRecord, ScheduleRecord};
pub use resume::Resume;
pub(super) use resume::{Start, choose_schedule, compare, find};
pub use store::{Store, folder, latest, list};
pub use verify::verify;
pub(super) use verify::verify_newest;

use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::model::hf::{self, ExportOptions};
use crate::model::{Decoder, Param};
use tensors::{Tensor, TensorFile};

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

/// The arenas of a run, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct Arenas<'a> {
    pub weights: &'a [f32],
    /// AdamW's m and v; `None` leaves them out (`no_save_optim`).
    pub moments: Option<[&'a [f32]; 2]>,
}

/// Fills `folder`, which must not exist.
///
/// # Errors
/// `Io`; `Interrupted`.
pub fn write(
    folder: &Path,
    decoder: &Decoder,
    arenas: Arenas,
    export: &ExportOptions,
    manifest: &mut Manifest,
    interrupt: Interrupt,
) -> Result<()> {
    match hf::export(decoder, arenas.weights, folder, export) {
        // Such a model trains, but no class of transformers opens it.
        Err(Error::UnsupportedModel(_)) => {
            std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
            let own = decoder.params().iter().map(|p| tensor(p, p.name.clone(), arenas.weights));
            tensors::write(&folder.join(MODEL), &own.collect::<Vec<_>>(), interrupt)?;
        }
        other => other?,
    }
    if let Some(moments) = arenas.moments {
        let named =
            |(prefix, arena)| decoder.params().iter().map(move |p| tensor(p, format!("{prefix}.{}", p.name), arena));
        let all: Vec<_> = MOMENTS.iter().zip(moments).flat_map(named).collect();
        tensors::write(&folder.join(OPTIMIZER), &all, interrupt)?;
    }
    manifest.seal(folder, interrupt)
}

fn tensor<'a>(param: &'a Param, name: String, arena: &'a [f32]) -> Tensor<'a> {
    Tensor { name, shape: &param.shape, data: &arena[param.range()] }
}

/// Reads the weights of a checkpoint into the arena.
///
/// # Errors
/// `Checkpoint` naming the tensor that is missing, of another shape, or not finite.
pub(super) fn read_weights(folder: &Path, decoder: &Decoder, weights: &mut [f32]) -> Result<()> {
    let mut file = TensorFile::open(&folder.join(MODEL))?;
    decoder.params().iter().try_for_each(|p| file.read(&p.name, &p.shape, &mut weights[p.range()]))
}

/// Reads one of AdamW's moments, by its place in `MOMENTS`.
///
/// # Errors
/// As [`read_weights`]; also when the checkpoint was written without them.
pub(super) fn read_moment(folder: &Path, decoder: &Decoder, which: usize, arena: &mut [f32]) -> Result<()> {
    let path = folder.join(OPTIMIZER);
    if !path.exists() {
        let what = "holds no optimizer state (written with `no_save_optim`); set `no_load_optim: true` to go on with \
                    fresh moments"
            .into();
        return Err(Error::Checkpoint { path: folder.to_owned(), what });
    }
    let mut file = TensorFile::open(&path)?;
    let prefix = MOMENTS[which];
    let mut read = |p: &Param| file.read(&format!("{prefix}.{}", p.name), &p.shape, &mut arena[p.range()]);
    decoder.params().iter().try_for_each(&mut read)
}
