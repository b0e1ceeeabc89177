//! y = x·r·w, r = 1/√(mean(x²) + eps) (Zhang & Sennrich 2019, arXiv 1910.07467, eq. 4).  Rows N, width D.

use crate::cpu::rms_norm as cpu;
use crate::dtype::Element;
use crate::error::Result;
use crate::tensor::{Shape, View, ViewMut};

/// `alike` are of the shape of x; the width.
fn check(op: &'static str, x: Shape, alike: &[(&'static str, Shape)], w: Shape, rstd: usize) -> Result<usize> {
    let d = x.last();
    super::expect_some(op, "x", &[d])?;
    alike.iter().try_for_each(|(arg, shape)| shape.expect(op, arg, x.dims()))?;
    w.expect(op, "weight", &[d])?;
    super::expect_len(op, "rstd", x.rows(), rstd)?;
    Ok(d)
}

/// y, x (N, D); w (D); rstd (N) is kept for the backward pass.
///
/// # Errors
/// `Shape`.
pub fn forward<T: Element>(mut y: ViewMut<T>, rstd: &mut [f32], x: View<T>, w: View<T>, eps: f64) -> Result<()> {
    let d = check("rms_norm", x.shape(), &[("y", y.shape())], w.shape(), rstd.len())?;
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
    let alike = [("y", y.shape()), ("sum", sum.shape()), ("residual", residual.shape())];
    let d = check("rms_norm", x.shape(), &alike, w.shape(), rstd.len())?;
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
    let more = dresidual.map_or(x.shape(), |g| g.shape());
    let alike = [("dx", dx.shape()), ("dy", dy.shape()), ("dresidual", more)];
    let d = check("rms_norm.backward", x.shape(), &alike, w.shape(), rstd.len())?;
    dw.expect("rms_norm.backward", "dw", &[d])?;
    cpu::backward(dx.data(), dw.data(), dy.data(), x.data(), rstd, w.data(), dresidual.map(|g| g.data()), d);
    Ok(())
}

/// The same on a GPU.
#[cfg(feature = "cuda")]
pub mod cuda {
    use std::sync::Arc;

    use super::check;
    use crate::cuda::{Stream, View, ViewMut, rms_norm as device};
    use crate::dtype::Element;
    use crate::error::Result;

    /// y, x (N, D); w (D); rstd (N) is kept for the backward pass.
    ///
    /// # Errors
    /// `Shape`; `Device`.
    pub fn forward<T: Element>(
        on: &Stream,
        y: ViewMut<T>,
        rstd: ViewMut<f32>,
        x: View<T>,
        w: View<T>,
        eps: f64,
    ) -> Result<()> {
        check("rms_norm", x.shape(), &[("y", y.shape())], w.shape(), rstd.shape().count())?;
        device::forward(on, y, None, rstd, x, None, w, eps)
    }

    /// sum = x + residual; y = norm(sum), in one pass.
    ///
    /// # Errors
    /// `Shape`; `Device`.
    pub fn forward_add<T: Element>(
        on: &Stream,
        y: ViewMut<T>,
        sum: ViewMut<T>,
        rstd: ViewMut<f32>,
        x: View<T>,
        residual: View<T>,
        w: View<T>,
        eps: f64,
    ) -> Result<()> {
        let alike = [("y", y.shape()), ("sum", sum.shape()), ("residual", residual.shape())];
        check("rms_norm", x.shape(), &alike, w.shape(), rstd.shape().count())?;
        device::forward(on, y, Some(sum), rstd, x, Some(residual), w, eps)
    }

    /// dx = gradient through the norm (+ dresidual); dw (D) += Σ over rows.
    ///
    /// # Errors
    /// `Shape`; `Device`.
    pub fn backward<T: Element>(
        on: &Arc<Stream>,
        dx: ViewMut<T>,
        dw: ViewMut<f32>,
        dy: View<T>,
        x: View<T>,
        rstd: View<f32>,
        w: View<T>,
        dresidual: Option<View<T>>,
    ) -> Result<()> {
        let more = dresidual.map_or(x.shape(), |g| g.shape());
        let alike = [("dx", dx.shape()), ("dy", dy.shape()), ("dresidual", more)];
        let d = check("rms_norm.backward", x.shape(), &alike, w.shape(), rstd.shape().count())?;
        dw.shape().expect("rms_norm.backward", "dw", &[d])?;
        device::backward(on, dx, dw, dy, x, rstd, w, dresidual)
    }
}
