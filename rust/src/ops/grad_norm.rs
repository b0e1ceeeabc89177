//! The global gradient norm's parts.

pub use crate::cpu::grad_norm::{first_non_finite, sum_of_squares};

/// The factor for a gradient of this norm; 1 where clipping is off (`max` 0) or the norm fits.
pub fn clip_coefficient(norm: f64, max: f64) -> f64 {
    if max > 0.0 && norm + 1e-6 > max { max / (norm + 1e-6) } else { 1.0 }
}

/// On a GPU: what clipping and unscaling need, without a wait.
#[cfg(feature = "cuda")]
pub mod cuda {
    use std::sync::Arc;

    use super::super::expect_len;
    use crate::cuda::{Stream, View, ViewMut, grad_norm as device};
    use crate::error::{Error, Result};

    /// norm (1) = √(Σ g²)·unscale; grad_scale (1) = unscale·clip, with clip = max/(norm + 1e-6) where max > 0 and the
    /// norm is larger, else 1; NaN where the norm is not finite.
    ///
    /// # Errors
    /// `Shape`; `Device`.
    pub fn scale(
        on: &Arc<Stream>,
        norm: ViewMut<f32>,
        grad_scale: ViewMut<f32>,
        g: View<f32>,
        unscale: f64,
        max: f64,
    ) -> Result<()> {
        expect_len("grad_norm", "norm", 1, norm.shape().count())?;
        expect_len("grad_norm", "grad_scale", 1, grad_scale.shape().count())?;
        device::scale(on, norm, grad_scale, g, unscale, max)
    }

    /// The place of the first NaN or infinity; waits for it.
    ///
    /// # Errors
    /// `Device`.
    pub fn first_non_finite(on: &Arc<Stream>, g: View<f32>) -> Result<Option<usize>> {
        let n = g.shape().count();
        let mut first = on.upload(&[n as u64])?;
        device::first_non_finite(on, first.view_mut(&[1])?, g)?;
        let at = first.download()?.first().map(|at| *at as usize);
        at.map(|at| (at < n).then_some(at)).ok_or_else(|| Error::Internal("a place for one number has none".into()))
    }
}
