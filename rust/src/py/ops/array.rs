//! Copies of numpy arrays as typed tensors, and back.

use numpy::{IntoPyArray, PyArrayMethods, PyReadonlyArray1, PyReadonlyArrayDyn};
use pyo3::prelude::*;

use crate::dtype::{Element, bf16, f16};
use crate::error::{Error, Result as CoreResult};
use crate::py::error::PyError;
use crate::tensor::{View, ViewMut};

pub(super) type Any<'py> = Bound<'py, PyAny>;
pub(super) type Ids<'py> = PyReadonlyArray1<'py, i32>;

/// An element and what numpy has for it.
pub(super) trait Stored: Element {
    type Bits: numpy::Element + bytemuck::Pod;
    const BITS: &'static str;
}

impl Stored for f32 {
    type Bits = f32;
    const BITS: &'static str = "float32";
}

impl Stored for f16 {
    type Bits = u16;
    const BITS: &'static str = "uint16";
}

impl Stored for bf16 {
    type Bits = u16;
    const BITS: &'static str = "uint16";
}

/// Runs `$body` with `$t` the element type called `$dtype`.
macro_rules! typed {
    ($dtype:expr, $t:ident => $body:block) => {
        match $dtype {
            "float32" => typed!(@ f32, $t, $body),
            "float16" => typed!(@ $crate::dtype::f16, $t, $body),
            "bfloat16" => typed!(@ $crate::dtype::bf16, $t, $body),
            other => Err($crate::py::ops::array::unsupported(format!("`dtype` must be float32, float16 or bfloat16, got `{other}`"))),
        }
    };
    (@ $element:ty, $t:ident, $body:block) => {{
        type $t = $element;
        $body
    }};
}

pub(super) use typed;

pub(super) fn unsupported(what: String) -> PyErr {
    PyError::from(Error::UnsupportedInput(what)).into()
}

/// A copy of an argument, or a place for a result.
pub(super) struct Array<T> {
    pub(super) dims: Vec<usize>,
    pub(super) data: Vec<T>,
}

impl<T: Stored> Array<T> {
    pub(super) fn read(name: &str, value: &Any<'_>) -> PyResult<Self> {
        let array: PyReadonlyArrayDyn<'_, T::Bits> =
            value.extract().map_err(|_| unsupported(format!("`{name}` must be a numpy array of {}", T::BITS)))?;
        let array = array.as_array();
        if array.ndim() > 4 {
            return Err(unsupported(format!("`{name}` must have at most 4 dimensions, got {}", array.ndim())));
        }
        Ok(Self { dims: array.shape().to_vec(), data: array.iter().map(|bits| bytemuck::cast(*bits)).collect() })
    }

    pub(super) fn optional(name: &str, value: Option<&Any<'_>>) -> PyResult<Option<Self>> {
        value.map(|value| Self::read(name, value)).transpose()
    }

    /// NaN everywhere: an op that leaves an element out is seen.
    pub(super) fn result(dims: &[usize]) -> Self {
        Self { dims: dims.to_vec(), data: vec![T::from_f32(f32::NAN); dims.iter().product()] }
    }

    /// Extent `i`, 1 when there is none; the ops check the rest.
    pub(super) fn dim(&self, i: usize) -> usize {
        self.dims.get(i).copied().unwrap_or(1)
    }

    pub(super) fn last(&self) -> usize {
        self.dims.last().copied().unwrap_or(1)
    }

    pub(super) fn rows(&self) -> usize {
        self.dims.split_last().map_or(1, |(_, outer)| outer.iter().product())
    }

    pub(super) fn view(&self) -> CoreResult<View<'_, T>> {
        View::new(&self.data, &self.dims)
    }

    pub(super) fn view_mut(&mut self) -> CoreResult<ViewMut<'_, T>> {
        ViewMut::new(&mut self.data, &self.dims)
    }

    pub(super) fn numpy(self, py: Python<'_>) -> PyResult<Any<'_>> {
        let bits: Vec<T::Bits> = self.data.into_iter().map(bytemuck::cast).collect();
        Ok(bits.into_pyarray(py).reshape(self.dims)?.into_any())
    }
}

pub(super) fn view<T: Stored>(array: &Option<Array<T>>) -> CoreResult<Option<View<'_, T>>> {
    array.as_ref().map(Array::view).transpose()
}

pub(super) fn view_mut<T: Stored>(array: &mut Option<Array<T>>) -> CoreResult<Option<ViewMut<'_, T>>> {
    array.as_mut().map(Array::view_mut).transpose()
}

pub(super) fn numpy<T: Stored>(array: Option<Array<T>>, py: Python<'_>) -> PyResult<Option<Any<'_>>> {
    array.map(|array| array.numpy(py)).transpose()
}

/// Runs an op without the interpreter.
pub(super) fn run(py: Python<'_>, op: impl FnOnce() -> CoreResult<()> + Send) -> PyResult<()> {
    Ok(py.detach(op).map_err(PyError::from)?)
}

pub(super) fn ids(array: &Ids<'_>) -> Vec<i32> {
    array.as_array().iter().copied().collect()
}
