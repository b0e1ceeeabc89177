//! A name for the content of a dataset, so that a resumed run notices other data.
//!
//! Hashed are, for `.idx` and `.bin`: the length, and the bytes: all of them up to 64 MiB, beyond it
//! 64 pieces of 1 MiB at even distances, the first and last among them. So the cost is bounded (0.1 s
//! a dataset), a re-tokenised set is noticed, and a moved or copied one keeps its name. A change of
//! single bytes between the pieces of a large file is not noticed; `verify` gives the full hashes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::indexed::IndexedDataset;
use super::writer::hex;
use crate::error::{Error, Result};

const PIECE: u64 = 1 << 20;
const PIECES: u64 = 64;

/// SHA-256 in hexadecimal of one dataset, as described above.
///
/// # Errors
/// `Io` naming the file.
pub fn of_dataset(dataset: &IndexedDataset) -> Result<String> {
    let mut hash = Sha256::new();
    for path in [dataset.idx_path(), dataset.bin_path()] {
        add_file(&mut hash, &path)?;
    }
    Ok(hex(hash))
}

/// One name for several, in order.
pub(super) fn of_all<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
        hash.update(b"\n");
    }
    hex(hash)
}

fn add_file(hash: &mut Sha256, path: &Path) -> Result<()> {
    let mut file = File::open(path).map_err(Error::io(path, "open"))?;
    let len = file.metadata().map_err(Error::io(path, "read"))?.len();
    hash.update(len.to_le_bytes());
    let mut piece = vec![0; PIECE as usize];
    for (start, n) in pieces(len) {
        file.seek(SeekFrom::Start(start)).map_err(Error::io(path, "seek"))?;
        file.read_exact(&mut piece[..n]).map_err(Error::io(path, "read"))?;
        hash.update(&piece[..n]);
    }
    Ok(())
}

/// Start and length of each piece that is hashed.
fn pieces(len: u64) -> Vec<(u64, usize)> {
    let count = len.div_ceil(PIECE);
    if count <= PIECES {
        return (0..count).map(|i| (i * PIECE, PIECE.min(len - i * PIECE) as usize)).collect();
    }
    let span = u128::from(len - PIECE);
    let start = |i: u64| (span * u128::from(i) / u128::from(PIECES - 1)) as u64;
    (0..PIECES).map(|i| (start(i), PIECE as usize)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_are_hashed_whole() {
        for len in [0, 1, PIECE, PIECE + 1, PIECES * PIECE] {
            assert_eq!(pieces(len).iter().map(|(_, n)| *n as u64).sum::<u64>(), len);
        }
    }

    #[test]
    fn pieces_of_huge_files_reach_from_start_to_end() {
        let len = (1 << 50) + 12_345;
        let pieces = pieces(len);
        assert_eq!((pieces.len() as u64, pieces[0].0), (PIECES, 0));
        assert_eq!(pieces[63].0 + PIECE, len);
        assert!(pieces.windows(2).all(|w| w[0].0 + PIECE <= w[1].0));
    }
}
