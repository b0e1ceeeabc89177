//! The journal of a run: how far it has come, so that a killed one goes on where it was.
//!
//! It is written after the part files were made durable, and names the job by a hash of everything
//! that decides the output. Another job, or changed inputs, start afresh.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::chunks::Position;
use super::{Counts, Options};
use crate::data::format::with_suffix;
use crate::data::writer::{Progress, hex};
use crate::error::{Error, Result};
use crate::files;

/// Part files of a run that can be resumed end so.
pub(super) const PARTS: &str = ".partial";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    pub(super) job: String,
    pub(super) position: Position,
    pub(super) outputs: Vec<Progress>,
    pub(super) counts: Counts,
}

impl Journal {
    fn path(options: &Options) -> PathBuf {
        with_suffix(&options.prefixes[0], ".journal.partial")
    }

    fn aside(options: &Options) -> PathBuf {
        with_suffix(&options.prefixes[0], ".journal.new.partial")
    }

    /// The journal of an earlier run of this very job, if there is one.
    pub(super) fn load(options: &Options, job: &str) -> Result<Option<Self>> {
        let path = Self::path(options);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(&path, "read")(e)),
        };
        // An unreadable journal is another version's: no job of ours.
        let journal = serde_json::from_slice::<Self>(&text).ok();
        Ok(journal.filter(|journal| journal.job == job && journal.outputs.len() == options.keys.len()))
    }

    pub(super) fn save(&self, options: &Options) -> Result<()> {
        let (path, aside) = (Self::path(options), Self::aside(options));
        files::write_through(&aside, &path, |out| {
            serde_json::to_writer(out, self).map_err(|e| Error::io(&path, "write")(e.into()))
        })
    }

    pub(super) fn remove(options: &Options) -> Result<()> {
        for path in [Self::path(options), Self::aside(options)] {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&path, "remove")(e)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Names the job: inputs as they are now, tokenizer and options; not workers or error policy.
pub(super) fn job(options: &Options) -> String {
    let mut hash = Sha256::new();
    let Options { kind, vocab_size, bos, eod, tokenizer, keys, inputs, .. } = options;
    hash.update(format!("1 {} {vocab_size} {bos:?} {eod:?} {tokenizer:?} {keys:?}\n", kind.name()));
    for input in inputs {
        let path = fs::canonicalize(&input.path).unwrap_or_else(|_| input.path.clone());
        let format = input.format;
        hash.update(format!("{path:?} {} {} {format:?}\n", input.len, input.modified_ns));
    }
    hex(hash)
}

/// Held while a process writes the parts of a prefix; the system lets go of it however that ends.
pub(super) struct Lock(#[allow(dead_code, reason = "held, not read")] fs::File, PathBuf);

impl Lock {
    /// # Errors
    /// `UnsupportedInput` while another process writes there; `Io`.
    pub(super) fn take(prefix: &Path) -> Result<Self> {
        let path = with_suffix(prefix, ".lock.partial");
        let open = fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = open.map_err(Error::io(&path, "create"))?;
        match file.try_lock() {
            Ok(()) if still_there(&file, &path) => Ok(Self(file, path)),
            Ok(()) | Err(fs::TryLockError::WouldBlock) => {
                let prefix = prefix.display();
                Err(Error::UnsupportedInput(format!("another process is writing {prefix} at this moment")))
            }
            Err(fs::TryLockError::Error(e)) => Err(Error::io(&path, "lock")(e)),
        }
    }
}

/// The last holder may have removed the file between our opening and locking it; then another process
/// can make and lock a new one.
fn still_there(file: &fs::File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(path).is_ok_and(|there| file.metadata().is_ok_and(|ours| ours.ino() == there.ino()))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.1);
    }
}
