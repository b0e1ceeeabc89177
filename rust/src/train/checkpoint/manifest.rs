//! `manifest.json`: what a checkpoint holds and where the run stands. `manifest.sha256` beside it, in
//! the form that `sha256sum -c` reads, protects the manifest itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::files;
use crate::interrupt::Interrupt;
use crate::train::scaler::ScalerState;

pub(super) const MANIFEST: &str = "manifest.json";
const SUM: &str = "manifest.sha256";
const FORMAT: &str = "llmjp-core checkpoint";
const VERSION: u32 = 1;

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Steps, skipped ones included.
    pub iteration: usize,
    /// Position in the learning-rate schedule: updates made.
    pub schedule_steps: usize,
    /// AdamW's t: updates made since the moments were zero.
    pub optimizer_steps: usize,
    /// Samples taken from the training data; the next step begins with this one.
    pub consumed_samples: usize,
    pub consumed_tokens: u64,
    /// Steps without an update.
    pub skipped: usize,
    /// Of these, steps whose loss itself was not finite.
    pub nan: usize,
}

/// The learning-rate schedule in GPT-NeoX's words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScheduleRecord {
    pub flavor: String,
    pub decay_style: String,
    pub start_lr: f64,
    pub min_lr: f64,
    pub warmup_iter: f64,
    pub end_iter: usize,
    pub wsd_decay_iters: usize,
}

/// The training data, as far as its order and content go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataRecord {
    pub fingerprint: String,
    /// Samples before the sequence repeats.
    pub samples: usize,
}

/// Random numbers are addressed, not drawn: this and the position say all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RngRecord {
    pub seed: u32,
    pub initialization: String,
    pub data_order: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    pub bytes: u64,
    pub sha256: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: String,
    pub format_version: u32,
    pub written_by: String,
    #[serde(flatten)]
    pub progress: Progress,
    pub schedule: ScheduleRecord,
    /// fp16 only.
    pub loss_scaler: Option<ScalerState>,
    pub data: DataRecord,
    pub rng: RngRecord,
    /// Every key of the run with its final value.
    pub config: Value,
    /// All other files of the folder.
    pub files: BTreeMap<String, FileRecord>,
}

impl Manifest {
    pub fn new(
        progress: Progress,
        schedule: ScheduleRecord,
        loss_scaler: Option<ScalerState>,
        data: DataRecord,
        rng: RngRecord,
        config: Value,
    ) -> Self {
        let (format, format_version, files) = (FORMAT.into(), VERSION, BTreeMap::new());
        let written_by = concat!("llmjp-core ", env!("CARGO_PKG_VERSION")).into();
        Self { format, format_version, written_by, progress, schedule, loss_scaler, data, rng, config, files }
    }

    /// Records every file of `folder`, then writes the manifest and its checksum.
    ///
    /// # Errors
    /// `Io`; `Interrupted`.
    pub(super) fn seal(&mut self, folder: &Path, interrupt: Interrupt) -> Result<()> {
        for entry in std::fs::read_dir(folder).map_err(Error::io(folder, "read"))? {
            let path = entry.map_err(Error::io(folder, "read"))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            self.files.insert(name, record(&path, interrupt)?);
        }
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| Error::Internal(e.to_string()))?;
        text.push(b'\n');
        put(&folder.join(MANIFEST), &text)?;
        put(&folder.join(SUM), format!("{}  {MANIFEST}\n", hex(&Sha256::digest(&text))).as_bytes())
    }

    /// Reads the manifest of `folder` and checks it against its own checksum.
    ///
    /// # Errors
    /// `Checkpoint` when it is missing, damaged or of a newer format; `Io`.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(MANIFEST);
        let damaged = |what: String| Error::Checkpoint { path: path.clone(), what };
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Err(super::verify::no_manifest(folder));
            }
            Err(e) => return Err(Error::io(&path, "read")(e)),
        };
        let sum_path = folder.join(SUM);
        let sum = std::fs::read_to_string(&sum_path).map_err(|e| damaged(format!("{SUM} cannot be read: {e}")))?;
        if sum.split_whitespace().next() != Some(hex(&Sha256::digest(&text)).as_str()) {
            return Err(damaged(format!("its SHA-256 is not the one in {SUM}; the checkpoint is damaged")));
        }
        let value: Value = serde_json::from_slice(&text).map_err(|e| damaged(format!("not JSON: {e}")))?;
        let version = value.get("format_version").and_then(Value::as_u64);
        if value.get("format").and_then(Value::as_str) != Some(FORMAT) || version.is_none() {
            return Err(damaged("not a manifest of this library".into()));
        }
        if version > Some(u64::from(VERSION)) {
            return Err(damaged(format!(
                "format version {}, newer than {VERSION}; update llmjp-core",
                version.unwrap_or(0)
            )));
        }
        serde_json::from_value(value).map_err(|e| damaged(e.to_string()))
    }
}

fn put(path: &Path, text: &[u8]) -> Result<()> {
    files::write_atomically(path, |out| out.write_all(text).map_err(Error::io(path, "write")))
}

/// Size and SHA-256 of a file.
///
/// # Errors
/// `Io`; `Interrupted`.
pub(super) fn record(path: &Path, interrupt: Interrupt) -> Result<FileRecord> {
    let mut file = File::open(path).map_err(Error::io(path, "open"))?;
    let (mut hash, mut bytes, mut chunk) = (Sha256::new(), 0, vec![0; 1 << 22]);
    loop {
        interrupt.check()?;
        let n = file.read(&mut chunk).map_err(Error::io(path, "read"))?;
        if n == 0 {
            return Ok(FileRecord { bytes, sha256: hex(&hash.finalize()) });
        }
        hash.update(&chunk[..n]);
        bytes += n as u64;
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
