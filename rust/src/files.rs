//! Files that are either whole or absent: written aside, fsynced, renamed.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Writes `path` through `write`; on any error nothing is left behind and an older file stays.
///
/// # Errors
/// `Error::Io` naming the path; whatever `write` returns.
pub fn write_atomically(path: &Path, write: impl FnOnce(&mut std::io::BufWriter<File>) -> Result<()>) -> Result<()> {
    write_through(&aside(path), path, write)
}

/// As `write_atomically`, through a temporary file of the caller's choice: one that holds a lock reuses
/// the same name, so that being killed again and again leaves one file.
///
/// # Errors
/// As `write_atomically`.
pub fn write_through(
    aside: &Path,
    path: &Path,
    write: impl FnOnce(&mut std::io::BufWriter<File>) -> Result<()>,
) -> Result<()> {
    let written = write_and_sync(aside, write);
    let renamed = written.and_then(|()| fs::rename(aside, path).map_err(Error::io(path, "rename into place")));
    if renamed.is_err() {
        // The first error is the one to report; a leftover temporary file is harmless.
        let _ = fs::remove_file(aside);
    }
    renamed?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

fn write_and_sync(aside: &Path, write: impl FnOnce(&mut std::io::BufWriter<File>) -> Result<()>) -> Result<()> {
    let file = File::create(aside).map_err(Error::io(aside, "create"))?;
    let mut writer = std::io::BufWriter::with_capacity(1 << 20, file);
    write(&mut writer)?;
    writer.flush().map_err(Error::io(aside, "write"))?;
    writer.get_ref().sync_all().map_err(Error::io(aside, "fsync"))
}

/// The temporary name beside `path`; the process id keeps two writers apart.
pub fn aside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

/// Makes a rename in `dir` durable.
///
/// # Errors
/// `Error::Io` naming the folder.
pub fn sync_dir(dir: &Path) -> Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir).and_then(|d| d.sync_all()).map_err(Error::io(dir, "fsync"))
}
