//! Reading a whole dataset to know that it is sound.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::format::TokenType;
use super::indexed::IndexedDataset;
use super::writer::hex;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;

/// What `verify` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub prefix: PathBuf,
    pub kind: TokenType,
    pub sequences: usize,
    pub documents: usize,
    pub tokens: usize,
    /// Sequences without tokens. They do no harm; a tokenizer run of ours writes none.
    pub empty: usize,
    pub longest: usize,
    /// `None` where there is no token.
    pub min_id: Option<i32>,
    pub max_id: Option<i32>,
    pub bin_bytes: u64,
    pub idx_bytes: u64,
    pub bin_sha256: String,
    pub idx_sha256: String,
}

/// Ids converted at a time.
const CHUNK: usize = 1 << 16;

/// Checks index, sizes and every id (`0..vocab_size`; without it, not negative), and hashes both files.
///
/// # Errors
/// `CorruptDataset` naming file and place; `Io`; `Interrupted`.
pub fn verify(prefix: &Path, vocab_size: Option<usize>, interrupt: Interrupt) -> Result<Report> {
    let dataset = IndexedDataset::open(prefix)?;
    let limit = vocab_size.unwrap_or(i32::MAX as usize);
    let mut range: Option<(i32, i32)> = None;
    let (mut empty, mut longest) = (0, 0);
    let mut buffer = vec![0; CHUNK];
    for i in 0..dataset.len() {
        let size = dataset.size(i);
        empty += usize::from(size == 0);
        longest = longest.max(size);
        range = scan(&dataset, i, limit, range, &mut buffer, interrupt)?;
    }
    let (bin_bytes, bin_sha256) = hash(&dataset.bin_path(), interrupt)?;
    let (idx_bytes, idx_sha256) = hash(&dataset.idx_path(), interrupt)?;
    Ok(Report {
        prefix: dataset.prefix().to_owned(),
        kind: dataset.kind(),
        sequences: dataset.len(),
        documents: dataset.documents(),
        tokens: dataset.tokens(),
        empty,
        longest,
        min_id: range.map(|(low, _)| low),
        max_id: range.map(|(_, high)| high),
        bin_bytes,
        idx_bytes,
        bin_sha256,
        idx_sha256,
    })
}

/// Widens `range` by the ids of sequence `i`.
fn scan(
    dataset: &IndexedDataset,
    i: usize,
    vocab_size: usize,
    mut range: Option<(i32, i32)>,
    buffer: &mut [i32],
    interrupt: Interrupt,
) -> Result<Option<(i32, i32)>> {
    let size = dataset.size(i);
    for start in (0..size).step_by(buffer.len()) {
        interrupt.check()?;
        let n = buffer.len().min(size - start);
        let ids = &mut buffer[..n];
        dataset.ids(i, start, ids, vocab_size)?;
        let (low, high) = ids.iter().fold((i32::MAX, 0), |(low, high), id| (low.min(*id), high.max(*id)));
        range = Some(range.map_or((low, high), |(a, b)| (a.min(low), b.max(high))));
    }
    Ok(range)
}

fn hash(path: &Path, interrupt: Interrupt) -> Result<(u64, String)> {
    let mut file = File::open(path).map_err(Error::io(path, "open"))?;
    let (mut hash, mut len) = (Sha256::new(), 0);
    let mut piece = vec![0; 1 << 20];
    loop {
        interrupt.check()?;
        let n = file.read(&mut piece).map_err(Error::io(path, "read"))?;
        if n == 0 {
            return Ok((len, hex(hash)));
        }
        hash.update(&piece[..n]);
        len += n as u64;
    }
}
