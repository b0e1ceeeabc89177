//! One error type for the whole core. `py/error.rs` maps each kind to one Python exception.
//!
//! A message names what is wrong, where (file, line, document, tensor) and what to do about it.

use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A configuration that cannot be used: unknown key, wrong type, contradiction.
    #[error("{0}")]
    Config(String),
    /// Arguments of an operation do not fit together.
    #[error("{op}: `{arg}` must have shape {want:?}, got {got:?}")]
    Shape { op: &'static str, arg: &'static str, want: Vec<usize>, got: Vec<usize> },
    /// A value, text or option that no part of this library handles.
    #[error("{0}")]
    UnsupportedInput(String),
    /// A model whose architecture or files this library does not handle.
    #[error("{0}")]
    UnsupportedModel(String),
    /// A `.bin`/`.idx` pair (or its source text) that is damaged or contradicts itself.
    #[error("{}: {what}", path.display())]
    CorruptDataset { path: PathBuf, what: String },
    /// A checkpoint that is damaged, incomplete or does not belong to this run.
    #[error("{}: {what}", path.display())]
    Checkpoint { path: PathBuf, what: String },
    /// A tokenizer model that cannot be read, or text it cannot take.
    #[error("{0}")]
    Tokenizer(String),
    /// A loss, gradient or weight became NaN or infinite; the message names the tensor.
    #[error("{0}")]
    NonFinite(String),
    /// A device that is missing or failed.
    #[error("{0}")]
    Device(String),
    /// The operating system refused to read or write a file.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io { path: PathBuf, action: &'static str, source: std::io::Error },
    /// The user asked to stop (Ctrl-C). State is as before the call.
    #[error("interrupted")]
    Interrupted,
    /// A broken promise inside this library; please report it.
    #[error("internal error: {0}; please report it")]
    Internal(String),
}

impl Error {
    /// `map_err(Error::io(path, "read"))`
    pub fn io(path: impl AsRef<Path>, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { path, action, source }
    }
}
