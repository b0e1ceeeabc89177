//! GPUs: what there is, and their selftest. `llmjp_core.cuda` is the public interface.

use std::path::PathBuf;

use pyo3::prelude::*;

use super::error::PyError;

/// (name, (major, minor) of its compute capability, bytes of memory, the kernels that are meant for it)
type Properties = (String, (i32, i32), usize, Option<String>);
/// (version of the compiler, targets, ops, kernels)
type Built = (String, Vec<String>, Vec<String>, Vec<String>);

#[cfg(feature = "cuda")]
mod layer {
    use crate::cuda;
    use crate::error::Result;

    pub(super) use crate::cuda::{device_count, look_in, missing};
    pub(super) use crate::ops::selftest::cuda::run as selftest;

    pub(super) fn properties(device: usize) -> Result<super::Properties> {
        let found = cuda::properties(device)?;
        let target = found.target();
        Ok((found.name, found.capability, found.memory, target))
    }

    pub(super) fn target(device: usize, op: &str) -> Result<String> {
        cuda::device(device)?.target(op)
    }

    pub(super) fn built() -> super::Built {
        let kernels = cuda::kernels().map(|(name, _)| name.to_owned()).collect();
        (cuda::compiler(), cuda::targets(), cuda::ops(), kernels)
    }
}

/// Without the device layer: the same questions, and why they are answered so.
#[cfg(not(feature = "cuda"))]
mod layer {
    use crate::error::{Error, Result};
    use crate::ops::selftest::Check;
    use crate::tensor::WITHOUT_CUDA as WHY;

    pub(super) fn look_in(_: Vec<std::path::PathBuf>) {}

    pub(super) fn missing() -> Option<String> {
        Some(WHY.into())
    }

    pub(super) fn device_count() -> usize {
        0
    }

    pub(super) fn properties(_: usize) -> Result<super::Properties> {
        Err(Error::Device(WHY.into()))
    }

    pub(super) fn target(_: usize, _: &str) -> Result<String> {
        Err(Error::Device(WHY.into()))
    }

    pub(super) fn built() -> super::Built {
        super::Built::default()
    }

    pub(super) fn selftest(_: usize, _: Option<&[String]>) -> Result<Vec<Check>> {
        Err(Error::Device(WHY.into()))
    }
}

/// Why no GPU can be used, None when one can.
#[pyfunction]
fn missing(py: Python<'_>) -> Option<String> {
    py.detach(layer::missing)
}

#[pyfunction]
fn device_count(py: Python<'_>) -> usize {
    py.detach(layer::device_count)
}

/// (name, (major, minor) of its compute capability, bytes of memory, the kernels that are meant for it)
#[pyfunction]
fn properties(py: Python<'_>, device: usize) -> PyResult<Properties> {
    Ok(py.detach(|| layer::properties(device)).map_err(PyError::from)?)
}

/// Loads the kernels of an op; what they are: `sm_90`, or `compute_80` for PTX.
#[pyfunction]
fn target(py: Python<'_>, device: usize, op: &str) -> PyResult<String> {
    Ok(py.detach(|| layer::target(device, op)).map_err(PyError::from)?)
}

/// (version of the compiler, targets, ops, kernels) in this library.
#[pyfunction]
fn built() -> Built {
    layer::built()
}

/// [(name, error, bound, passed)] of each result of each kernel, or of those of these ops, on a device against its
/// float64 reference.
#[pyfunction]
#[pyo3(signature = (device, ops=None))]
fn selftest(py: Python<'_>, device: usize, ops: Option<Vec<String>>) -> PyResult<Vec<(String, f64, f64, bool)>> {
    let checks = py.detach(|| layer::selftest(device, ops.as_deref())).map_err(PyError::from)?;
    Ok(checks.into_iter().map(|check| (check.name.clone(), check.error, check.bound, check.passed())).collect())
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    // pip's cuBLASLt lies there; it is looked for when a product is first asked for.
    layer::look_in(m.py().import("sys")?.getattr("path")?.extract::<Vec<PathBuf>>()?);
    let cuda = PyModule::new(m.py(), "cuda")?;
    cuda.add("__doc__", "GPUs; `llmjp_core.cuda` is the public interface.")?;
    macro_rules! add {
        ($($function:ident),*) => { $(cuda.add_function(wrap_pyfunction!($function, &cuda)?)?;)* };
    }
    add!(missing, device_count, properties, target, built, selftest);
    m.add_submodule(&cuda)
}
