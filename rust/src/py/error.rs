//! One enum to several exceptions. The classes are defined in `llmjp_core/errors.py`.

use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError};
use pyo3::prelude::*;

use crate::error::Error;

/// A wrapper so that `?` works in functions that return `PyResult`-like results.
pub(crate) struct PyError(Error);

pub(crate) type Result<T> = std::result::Result<T, PyError>;

impl From<Error> for PyError {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

fn class_name(error: &Error) -> &'static str {
    match error {
        Error::Config(_) => "ConfigError",
        Error::Shape { .. } | Error::UnsupportedInput(_) => "UnsupportedInputError",
        Error::UnsupportedModel(_) => "UnsupportedModelError",
        Error::CorruptDataset { .. } => "CorruptDatasetError",
        Error::Checkpoint { .. } => "CheckpointError",
        Error::Tokenizer(_) => "TokenizerError",
        Error::NonFinite(_) => "NonFiniteError",
        Error::Device(_) => "DeviceError",
        Error::Io { .. } => "FileError",
        Error::Interrupted | Error::Internal(_) => "InternalError",
    }
}

fn build(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let class = py.import("llmjp_core.errors")?.getattr(class_name(error))?;
    let value = match error {
        // OSError's own signature, so that `errno` and `filename` are set.
        Error::Io { path, action, source } => {
            let text = format!("cannot {action}: {source}");
            class.call1((source.raw_os_error().unwrap_or(libc::EIO), text, path.display().to_string()))?
        }
        _ => class.call1((error.to_string(),))?,
    };
    Ok(PyErr::from_value(value))
}

impl From<PyError> for PyErr {
    fn from(PyError(error): PyError) -> Self {
        if matches!(error, Error::Interrupted) {
            return PyKeyboardInterrupt::new_err("interrupted");
        }
        Python::attach(|py| build(py, &error).unwrap_or_else(|_| PyRuntimeError::new_err(error.to_string())))
    }
}
