//! The folder that holds a run's checkpoints: `global_step{N}/` and the file `latest`.
//!
//! A checkpoint is filled aside as `global_step{N}.{pid}.tmp/`, fsynced and renamed; then `latest`
//! is replaced. A process killed at any moment leaves whole checkpoints and perhaps a `.tmp` or
//! `.old` folder, which the next `open` clears. Two processes cannot write to one folder.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use super::manifest::MANIFEST;
use crate::error::{Error, Result};
use crate::files;

const PREFIX: &str = "global_step";
const LATEST: &str = "latest";
const LOCK: &str = ".llmjp-core.lock";

/// `dir/global_step{iteration}`.
pub fn folder(dir: &Path, iteration: usize) -> PathBuf {
    dir.join(format!("{PREFIX}{iteration}"))
}

/// The steps of all folders named `global_step{N}`, ascending; none where `dir` is absent.
///
/// # Errors
/// `Io` naming `dir`.
pub fn list(dir: &Path) -> Result<Vec<usize>> {
    let mut steps: Vec<usize> = names(dir)?.iter().filter_map(|name| step(name)).collect();
    steps.sort_unstable();
    Ok(steps)
}

/// The step that `latest` names, else the newest folder's.
///
/// # Errors
/// `Io`; `Checkpoint` when `latest` holds something else than the name of a checkpoint.
pub fn latest(dir: &Path) -> Result<Option<usize>> {
    let path = dir.join(LATEST);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(list(dir)?.last().copied());
        }
        Err(e) => return Err(Error::io(&path, "read")(e)),
    };
    let named = step(text.trim());
    if named.is_none() {
        let what = format!("holds {:?}, not the name of a checkpoint such as {PREFIX}100", text.trim());
        return Err(Error::Checkpoint { path, what });
    }
    Ok(named)
}

fn step(name: &str) -> Option<usize> {
    let digits = name.strip_prefix(PREFIX)?;
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if plain { digits.parse().ok() } else { None }
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(dir, "read")(e)),
    };
    let name = |entry: std::io::Result<fs::DirEntry>| entry.map(|e| e.file_name().to_string_lossy().into_owned());
    entries.map(name).collect::<std::io::Result<_>>().map_err(Error::io(dir, "read"))
}

/// A folder that this process alone writes to.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    _lock: File,
}

impl Store {
    /// Creates the folder where absent, and clears what a killed process left.
    ///
    /// # Errors
    /// `Io`; `Checkpoint` when another process trains into `dir`.
    pub fn open(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::io(dir, "create"))?;
        let lock = lock(dir)?;
        let store = Self { dir: dir.to_owned(), _lock: lock };
        store.sweep()?;
        Ok(store)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes checkpoint `iteration` through `fill`, which gets the path of a folder to create. An
    /// older checkpoint of that step is replaced.
    ///
    /// # Errors
    /// Whatever `fill` returns; `Io`. Older checkpoints and `latest` are then as before.
    pub fn save(&self, iteration: usize, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let target = folder(&self.dir, iteration);
        let aside = files::aside(&target);
        let moved = fill(&aside).and_then(|()| files::sync_dir(&aside)).and_then(|()| replace(&aside, &target));
        if moved.is_err() {
            // The first error is the one to report; the next `open` clears what stays.
            let _ = fs::remove_dir_all(&aside);
        }
        moved?;
        files::sync_dir(&self.dir)?;
        let latest = self.dir.join(LATEST);
        files::write_atomically(&latest, |out| {
            write!(out, "{PREFIX}{iteration}").map_err(Error::io(&latest, "write"))
        })?;
        Ok(target)
    }

    /// Removes all but the newest `keep` whole checkpoints; those that `protected` names and the one
    /// `latest` names stay and do not count. Returns the steps removed.
    ///
    /// # Errors
    /// `Io`.
    pub fn prune(&self, keep: usize, protected: impl Fn(usize) -> bool) -> Result<Vec<usize>> {
        let newest = latest(&self.dir)?;
        let whole = |n: &usize| folder(&self.dir, *n).join(MANIFEST).is_file();
        let candidates: Vec<usize> = list(&self.dir)?.into_iter().filter(whole).filter(|n| !protected(*n)).collect();
        let surplus = &candidates[..candidates.len().saturating_sub(keep)];
        let gone: Vec<usize> = surplus.iter().copied().filter(|n| Some(*n) != newest).collect();
        for n in &gone {
            let path = folder(&self.dir, *n);
            // Renamed first: half a checkpoint must not look like one.
            let aside = files::aside(&path);
            fs::rename(&path, &aside).map_err(Error::io(&path, "rename"))?;
            fs::remove_dir_all(&aside).map_err(Error::io(&aside, "remove"))?;
        }
        Ok(gone)
    }

    /// Removes `.tmp` leftovers; an `.old` folder goes back when its successor never came.
    fn sweep(&self) -> Result<()> {
        for name in names(&self.dir)? {
            let path = self.dir.join(&name);
            let Some((stem, end)) = name.split_once('.') else { continue };
            if step(stem).is_none() && stem != LATEST {
                continue;
            }
            let target = self.dir.join(stem);
            if end.ends_with(".old") && !target.exists() {
                fs::rename(&path, &target).map_err(Error::io(&path, "rename"))?;
            } else if end.ends_with(".tmp") || end.ends_with(".old") {
                let remove = if path.is_dir() { fs::remove_dir_all } else { fs::remove_file };
                remove(&path).map_err(Error::io(&path, "remove"))?;
            }
        }
        Ok(())
    }
}

fn replace(aside: &Path, target: &Path) -> Result<()> {
    let mut old = aside.as_os_str().to_owned();
    old.push(".old");
    let (old, occupied) = (PathBuf::from(old), target.exists());
    if occupied {
        fs::rename(target, &old).map_err(Error::io(target, "rename"))?;
    }
    if let Err(e) = fs::rename(aside, target) {
        if occupied {
            fs::rename(&old, target).map_err(Error::io(&old, "rename back"))?;
        }
        return Err(Error::io(target, "rename into place")(e));
    }
    if occupied {
        fs::remove_dir_all(&old).map_err(Error::io(&old, "remove"))?;
    }
    Ok(())
}

/// The kernel drops the lock with the process, however it ends.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK);
    let file = File::options().create(true).append(true).open(&path).map_err(Error::io(&path, "create"))?;
    // SAFETY: flock reads one integer and changes no memory; the descriptor is open.
    let taken = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    let error = std::io::Error::last_os_error();
    if taken != 0 && error.kind() == ErrorKind::WouldBlock {
        let what = "another training run writes its checkpoints here; choose another `save` folder or stop it".into();
        return Err(Error::Checkpoint { path: dir.to_owned(), what });
    }
    // A file system without locks (some network ones) is used without.
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(folder: &Path, text: &str) -> Result<()> {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join(MANIFEST), text).unwrap();
        Ok(())
    }

    fn text(dir: &Path, iteration: usize) -> String {
        fs::read_to_string(folder(dir, iteration).join(MANIFEST)).unwrap()
    }

    #[test]
    fn saves_replace_and_latest_follows() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(latest(dir.path()).unwrap(), None);
        for (n, content) in [(10, "a"), (9, "b"), (9, "c")] {
            store.save(n, |f| fill(f, content)).unwrap();
        }
        assert_eq!((list(dir.path()).unwrap(), latest(dir.path()).unwrap()), (vec![9, 10], Some(9)));
        assert_eq!((text(dir.path(), 9), text(dir.path(), 10)), ("c".into(), "a".into()));
    }

    #[test]
    fn a_failed_save_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.save(5, |f| fill(f, "a")).unwrap();
        let half = |f: &Path| {
            fs::create_dir(f).unwrap();
            Err(Error::Interrupted)
        };
        assert!(store.save(5, half).is_err() && store.save(6, half).is_err());
        assert_eq!((list(dir.path()).unwrap(), latest(dir.path()).unwrap()), (vec![5], Some(5)));
        assert_eq!(text(dir.path(), 5), "a");
        assert_eq!(names(dir.path()).unwrap().len(), 3, "the lock, latest and one checkpoint");
    }

    #[test]
    fn leftovers_of_a_kill_are_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fill(&at("global_step5"), "a").unwrap();
        fill(&at("global_step6.77.tmp"), "half").unwrap();
        fill(&at("global_step6.77.tmp.77.tmp"), "half").unwrap();
        fill(&at("global_step5.77.tmp.old"), "replaced").unwrap();
        fill(&at("global_step4.77.tmp.old"), "successor never came").unwrap();
        fs::write(at("latest.77.tmp"), "glo").unwrap();
        fs::write(at("notes.tmp"), "not ours").unwrap();
        Store::open(dir.path()).unwrap();
        assert_eq!(list(dir.path()).unwrap(), [4, 5]);
        assert_eq!((text(dir.path(), 4).as_str(), text(dir.path(), 5).as_str()), ("successor never came", "a"));
        assert_eq!(names(dir.path()).unwrap().len(), 4, "two checkpoints, the lock, and the user's file");
    }

    #[test]
    fn pruning_spares_protected_latest_and_foreign_folders() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        fs::create_dir(folder(dir.path(), 1)).unwrap(); // no manifest: not ours
        for n in [10, 20, 30, 40, 50] {
            store.save(n, |f| fill(f, "x")).unwrap();
        }
        assert_eq!(store.prune(2, |n| n == 20).unwrap(), [10, 30]);
        assert_eq!(list(dir.path()).unwrap(), [1, 20, 40, 50]);
        store.save(5, |f| fill(f, "x")).unwrap();
        assert_eq!(store.prune(1, |_| false).unwrap(), [20, 40]);
        assert_eq!(list(dir.path()).unwrap(), [1, 5, 50], "5 is the latest");
    }

    #[test]
    fn a_second_writer_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = Store::open(dir.path()).unwrap();
        let what = Store::open(dir.path()).unwrap_err().to_string();
        assert!(what.contains("another training run"), "{what}");
        drop(first);
        Store::open(dir.path()).unwrap();
    }

    #[test]
    fn other_names_are_no_checkpoints() {
        for name in ["global_step", "global_step05", "global_step-1", "global_step5x", "step5", "global_step5.1.tmp"] {
            assert_eq!(step(name), None, "{name}");
        }
        assert_eq!((step("global_step0"), step("global_step120")), (Some(0), Some(120)));
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(LATEST), "iter_100").unwrap();
        assert!(matches!(latest(dir.path()), Err(Error::Checkpoint { .. })));
    }
}
