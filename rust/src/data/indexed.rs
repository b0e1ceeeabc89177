//! Reading a `.bin/.idx` pair. Both files are mapped: a set larger than memory is fine.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::format::{HEADER, Header, TokenType, i32_at, prefix_of, u64_at, with_suffix};
use crate::error::{Error, Result};

/// A dataset whose index has been checked: every sequence lies within the `.bin`.
///
/// The files must not be cut while they are in use (a rewrite by rename is harmless).
pub struct IndexedDataset {
    prefix: PathBuf,
    kind: TokenType,
    sequences: usize,
    documents: usize,
    idx: Mmap,
    bin: Mmap,
}

/// Which token a message means.
struct Place {
    sequence: usize,
    token: usize,
    id: i64,
}

impl IndexedDataset {
    /// Opens `prefix.bin` and `prefix.idx` and checks the index whole: one pass over its lengths and
    /// offsets, 0.1 s for 10^7 sequences. The tokens are checked as they are read.
    ///
    /// # Errors
    /// `Io` for a file that cannot be opened, `CorruptDataset` naming file and place.
    pub fn open(prefix: impl AsRef<Path>) -> Result<Self> {
        let prefix = prefix_of(prefix.as_ref());
        let idx_path = with_suffix(&prefix, ".idx");
        let idx = map(&idx_path)?;
        let header = Header::parse(&idx_path, &idx)?;
        let bin_path = with_suffix(&prefix, ".bin");
        let bin = map(&bin_path)?;
        check_len(&idx_path, header, idx.len() as u64)?;
        // Both counts are below the file's length now.
        let (sequences, documents) = (header.sequences as usize, header.bounds as usize - 1);
        let dataset = Self { prefix, kind: header.kind, sequences, documents, idx, bin };
        dataset.check_sequences(&idx_path, &bin_path)?;
        dataset.check_documents(&idx_path)?;
        Ok(dataset)
    }

    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    pub fn bin_path(&self) -> PathBuf {
        with_suffix(&self.prefix, ".bin")
    }

    pub fn idx_path(&self) -> PathBuf {
        with_suffix(&self.prefix, ".idx")
    }

    pub fn kind(&self) -> TokenType {
        self.kind
    }

    /// Sequences.
    pub fn len(&self) -> usize {
        self.sequences
    }

    pub fn is_empty(&self) -> bool {
        self.sequences == 0
    }

    pub fn documents(&self) -> usize {
        self.documents
    }

    /// Tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.bin.len() / self.kind.size()
    }

    /// Tokens of sequence `i`.
    #[inline]
    pub fn size(&self, i: usize) -> usize {
        assert!(i < self.sequences, "sequence {i} of {}", self.sequences);
        // Not negative: `open` has checked.
        i32_at(&self.idx, HEADER + 4 * i) as usize
    }

    /// The first sequence of document `i`; for `i` = documents, the number of sequences.
    pub fn document_start(&self, i: usize) -> usize {
        assert!(i <= self.documents, "document {i} of {}", self.documents);
        u64_at(&self.idx, HEADER + 12 * self.sequences + 8 * i) as usize
    }

    fn pointer(&self, i: usize) -> u64 {
        u64_at(&self.idx, HEADER + 4 * self.sequences + 8 * i)
    }

    /// Tokens `range` of sequence `i`, as they are stored.
    ///
    /// # Errors
    /// `UnsupportedInput` where the sequence or the range does not exist.
    pub fn bytes(&self, i: usize, range: Range<usize>) -> Result<&[u8]> {
        if i >= self.sequences {
            return Err(Error::UnsupportedInput(format!(
                "{}: sequence {i} of {}",
                self.prefix.display(),
                self.sequences
            )));
        }
        let size = self.size(i);
        if range.start > range.end || range.end > size {
            return Err(Error::UnsupportedInput(format!(
                "{}: tokens {}..{} of sequence {i}, which has {size}",
                self.prefix.display(),
                range.start,
                range.end
            )));
        }
        let start = self.pointer(i) as usize;
        Ok(&self.bin[start + range.start * self.kind.size()..start + range.end * self.kind.size()])
    }

    /// Fills `out` with the ids of sequence `i` from token `start` on; each must be in `0..vocab_size`.
    ///
    /// # Errors
    /// `CorruptDataset` naming sequence, token and id of the first that is not.
    pub fn ids(&self, i: usize, start: usize, out: &mut [i32], vocab_size: usize) -> Result<()> {
        self.read(i, start, out)?;
        let vocab = i32::try_from(vocab_size).unwrap_or(i32::MAX);
        match out.iter().position(|&id| id < 0 || id >= vocab) {
            None => Ok(()),
            Some(at) => Err(self.outside(i, start + at, vocab_size)),
        }
    }

    /// Fills `out` with labels: as `ids`, but a negative label (no loss) becomes `ignore`.
    ///
    /// # Errors
    /// `CorruptDataset` naming sequence, token and label.
    pub fn labels(&self, i: usize, start: usize, out: &mut [i32], vocab_size: usize, ignore: i32) -> Result<()> {
        self.read(i, start, out)?;
        let vocab = i32::try_from(vocab_size).unwrap_or(i32::MAX);
        for (at, label) in out.iter_mut().enumerate() {
            if *label >= vocab {
                return Err(self.outside(i, start + at, vocab_size));
            }
            *label = if *label < 0 { ignore } else { *label };
        }
        Ok(())
    }

    /// A value beyond i32 becomes `i32::MAX` or `MIN`, which no vocabulary holds.
    fn read(&self, i: usize, start: usize, out: &mut [i32]) -> Result<()> {
        let bytes = self.bytes(i, start..start + out.len())?;
        widen(self.kind, bytes, out);
        Ok(())
    }

    fn outside(&self, sequence: usize, token: usize, vocab_size: usize) -> Error {
        let id = self.bytes(sequence, token..token + 1).map_or(0, |bytes| value(self.kind, bytes));
        let place = Place { sequence, token, id };
        Error::CorruptDataset { path: self.bin_path(), what: place.message(vocab_size) }
    }

    fn check_sequences(&self, idx_path: &Path, bin_path: &Path) -> Result<()> {
        let corrupt = |what: String| Error::CorruptDataset { path: idx_path.to_owned(), what };
        let mut offset = 0u64;
        for i in 0..self.sequences {
            let size = i32_at(&self.idx, HEADER + 4 * i);
            if size < 0 {
                return Err(corrupt(format!("sequence {i} has length {size} (byte {})", HEADER + 4 * i)));
            }
            if self.pointer(i) != offset {
                let at = HEADER + 4 * self.sequences + 8 * i;
                let got = self.pointer(i) as i64;
                return Err(corrupt(format!(
                    "sequence {i} starts at byte {got} of the .bin (index byte {at}), but the sequences before it end \
                     at {offset}"
                )));
            }
            offset += size as u64 * self.kind.size() as u64;
        }
        if offset != self.bin.len() as u64 {
            let what = format!(
                "{} bytes, but the index describes {offset} ({} sequences of {}); the file was cut or belongs to \
                 another index",
                self.bin.len(),
                self.sequences,
                self.kind.name()
            );
            return Err(Error::CorruptDataset { path: bin_path.to_owned(), what });
        }
        Ok(())
    }

    fn check_documents(&self, idx_path: &Path) -> Result<()> {
        let corrupt = |what: String| Error::CorruptDataset { path: idx_path.to_owned(), what };
        let bound = |i| u64_at(&self.idx, HEADER + 12 * self.sequences + 8 * i);
        let mut before = 0;
        for i in 0..=self.documents {
            let start = bound(i);
            if start < before || (i == 0 && start != 0) || start > self.sequences as u64 {
                return Err(corrupt(format!(
                    "document {i} starts at sequence {}; the one before it at {before}, and there are {}",
                    start as i64, self.sequences
                )));
            }
            before = start;
        }
        if before != self.sequences as u64 {
            return Err(corrupt(format!("the documents end at sequence {before} of {}", self.sequences)));
        }
        Ok(())
    }
}

impl Place {
    fn message(&self, vocab_size: usize) -> String {
        format!(
            "document {}, token {}: id {} is outside the vocabulary (0 to {}); was it made with another tokenizer?",
            self.sequence,
            self.token,
            self.id,
            vocab_size.saturating_sub(1)
        )
    }
}

fn check_len(path: &Path, header: Header, len: u64) -> Result<()> {
    let corrupt = |what: String| Error::CorruptDataset { path: path.to_owned(), what };
    let (n, d) = (header.sequences, header.bounds);
    if d == 0 {
        return Err(corrupt("the document index at byte 26 is empty; even an empty set has one entry".into()));
    }
    match header.file_len() {
        Some(want) if want == len => Ok(()),
        Some(want) if want.checked_add(n) == Some(len) => {
            Err(corrupt(format!("a multimodal index ({n} mode bytes at its end); only text is supported")))
        }
        _ => Err(corrupt(format!(
            "{len} bytes, but {n} sequences and {d} document bounds need {}",
            header.file_len().map_or("more than 2^64".to_owned(), |want| want.to_string())
        ))),
    }
}

fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    // SAFETY: the map is read only. Datasets are replaced by rename and never changed in place, so the
    // bytes stay; a file cut by others while in use ends the process (SIGBUS), as with every mapped reader.
    unsafe { Mmap::map(&file) }.map_err(Error::io(path, "map"))
}

/// One stored token.
fn value(kind: TokenType, bytes: &[u8]) -> i64 {
    let mut wide = [0u8; 8];
    wide[..kind.size()].copy_from_slice(&bytes[..kind.size()]);
    let raw = i64::from_le_bytes(wide);
    match kind {
        TokenType::U8 | TokenType::U16 | TokenType::I64 => raw,
        TokenType::I8 => i64::from(raw as i8),
        TokenType::I16 => i64::from(raw as i16),
        TokenType::I32 => i64::from(raw as i32),
    }
}

/// Stored tokens to i32, saturating.
pub(super) fn widen(kind: TokenType, bytes: &[u8], out: &mut [i32]) {
    fn each<const N: usize>(bytes: &[u8], out: &mut [i32], convert: impl Fn([u8; N]) -> i32) {
        for (out, chunk) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
            *out = convert(*chunk);
        }
    }
    match kind {
        TokenType::U8 => each::<1>(bytes, out, |b| i32::from(b[0])),
        TokenType::I8 => each::<1>(bytes, out, |b| i32::from(b[0] as i8)),
        TokenType::I16 => each::<2>(bytes, out, |b| i32::from(i16::from_le_bytes(b))),
        TokenType::U16 => each::<2>(bytes, out, |b| i32::from(u16::from_le_bytes(b))),
        TokenType::I32 => each::<4>(bytes, out, i32::from_le_bytes),
        TokenType::I64 => {
            each::<8>(bytes, out, |b| i64::from_le_bytes(b).clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32)
        }
    }
}
