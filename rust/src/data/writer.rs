//! Writing a `.bin/.idx` pair as a stream: memory stays constant, and the pair appears whole or not at all.
//!
//! Tokens go to a part file beside the `.bin`; the lengths of sequences and documents, which the
//! index needs only at the end, to two more. `finish` writes the index from them and renames.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::format::{Header, TokenType, with_suffix};
use crate::error::{Error, Result};
use crate::files;
use crate::interrupt::Interrupt;

const BUFFER: usize = 1 << 20;
/// Small writes are gathered to so many bytes; larger ones go straight to the file, while they are in the cache.
const GATHERED: usize = 1 << 16;

/// What `DatasetWriter::finish` wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub prefix: PathBuf,
    pub kind: TokenType,
    pub sequences: u64,
    pub documents: u64,
    pub tokens: u64,
    pub bin_bytes: u64,
    pub idx_bytes: u64,
    pub bin_sha256: String,
    pub idx_sha256: String,
}

/// How far the part files reach: with it a writer can go on after the process was killed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    pub bin_bytes: u64,
    pub sequences: u64,
    pub documents: u64,
}

/// Writes sequences and documents in order. Dropped without `finish`, it removes its part files, but not
/// those that it went on with.
pub struct DatasetWriter {
    prefix: PathBuf,
    kind: TokenType,
    /// What the names of unfinished files end in.
    suffix: String,
    bin: Part,
    lengths: Part,
    /// The end (in sequences) of each document.
    ends: Part,
    written: Progress,
    hash: Sha256,
    keep: bool,
}

impl DatasetWriter {
    /// Starts a dataset; its parts carry the process id, so that two writers do not meet.
    ///
    /// # Errors
    /// `Io` naming the file that cannot be created.
    pub fn create(prefix: &Path, kind: TokenType) -> Result<Self> {
        Self::open(prefix, kind, &format!(".{}.tmp", std::process::id()), Progress::default(), Interrupt::NEVER)
    }

    /// Starts or goes on with a dataset whose parts end in `suffix`, cut back to `at`.
    ///
    /// # Errors
    /// `Io`; `CorruptDataset` for a part that is shorter than `at` says; `Interrupted`.
    pub fn open(prefix: &Path, kind: TokenType, suffix: &str, at: Progress, interrupt: Interrupt) -> Result<Self> {
        let paths = [".bin", ".lengths", ".ends"].map(|kind| with_suffix(prefix, &format!("{kind}{suffix}")));
        // A failed start leaves nothing behind; a failed continuation leaves what there was.
        let guard = Removal(if at == Progress::default() { paths.to_vec() } else { Vec::new() });
        let [bin, lengths, ends] = paths;
        let mut bin = Part::open(bin, at.bin_bytes)?;
        let lengths = Part::open(lengths, at.sequences * 4)?;
        let ends = Part::open(ends, at.documents * 8)?;
        let mut hash = Sha256::new();
        bin.read(|bytes| {
            hash.update(bytes);
            interrupt.check()
        })?;
        guard.disarm();
        let (prefix, suffix) = (prefix.to_owned(), suffix.to_owned());
        let keep = at != Progress::default();
        Ok(Self { prefix, kind, suffix, bin, lengths, ends, written: at, hash, keep })
    }

    pub fn kind(&self) -> TokenType {
        self.kind
    }

    pub fn written(&self) -> Progress {
        self.written
    }

    pub fn tokens(&self) -> u64 {
        self.written.bin_bytes / self.kind.size() as u64
    }

    /// Appends one sequence.
    ///
    /// # Errors
    /// `UnsupportedInput` for an id that the token type cannot hold (nothing is written then); `Io`.
    pub fn sequence(&mut self, ids: &[i64]) -> Result<()> {
        let (low, high) = self.kind.bounds();
        if let Some(at) = ids.iter().position(|&id| id < low || id > high) {
            return Err(Error::UnsupportedInput(format!(
                "id {} at token {at} of sequence {} does not fit {} ({low} to {high})",
                ids[at],
                self.written.sequences,
                self.kind.name()
            )));
        }
        let mut bytes = Vec::with_capacity(ids.len() * self.kind.size());
        ids.iter().for_each(|&id| self.kind.push(&mut bytes, id));
        self.stored(&bytes, &[ids.len()])
    }

    /// Appends sequences of the given lengths (in tokens) whose tokens are stored in `bytes` already.
    ///
    /// # Errors
    /// `UnsupportedInput` for a sequence of 2^31 tokens or more; `Io`.
    pub(super) fn stored(&mut self, bytes: &[u8], lengths: &[usize]) -> Result<()> {
        debug_assert_eq!(bytes.len(), lengths.iter().sum::<usize>() * self.kind.size());
        let mut stored = Vec::with_capacity(lengths.len() * 4);
        for &length in lengths {
            let length = i32::try_from(length).map_err(|_| {
                Error::UnsupportedInput(format!("a sequence of {length} tokens; the format holds 2^31 - 1 at most"))
            })?;
            stored.extend(length.to_le_bytes());
        }
        self.bin.write(bytes)?;
        self.lengths.write(&stored)?;
        self.hash.update(bytes);
        self.written.bin_bytes += bytes.len() as u64;
        self.written.sequences += lengths.len() as u64;
        Ok(())
    }

    /// Ends the document that holds the sequences since the last call.
    ///
    /// # Errors
    /// `Io`.
    pub fn end_document(&mut self) -> Result<()> {
        self.ends.write(&self.written.sequences.to_le_bytes())?;
        self.written.documents += 1;
        Ok(())
    }

    /// As `stored` + `end_document` for each sequence.
    pub(super) fn stored_documents(&mut self, bytes: &[u8], lengths: &[usize]) -> Result<()> {
        let first = self.written.sequences;
        self.stored(bytes, lengths)?;
        let ends: Vec<u8> = (first + 1..=self.written.sequences).flat_map(u64::to_le_bytes).collect();
        self.ends.write(&ends)?;
        self.written.documents += lengths.len() as u64;
        Ok(())
    }

    /// How far the part files reach, and what is to be synced before `open` can go on from there. More may be
    /// written meanwhile.
    ///
    /// # Errors
    /// `Io`.
    pub fn reached(&mut self) -> Result<(Progress, Vec<Unsynced>)> {
        let parts = [&mut self.bin, &mut self.lengths, &mut self.ends];
        Ok((self.written, parts.into_iter().map(Part::unsynced).collect::<Result<_>>()?))
    }

    /// Whether dropping the unfinished writer keeps its part files.
    pub fn keep_parts(&mut self, keep: bool) {
        self.keep = keep;
    }

    /// Writes the index and puts both files in place. An older set of that name is replaced: first its
    /// index goes, so that at no moment an index stands beside another set's tokens.
    ///
    /// # Errors
    /// `UnsupportedInput` where sequences were added after the last document's end; `Io`.
    pub fn finish(mut self) -> Result<Written> {
        self.keep = false;
        self.check_ends()?;
        self.bin.sync()?;
        let (bin, idx) = (with_suffix(&self.prefix, ".bin"), with_suffix(&self.prefix, ".idx"));
        let aside = with_suffix(&idx, &self.suffix);
        let guard = Removal(vec![aside.clone()]);
        let (idx_bytes, idx_sha256) = self.write_index(&aside)?;
        match fs::remove_file(&idx) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&idx, "replace")(e)),
            _ => {}
        }
        fs::rename(&self.bin.path, &bin).map_err(Error::io(&bin, "rename into place"))?;
        fs::rename(&aside, &idx).map_err(Error::io(&idx, "rename into place"))?;
        guard.disarm();
        files::sync_dir(idx.parent().unwrap_or(Path::new(".")))?;
        Ok(Written {
            prefix: self.prefix.clone(),
            kind: self.kind,
            sequences: self.written.sequences,
            documents: self.written.documents,
            tokens: self.tokens(),
            bin_bytes: self.written.bin_bytes,
            idx_bytes,
            bin_sha256: hex(self.hash.clone()),
            idx_sha256,
        })
    }

    fn check_ends(&mut self) -> Result<()> {
        let mut last = 0;
        self.ends.read(|bytes| {
            if let Some(end) = bytes.as_chunks::<8>().0.last() {
                last = u64::from_le_bytes(*end);
            }
            Ok(())
        })?;
        if last == self.written.sequences {
            return Ok(());
        }
        Err(Error::UnsupportedInput(format!(
            "{}: {} sequences after the last end of a document; end the document first",
            self.prefix.display(),
            self.written.sequences - last
        )))
    }

    /// Writes the `.idx`; gives its length and SHA-256.
    fn write_index(&mut self, path: &Path) -> Result<(u64, String)> {
        let header = Header { kind: self.kind, sequences: self.written.sequences, bounds: self.written.documents + 1 };
        let mut out = HashedFile::create(path)?;
        out.write(&header.to_bytes())?;
        self.lengths.read(|bytes| out.write(bytes))?;
        let (mut offset, size) = (0u64, self.kind.size() as u64);
        self.lengths.read(|bytes| {
            let mut offsets = Vec::with_capacity(bytes.len() * 2);
            for length in bytes.as_chunks::<4>().0 {
                offsets.extend(offset.to_le_bytes());
                offset += u64::from(u32::from_le_bytes(*length)) * size;
            }
            out.write(&offsets)
        })?;
        out.write(&0u64.to_le_bytes())?;
        self.ends.read(|bytes| out.write(bytes))?;
        out.finish()
    }
}

impl Drop for DatasetWriter {
    fn drop(&mut self) {
        if !self.keep {
            for part in [&self.bin, &self.lengths, &self.ends] {
                // The .bin is in place already after `finish`; what cannot be removed is harmless.
                let _ = fs::remove_file(&part.path);
            }
        }
    }
}

/// Removes files unless disarmed.
struct Removal(Vec<PathBuf>);

impl Removal {
    fn disarm(mut self) {
        self.0.clear();
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

/// A part file whose last bytes may not be on the disk yet.
pub struct Unsynced {
    path: PathBuf,
    file: File,
}

impl Unsynced {
    /// # Errors
    /// `Io`.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io(&self.path, "fsync"))
    }
}

/// A file that is appended to and can be read again from its start.
struct Part {
    path: PathBuf,
    file: BufWriter<File>,
    len: u64,
}

impl Part {
    /// Opens or creates the file and cuts it to `len` bytes.
    fn open(path: PathBuf, len: u64) -> Result<Self> {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).clone();
        let mut file = options.open(&path).map_err(Error::io(&path, "create"))?;
        let there = file.metadata().map_err(Error::io(&path, "read"))?.len();
        if there < len {
            let what = format!("{there} bytes where an earlier run had written {len}");
            return Err(Error::CorruptDataset { path, what });
        }
        file.set_len(len).map_err(Error::io(&path, "truncate"))?;
        file.seek(SeekFrom::Start(len)).map_err(Error::io(&path, "seek"))?;
        Ok(Self { path, file: BufWriter::with_capacity(GATHERED, file), len })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.len += bytes.len() as u64;
        self.file.write_all(bytes).map_err(Error::io(&self.path, "write"))
    }

    fn sync(&mut self) -> Result<()> {
        self.unsynced()?.sync()
    }

    fn unsynced(&mut self) -> Result<Unsynced> {
        self.file.flush().map_err(Error::io(&self.path, "write"))?;
        let file = self.file.get_ref().try_clone().map_err(Error::io(&self.path, "open again"))?;
        Ok(Unsynced { path: self.path.clone(), file })
    }

    /// Hands all bytes to `take`, in pieces that are whole multiples of 8 bytes but for the last.
    fn read(&mut self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.file.flush().map_err(Error::io(&self.path, "write"))?;
        let mut file = File::open(&self.path).map_err(Error::io(&self.path, "open"))?;
        let mut piece = vec![0; BUFFER];
        let mut left = self.len;
        while left > 0 {
            let n = left.min(BUFFER as u64) as usize;
            file.read_exact(&mut piece[..n]).map_err(Error::io(&self.path, "read"))?;
            take(&piece[..n])?;
            left -= n as u64;
        }
        Ok(())
    }
}

/// A new file and the hash of what was written to it.
struct HashedFile {
    path: PathBuf,
    file: BufWriter<File>,
    len: u64,
    hash: Sha256,
}

impl HashedFile {
    fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(Error::io(path, "create"))?;
        Ok(Self { path: path.to_owned(), file: BufWriter::with_capacity(BUFFER, file), len: 0, hash: Sha256::new() })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.len += bytes.len() as u64;
        self.hash.update(bytes);
        self.file.write_all(bytes).map_err(Error::io(&self.path, "write"))
    }

    fn finish(mut self) -> Result<(u64, String)> {
        self.file.flush().map_err(Error::io(&self.path, "write"))?;
        self.file.get_ref().sync_all().map_err(Error::io(&self.path, "fsync"))?;
        Ok((self.len, hex(self.hash)))
    }
}

/// The digest in lower-case hexadecimal.
pub(super) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
