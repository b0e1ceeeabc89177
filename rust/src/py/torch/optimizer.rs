//! `adamw` and `grad_norm` over lists of tensors, float32.

use pyo3::prelude::*;

use super::tensor::{Any, Tensor, apart, unsupported};
use super::{SMALL, checked};
use crate::cpu::parallel::{alone, install};
use crate::error::Result as CoreResult;
use crate::ops;
use crate::py::error::PyError;

fn read_all<'a>(op: &'static str, name: &'static str, tensors: &'a [Any<'_>]) -> PyResult<Vec<Tensor<'a>>> {
    tensors.iter().map(|tensor| Tensor::read(op, name, tensor)).collect()
}

/// One step of each parameter with its moments m, v and gradient g, all in place.
#[pyfunction]
#[pyo3(signature = (p, m, v, g, *, lr, beta1, beta2, eps, weight_decay, step, grad_scale))]
pub(super) fn adamw_step(
    py: Python<'_>,
    p: Vec<Any<'_>>,
    m: Vec<Any<'_>>,
    v: Vec<Any<'_>>,
    g: Vec<Any<'_>>,
    lr: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    step: u64,
    grad_scale: f32,
) -> PyResult<()> {
    let count = p.len();
    if [m.len(), v.len(), g.len()] != [count; 3] {
        return Err(unsupported(format!("adamw: {count} parameters need as many moments and gradients")));
    }
    let (mut p, mut m) = (read_all("adamw", "param", &p)?, read_all("adamw", "exp_avg", &m)?);
    let (mut v, g) = (read_all("adamw", "exp_avg_sq", &v)?, read_all("adamw", "grad", &g)?);
    for i in 0..count {
        checked(apart(&[&p[i], &m[i], &v[i]], &[Some(&g[i])]))?;
    }
    let numbers = ops::adamw::Step { lr, beta1, beta2, eps, weight_decay, grad_scale, step };
    let small = p.iter().map(Tensor::count).sum::<usize>() <= SMALL;
    let all = || -> CoreResult<()> {
        for i in 0..count {
            let (p, m, v) = (p[i].slice_mut()?, m[i].slice_mut()?, v[i].slice_mut()?);
            ops::adamw::step(p, m, v, g[i].slice()?, &numbers)?;
        }
        Ok(())
    };
    Ok(py.detach(|| alone(small, || install(all))).map_err(PyError::from)?)
}

/// Σ g² of each tensor, in float64.
#[pyfunction]
pub(super) fn sum_of_squares(py: Python<'_>, g: Vec<Any<'_>>) -> PyResult<Vec<f64>> {
    let g = read_all("grad_norm", "grad", &g)?;
    let small = g.iter().map(Tensor::count).sum::<usize>() <= SMALL;
    let all = || -> CoreResult<Vec<f64>> { g.iter().map(|g| Ok(ops::grad_norm::sum_of_squares(g.slice()?))).collect() };
    Ok(py.detach(|| alone(small, || install(all))).map_err(PyError::from)?)
}
