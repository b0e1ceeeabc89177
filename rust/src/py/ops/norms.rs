//! `rms_norm` and `layer_norm`.

use pyo3::prelude::*;

use super::array::{Any, Array, numpy, run, typed, view, view_mut};
use crate::ops;

#[pyfunction]
#[pyo3(signature = (x, w, eps, dtype = "float32"))]
pub(super) fn rms_norm_forward<'py>(
    py: Python<'py>,
    x: &Any<'py>,
    w: &Any<'py>,
    eps: f64,
    dtype: &str,
) -> PyResult<(Any<'py>, Any<'py>)> {
    typed!(dtype, T => {
        let (x, w) = (Array::<T>::read("x", x)?, Array::<T>::read("w", w)?);
        let (mut y, mut rstd) = (Array::<T>::result(&x.dims), Array::<f32>::result(&[x.rows()]));
        run(py, || ops::rms_norm::forward(y.view_mut()?, &mut rstd.data, x.view()?, w.view()?, eps))?;
        Ok((y.numpy(py)?, rstd.numpy(py)?))
    })
}

#[pyfunction]
#[pyo3(signature = (x, residual, w, eps, dtype = "float32"))]
pub(super) fn rms_norm_forward_add<'py>(
    py: Python<'py>,
    x: &Any<'py>,
    residual: &Any<'py>,
    w: &Any<'py>,
    eps: f64,
    dtype: &str,
) -> PyResult<(Any<'py>, Any<'py>, Any<'py>)> {
    typed!(dtype, T => {
        let (x, w) = (Array::<T>::read("x", x)?, Array::<T>::read("w", w)?);
        let residual = Array::<T>::read("residual", residual)?;
        let (mut y, mut sum) = (Array::<T>::result(&x.dims), Array::<T>::result(&x.dims));
        let mut rstd = Array::<f32>::result(&[x.rows()]);
        run(py, || {
            let (y, sum) = (y.view_mut()?, sum.view_mut()?);
            ops::rms_norm::forward_add(y, sum, &mut rstd.data, x.view()?, residual.view()?, w.view()?, eps)
        })?;
        Ok((y.numpy(py)?, sum.numpy(py)?, rstd.numpy(py)?))
    })
}

#[pyfunction]
#[pyo3(signature = (dw, dy, x, rstd, w, dresidual = None, dtype = "float32"))]
pub(super) fn rms_norm_backward<'py>(
    py: Python<'py>,
    dw: &Any<'py>,
    dy: &Any<'py>,
    x: &Any<'py>,
    rstd: &Any<'py>,
    w: &Any<'py>,
    dresidual: Option<&Any<'py>>,
    dtype: &str,
) -> PyResult<(Any<'py>, Any<'py>)> {
    let (mut dw, rstd) = (Array::<f32>::read("dw", dw)?, Array::<f32>::read("rstd", rstd)?);
    typed!(dtype, T => {
        let (dy, x, w) = (Array::<T>::read("dy", dy)?, Array::<T>::read("x", x)?, Array::<T>::read("w", w)?);
        let dresidual = Array::<T>::optional("dresidual", dresidual)?;
        let mut dx = Array::<T>::result(&x.dims);
        run(py, || {
            let (dx, dw, dy, x, w) = (dx.view_mut()?, dw.view_mut()?, dy.view()?, x.view()?, w.view()?);
            ops::rms_norm::backward(dx, dw, dy, x, &rstd.data, w, view(&dresidual)?)
        })?;
        Ok((dx.numpy(py)?, dw.numpy(py)?))
    })
}

#[pyfunction]
#[pyo3(signature = (x, w, bias, eps, dtype = "float32"))]
pub(super) fn layer_norm_forward<'py>(
    py: Python<'py>,
    x: &Any<'py>,
    w: &Any<'py>,
    bias: Option<&Any<'py>>,
    eps: f64,
    dtype: &str,
) -> PyResult<(Any<'py>, Any<'py>, Any<'py>)> {
    typed!(dtype, T => {
        let (x, w) = (Array::<T>::read("x", x)?, Array::<T>::read("w", w)?);
        let bias = Array::<T>::optional("bias", bias)?;
        let mut y = Array::<T>::result(&x.dims);
        let (mut mean, mut rstd) = (Array::<f32>::result(&[x.rows()]), Array::<f32>::result(&[x.rows()]));
        run(py, || {
            let (y, mean, rstd) = (y.view_mut()?, &mut mean.data, &mut rstd.data);
            ops::layer_norm::forward(y, mean, rstd, x.view()?, w.view()?, view(&bias)?, eps)
        })?;
        Ok((y.numpy(py)?, mean.numpy(py)?, rstd.numpy(py)?))
    })
}

#[pyfunction]
#[pyo3(signature = (x, residual, w, bias, eps, dtype = "float32"))]
pub(super) fn layer_norm_forward_add<'py>(
    py: Python<'py>,
    x: &Any<'py>,
    residual: &Any<'py>,
    w: &Any<'py>,
    bias: Option<&Any<'py>>,
    eps: f64,
    dtype: &str,
) -> PyResult<(Any<'py>, Any<'py>, Any<'py>, Any<'py>)> {
    typed!(dtype, T => {
        let (x, w) = (Array::<T>::read("x", x)?, Array::<T>::read("w", w)?);
        let (residual, bias) = (Array::<T>::read("residual", residual)?, Array::<T>::optional("bias", bias)?);
        let (mut y, mut sum) = (Array::<T>::result(&x.dims), Array::<T>::result(&x.dims));
        let (mut mean, mut rstd) = (Array::<f32>::result(&[x.rows()]), Array::<f32>::result(&[x.rows()]));
        run(py, || {
            let (y, sum, mean, rstd) = (y.view_mut()?, sum.view_mut()?, &mut mean.data, &mut rstd.data);
            let (x, residual, w) = (x.view()?, residual.view()?, w.view()?);
            ops::layer_norm::forward_add(y, sum, mean, rstd, x, residual, w, view(&bias)?, eps)
        })?;
        Ok((y.numpy(py)?, sum.numpy(py)?, mean.numpy(py)?, rstd.numpy(py)?))
    })
}

#[pyfunction]
#[pyo3(signature = (dw, dbias, dy, x, mean, rstd, w, dresidual = None, dtype = "float32"))]
pub(super) fn layer_norm_backward<'py>(
    py: Python<'py>,
    dw: &Any<'py>,
    dbias: Option<&Any<'py>>,
    dy: &Any<'py>,
    x: &Any<'py>,
    mean: &Any<'py>,
    rstd: &Any<'py>,
    w: &Any<'py>,
    dresidual: Option<&Any<'py>>,
    dtype: &str,
) -> PyResult<(Any<'py>, Any<'py>, Option<Any<'py>>)> {
    let (mut dw, mut dbias) = (Array::<f32>::read("dw", dw)?, Array::<f32>::optional("dbias", dbias)?);
    let (mean, rstd) = (Array::<f32>::read("mean", mean)?, Array::<f32>::read("rstd", rstd)?);
    typed!(dtype, T => {
        let (dy, x, w) = (Array::<T>::read("dy", dy)?, Array::<T>::read("x", x)?, Array::<T>::read("w", w)?);
        let dresidual = Array::<T>::optional("dresidual", dresidual)?;
        let mut dx = Array::<T>::result(&x.dims);
        run(py, || {
            let (dx, dw, dbias) = (dx.view_mut()?, dw.view_mut()?, view_mut(&mut dbias)?);
            let (dy, x, w, dresidual) = (dy.view()?, x.view()?, w.view()?, view(&dresidual)?);
            ops::layer_norm::backward(dx, dw, dbias, dy, x, &mean.data, &rstd.data, w, dresidual)
        })?;
        Ok((dx.numpy(py)?, dw.numpy(py)?, numpy(dbias, py)?))
    })
}
