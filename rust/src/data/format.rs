//! The bytes of a Megatron dataset (version 1, little endian).
//!
//! `.bin` is the tokens of all sequences, one after the other. `.idx` describes them:
//!
//! | offset | type  | content |
//! |--------|-------|---------|
//! | 0      | 9 B   | `MMIDIDX\0\0` |
//! | 9      | u64   | version, 1 |
//! | 17     | u8    | code of the token type |
//! | 18     | u64   | N, sequences |
//! | 26     | u64   | D, documents + 1 |
//! | 34     | i32×N | tokens of each sequence |
//! | 34+4N  | i64×N | byte offset of each sequence in `.bin` |
//! | 34+12N | i64×D | first sequence of each document, from 0 to N |

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

pub(super) const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";
pub(super) const LEGACY_MAGIC: &[u8; 8] = b"TNTIDX\0\0";
pub(super) const VERSION: u64 = 1;
/// Bytes before the sequence lengths.
pub(super) const HEADER: usize = 34;

/// How a token is stored. Float types exist in the format but hold no tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenType {
    U8,
    I8,
    I16,
    I32,
    I64,
    U16,
}

impl TokenType {
    pub const ALL: [Self; 6] = [Self::U8, Self::I8, Self::I16, Self::I32, Self::I64, Self::U16];

    /// What GPT-NeoX and Megatron-LM choose for a vocabulary: u16 below 65,500 ids, else i32.
    pub const fn for_vocab(vocab_size: usize) -> Self {
        if vocab_size < 65_500 { Self::U16 } else { Self::I32 }
    }

    pub(super) const fn code(self) -> u8 {
        match self {
            Self::U8 => 1,
            Self::I8 => 2,
            Self::I16 => 3,
            Self::I32 => 4,
            Self::I64 => 5,
            Self::U16 => 8,
        }
    }

    /// Bytes of one token.
    pub const fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::I16 | Self::U16 => 2,
            Self::I32 => 4,
            Self::I64 => 8,
        }
    }

    /// numpy's name of the type.
    pub const fn name(self) -> &'static str {
        match self {
            Self::U8 => "uint8",
            Self::I8 => "int8",
            Self::I16 => "int16",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::U16 => "uint16",
        }
    }

    /// The type of that numpy name (`u16` and the like are names too).
    ///
    /// # Errors
    /// `UnsupportedInput` for any other name.
    pub fn from_name(name: &str) -> Result<Self> {
        let short = name.replace("uint", "u").replace("int", "i");
        let found = Self::ALL.into_iter().find(|t| t.name().replace("uint", "u").replace("int", "i") == short);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::UnsupportedInput(format!("token type `{name}` is not one of {names}"))
        })
    }

    /// The smallest and largest value.
    pub const fn bounds(self) -> (i64, i64) {
        match self {
            Self::U8 => (0, u8::MAX as i64),
            Self::I8 => (i8::MIN as i64, i8::MAX as i64),
            Self::I16 => (i16::MIN as i64, i16::MAX as i64),
            Self::I32 => (i32::MIN as i64, i32::MAX as i64),
            Self::I64 => (i64::MIN, i64::MAX),
            Self::U16 => (0, u16::MAX as i64),
        }
    }

    /// Appends `ids`, which must be within `bounds`, as they are stored.
    pub(super) fn extend(self, out: &mut Vec<u8>, ids: &[u32]) {
        fn each<const N: usize>(out: &mut Vec<u8>, ids: &[u32], stored: impl Fn(u32) -> [u8; N]) {
            let start = out.len();
            out.resize(start + ids.len() * N, 0);
            out[start..].as_chunks_mut().0.iter_mut().zip(ids).for_each(|(out, id)| *out = stored(*id));
        }
        match self {
            Self::U8 | Self::I8 => each(out, ids, |id| [id as u8]),
            Self::U16 | Self::I16 => each(out, ids, |id| (id as u16).to_le_bytes()),
            Self::I32 if cfg!(target_endian = "little") => out.extend_from_slice(bytemuck::cast_slice(ids)),
            Self::I32 => each(out, ids, u32::to_le_bytes),
            Self::I64 => each(out, ids, |id| u64::from(id).to_le_bytes()),
        }
    }

    /// Appends `value`, which must be within `bounds`, as it is stored.
    pub(super) fn push(self, out: &mut Vec<u8>, value: i64) {
        out.extend_from_slice(&value.to_le_bytes()[..self.size()]);
    }
}

/// What the first 34 bytes of an `.idx` say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: TokenType,
    pub(super) sequences: u64,
    /// Documents + 1.
    pub(super) bounds: u64,
}

impl Header {
    /// Reads and checks the header of the `.idx` file at `path`.
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let corrupt = |what: String| Error::CorruptDataset { path: path.to_owned(), what };
        if bytes.starts_with(LEGACY_MAGIC) {
            return Err(corrupt(
                "a legacy index (TNTIDX, `--dataset-impl cached|lazy`); tokenize the text again, or rewrite the set \
                 with `--dataset-impl mmap`"
                    .into(),
            ));
        }
        if bytes.len() < HEADER || !bytes.starts_with(MAGIC) {
            return Err(corrupt(format!(
                "not a Megatron index: {} bytes, of which the first 34 must begin with `MMIDIDX`",
                bytes.len()
            )));
        }
        let version = u64_at(bytes, 9);
        if version != VERSION {
            return Err(corrupt(format!("index version {version} at byte 9; only version {VERSION} exists")));
        }
        let kind = kind_of(bytes[17]).map_err(corrupt)?;
        Ok(Self { kind, sequences: u64_at(bytes, 18), bounds: u64_at(bytes, 26) })
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.push(self.kind.code());
        bytes.extend(self.sequences.to_le_bytes());
        bytes.extend(self.bounds.to_le_bytes());
        bytes
    }

    /// Bytes of the whole `.idx`; `None` where the counts are absurd.
    pub(super) fn file_len(self) -> Option<u64> {
        let lengths = self.sequences.checked_mul(12)?;
        self.bounds.checked_mul(8)?.checked_add(lengths)?.checked_add(HEADER as u64)
    }
}

fn kind_of(code: u8) -> Result<TokenType, String> {
    let found = TokenType::ALL.into_iter().find(|kind| kind.code() == code);
    found.ok_or_else(|| match code {
        // The two code bases disagree on which of the codes is f32.
        6 | 7 => format!("token type {code} at byte 17 is a float; tokens are integers"),
        _ => format!("unknown token type {code} at byte 17"),
    })
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

pub(super) fn i32_at(bytes: &[u8], at: usize) -> i32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    i32::from_le_bytes(value)
}

/// `prefix` + `suffix`, keeping dots within the prefix.
pub(super) fn with_suffix(prefix: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(prefix);
    name.push(suffix);
    PathBuf::from(name)
}

/// The prefix that a user means by `path`: the name of either file is as good.
pub(super) fn prefix_of(path: &Path) -> PathBuf {
    let named_file = path.extension().is_some_and(|e| e == "bin" || e == "idx");
    if named_file && !with_suffix(path, ".idx").exists() { path.with_extension("") } else { path.to_owned() }
}
