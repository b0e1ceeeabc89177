//! `lc.data`: datasets, samples and preprocessing.

use std::path::PathBuf;
use std::sync::Arc;

use numpy::{Element, PyArray1, PyReadonlyArray1};
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PySlice};

use super::error::{PyError, Result};
use super::signals::detached;
use crate::data::{self, DataConfig, IndexFlavor, Packing, Samples, Source, Sources, TokenType};

/// Stored tokens as a numpy array of their own type.
fn array<'py>(py: Python<'py>, kind: TokenType, bytes: &[u8]) -> Bound<'py, PyAny> {
    fn of<'py, T: Element + bytemuck::Pod>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyAny> {
        PyArray1::from_vec(py, bytemuck::pod_collect_to_vec::<u8, T>(bytes)).into_any()
    }
    match kind {
        TokenType::U8 => of::<u8>(py, bytes),
        TokenType::I8 => of::<i8>(py, bytes),
        TokenType::I16 => of::<i16>(py, bytes),
        TokenType::I32 => of::<i32>(py, bytes),
        TokenType::I64 => of::<i64>(py, bytes),
        TokenType::U16 => of::<u16>(py, bytes),
    }
}

#[pyclass(name = "IndexedDataset", module = "llmjp_core._core", frozen, sequence)]
struct PyIndexedDataset(data::IndexedDataset);

#[pymethods]
impl PyIndexedDataset {
    #[new]
    fn new(py: Python<'_>, prefix: PathBuf) -> Result<Self> {
        Ok(Self(py.detach(|| data::IndexedDataset::open(prefix))?))
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn __getitem__<'py>(&self, py: Python<'py>, index: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        if let Ok(slice) = index.cast::<PySlice>() {
            let at = slice.indices(self.0.len() as isize)?;
            let places = (0..at.slicelength as isize).map(|i| at.start + i * at.step);
            let items = places.map(|i| self.get(py, i, 0, None)).collect::<PyResult<Vec<_>>>()?;
            return Ok(PyList::new(py, items)?.into_any());
        }
        self.get(py, index.extract()?, 0, None)
    }

    #[pyo3(signature = (index, offset = 0, length = None))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        index: isize,
        offset: usize,
        length: Option<usize>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let i = self.place(index)?;
        let end = length.map_or(self.0.size(i), |length| offset.saturating_add(length));
        let bytes = self.0.bytes(i, offset..end).map_err(PyError::from)?;
        Ok(array(py, self.0.kind(), bytes))
    }

    #[getter]
    fn sizes<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i32>> {
        PyArray1::from_vec(py, py.detach(|| (0..self.0.len()).map(|i| self.0.size(i) as i32).collect()))
    }

    #[getter]
    fn documents<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        let starts = || (0..=self.0.documents()).map(|i| self.0.document_start(i) as i64).collect();
        PyArray1::from_vec(py, py.detach(starts))
    }

    #[getter]
    fn num_documents(&self) -> usize {
        self.0.documents()
    }

    #[getter]
    fn num_tokens(&self) -> usize {
        self.0.tokens()
    }

    #[getter]
    fn dtype<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.import("numpy")?.call_method1("dtype", (self.0.kind().name(),))
    }

    #[getter]
    fn prefix(&self) -> PathBuf {
        self.0.prefix().to_owned()
    }

    fn fingerprint(&self, py: Python<'_>) -> Result<String> {
        Ok(py.detach(|| data::fingerprint::of_dataset(&self.0))?)
    }

    fn __repr__(&self) -> String {
        format!(
            "IndexedDataset(\"{}\", sequences={}, documents={}, tokens={}, dtype={})",
            self.0.prefix().display(),
            self.0.len(),
            self.0.documents(),
            self.0.tokens(),
            self.0.kind().name()
        )
    }
}

impl PyIndexedDataset {
    /// Python's index, from the end where it is negative.
    fn place(&self, index: isize) -> PyResult<usize> {
        let len = self.0.len();
        let i = if index < 0 { index.checked_add_unsigned(len) } else { Some(index) };
        let i = i.and_then(|i| usize::try_from(i).ok()).filter(|i| *i < len);
        i.ok_or_else(|| PyIndexError::new_err(format!("sequence {index} of {len}")))
    }
}

#[pyclass(name = "DatasetBuilder", module = "llmjp_core._core")]
struct PyDatasetBuilder(Option<data::DatasetWriter>);

impl PyDatasetBuilder {
    fn open(&mut self) -> PyResult<&mut data::DatasetWriter> {
        self.0.as_mut().ok_or_else(|| PyValueError::new_err("the dataset is finished"))
    }
}

#[pymethods]
impl PyDatasetBuilder {
    #[new]
    fn new(prefix: PathBuf, dtype: &str) -> Result<Self> {
        Ok(Self(Some(data::DatasetWriter::create(&prefix, TokenType::from_name(dtype)?)?)))
    }

    fn add(&mut self, py: Python<'_>, ids: PyReadonlyArray1<'_, i64>) -> PyResult<()> {
        let ids = ids.as_array().to_vec();
        let writer = self.open()?;
        Ok(py.detach(|| writer.sequence(&ids)).map_err(PyError::from)?)
    }

    fn end_document(&mut self) -> PyResult<()> {
        Ok(self.open()?.end_document().map_err(PyError::from)?)
    }

    fn finish<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.open()?;
        let writer = self.0.take();
        let written = py.detach(|| writer.map(data::DatasetWriter::finish).transpose()).map_err(PyError::from)?;
        let dict = PyDict::new(py);
        written.map_or(Ok(()), |written| set_written(&dict, &written))?;
        Ok(dict)
    }

    /// Drops what was written so far.
    fn abandon(&mut self) {
        self.0 = None;
    }
}

pub(super) fn set_written(dict: &Bound<'_, PyDict>, written: &data::Written) -> PyResult<()> {
    dict.set_item("prefix", &written.prefix)?;
    dict.set_item("dtype", written.kind.name())?;
    dict.set_item("sequences", written.sequences)?;
    dict.set_item("documents", written.documents)?;
    dict.set_item("tokens", written.tokens)?;
    dict.set_item("bin_bytes", written.bin_bytes)?;
    dict.set_item("idx_bytes", written.idx_bytes)?;
    dict.set_item("bin_sha256", &written.bin_sha256)?;
    dict.set_item("idx_sha256", &written.idx_sha256)
}

#[pyfunction]
#[pyo3(signature = (prefix, vocab_size = None))]
fn data_verify(py: Python<'_>, prefix: PathBuf, vocab_size: Option<usize>) -> PyResult<Bound<'_, PyDict>> {
    let report = detached(py, |interrupt| data::verify(&prefix, vocab_size, interrupt))?;
    let dict = PyDict::new(py);
    dict.set_item("prefix", &report.prefix)?;
    dict.set_item("dtype", report.kind.name())?;
    dict.set_item("sequences", report.sequences)?;
    dict.set_item("documents", report.documents)?;
    dict.set_item("tokens", report.tokens)?;
    dict.set_item("empty", report.empty)?;
    dict.set_item("longest", report.longest)?;
    dict.set_item("min_id", report.min_id)?;
    dict.set_item("max_id", report.max_id)?;
    dict.set_item("bin_bytes", report.bin_bytes)?;
    dict.set_item("idx_bytes", report.idx_bytes)?;
    dict.set_item("bin_sha256", report.bin_sha256)?;
    dict.set_item("idx_sha256", report.idx_sha256)?;
    Ok(dict)
}

#[pyfunction]
fn data_split(split: &str, documents: usize, flavor: &str) -> Result<[usize; 4]> {
    Ok(data::split::bounds(split, documents, flavor.parse()?)?)
}

#[pyfunction]
fn data_weights(documents: Vec<usize>, alpha: f64) -> Vec<f64> {
    data::weights_by_documents(&documents, alpha)
}

#[pyclass(name = "Samples", module = "llmjp_core._core", frozen)]
struct PySamples {
    samples: Arc<dyn Samples>,
    seq_length: usize,
}

#[pymethods]
impl PySamples {
    fn __len__(&self) -> usize {
        self.samples.len()
    }

    #[getter]
    fn seq_length(&self) -> usize {
        self.seq_length
    }

    /// As `item`, but an index that is not below the length is an error.
    #[expect(clippy::type_complexity, reason = "a pair of arrays")]
    fn __getitem__<'py>(
        &self,
        py: Python<'py>,
        index: usize,
    ) -> PyResult<(Bound<'py, PyArray1<i32>>, Bound<'py, PyArray1<i32>>)> {
        if index >= self.samples.len() {
            return Err(PyIndexError::new_err(format!("sample {index} of {}", self.samples.len())));
        }
        Ok(self.item(py, index)?)
    }

    /// Inputs and targets of item `index`, as the trainer reads them: numbers beyond the end wrap.
    #[expect(clippy::type_complexity, reason = "a pair of arrays")]
    fn item<'py>(
        &self,
        py: Python<'py>,
        index: usize,
    ) -> Result<(Bound<'py, PyArray1<i32>>, Bound<'py, PyArray1<i32>>)> {
        let (mut inputs, mut targets) = (vec![0; self.seq_length], vec![0; self.seq_length]);
        py.detach(|| self.samples.fill(index, &mut inputs, &mut targets))?;
        Ok((PyArray1::from_vec(py, inputs), PyArray1::from_vec(py, targets)))
    }
}

/// One part's datasets: (prefix, labels, weight) each.
type Given = Vec<(PathBuf, Option<PathBuf>, f64)>;

fn sources(given: Given) -> Vec<Source> {
    given.into_iter().map(|(path, labels, weight)| Source { path, labels, weight }).collect()
}

#[pyfunction]
#[pyo3(signature = (
    split, lists, *, seq_length, seed, samples, packing, allow_chopped, flavor, weight_by_num_documents,
    weighted_sampler_alpha, eod_mask_loss, eod, vocab_size,
))]
fn data_samples<'py>(
    py: Python<'py>,
    split: Option<(PathBuf, String)>,
    lists: (Given, Given, Given),
    seq_length: usize,
    seed: u32,
    samples: [Option<usize>; 3],
    packing: &str,
    allow_chopped: bool,
    flavor: &str,
    weight_by_num_documents: bool,
    weighted_sampler_alpha: f64,
    eod_mask_loss: bool,
    eod: Option<u32>,
    vocab_size: usize,
) -> PyResult<Bound<'py, PyDict>> {
    let sources = match split {
        Some((path, split)) => Sources::Split { path, split },
        None => Sources::Lists { train: sources(lists.0), valid: sources(lists.1), test: sources(lists.2) },
    };
    let packing: Packing = packing.parse().map_err(PyError::from)?;
    let flavor: IndexFlavor = flavor.parse().map_err(PyError::from)?;
    let config = DataConfig {
        sources,
        packing,
        allow_chopped,
        flavor,
        weight_by_num_documents,
        weighted_sampler_alpha,
        eod_mask_loss,
        eod,
        seq_length,
        seed,
        samples,
        vocab_size,
    };
    let parts = py.detach(|| data::build(&config)).map_err(PyError::from)?;
    let dict = PyDict::new(py);
    let part = |samples| PySamples { samples, seq_length };
    dict.set_item("train", Py::new(py, part(parts.train))?)?;
    dict.set_item("valid", parts.valid.map(|samples| Py::new(py, part(samples))).transpose()?)?;
    dict.set_item("test", parts.test.map(|samples| Py::new(py, part(samples))).transpose()?)?;
    dict.set_item("fingerprint", parts.fingerprint)?;
    dict.set_item("warnings", parts.warnings)?;
    Ok(dict)
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyIndexedDataset>()?;
    m.add_class::<PyDatasetBuilder>()?;
    m.add_class::<PySamples>()?;
    m.add_function(wrap_pyfunction!(data_verify, m)?)?;
    m.add_function(wrap_pyfunction!(data_split, m)?)?;
    m.add_function(wrap_pyfunction!(data_weights, m)?)?;
    m.add_function(wrap_pyfunction!(data_samples, m)?)
}
