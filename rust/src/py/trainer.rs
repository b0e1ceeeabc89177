//! The trainer for `llmjp_core.run`, and the schedule and scaler for those who look at them alone.

use std::borrow::Cow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use numpy::{IntoPyArray, PyArray1, PyArrayDyn, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::error::{PyError, Result};
use super::model::PyModel;
use super::signals::detached;
use crate::dtype::DType;
use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::model::LanguageModel;
use crate::model::hf::TokenIds;
use crate::train::checkpoint::{self, Resume};
use crate::train::config::{self, DecayStyle, ScalerConfig, ScheduleConfig, ScheduleFlavor};
use crate::train::scaler::LossScaler;
use crate::train::schedule::Schedule;
use crate::train::{Evaluation, Part, StepReport, Trainer};

/// `None` after `into_model`.
#[pyclass(name = "Trainer", module = "llmjp_core._core", frozen)]
struct PyTrainer {
    inner: Mutex<Option<Trainer>>,
    last: Mutex<Option<StepReport>>,
}

type Core<T> = std::result::Result<T, Error>;

fn over() -> Error {
    Error::UnsupportedInput("this trainer has given its model away".into())
}

fn resume(name: &str) -> Core<Resume> {
    match name {
        "auto" => Ok(Resume::Auto),
        "never" => Ok(Resume::Never),
        "must" => Ok(Resume::Must),
        other => Err(Error::UnsupportedInput(format!("resume must be auto, never or must, got `{other}`"))),
    }
}

fn part(name: &str) -> Core<Part> {
    match name {
        "validation" => Ok(Part::Valid),
        "test" => Ok(Part::Test),
        other => Err(Error::UnsupportedInput(format!("the part must be validation or test, got `{other}`"))),
    }
}

fn report<'py>(py: Python<'py>, r: &StepReport) -> PyResult<Bound<'py, PyDict>> {
    let timers = PyDict::new(py);
    timers.set_item("batch generator", r.timers.batch_generator)?;
    timers.set_item("forward-backward", r.timers.forward_backward)?;
    timers.set_item("optimizer", r.timers.optimizer)?;
    let dict = PyDict::new(py);
    dict.set_item("iteration", r.iteration)?;
    dict.set_item("loss", r.loss)?;
    dict.set_item("learning_rate", r.learning_rate)?;
    dict.set_item("grad_norm", r.grad_norm)?;
    dict.set_item("loss_scale", r.loss_scale)?;
    dict.set_item("skipped", r.skipped)?;
    dict.set_item("nan", r.nan)?;
    dict.set_item("note", &r.note)?;
    dict.set_item("samples", r.samples)?;
    dict.set_item("tokens", r.tokens)?;
    dict.set_item("consumed_samples", r.consumed_samples)?;
    dict.set_item("consumed_tokens", r.consumed_tokens)?;
    dict.set_item("skipped_total", r.skipped_total)?;
    dict.set_item("nan_total", r.nan_total)?;
    dict.set_item("epoch", r.epoch)?;
    dict.set_item("seconds", r.seconds)?;
    dict.set_item("timers", timers)?;
    Ok(dict)
}

fn evaluation<'py>(py: Python<'py>, e: &Evaluation) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("iteration", e.iteration)?;
    dict.set_item("loss", e.loss)?;
    dict.set_item("perplexity", e.perplexity)?;
    dict.set_item("targets", e.targets)?;
    dict.set_item("seconds", e.seconds)?;
    Ok(dict)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PyTrainer {
    /// Long work, without the interpreter.
    fn long<R: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Trainer, Interrupt<'_>) -> Core<R> + Send,
    ) -> PyResult<R> {
        detached(py, |interrupt| work(lock(&self.inner).as_mut().ok_or_else(over)?, interrupt))
    }

    /// A short question; another thread's step may have to end first.
    fn ask<R: Send>(&self, py: Python<'_>, question: impl FnOnce(&Trainer) -> R + Send) -> Result<R> {
        Ok(py.detach(|| lock(&self.inner).as_ref().map(question)).ok_or_else(over)?)
    }

    fn arrays<'py>(
        &self,
        py: Python<'py>,
        arena: impl Fn(&Trainer) -> Core<Cow<'_, [f32]>> + Send + Sync,
    ) -> PyResult<Vec<(String, Bound<'py, PyArrayDyn<f32>>)>> {
        let copied = self.ask(py, |trainer| -> Core<Vec<_>> {
            let (params, arena) = (trainer.decoder().params().iter(), arena(trainer)?);
            Ok(params.map(|p| (p.name.clone(), p.shape.clone(), arena[p.range()].to_vec())).collect())
        })?;
        let copied = copied.map_err(PyError::from)?;
        let array =
            |(name, shape, values): (String, Vec<usize>, Vec<f32>)| Ok((name, values.into_pyarray(py).reshape(shape)?));
        copied.into_iter().map(array).collect()
    }
}

#[pymethods]
impl PyTrainer {
    /// `config`: a resolved mapping as JSON.
    #[new]
    fn new(py: Python<'_>, config: &str, resume_name: &str) -> PyResult<Self> {
        let resume = resume(resume_name).map_err(PyError::from)?;
        let trainer = detached(py, |interrupt| {
            let value = serde_json::from_str(config).map_err(|e| Error::Config(e.to_string()))?;
            let loaded = config::from_mapping("configuration", &value, &[])?;
            Trainer::new(loaded.run, loaded.resolved, resume, interrupt)
        })?;
        Ok(Self { inner: Mutex::new(Some(trainer)), last: Mutex::new(None) })
    }

    fn step<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let done = self.long(py, |trainer, interrupt| {
            let done = trainer.step(interrupt)?;
            *lock(&self.last) = Some(done.clone());
            Ok(done)
        })?;
        report(py, &done)
    }

    /// The report of the newest step: a signal may have come between the step and its return.
    #[getter]
    fn last_report<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let last = lock(&self.last).clone();
        last.map(|last| report(py, &last)).transpose()
    }

    /// Of each parameter in the newest step, by name.
    fn gradient_norms(&self, py: Python<'_>) -> Result<Vec<(String, f64)>> {
        let named = |trainer: &Trainer| -> Core<_> {
            Ok(trainer.gradient_norms()?.into_iter().map(|(name, norm)| (name.into(), norm)).collect())
        };
        Ok(self.ask(py, named)??)
    }

    fn evaluate<'py>(&self, py: Python<'py>, part_name: &str) -> PyResult<Bound<'py, PyDict>> {
        let part = part(part_name).map_err(PyError::from)?;
        let done = self.long(py, |trainer, interrupt| trainer.evaluate(part, interrupt))?;
        evaluation(py, &done)
    }

    /// The checkpoint's folder; `None` without a `save` folder.
    fn save(&self, py: Python<'_>) -> PyResult<Option<String>> {
        let path = self.long(py, |trainer, interrupt| trainer.save(interrupt))?;
        Ok(path.map(|path| path.display().to_string()))
    }

    /// The checkpoint that equals the present state.
    #[getter]
    fn checkpoint(&self, py: Python<'_>) -> Result<Option<String>> {
        self.ask(py, |trainer| trainer.checkpoint().map(|path| path.display().to_string()))
    }

    fn release(&self, py: Python<'_>) -> Result<()> {
        py.detach(|| lock(&self.inner).as_mut().map(Trainer::release));
        Ok(())
    }

    fn can_evaluate(&self, py: Python<'_>, part_name: &str) -> Result<bool> {
        let part = part(part_name)?;
        self.ask(py, |trainer| trainer.can_evaluate(part))
    }

    #[getter]
    fn should_evaluate(&self, py: Python<'_>) -> Result<bool> {
        self.ask(py, Trainer::should_evaluate)
    }

    #[getter]
    fn should_save(&self, py: Python<'_>) -> Result<bool> {
        self.ask(py, Trainer::should_save)
    }

    #[getter]
    fn should_exit(&self, py: Python<'_>) -> Result<bool> {
        self.ask(py, Trainer::should_exit)
    }

    #[getter]
    fn is_done(&self, py: Python<'_>) -> Result<bool> {
        self.ask(py, Trainer::is_done)
    }

    #[getter]
    fn iteration(&self, py: Python<'_>) -> Result<usize> {
        self.ask(py, |trainer| trainer.progress().iteration)
    }

    #[getter]
    fn train_iters(&self, py: Python<'_>) -> Result<usize> {
        self.ask(py, Trainer::train_iters)
    }

    #[getter]
    fn num_parameters(&self, py: Python<'_>) -> Result<usize> {
        self.ask(py, |trainer| trainer.decoder().num_params())
    }

    #[getter]
    fn bytes(&self, py: Python<'_>) -> Result<usize> {
        self.ask(py, Trainer::bytes)
    }

    #[getter]
    fn notes(&self, py: Python<'_>) -> Result<Vec<String>> {
        self.ask(py, |trainer| trainer.notes().to_vec())
    }

    /// Copies of the f32 masters by name.
    fn tensors<'py>(&self, py: Python<'py>) -> PyResult<Vec<(String, Bound<'py, PyArrayDyn<f32>>)>> {
        self.arrays(py, Trainer::model_weights)
    }

    /// Copies of AdamW's m (`exp_avg`) or v (`exp_avg_sq`) by name.
    fn moments<'py>(&self, py: Python<'py>, second: bool) -> PyResult<Vec<(String, Bound<'py, PyArrayDyn<f32>>)>> {
        self.arrays(py, |trainer| {
            let [first, second_moment] = trainer.moments()?;
            Ok(if second { second_moment } else { first })
        })
    }

    /// The model in f32. The trainer is over: its memory is free, its `save` folder released.
    #[expect(clippy::wrong_self_convention, reason = "Python cannot give `self` away")]
    fn into_model(&self, py: Python<'_>) -> PyResult<PyModel> {
        let inner = detached(py, |_| {
            let trainer = lock(&self.inner).take().ok_or_else(over)?;
            let eod = trainer.run().data.as_ref().and_then(|data| data.eod);
            let eos = eod.and_then(|id| i32::try_from(id).ok()).into_iter().collect();
            let (decoder, weights) = trainer.into_model()?;
            LanguageModel::new(decoder, weights, DType::F32, TokenIds { eos, ..TokenIds::default() })
        })?;
        Ok(PyModel { inner })
    }
}

fn schedule_config(c: &Bound<'_, PyDict>) -> PyResult<ScheduleConfig> {
    let item = |key: &str| c.as_any().get_item(key);
    let names = (item("flavor")?.extract::<String>()?, item("style")?.extract::<String>()?);
    let flavor = ScheduleFlavor::from_name(&names.0);
    let style = DecayStyle::from_name(&names.1);
    let unknown = || PyError::from(Error::UnsupportedInput(format!("no schedule {}/{}", names.0, names.1)));
    Ok(ScheduleConfig {
        flavor: flavor.ok_or_else(unknown)?,
        style: style.ok_or_else(unknown)?,
        lr: item("lr")?.extract()?,
        min_lr: item("min_lr")?.extract()?,
        warmup_iters: item("warmup_iters")?.extract()?,
        decay_iters: item("decay_iters")?.extract()?,
        wsd_decay_iters: item("wsd_decay_iters")?.extract()?,
    })
}

/// The rate of the update after n updates, for each n of `steps`.
#[pyfunction]
fn learning_rates<'py>(
    py: Python<'py>,
    config: &Bound<'py, PyDict>,
    steps: Vec<usize>,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let schedule = Schedule::new(schedule_config(config)?).map_err(PyError::from)?;
    let rates: Vec<f64> = steps.into_iter().map(|n| schedule.learning_rate(n)).collect();
    Ok(rates.into_pyarray(py))
}

#[pyclass(name = "LossScaler", module = "llmjp_core._core")]
struct PyLossScaler(LossScaler);

#[pymethods]
impl PyLossScaler {
    #[new]
    fn new(
        loss_scale: f64,
        initial_scale_power: u32,
        loss_scale_window: u64,
        hysteresis: u32,
        min_loss_scale: f64,
        abort_at_min: bool,
    ) -> Result<Self> {
        let config = ScalerConfig {
            loss_scale,
            initial_scale_power,
            loss_scale_window,
            hysteresis,
            min_loss_scale,
            abort_at_min,
        };
        Ok(Self(LossScaler::new(config)?))
    }

    #[getter]
    fn scale(&self) -> f64 {
        self.0.scale()
    }

    fn update(&mut self, overflow: bool) -> Result<()> {
        Ok(self.0.update(overflow)?)
    }
}

/// Checks a checkpoint folder byte for byte; its manifest as JSON.
#[pyfunction]
fn checkpoint_verify(py: Python<'_>, folder: std::path::PathBuf) -> PyResult<String> {
    let manifest = detached(py, |interrupt| checkpoint::verify(&folder, interrupt))?;
    Ok(serde_json::to_string(&manifest).map_err(|e| PyError::from(Error::Internal(e.to_string())))?)
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyTrainer>()?;
    m.add_class::<PyLossScaler>()?;
    m.add_function(wrap_pyfunction!(learning_rates, m)?)?;
    m.add_function(wrap_pyfunction!(checkpoint_verify, m)?)
}
