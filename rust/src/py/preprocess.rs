//! `lc.data.tokenize`: binds a tokenizer to `data::preprocess`.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyList};

use super::data::set_written;
use super::error::PyError;
use super::signals::detached;
use super::tokenizer::PyTokenizer;
use crate::data::TokenType;
use crate::data::preprocess::{self, Batch, Column, Encode, Format, OnError, Options, Parquet, Status, Summary};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::tokenizer::{Text, Worker, default_threads};

/// What a Python function raised, for the caller to raise again.
type Raised = Mutex<Option<PyErr>>;

fn keep(raised: &Raised, error: PyErr) -> Error {
    let mut slot = raised.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    slot.get_or_insert(error);
    Error::Internal("a Python function raised".into())
}

/// Any Python function from str to a sequence of ids. Threads take turns at it.
struct Function<'a> {
    call: &'a Py<PyAny>,
    raised: &'a Raised,
}

impl Encode for Function<'_> {
    fn encode(
        &mut self,
        texts: &mut dyn Iterator<Item = &str>,
        out: &mut Vec<u32>,
        ends: &mut Vec<usize>,
    ) -> Result<()> {
        for text in texts {
            let ids = Python::attach(|py| self.call.call1(py, (text,))?.extract::<Vec<u32>>(py));
            out.extend(ids.map_err(|error| keep(self.raised, error))?);
            ends.push(out.len());
        }
        Ok(())
    }
}

/// A worker of `lc.Tokenizer`: no Python at all.
struct Native(Worker);

impl Encode for Native {
    fn encode(
        &mut self,
        texts: &mut dyn Iterator<Item = &str>,
        out: &mut Vec<u32>,
        ends: &mut Vec<usize>,
    ) -> Result<()> {
        self.0.encode_all(texts.map(Text::from), Interrupt::NEVER, out, |end| ends.push(end));
        Ok(())
    }
}

/// A Python function from path and column names to an object whose `read()` gives the next rows: as lines, or as
/// offsets and texts of each column (`Column`). No bytes at the end.
struct PythonParquet(Py<PyAny>);

impl Parquet for PythonParquet {
    fn open(&self, path: &Path, keys: &[String]) -> Result<Box<dyn Read + Send>> {
        let opened = Python::attach(|py| {
            self.0.call1(py, (path, keys)).map_err(|error| {
                let what = error.value(py).to_string();
                if error.get_type(py).name().is_ok_and(|name| name == "UnsupportedInputError") {
                    return Error::UnsupportedInput(format!("{}: {what}", path.display()));
                }
                Error::CorruptDataset { path: path.into(), what }
            })
        });
        Ok(Box::new(Rows { python: opened?, keys: keys.to_vec(), lines: Vec::new(), read: 0 }))
    }
}

pub(crate) fn python_parquet(open: Py<PyAny>) -> Arc<dyn Parquet> {
    Arc::new(PythonParquet(open))
}

/// Lines of rows that Python reads, some at a time.
struct Rows {
    python: Py<PyAny>,
    keys: Vec<String>,
    lines: Vec<u8>,
    read: usize,
}

impl Rows {
    fn next_lines(&mut self) -> io::Result<()> {
        self.read = 0;
        self.lines.clear();
        let columns = Python::attach(|py| {
            let more = self.python.bind(py).call_method0("read")?;
            if let Ok(lines) = more.cast::<PyBytes>() {
                self.lines.extend_from_slice(lines.as_bytes());
                return Ok(None);
            }
            more.extract::<Vec<(PyBackedBytes, PyBackedBytes)>>().map(Some)
        });
        let columns = columns.map_err(|error: PyErr| Python::attach(|py| error.value(py).to_string()));
        let columns = columns.map_err(io::Error::other)?.into_iter().flatten();
        let columns: Vec<_> = columns.map(|(offsets, texts)| Column { offsets, texts }).collect();
        if columns.is_empty() {
            return Ok(());
        }
        preprocess::push_rows(&mut self.lines, &self.keys, &columns).map_err(io::Error::other)
    }
}

impl Read for Rows {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read == self.lines.len() {
            self.next_lines()?;
        }
        let n = buffer.len().min(self.lines.len() - self.read);
        buffer[..n].copy_from_slice(&self.lines[self.read..][..n]);
        self.read += n;
        Ok(n)
    }
}

fn tell(observe: &Py<PyAny>, status: &Status) -> PyResult<()> {
    let Status { documents, tokens, skipped, bytes_read, bytes_total } = *status;
    Python::attach(|py| observe.call1(py, (documents, tokens, skipped, bytes_read, bytes_total)))?;
    Ok(())
}

#[pyfunction]
#[pyo3(signature = (
    encode, inputs, outputs, *, dtype, vocab_size, bos, eod, workers, skip_errors, format, txt, tokenizer,
    sync_seconds, observe, parquet,
))]
fn data_tokenize<'py>(
    py: Python<'py>,
    encode: Py<PyAny>,
    inputs: Vec<String>,
    outputs: Vec<(String, PathBuf)>,
    dtype: Option<&str>,
    vocab_size: usize,
    bos: Option<u32>,
    eod: Option<u32>,
    workers: Option<usize>,
    skip_errors: bool,
    format: Option<&str>,
    txt: &str,
    tokenizer: Option<String>,
    sync_seconds: f64,
    observe: Option<Py<PyAny>>,
    parquet: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let kind = dtype.map_or(Ok(TokenType::for_vocab(vocab_size)), TokenType::from_name).map_err(PyError::from)?;
    let format = format.map(str::parse::<Format>).transpose().map_err(PyError::from)?;
    let txt: Format = txt.parse().map_err(PyError::from)?;
    let found = py.detach(|| preprocess::expand(&inputs, format, txt)).map_err(PyError::from)?;
    // A Python function is called by one thread at a time anyway.
    let native = encode.extract::<PyRef<'_, PyTokenizer>>(py).ok().map(|tok| tok.inner.clone());
    let (keys, prefixes) = outputs.into_iter().unzip();
    let options = Options {
        inputs: found.files,
        keys,
        prefixes,
        kind,
        vocab_size,
        bos,
        eod,
        workers: workers.unwrap_or_else(|| if native.is_some() { default_threads() } else { 1 }),
        on_error: if skip_errors { OnError::Skip } else { OnError::Raise },
        tokenizer,
        parquet: parquet.map(python_parquet),
        sync_every: Duration::try_from_secs_f64(sync_seconds).unwrap_or(Duration::MAX),
    };
    let raised = Raised::default();
    let worker = || -> Result<Box<dyn Encode + '_>> {
        Ok(match &native {
            Some(tokenizer) => Box::new(Native(tokenizer.worker())),
            None => Box::new(Function { call: &encode, raised: &raised }),
        })
    };
    let mut told = |status: &Status| match &observe {
        Some(observe) => tell(observe, status).map_err(|error| keep(&raised, error)),
        None => Ok(()),
    };
    let summary = detached(py, |interrupt| preprocess::run(&options, &worker, &mut told, interrupt));
    let raised = raised.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    match (summary, raised) {
        (Err(_), Some(raised)) => Err(raised),
        (summary, _) => dict(py, &summary?, &options, &found.ignored),
    }
}

fn dict<'py>(
    py: Python<'py>,
    summary: &Summary,
    options: &Options,
    ignored: &[PathBuf],
) -> PyResult<Bound<'py, PyDict>> {
    let counts = &summary.counts;
    let mut datasets = Vec::with_capacity(options.keys.len());
    for ((key, written), counts) in options.keys.iter().zip(&summary.written).zip(&counts.keys) {
        let dict = PyDict::new(py);
        set_written(&dict, written)?;
        dict.set_item("key", key)?;
        dict.set_item("empty", counts.empty)?;
        dict.set_item("text_bytes", counts.text_bytes)?;
        dict.set_item("characters", counts.characters)?;
        datasets.push(dict);
    }
    let dict = PyDict::new(py);
    dict.set_item("datasets", datasets)?;
    dict.set_item("inputs", options.inputs.iter().map(|input| input.path.clone()).collect::<Vec<_>>())?;
    dict.set_item("ignored", ignored)?;
    dict.set_item("lines", counts.lines)?;
    dict.set_item("blank_lines", counts.blank_lines)?;
    dict.set_item("skipped", counts.skipped)?;
    dict.set_item("errors", &counts.errors)?;
    dict.set_item("resumed", summary.resumed)?;
    Ok(dict)
}

/// The documents of inputs, a batch a call.
#[pyclass(name = "DocumentReader", module = "llmjp_core._core")]
struct PyDocumentReader(Mutex<preprocess::Documents>);

#[pymethods]
impl PyDocumentReader {
    #[new]
    #[pyo3(signature = (inputs, *, key, skip_errors, format, txt, parquet))]
    fn new(
        py: Python<'_>,
        inputs: Vec<String>,
        key: &str,
        skip_errors: bool,
        format: Option<&str>,
        txt: &str,
        parquet: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let format = format.map(str::parse::<Format>).transpose().map_err(PyError::from)?;
        let txt: Format = txt.parse().map_err(PyError::from)?;
        let found = py.detach(|| preprocess::expand(&inputs, format, txt)).map_err(PyError::from)?;
        let documents = preprocess::Documents::new(&found.files, key, parquet.map(python_parquet), skip_errors);
        Ok(Self(Mutex::new(documents)))
    }

    /// `(texts, paths, lines, errors)` of the next documents, `None` at the end.
    fn next_batch<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let next = || self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
        let Some(batch) = py.detach(next) else { return Ok(None) };
        let Batch { documents, errors } = batch.map_err(PyError::from)?;
        let texts = PyList::new(py, documents.iter().map(|document| &document.text))?;
        let paths = PyList::new(py, documents.iter().map(|document| &document.path))?;
        let lines = PyList::new(py, documents.iter().map(|document| document.line))?;
        Ok(Some((texts, paths, lines, errors).into_pyobject(py)?.into_any()))
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyDocumentReader>()?;
    m.add_function(wrap_pyfunction!(data_tokenize, m)?)
}
