//! y = x·r·w, r = 1/√(mean(x²) + eps) (Zhang & Sennrich 2019, arXiv 1910.07467, eq. 4).  Rows N, width D.

use crate::cpu::rms_norm as cpu;
use crate::dtype::Element;
use crate::error::Result;
use crate::tensor::{View, ViewMut};

/// y, x (N, D); w (D); rstd (N) is kept for the backward pass.
///
/// # Errors
/// `Shape`.
pub fn forward<T: Element>(mut y: ViewMut<T>, rstd: &mut [f32], x: View<T>, w: View<T>, eps: f64) -> Result<()> {
    let d = x.shape().last();
    super::expect_some("rms_norm", "x", &[d])?;
    y.expect("rms_norm", "y", x.shape().dims())?;
    w.expect("rms_norm", "weight", &[d])?;
    super::expect_len("rms_norm", "rstd", x.shape().rows(), rstd.len())?;
    cpu::forward(y.data(), rstd, x.data(), w.data(), eps, d);
    Ok(())
}

/// sum = x + residual; y = norm(sum), in one pass.
///
/// # Errors
/// `Shape`.
pub fn forward_add<T: Element>(
    mut y: ViewMut<T>,
    mut sum: ViewMut<T>,
    rstd: &mut [f32],
    x: View<T>,
    residual: View<T>,
    w: View<T>,
    eps: f64,
) -> Result<()> {
    let d = x.shape().last();
    super::expect_some("rms_norm", "x", &[d])?;
    y.expect("rms_norm", "y", x.shape().dims())?;
    sum.expect("rms_norm", "sum", x.shape().dims())?;
    residual.expect("rms_norm", "residual", x.shape().dims())?;
    w.expect("rms_norm", "weight", &[d])?;
    super::expect_len("rms_norm", "rstd", x.shape().rows(), rstd.len())?;
    cpu::forward_add(y.data(), sum.data(), rstd, x.data(), residual.data(), w.data(), eps, d);
    Ok(())
}

/// dx = gradient through the norm (+ dresidual); dw (D) += Σ over rows.
///
/// # Errors
/// `Shape`.
pub fn backward<T: Element>(
    mut dx: ViewMut<T>,
    mut dw: ViewMut<f32>,
    dy: View<T>,
    x: View<T>,
    rstd: &[f32],
    w: View<T>,
    dresidual: Option<View<T>>,
) -> Result<()> {
    let d = x.shape().last();
    super::expect_some("rms_norm", "x", &[d])?;
    dx.expect("rms_norm.backward", "dx", x.shape().dims())?;
    dy.expect("rms_norm.backward", "dy", x.shape().dims())?;
    w.expect("rms_norm.backward", "weight", &[d])?;
    dw.expect("rms_norm.backward", "dw", &[d])?;
    super::expect_len("rms_norm.backward", "rstd", x.shape().rows(), rstd.len())?;
    if let Some(g) = dresidual {
        g.expect("rms_norm.backward", "dresidual", x.shape().dims())?;
    }
    cpu::backward(dx.data(), dw.data(), dy.data(), x.data(), rstd, w.data(), dresidual.map(|g| g.data()), d);
    Ok(())
}
