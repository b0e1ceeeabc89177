//! `lc.Tokenizer`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Mutex;

use numpy::{IntoPyArray, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};

use super::error::{PyError, Result};
use super::signals::detached;
use super::tokenizer_lists::Objects;
use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::tokenizer::{Batch, BatchOptions, Compat, Export, Placed, Sampling, SpecialTokens, Tokenizer, Unit, Worker};

/// A text as Python hands it over, kept alive while the interpreter is released.
enum Text {
    Str(PyBackedStr),
    Bytes(PyBackedBytes),
}

impl Text {
    /// `place` names it in messages.
    fn new(text: &Bound<'_, PyAny>, place: impl Fn() -> String) -> Result<Self> {
        if let Ok(text) = text.cast::<PyString>() {
            let backed = text.extract::<PyBackedStr>();
            return Ok(Self::Str(backed.map_err(|_| {
                let place = place();
                Error::UnsupportedInput(format!(
                    "{place} has a lone surrogate; encode it with errors=\"replace\" first"
                ))
            })?));
        }
        if let Ok(bytes) = text.cast::<PyBytes>() {
            return Ok(Self::Bytes(PyBackedBytes::from(bytes.clone())));
        }
        let kind = text.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string());
        Err(Error::UnsupportedInput(format!("{} must be str or bytes, not {kind}", place())).into())
    }

    fn all(texts: &Bound<'_, PyAny>) -> PyResult<Vec<Self>> {
        if texts.is_instance_of::<PyString>() || texts.is_instance_of::<PyBytes>() {
            let error = Error::UnsupportedInput("texts must be a sequence of str, not one str".to_owned());
            return Err(PyError::from(error).into());
        }
        let texts = texts.try_iter()?.enumerate();
        texts.map(|(i, text)| Ok(Self::new(&text?, || format!("texts[{i}]"))?)).collect()
    }

    fn one(text: &Bound<'_, PyAny>) -> Result<Self> {
        Self::new(text, || "text".to_owned())
    }

    fn get(&self) -> crate::tokenizer::Text<'_> {
        match self {
            Self::Str(text) => crate::tokenizer::Text::Str(text),
            Self::Bytes(bytes) => crate::tokenizer::Text::Bytes(bytes),
        }
    }
}

/// Text to ids and back: a SentencePiece model with the ids of the `sentencepiece` package, or a
/// `tokenizer.json` with those of Hugging Face `tokenizers`.
///
/// Immutable and shared freely between threads; no begin, end or document piece is added unless
/// asked for. Text is `str`, or `bytes` in which each byte that is not UTF-8 counts as U+FFFD.
///
///     tok = Tokenizer.from_file("m.model"); tok.decode(tok.encode("日本語")) == "日本語"
#[pyclass(name = "Tokenizer", module = "llmjp_core", frozen)]
pub(crate) struct PyTokenizer {
    pub(crate) inner: Tokenizer,
    /// Workers not in use; each call takes one, so that threads do not wait for each other.
    workers: Mutex<Vec<Worker>>,
    objects: Objects,
}

/// Texts of up to so many bytes take microseconds: releasing the interpreter would cost as much.
const SHORT: usize = 512;

impl PyTokenizer {
    fn with_worker<T>(&self, run: impl FnOnce(&mut Worker) -> T) -> T {
        let lock = || self.workers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let spare = lock().pop();
        let mut worker = spare.unwrap_or_else(|| self.inner.worker());
        let result = run(&mut worker);
        lock().push(worker);
        result
    }

    /// As `with_worker`; unless the text is short, Python's other threads run on meanwhile and a
    /// signal stops it.
    fn with_text<T: Send>(
        &self,
        py: Python<'_>,
        text: &Text,
        run: impl FnOnce(&mut Worker, crate::tokenizer::Text<'_>, Interrupt<'_>) -> T + Send,
    ) -> PyResult<T> {
        let text = text.get();
        if text.len() <= SHORT {
            return Ok(self.with_worker(|worker| run(worker, text, Interrupt::NEVER)));
        }
        detached(py, |interrupt| {
            let result = self.with_worker(|worker| run(worker, text, interrupt));
            interrupt.check().map(|()| result)
        })
    }

    fn batch(
        &self,
        py: Python<'_>,
        texts: &Bound<'_, PyAny>,
        num_threads: Option<usize>,
        sampling: Option<Sampling>,
        places: Option<Unit>,
    ) -> PyResult<Batch> {
        let texts = Text::all(texts)?;
        let threads = num_threads.unwrap_or_else(crate::tokenizer::default_threads);
        detached(py, |interrupt| {
            let slices: Vec<_> = texts.iter().map(Text::get).collect();
            self.inner.encode_batch(&slices, BatchOptions { threads, sampling, places }, interrupt)
        })
    }

    /// The tokens of one text, and the text of those that are unknown.
    fn place(&self, py: Python<'_>, text: &Text, unit: Unit) -> PyResult<(Placed, Vec<(usize, String)>)> {
        self.with_text(py, text, |worker, text, interrupt| {
            let mut placed = Placed::default();
            let others = worker.place(text, unit, interrupt, &mut placed);
            (placed, others)
        })
    }
}

/// `None`, "bytes" or "characters".
fn unit_of(name: Option<&str>) -> Result<Option<Unit>> {
    match name {
        None => Ok(None),
        Some("bytes") => Ok(Some(Unit::Bytes)),
        Some("characters") => Ok(Some(Unit::Characters)),
        Some(other) => {
            let text = format!("return_offsets must be None, \"bytes\" or \"characters\", not {other:?}");
            Err(Error::UnsupportedInput(text).into())
        }
    }
}

fn ids_of(ids: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    if let Ok(array) = ids.extract::<PyReadonlyArray1<'_, u32>>() {
        return Ok(array.as_array().to_vec());
    }
    if let Ok(array) = ids.extract::<PyReadonlyArray1<'_, u16>>() {
        return Ok(array.as_array().iter().map(|id| u32::from(*id)).collect());
    }
    let wide: Vec<i64> = if let Ok(array) = ids.extract::<PyReadonlyArray1<'_, i64>>() {
        array.as_array().to_vec()
    } else if let Ok(array) = ids.extract::<PyReadonlyArray1<'_, i32>>() {
        array.as_array().iter().map(|id| i64::from(*id)).collect()
    } else {
        ids.extract()?
    };
    let narrow = |(place, id): (usize, &i64)| {
        u32::try_from(*id).map_err(|_| Error::UnsupportedInput(format!("id {id} at place {place} is not an id")))
    };
    let ids: std::result::Result<Vec<u32>, Error> = wide.iter().enumerate().map(narrow).collect();
    Ok(ids.map_err(PyError::from)?)
}

/// By the keys of `tokenizer_config.json`.
fn special_tokens_of(mut named: HashMap<String, String>) -> Result<SpecialTokens> {
    let names = SpecialTokens::KEYS.map(|key| named.remove(key));
    if let Some(key) = named.keys().next() {
        let known = SpecialTokens::KEYS.join(", ");
        let text = format!("special_tokens has no key {key:?}; it takes {known}");
        return Err(Error::UnsupportedInput(text).into());
    }
    Ok(SpecialTokens { names })
}

#[pymethods]
impl PyTokenizer {
    /// Reads a `.model` file, a `tokenizer.json` or a folder with one. `compat` says whose ids are meant: "sentencepiece" (0.2.2 and later), "sentencepiece<=0.2.1" or "hf".
    #[staticmethod]
    #[pyo3(signature = (path, *, compat = "sentencepiece", special_tokens = None))]
    fn from_file(
        py: Python<'_>,
        path: PathBuf,
        compat: &str,
        special_tokens: Option<HashMap<String, String>>,
    ) -> Result<Self> {
        let compat = Compat::from_str(compat)?;
        let inner = match special_tokens {
            None => py.detach(|| Tokenizer::from_file(&path, compat))?,
            Some(named) => {
                let named = special_tokens_of(named)?;
                py.detach(|| Tokenizer::from_file_with(&path, compat, named))?
            }
        };
        Ok(Self { inner, workers: Mutex::default(), objects: Objects::default() })
    }

    /// As `from_file`, from the file's bytes.
    #[staticmethod]
    #[pyo3(signature = (model, *, compat = "sentencepiece", special_tokens = None))]
    fn from_bytes(
        py: Python<'_>,
        model: Vec<u8>,
        compat: &str,
        special_tokens: Option<HashMap<String, String>>,
    ) -> Result<Self> {
        let compat = Compat::from_str(compat)?;
        let named = special_tokens_of(special_tokens.unwrap_or_default())?;
        let inner = py.detach(|| Tokenizer::from_bytes_with(model, compat, named))?;
        Ok(Self { inner, workers: Mutex::default(), objects: Objects::default() })
    }

    /// Trains a model; see the stubs for the options.
    #[staticmethod]
    #[pyo3(signature = (input, **options))]
    fn train<'py>(
        py: Python<'py>,
        input: &Bound<'py, PyAny>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        py.import("llmjp_core._tokenizer_training")?.getattr("train")?.call((input,), options)
    }

    /// A copy with scores estimated on other text; see the stubs for the options.
    #[pyo3(signature = (texts, add_pieces = None, **options))]
    fn reestimate<'py>(
        slf: &Bound<'py, Self>,
        texts: &Bound<'py, PyAny>,
        add_pieces: Option<&Bound<'py, PyAny>>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let reestimate = slf.py().import("llmjp_core._tokenizer_training")?.getattr("reestimate")?;
        reestimate.call((slf, texts, add_pieces), options)
    }

    /// The ids of one text. `enable_sampling` draws a segmentation at random, by `seed`; see `encode_batch`.
    #[pyo3(
        signature = (
            text, *, add_bos = false, add_eos = false, enable_sampling = false, alpha = 0.1, nbest_size = -1, seed = 0,
        ),
        // A negative default shows as an ellipsis otherwise.
        text_signature = "($self, text, *, add_bos=False, add_eos=False, enable_sampling=False, alpha=0.1, \
                          nbest_size=-1, seed=0)"
    )]
    fn encode<'py>(
        &self,
        py: Python<'py>,
        text: &Bound<'py, PyAny>,
        add_bos: bool,
        add_eos: bool,
        enable_sampling: bool,
        alpha: f64,
        nbest_size: i64,
        seed: u64,
    ) -> PyResult<Bound<'py, PyList>> {
        let text = Text::one(text)?;
        let sampling = enable_sampling.then_some(Sampling { alpha, nbest_size, seed });
        let special = |id, name| self.inner.require(id, name).map_err(PyError::from);
        let begin = add_bos.then(|| special(self.inner.bos_id(), "bos")).transpose()?;
        let end = add_eos.then(|| special(self.inner.eos_id(), "eos")).transpose()?;
        sampling.as_ref().map_or(Ok(()), |sampling| self.inner.check_sampling(sampling)).map_err(PyError::from)?;
        let ids = self.with_text(py, &text, |worker, text, interrupt| {
            let mut ids = Vec::with_capacity(text.len() / 2 + 4);
            ids.extend(begin);
            match &sampling {
                None => worker.encode_all([text].into_iter(), interrupt, &mut ids, |_| {}),
                Some(sampling) => worker.sample(text, sampling, 0, &mut ids),
            }
            ids.extend(end);
            ids
        })?;
        self.objects.list(py, &self.inner, &ids)
    }

    /// The ids of each text, over several threads; the same for any number of them. `enable_sampling`
    /// draws each text's segmentation at random, by `seed` and its place in `texts`.
    #[pyo3(
        signature = (
            texts, num_threads = None, *, enable_sampling = false, alpha = 0.1, nbest_size = -1, seed = 0,
        ),
        text_signature = "($self, texts, num_threads=None, *, enable_sampling=False, alpha=0.1, nbest_size=-1, \
                          seed=0)"
    )]
    fn encode_batch<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
        num_threads: Option<usize>,
        enable_sampling: bool,
        alpha: f64,
        nbest_size: i64,
        seed: u64,
    ) -> PyResult<Bound<'py, PyList>> {
        let sampling = enable_sampling.then_some(Sampling { alpha, nbest_size, seed });
        let batch = self.batch(py, texts, num_threads, sampling, None)?;
        let lists = batch.offsets.windows(2).map(|w| self.objects.list(py, &self.inner, &batch.ids[w[0]..w[1]]));
        PyList::new(py, lists.collect::<PyResult<Vec<_>>>()?)
    }

    /// As `encode_batch`, as `(ids, offsets)`: text `i` is `ids[offsets[i]:offsets[i + 1]]`. With
    /// `return_offsets` ("bytes" or "characters"), `(ids, offsets, places)`: token `k` stands for
    /// `places[k, 0]` to `places[k, 1]` of its text.
    #[pyo3(
        signature = (
            texts, num_threads = None, *, return_offsets = None, enable_sampling = false, alpha = 0.1,
            nbest_size = -1, seed = 0,
        ),
        text_signature = "($self, texts, num_threads=None, *, return_offsets=None, enable_sampling=False, alpha=0.1, \
                          nbest_size=-1, seed=0)"
    )]
    fn encode_flat<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
        num_threads: Option<usize>,
        return_offsets: Option<&str>,
        enable_sampling: bool,
        alpha: f64,
        nbest_size: i64,
        seed: u64,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let sampling = enable_sampling.then_some(Sampling { alpha, nbest_size, seed });
        let unit = unit_of(return_offsets)?;
        let Batch { ids, places, offsets } = self.batch(py, texts, num_threads, sampling, unit)?;
        let offsets: Vec<i64> = offsets.iter().map(|o| *o as i64).collect();
        let (ids, offsets) = (ids.into_pyarray(py), offsets.into_pyarray(py));
        if unit.is_none() {
            return (ids, offsets).into_pyobject(py);
        }
        let shape = [places.len(), 2];
        let places = places.into_flattened().into_pyarray(py).reshape(shape)?;
        (ids, offsets, places).into_pyobject(py)
    }

    /// The pieces of a text, as strings; `▁` is a space.
    fn encode_as_pieces<'py>(&self, py: Python<'py>, text: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        let (Placed { ids, .. }, others) = self.place(py, &Text::one(text)?, Unit::Bytes)?;
        self.objects.pieces(py, &self.inner, &ids, &others)
    }

    /// The tokens of a text as `(id, piece, begin, end)`: places in characters of a `str`, in
    /// bytes of `bytes`.
    fn encode_with_offsets<'py>(&self, py: Python<'py>, text: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        let text = Text::one(text)?;
        let unit = if matches!(text, Text::Str(_)) { Unit::Characters } else { Unit::Bytes };
        let (Placed { ids, places }, others) = self.place(py, &text, unit)?;
        self.objects.tokens(py, &self.inner, (&ids, &places), &others)
    }

    /// The text of ids. Control pieces vanish; bytes that form no character become U+FFFD.
    fn decode(&self, py: Python<'_>, ids: &Bound<'_, PyAny>) -> PyResult<String> {
        let ids = ids_of(ids)?;
        Ok(py.detach(|| self.inner.decode(&ids)).map_err(PyError::from)?)
    }

    /// The id of a piece, `None` where there is no such piece (never the unknown id).
    fn piece_to_id(&self, piece: &str) -> Option<u32> {
        self.inner.piece_to_id(piece)
    }

    /// The piece of an id.
    fn id_to_piece(&self, id: i64) -> Result<&str> {
        let piece = u32::try_from(id).ok().and_then(|id| self.inner.id_to_piece(id));
        let size = self.inner.vocab_size();
        let outside = || Error::UnsupportedInput(format!("id {id} is outside the vocabulary of {size} pieces"));
        Ok(piece.ok_or_else(outside)?)
    }

    /// The id that ends a document: of `piece`, else of the first of `<|endoftext|>`,
    /// `<EOD|LLM-jp>`, `<EOD>` that the model has.
    #[pyo3(signature = (piece = None))]
    fn eod_id(&self, piece: Option<&str>) -> Result<u32> {
        Ok(self.inner.eod(piece)?)
    }

    /// Number of pieces, of all kinds.
    #[getter]
    fn vocab_size(&self) -> usize {
        self.inner.vocab_size()
    }

    #[getter]
    fn unk_id(&self) -> Option<u32> {
        self.inner.unk_id()
    }

    #[getter]
    fn bos_id(&self) -> Option<u32> {
        self.inner.bos_id()
    }

    #[getter]
    fn eos_id(&self) -> Option<u32> {
        self.inner.eos_id()
    }

    #[getter]
    fn pad_id(&self) -> Option<u32> {
        self.inner.pad_id()
    }

    /// SHA-256 of the model file.
    #[getter]
    fn fingerprint(&self) -> &str {
        self.inner.fingerprint()
    }

    /// Whose ids these are; see `from_file`.
    #[getter]
    fn compat(&self) -> String {
        self.inner.compat().to_string()
    }

    /// Writes the file that it was read from.
    fn save(&self, py: Python<'_>, path: PathBuf) -> Result<()> {
        Ok(py.detach(|| self.inner.save(&path))?)
    }

    /// Writes a folder that `transformers.AutoTokenizer` opens, with the same ids. `parse_special`:
    /// whether `</s>` typed in a text becomes the special piece there.
    #[pyo3(signature = (dir, *, parse_special = false))]
    fn export(&self, py: Python<'_>, dir: PathBuf, parse_special: bool) -> Result<()> {
        Ok(py.detach(|| self.inner.export(&dir, Export { parse_special }))?)
    }

    fn __len__(&self) -> usize {
        self.inner.vocab_size()
    }

    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        let this = slf.get();
        let partial = py.import("functools")?.getattr("partial")?;
        let kwargs = PyDict::new(py);
        kwargs.set_item("compat", this.compat())?;
        let named = SpecialTokens::KEYS.into_iter().zip(this.inner.special_tokens().names);
        let named: HashMap<_, _> = named.filter_map(|(key, name)| Some((key, name?))).collect();
        if !named.is_empty() {
            kwargs.set_item("special_tokens", named)?;
        }
        let make = partial.call((slf.get_type().getattr("from_bytes")?,), Some(&kwargs))?;
        Ok((make, (PyBytes::new(py, this.inner.model_bytes()),)))
    }

    fn __repr__(&self) -> String {
        let Self { inner, .. } = self;
        format!(
            "Tokenizer({}, vocab_size={}, normalizer={:?}, compat=\"{}\")",
            inner.model_type(),
            inner.vocab_size(),
            inner.normalizer_name(),
            inner.compat()
        )
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyTokenizer>()
}
