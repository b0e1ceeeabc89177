//! `adamw` and `grad_norm` over lists of tensors.

use pyo3::prelude::*;

use super::tensor::{Any, Tensor, apart, unsupported};
use super::{SMALL, checked};
use crate::cpu::parallel::alone;
use crate::dtype::{DType, Element, bf16, f16};
use crate::error::{Error, Result as CoreResult};
use crate::ops;
use crate::ops::adamw::{Dither, Step};
use crate::py::error::PyError;

fn read_all<'a>(op: &'static str, name: &'static str, tensors: &'a [Any<'_>]) -> PyResult<Vec<Tensor<'a>>> {
    tensors.iter().map(|tensor| Tensor::read(op, name, tensor)).collect()
}

/// A parameter, its moments and its gradient.
struct Places<'t, 'a> {
    p: &'t mut Tensor<'a>,
    m: &'t mut Tensor<'a>,
    v: &'t mut Tensor<'a>,
    g: &'t Tensor<'a>,
}

impl Places<'_, '_> {
    fn step<P: Element, M: Element>(self, step: &Step) -> CoreResult<()> {
        let (p, m, v) = (self.p.slice_mut::<P>()?, self.m.slice_mut::<M>()?, self.v.slice_mut()?);
        ops::adamw::step(p, m, v, self.g.slice()?, step)
    }

    /// As the dtypes of the parameter and its moments ask.
    fn dispatch(self, step: &Step) -> CoreResult<()> {
        match (self.p.float()?, self.m.float()?) {
            (DType::F32, DType::F32) => self.step::<f32, f32>(step),
            (DType::F32, DType::BF16) => self.step::<f32, bf16>(step),
            (DType::BF16, DType::F32) => self.step::<bf16, f32>(step),
            (DType::BF16, DType::BF16) => self.step::<bf16, bf16>(step),
            (DType::F16, DType::F32) => self.step::<f16, f32>(step),
            (DType::F16, DType::F16) => self.step::<f16, f16>(step),
            (p, m) => {
                let what = format!("moments of {} are not kept for parameters of {}", m.name(), p.name());
                Err(Error::UnsupportedInput(format!("adamw: {what}: use the parameters' dtype or float32")))
            }
        }
    }
}

/// One step of each parameter with its moments m, v and gradient g, all in place. `dither`: (seed, the place of each
/// parameter among all), for rounding bfloat16 at random.
#[pyfunction]
#[pyo3(signature = (p, m, v, g, *, lr, beta1, beta2, eps, weight_decay, step, grad_scale, dither = None))]
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
    dither: Option<(u64, Vec<u32>)>,
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
    let (seed, places) = dither.unzip();
    if places.as_ref().is_some_and(|places| places.len() != count) {
        return Err(unsupported(format!("adamw: {count} parameters need as many places for their random numbers")));
    }
    let small = p.iter().map(Tensor::count).sum::<usize>() <= SMALL;
    let all = || -> CoreResult<()> {
        for i in 0..count {
            let dither = seed.zip(places.as_ref()).map(|(seed, places)| Dither { seed, tensor: places[i] });
            let numbers = Step { lr, beta1, beta2, eps, weight_decay, grad_scale, step, dither };
            Places { p: &mut p[i], m: &mut m[i], v: &mut v[i], g: &g[i] }.dispatch(&numbers)?;
        }
        Ok(())
    };
    Ok(py.detach(|| alone(small, all)).map_err(PyError::from)?)
}

fn square_sum(g: &Tensor<'_>) -> CoreResult<f64> {
    Ok(match g.float()? {
        DType::F32 => ops::grad_norm::sum_of_squares(g.slice::<f32>()?),
        DType::BF16 => ops::grad_norm::sum_of_squares(g.slice::<bf16>()?),
        DType::F16 => ops::grad_norm::sum_of_squares(g.slice::<f16>()?),
    })
}

/// Σ g² of each tensor, in float64.
#[pyfunction]
pub(super) fn sum_of_squares(py: Python<'_>, g: Vec<Any<'_>>) -> PyResult<Vec<f64>> {
    let g = read_all("grad_norm", "grad", &g)?;
    let small = g.iter().map(Tensor::count).sum::<usize>() <= SMALL;
    let all = || g.iter().map(square_sum).collect::<CoreResult<_>>();
    Ok(py.detach(|| alone(small, all)).map_err(PyError::from)?)
}
