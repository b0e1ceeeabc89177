//! Training of tokenizers: binds `tokenizer::train` to files or a Python iterator.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBool, PyBytes, PyDict, PyIterator, PyString};

use super::error::PyError;
use super::preprocess::python_parquet;
use super::signals::watched;
use super::tokenizer::PyTokenizer;
use crate::data::preprocess::{self, Format};
use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::tokenizer::train::{
    Corpus, Files, Options, Progress, Reestimate, Report, Stage, Value, files, named_charsmap, train_text,
};
use crate::tokenizer::{Tokenizer, default_threads};

/// Between two calls of `observe`.
const PAUSE: Duration = Duration::from_millis(100);
/// Of sentences taken from an iterator at a time.
const BATCH_BYTES: usize = 4 << 20;
const BATCH_SENTENCES: usize = 1 << 14;

fn value(value: &Bound<'_, PyAny>) -> PyResult<Value> {
    if let Ok(flag) = value.cast::<PyBool>() {
        return Ok(Value::Flag(flag.is_true()));
    }
    if let Ok(text) = value.cast::<PyString>() {
        return Ok(Value::Text(text.extract()?));
    }
    if let Ok(integer) = value.extract::<i64>() {
        return Ok(Value::Integer(integer));
    }
    if let Ok(float) = value.extract::<f64>() {
        return Ok(Value::Float(float));
    }
    let kind = value.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string());
    value.extract::<Vec<String>>().map(Value::List).map_err(|_| {
        PyError::from(Error::Config(format!("a training option is a number, a str or a list of str, not {kind}")))
            .into()
    })
}

fn options(named: &Bound<'_, PyDict>) -> PyResult<Options> {
    let mut options = Options::default();
    for (name, given) in named {
        options.set(&name.extract::<String>()?, &value(&given)?).map_err(PyError::from)?;
    }
    if options.num_threads == 0 {
        options.num_threads = default_threads();
    }
    Ok(options)
}

/// Calls a Python function now and then; what it raises ends the training.
struct Observer {
    call: Option<Py<PyAny>>,
    told: Mutex<(Option<Stage>, Instant)>,
    raised: Mutex<Option<PyErr>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Observer {
    fn new(call: Option<Py<PyAny>>) -> Self {
        Self { call, told: Mutex::new((None, Instant::now())), raised: Mutex::new(None) }
    }

    fn tell(&self, stage: Stage, done: u64, total: u64) {
        let Some(call) = &self.call else { return };
        {
            let Ok(mut told) = self.told.try_lock() else { return };
            if told.0 == Some(stage) && told.1.elapsed() < PAUSE {
                return;
            }
            *told = (Some(stage), Instant::now());
        }
        if let Err(error) = Python::attach(|py| call.call1(py, (stage.name(), done, total))) {
            lock(&self.raised).get_or_insert(error);
        }
    }

    fn has_raised(&self) -> bool {
        lock(&self.raised).is_some()
    }

    /// What a function raised counts more than the interruption that it caused.
    fn finish<T>(&self, result: PyResult<T>) -> PyResult<T> {
        match lock(&self.raised).take() {
            Some(raised) => Err(raised),
            None => result,
        }
    }

    /// Runs a part of the training, told and asked.
    fn watch<T: Send>(
        &self,
        py: Python<'_>,
        pool: &rayon::ThreadPool,
        work: impl FnOnce(&Progress<'_>) -> crate::error::Result<T> + Send,
    ) -> PyResult<T> {
        let tell = |stage, done, total| self.tell(stage, done, total);
        let result = watched(py, |interrupt| {
            let stop = || self.has_raised() || interrupt.check().is_err();
            pool.install(|| work(&Progress::new(Interrupt::new(&stop), Some(&tell))))
        });
        self.finish(result)
    }
}

/// Takes some sentences from an iterator; none at its end.
fn some_sentences(sentences: &Bound<'_, PyIterator>, count: &mut usize) -> PyResult<Vec<PyBackedStr>> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while batch.len() < BATCH_SENTENCES && bytes < BATCH_BYTES {
        let Some(sentence) = sentences.clone().next() else { break };
        let sentence = sentence?;
        let Ok(text) = sentence.cast::<PyString>() else {
            let kind = sentence.get_type().name()?;
            let what = format!("sentence {count} must be str, not {kind}");
            return Err(PyError::from(Error::UnsupportedInput(what)).into());
        };
        let text: PyBackedStr = text.extract().map_err(|_| {
            PyError::from(Error::UnsupportedInput(format!(
                "sentence {count} has a lone surrogate; encode it with errors=\"replace\" first"
            )))
        })?;
        *count += 1;
        bytes += text.len();
        batch.push(text);
    }
    Ok(batch)
}

/// Where sentences come from: files, or an iterator.
struct Source<'a, 'py> {
    inputs: Option<Vec<String>>,
    sentences: Option<&'a Bound<'py, PyIterator>>,
    format: Option<&'a str>,
    key: &'a str,
    parquet: Option<Py<PyAny>>,
}

fn pool(threads: usize) -> PyResult<rayon::ThreadPool> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    Ok(pool.map_err(|e| PyError::from(Error::Internal(format!("no threads: {e}"))))?)
}

fn read(
    py: Python<'_>,
    corpus: &mut Corpus,
    source: Source<'_, '_>,
    observer: &Observer,
    pool: &rayon::ThreadPool,
) -> PyResult<()> {
    let Source { inputs, sentences, format, key, parquet } = source;
    if let Some(inputs) = inputs {
        let parquet = parquet.map(python_parquet);
        let format = format.map(str::parse::<Format>).transpose().map_err(PyError::from)?;
        observer.watch(py, pool, |progress| {
            let found = preprocess::expand(&inputs, format, Format::TextLines)?;
            preprocess::sentences(&found.files, key, parquet, |batch| {
                corpus.add(batch.texts, progress)?;
                progress.step(Stage::Read, batch.bytes_read, batch.bytes_total)?;
                Ok(!corpus.is_full())
            })
        })?;
    } else if let Some(sentences) = sentences {
        let (mut count, mut bytes) = (0, 0);
        while !corpus.is_full() {
            let batch = some_sentences(sentences, &mut count)?;
            if batch.is_empty() {
                break;
            }
            let texts: Vec<&str> = batch.iter().map(|text| &**text).collect();
            bytes += texts.iter().map(|text| text.len() as u64).sum::<u64>();
            observer.watch(py, pool, |progress| {
                corpus.add(&texts, progress)?;
                progress.step(Stage::Read, bytes, 0)
            })?;
        }
    }
    Ok(())
}

/// Trains on the lines of `inputs`, or on what `sentences` gives. Returns the model, the list of
/// pieces and what became of the input.
#[pyfunction]
#[pyo3(signature = (named, *, inputs, sentences, format, key, normalizer_from, parquet, observe))]
fn tokenizer_train<'py>(
    py: Python<'py>,
    named: &Bound<'py, PyDict>,
    inputs: Option<Vec<String>>,
    sentences: Option<&Bound<'py, PyIterator>>,
    format: Option<&str>,
    key: &str,
    normalizer_from: Option<PathBuf>,
    parquet: Option<Py<PyAny>>,
    observe: Option<Py<PyAny>>,
) -> PyResult<(Bound<'py, PyBytes>, String, Bound<'py, PyDict>)> {
    let mut options = options(named)?;
    let charsmap = py.detach(|| charsmap(&mut options, normalizer_from)).map_err(PyError::from)?;
    let pool = pool(options.num_threads)?;
    let observer = Observer::new(observe);
    let mut corpus = Corpus::new(&options, &charsmap).map_err(PyError::from)?;
    read(py, &mut corpus, Source { inputs, sentences, format, key, parquet }, &observer, &pool)?;
    let (Files { model, vocab }, report) = observer.watch(py, &pool, |progress| {
        let (text, report) = corpus.finish(progress)?;
        let trained = train_text(text, &options, progress)?;
        progress.step(Stage::Finish, 0, 0)?;
        Ok((files(&trained, &options, &charsmap)?, report))
    })?;
    Ok((PyBytes::new(py, &model), vocab, dict(py, &report)?))
}

/// Estimates the scores of a model anew, with further pieces. Returns the new model.
#[pyfunction]
#[pyo3(signature = (tokenizer, add_pieces, *, inputs, sentences, format, key, parquet, iterations, num_threads, observe))]
fn tokenizer_reestimate<'py>(
    py: Python<'py>,
    tokenizer: &PyTokenizer,
    add_pieces: Vec<String>,
    inputs: Option<Vec<String>>,
    sentences: Option<&Bound<'py, PyIterator>>,
    format: Option<&str>,
    key: &str,
    parquet: Option<Py<PyAny>>,
    iterations: usize,
    num_threads: Option<usize>,
    observe: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyBytes>> {
    if iterations == 0 {
        return Err(PyError::from(Error::Config("iterations must be at least 1".to_owned())).into());
    }
    let plan = Reestimate::new(&tokenizer.inner, add_pieces).map_err(PyError::from)?;
    let (options, charsmap) = plan.options();
    let pool = pool(num_threads.filter(|n| *n > 0).unwrap_or_else(default_threads))?;
    let observer = Observer::new(observe);
    let mut corpus = Corpus::new(options, charsmap).map_err(PyError::from)?;
    read(py, &mut corpus, Source { inputs, sentences, format, key, parquet }, &observer, &pool)?;
    let model = observer.watch(py, &pool, |progress| {
        let (text, _) = corpus.finish(progress)?;
        plan.run(&text, iterations, progress)
    })?;
    Ok(PyBytes::new(py, &model))
}

/// The character map: of another model, which then also names it, or of the rule that is named.
fn charsmap(options: &mut Options, from: Option<PathBuf>) -> crate::error::Result<Vec<u8>> {
    let Some(path) = from else {
        return named_charsmap(&options.normalization_rule_name);
    };
    let tokenizer = Tokenizer::from_file(&path, crate::tokenizer::Compat::default())?;
    tokenizer.normalizer_name().clone_into(&mut options.normalization_rule_name);
    tokenizer.charsmap()
}

fn dict<'py>(py: Python<'py>, report: &Report) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let counts = [
        ("sentences", report.sentences),
        ("bytes", report.bytes),
        ("long_sentences", report.long_sentences),
        ("long_parts", report.long_parts),
        ("reserved_sentences", report.reserved_sentences),
        ("used_sentences", report.used_sentences),
        ("characters", report.characters),
        ("distinct_characters", report.distinct_characters),
        ("alphabet", report.alphabet),
    ];
    for (name, count) in counts {
        dict.set_item(name, count)?;
    }
    dict.set_item("coverage", report.coverage)?;
    Ok(dict)
}

/// The names of all training options.
#[pyfunction]
fn tokenizer_train_options() -> Vec<&'static str> {
    Options::NAMES.to_vec()
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(tokenizer_train, m)?)?;
    m.add_function(wrap_pyfunction!(tokenizer_reestimate, m)?)?;
    m.add_function(wrap_pyfunction!(tokenizer_train_options, m)?)
}
