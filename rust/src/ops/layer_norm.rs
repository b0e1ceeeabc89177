//! y = (x − μ)·r·w + b, r = 1/√(var + eps), biased variance (Ba et al. 2016, arXiv 1607.06450).  Rows N, width D.

use crate::cpu::layer_norm as cpu;
use crate::dtype::Element;
use crate::error::Result;
use crate::tensor::{Shape, View, ViewMut};

fn check(op: &'static str, x: Shape, w: Shape, bias: Option<Shape>, mean: usize, rstd: usize) -> Result<usize> {
    let d = x.last();
    super::expect_some(op, "x", &[d])?;
    w.expect(op, "weight", &[d])?;
    if let Some(bias) = bias {
        bias.expect(op, "bias", &[d])?;
    }
    super::expect_len(op, "mean", x.rows(), mean)?;
    super::expect_len(op, "rstd", x.rows(), rstd)?;
    Ok(d)
}

/// y, x (N, D); w, bias (D); mean, rstd (N) are kept for the backward pass.
///
/// # Errors
/// `Shape`.
pub fn forward<T: Element>(
    mut y: ViewMut<T>,
    mean: &mut [f32],
    rstd: &mut [f32],
    x: View<T>,
    w: View<T>,
    bias: Option<View<T>>,
    eps: f64,
) -> Result<()> {
    let d = check("layer_norm", x.shape(), w.shape(), bias.map(|b| b.shape()), mean.len(), rstd.len())?;
    y.expect("layer_norm", "y", x.shape().dims())?;
    cpu::forward(y.data(), mean, rstd, x.data(), w.data(), bias.map(|b| b.data()), eps, d);
    Ok(())
}

/// sum = x + residual; y = norm(sum), in one pass.
///
/// # Errors
/// `Shape`.
pub fn forward_add<T: Element>(
    mut y: ViewMut<T>,
    mut sum: ViewMut<T>,
    mean: &mut [f32],
    rstd: &mut [f32],
    x: View<T>,
    residual: View<T>,
    w: View<T>,
    bias: Option<View<T>>,
    eps: f64,
) -> Result<()> {
    let d = check("layer_norm", x.shape(), w.shape(), bias.map(|b| b.shape()), mean.len(), rstd.len())?;
    y.expect("layer_norm", "y", x.shape().dims())?;
    sum.expect("layer_norm", "sum", x.shape().dims())?;
    residual.expect("layer_norm", "residual", x.shape().dims())?;
    let bias = bias.map(|b| b.data());
    cpu::forward_add(y.data(), sum.data(), mean, rstd, x.data(), residual.data(), w.data(), bias, eps, d);
    Ok(())
}

/// dx = gradient through the norm (+ dresidual); dw, dbias (D) += Σ over rows.
///
/// # Errors
/// `Shape`.
pub fn backward<T: Element>(
    mut dx: ViewMut<T>,
    mut dw: ViewMut<f32>,
    dbias: Option<ViewMut<f32>>,
    dy: View<T>,
    x: View<T>,
    mean: &[f32],
    rstd: &[f32],
    w: View<T>,
    dresidual: Option<View<T>>,
) -> Result<()> {
    let d = check("layer_norm.backward", x.shape(), w.shape(), None, mean.len(), rstd.len())?;
    dx.expect("layer_norm.backward", "dx", x.shape().dims())?;
    dy.expect("layer_norm.backward", "dy", x.shape().dims())?;
    dw.expect("layer_norm.backward", "dw", &[d])?;
    if let Some(dbias) = &dbias {
        dbias.expect("layer_norm.backward", "dbias", &[d])?;
    }
    if let Some(g) = dresidual {
        g.expect("layer_norm.backward", "dresidual", x.shape().dims())?;
    }
    let (dbias, dresidual) = (dbias.map(ViewMut::into_data), dresidual.map(|g| g.data()));
    cpu::backward(dx.data(), dw.data(), dbias, dy.data(), x.data(), mean, rstd, w.data(), dresidual, d);
    Ok(())
}

/// The same on a GPU.
#[cfg(feature = "cuda")]
pub mod cuda {
    use std::sync::Arc;

    use super::check;
    use crate::cuda::{Stream, View, ViewMut, layer_norm as device};
    use crate::dtype::Element;
    use crate::error::Result;

    /// y, x (N, D); w, bias (D); mean, rstd (N) are kept for the backward pass.
    ///
    /// # Errors
    /// `Shape`; `Device`.
    pub fn forward<T: Element>(
        on: &Stream,
        y: ViewMut<T>,
        mean: ViewMut<f32>,
        rstd: ViewMut<f32>,
        x: View<T>,
        w: View<T>,
        bias: Option<View<T>>,
        eps: f64,
    ) -> Result<()> {
        let (means, rstds) = (mean.shape().count(), rstd.shape().count());
        check("layer_norm", x.shape(), w.shape(), bias.map(|b| b.shape()), means, rstds)?;
        y.shape().expect("layer_norm", "y", x.shape().dims())?;
        device::forward(on, y, None, mean, rstd, x, None, w, bias, eps)
    }

    /// sum = x + residual; y = norm(sum), in one pass.
    ///
    /// # Errors
    /// `Shape`; `Device`.
    pub fn forward_add<T: Element>(
        on: &Stream,
        y: ViewMut<T>,
        sum: ViewMut<T>,
        mean: ViewMut<f32>,
        rstd: ViewMut<f32>,
        x: View<T>,
        residual: View<T>,
        w: View<T>,
        bias: Option<View<T>>,
        eps: f64,
    ) -> Result<()> {
        let (means, rstds) = (mean.shape().count(), rstd.shape().count());
        check("layer_norm", x.shape(), w.shape(), bias.map(|b| b.shape()), means, rstds)?;
        y.shape().expect("layer_norm", "y", x.shape().dims())?;
        sum.shape().expect("layer_norm", "sum", x.shape().dims())?;
        residual.shape().expect("layer_norm", "residual", x.shape().dims())?;
        device::forward(on, y, Some(sum), mean, rstd, x, Some(residual), w, bias, eps)
    }

    /// dx = gradient through the norm (+ dresidual); dw_dbias (2, D), dw before dbias, += Σ over rows.
    ///
    /// # Errors
    /// `Shape`; `Device`.
    pub fn backward<T: Element>(
        on: &Arc<Stream>,
        dx: ViewMut<T>,
        dw_dbias: ViewMut<f32>,
        dy: View<T>,
        x: View<T>,
        mean: View<f32>,
        rstd: View<f32>,
        w: View<T>,
        dresidual: Option<View<T>>,
    ) -> Result<()> {
        let (means, rstds) = (mean.shape().count(), rstd.shape().count());
        let d = check("layer_norm.backward", x.shape(), w.shape(), None, means, rstds)?;
        dx.shape().expect("layer_norm.backward", "dx", x.shape().dims())?;
        dy.shape().expect("layer_norm.backward", "dy", x.shape().dims())?;
        dw_dbias.shape().expect("layer_norm.backward", "dw_dbias", &[2, d])?;
        if let Some(g) = dresidual {
            g.shape().expect("layer_norm.backward", "dresidual", x.shape().dims())?;
        }
        device::backward(on, dx, dw_dbias, dy, x, mean, rstd, w, dresidual)
    }
}
