//! Is a checkpoint whole? And if not, which older one is?

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::manifest::{Manifest, record};
use super::store;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;

const PICKLES: [&str; 6] = [".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"];

/// Reads the manifest of `folder` and compares every file with it, byte for byte.
///
/// # Errors
/// `Checkpoint` naming the file that is missing or damaged; `Io`; `Interrupted`.
pub fn verify(folder: &Path, interrupt: Interrupt) -> Result<Manifest> {
    let manifest = Manifest::read(folder)?;
    for (name, want) in &manifest.files {
        let path = folder.join(name);
        let damaged = |what: String| Error::Checkpoint { path: path.clone(), what };
        let got = match std::fs::metadata(&path) {
            Ok(data) => data.len(),
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(damaged("is missing".into())),
            Err(e) => return Err(Error::io(&path, "read")(e)),
        };
        if got != want.bytes {
            return Err(damaged(format!("has {got} bytes, the manifest says {}; it was cut or changed", want.bytes)));
        }
        if record(&path, interrupt)? != *want {
            return Err(damaged("its SHA-256 is not the manifest's; the file is damaged".into()));
        }
    }
    Ok(manifest)
}

/// As [`verify`] on checkpoint `iteration` of `dir`; when it is damaged, the error names the newest
/// older one that is whole. That one is never taken on its own.
///
/// # Errors
/// As [`verify`].
pub(in crate::train) fn verify_newest(dir: &Path, iteration: usize, interrupt: Interrupt) -> Result<Manifest> {
    let (path, what) = match verify(&store::folder(dir, iteration), interrupt) {
        Err(Error::Checkpoint { path, what }) => (path, what),
        other => return other,
    };
    let older = newest_whole(dir, iteration, interrupt)?;
    let advice = match older {
        Some(n) => {
            let whole = store::folder(dir, n);
            format!(
                "{} is the newest older checkpoint that is whole; to go on from it, set `iteration: {n}`",
                whole.display()
            )
        }
        None => "no older checkpoint is whole; to start again, choose another `save` folder".into(),
    };
    Err(Error::Checkpoint { path, what: format!("{what}. {advice}") })
}

fn newest_whole(dir: &Path, before: usize, interrupt: Interrupt) -> Result<Option<usize>> {
    let steps = store::list(dir)?;
    for n in steps.into_iter().rev().filter(|n| *n < before) {
        match verify(&store::folder(dir, n), interrupt) {
            Ok(_) => return Ok(Some(n)),
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(_) => {}
        }
    }
    Ok(None)
}

/// Why a folder that was meant as a checkpoint has no manifest. A pickle is refused by its name.
pub(super) fn no_manifest(folder: &Path) -> Error {
    if let Some(pickle) = first_pickle(folder) {
        return refuse_pickle(&pickle);
    }
    let what = "no checkpoint: it holds no manifest.json";
    Error::Checkpoint { path: folder.to_owned(), what: what.into() }
}

pub(super) fn refuse_pickle(path: &Path) -> Error {
    let what = "is a pickle, which can run code when loaded, and is never read; \
                convert the weights to a folder with config.json and model.safetensors"
        .into();
    Error::Checkpoint { path: path.to_owned(), what }
}

pub(super) fn is_pickle(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    PICKLES.iter().any(|end| name.ends_with(end))
}

/// The first pickle in `folder`, if it holds any.
pub(super) fn first_pickle(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| is_pickle(path)).collect();
    paths.sort();
    paths.into_iter().next()
}
