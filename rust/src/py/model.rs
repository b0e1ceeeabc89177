//! `lc.Model`.

use std::path::PathBuf;

use numpy::{
    IntoPyArray, PyArray3, PyArrayDyn, PyArrayMethods, PyReadonlyArray2, PyReadonlyArrayDyn, PyUntypedArrayMethods,
};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PySlice};

use super::error::{PyError, Result};
use super::signals::detached;
use crate::dtype::DType;
use crate::error::Error;
use crate::model::hf::{ExportOptions, TokenIds};
use crate::model::{GenerateOptions, Init, LanguageModel, ModelConfig, Param, Sampling};
use crate::ops::linear_cross_entropy::LossOptions;

#[pyclass(name = "Model", module = "llmjp_core._core", frozen)]
pub(crate) struct PyModel {
    pub(crate) inner: LanguageModel,
}

fn dtype(name: &str) -> Result<DType> {
    let unknown = || Error::UnsupportedInput(format!("dtype must be float32, float16 or bfloat16, got `{name}`"));
    Ok(DType::from_name(name).ok_or_else(unknown)?)
}

/// A (batch, time) array of ids, copied so that Python may change it meanwhile.
fn tokens(ids: &PyReadonlyArray2<'_, i32>) -> (Vec<i32>, (usize, usize)) {
    let shape = ids.shape();
    (ids.as_array().iter().copied().collect(), (shape[0], shape[1]))
}

fn same_shape(ids: (usize, usize), targets: (usize, usize)) -> Result<()> {
    if ids == targets {
        return Ok(());
    }
    let (want, got) = (vec![ids.0, ids.1], vec![targets.0, targets.1]);
    Err(Error::Shape { op: "Model", arg: "targets", want, got }.into())
}

fn array<'py>(py: Python<'py>, param: &Param, values: Vec<f32>) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    values.into_pyarray(py).reshape(param.shape.clone())
}

/// What a loss counts, as the functions of torch call it.
#[derive(FromPyObject)]
struct Loss {
    #[pyo3(item)]
    ignore_index: i32,
    #[pyo3(item)]
    label_smoothing: f32,
    #[pyo3(item)]
    z_loss: f32,
}

impl From<Loss> for LossOptions {
    fn from(loss: Loss) -> Self {
        let Loss { ignore_index, label_smoothing, z_loss } = loss;
        Self { ignore_index, label_smoothing, z_loss }
    }
}

#[derive(FromPyObject)]
struct Generate {
    #[pyo3(item)]
    max_new_tokens: usize,
    #[pyo3(item)]
    temperature: f64,
    #[pyo3(item)]
    top_k: usize,
    #[pyo3(item)]
    top_p: f64,
    #[pyo3(item)]
    seed: u64,
    #[pyo3(item)]
    stop: Vec<i32>,
}

impl From<Generate> for GenerateOptions {
    fn from(options: Generate) -> Self {
        let Generate { max_new_tokens, temperature, top_k, top_p, seed, stop } = options;
        Self { max_new_tokens, stop, sampling: Sampling { temperature, top_k, top_p, seed } }
    }
}

#[derive(FromPyObject)]
struct Save {
    #[pyo3(item)]
    dtype: Option<String>,
    #[pyo3(item)]
    max_shard_bytes: usize,
    #[pyo3(item)]
    hidden_act: Option<String>,
    #[pyo3(item)]
    overwrite: bool,
    #[pyo3(item)]
    bos: Option<i32>,
    #[pyo3(item)]
    eos: Vec<i32>,
    #[pyo3(item)]
    pad: Option<i32>,
    #[pyo3(item)]
    files: Vec<(String, Vec<u8>)>,
}

impl Save {
    fn options(self, own: DType) -> Result<ExportOptions> {
        let Self { max_shard_bytes, hidden_act, overwrite, bos, eos, pad, files, .. } = self;
        let dtype = self.dtype.as_deref().map_or(Ok(own), dtype)?;
        let token_ids = TokenIds { bos, eos, pad };
        Ok(ExportOptions {
            dtype,
            max_shard_bytes,
            token_ids,
            hidden_act,
            files,
            overwrite,
            ..ExportOptions::default()
        })
    }
}

#[pymethods]
impl PyModel {
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf, dtype_name: &str) -> PyResult<Self> {
        let dtype = dtype(dtype_name)?;
        Ok(Self { inner: detached(py, |_| LanguageModel::load(&path, dtype))? })
    }

    /// The model that a run begins with; sources and overrides as `config_load` takes them.
    #[staticmethod]
    fn from_config(
        py: Python<'_>,
        sources: Vec<(Option<String>, String)>,
        overrides: &str,
        seed: Option<u64>,
        dtype_name: &str,
    ) -> PyResult<Self> {
        let dtype = dtype(dtype_name)?;
        let inner = detached(py, |_| {
            let run = super::config::load(sources, overrides)?.run;
            LanguageModel::initialized(run.model, &run.init, seed.unwrap_or(run.seed.into()), dtype)
        });
        Ok(Self { inner: inner? })
    }

    #[staticmethod]
    fn initialized(py: Python<'_>, config: &str, init: &str, seed: u64, dtype_name: &str) -> PyResult<Self> {
        let (config, init) = (ModelConfig::from_json(config), Init::from_json(init));
        let (config, init, dtype) = (config.map_err(PyError::from)?, init.map_err(PyError::from)?, dtype(dtype_name)?);
        Ok(Self { inner: detached(py, |_| LanguageModel::initialized(config, &init, seed, dtype))? })
    }

    #[staticmethod]
    fn from_tensors(
        py: Python<'_>,
        config: &str,
        tensors: Vec<(String, PyReadonlyArrayDyn<'_, f32>)>,
        dtype_name: &str,
    ) -> PyResult<Self> {
        let (config, dtype) = (ModelConfig::from_json(config).map_err(PyError::from)?, dtype(dtype_name)?);
        let copied = tensors
            .iter()
            .map(|(name, array)| (name.clone(), array.shape().to_vec(), array.as_array().iter().copied().collect()));
        let tensors: Vec<_> = copied.collect();
        Ok(Self { inner: detached(py, |_| LanguageModel::from_tensors(config, &tensors, dtype))? })
    }

    #[getter]
    fn config(&self) -> Result<String> {
        Ok(self.inner.decoder().config().to_json()?)
    }

    #[getter]
    fn num_parameters(&self) -> usize {
        self.inner.decoder().num_params()
    }

    #[getter]
    fn dtype(&self) -> &'static str {
        self.inner.dtype().name()
    }

    /// (bos, eos, pad)
    #[getter]
    fn token_ids(&self) -> (Option<i32>, Vec<i32>, Option<i32>) {
        let TokenIds { bos, eos, pad } = self.inner.token_ids().clone();
        (bos, eos, pad)
    }

    fn tensors<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let all = PyDict::new(py);
        for param in self.inner.decoder().params() {
            all.set_item(&param.name, array(py, param, self.inner.tensor(param))?)?;
        }
        Ok(all)
    }

    fn logits<'py>(&self, py: Python<'py>, ids: PyReadonlyArray2<'py, i32>) -> PyResult<Bound<'py, PyArray3<f32>>> {
        let (ids, (batch, time)) = tokens(&ids);
        let logits = detached(py, |interrupt| self.inner.logits(&ids, batch, time, interrupt))?;
        logits.into_pyarray(py).reshape([batch, time, self.inner.decoder().config().vocab_size])
    }

    fn loss(
        &self,
        py: Python<'_>,
        ids: PyReadonlyArray2<'_, i32>,
        targets: PyReadonlyArray2<'_, i32>,
        options: Loss,
    ) -> PyResult<f64> {
        let ((ids, shape), (targets, other)) = (tokens(&ids), tokens(&targets));
        same_shape(shape, other)?;
        detached(py, |interrupt| self.inner.loss(&ids, &targets, shape, &options.into(), interrupt))
    }

    fn gradients<'py>(
        &self,
        py: Python<'py>,
        ids: PyReadonlyArray2<'py, i32>,
        targets: PyReadonlyArray2<'py, i32>,
        options: Loss,
        recompute_layers: Option<usize>,
    ) -> PyResult<(f64, Bound<'py, PyDict>)> {
        let ((ids, shape), (targets, other)) = (tokens(&ids), tokens(&targets));
        same_shape(shape, other)?;
        let options = options.into();
        let (loss, arena) = detached(py, |interrupt| {
            self.inner.gradients(&ids, &targets, shape, recompute_layers, &options, interrupt)
        })?;
        // Every tensor is a view of one array: the gradients exist once.
        let (all, arena) = (PyDict::new(py), arena.into_pyarray(py));
        for param in self.inner.decoder().params() {
            let range = param.range();
            let part = arena.get_item(PySlice::new(py, range.start as isize, range.end as isize, 1))?;
            all.set_item(&param.name, part.call_method1("reshape", (param.shape.clone(),))?)?;
        }
        Ok((loss, all))
    }

    fn generate(&self, py: Python<'_>, prompts: Vec<Vec<i32>>, options: Generate) -> PyResult<Vec<Vec<i32>>> {
        detached(py, |interrupt| self.inner.generate(&prompts, &options.into(), interrupt))
    }

    /// (log-probability, greedy) of each (context, continuation)
    fn loglikelihood(&self, py: Python<'_>, pairs: Vec<(Vec<i32>, Vec<i32>)>) -> PyResult<Vec<(f64, bool)>> {
        let all = detached(py, |interrupt| self.inner.loglikelihood(&pairs, interrupt))?;
        Ok(all.into_iter().map(|one| (one.log_probability, one.greedy)).collect())
    }

    fn save(&self, py: Python<'_>, path: PathBuf, options: Save) -> PyResult<()> {
        let options = options.options(self.inner.dtype())?;
        detached(py, |_| self.inner.save(&path, &options))
    }

    fn __str__(&self) -> String {
        self.inner.to_string()
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyModel>()
}
