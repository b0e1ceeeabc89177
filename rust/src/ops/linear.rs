//! y = x·wᵀ + b, torch's `linear`.

use crate::cpu::linear as cpu;
use crate::dtype::Element;
use crate::error::Result;
use crate::tensor::{View, ViewMut};

/// y (N, O), x (N, I), w (O, I), bias (O).
///
/// # Errors
/// `Shape`.
pub fn forward<T: Element>(mut y: ViewMut<T>, x: View<T>, w: View<T>, bias: Option<View<T>>) -> Result<()> {
    let (n, i, o) = (x.shape().rows(), x.shape().last(), w.shape().rows());
    w.expect("linear", "w", &[o, i])?;
    super::expect_some("linear", "w", &[o, i])?;
    y.expect("linear", "y", &[n, o])?;
    if let Some(bias) = bias {
        bias.expect("linear", "bias", &[o])?;
    }
    cpu::forward(y.data(), x.data(), w.data(), bias.map(|b| b.data()), n, i, o);
    Ok(())
}

/// dx (N, I) = dy (N, O)·w.
///
/// # Errors
/// `Shape`.
pub fn backward_input<T: Element>(mut dx: ViewMut<T>, dy: View<T>, w: View<T>) -> Result<()> {
    let (n, i, o) = (dy.shape().rows(), w.shape().last(), w.shape().rows());
    super::expect_some("linear.backward", "w", &[o, i])?;
    dy.expect("linear.backward", "dy", &[n, o])?;
    dx.expect("linear.backward", "dx", &[n, i])?;
    cpu::backward_input(dx.data(), dy.data(), w.data(), n, i, o);
    Ok(())
}

/// dx (N, I) += dy (N, O)·w.
///
/// # Errors
/// `Shape`.
pub fn backward_input_add(mut dx: ViewMut<f32>, dy: View<f32>, w: View<f32>) -> Result<()> {
    let (n, i, o) = (dy.shape().rows(), w.shape().last(), w.shape().rows());
    super::expect_some("linear.backward", "w", &[o, i])?;
    dy.expect("linear.backward", "dy", &[n, o])?;
    dx.expect("linear.backward", "dx", &[n, i])?;
    cpu::backward_input_add(dx.data(), dy.data(), w.data(), n, i, o);
    Ok(())
}

/// dw (O, I) = dyᵀ·x, dbias (O) = column sums of dy; added to what is there if they are to `accumulate`.
///
/// # Errors
/// `Shape`.
pub fn backward_weight<T: Element>(
    mut dw: ViewMut<f32>,
    dbias: Option<ViewMut<f32>>,
    dy: View<T>,
    x: View<T>,
    accumulate: bool,
) -> Result<()> {
    let (n, i, o) = (x.shape().rows(), x.shape().last(), dy.shape().last());
    dy.expect("linear.backward", "dy", &[n, o])?;
    dw.expect("linear.backward", "dw", &[o, i])?;
    super::expect_some("linear.backward", "dw", &[o, i])?;
    if let Some(dbias) = &dbias {
        dbias.expect("linear.backward", "dbias", &[o])?;
    }
    cpu::backward_weight(dw.data(), dbias.map(ViewMut::into_data), dy.data(), x.data(), n, i, o, accumulate);
    Ok(())
}

/// The same on a GPU.
#[cfg(feature = "cuda")]
pub mod cuda {
    use std::sync::Arc;

    use super::super::expect_some;
    use crate::cuda::matmul::{Mat, multiply, multiply_add};
    use crate::cuda::{Stream, View, ViewMut, column_sums as device};
    use crate::dtype::Element;
    use crate::error::Result;

    /// y (N, O), x (N, I), w (O, I), bias (O).
    ///
    /// # Errors
    /// `Shape`; `Device`.
    pub fn forward<T: Element>(
        on: &Arc<Stream>,
        y: ViewMut<T>,
        x: View<T>,
        w: View<T>,
        bias: Option<View<T>>,
    ) -> Result<()> {
        let (n, i, o) = (x.shape().rows(), x.shape().last(), w.shape().rows());
        w.shape().expect("linear", "w", &[o, i])?;
        expect_some("linear", "w", &[o, i])?;
        y.shape().expect("linear", "y", &[n, o])?;
        if let Some(bias) = bias {
            bias.shape().expect("linear", "bias", &[o])?;
        }
        multiply(on, y, Mat::new(x), Mat::new(w).t(), bias, 1.0)
    }

    fn check_input<T>(dx: &ViewMut<T>, dy: &View<T>, w: &View<T>) -> Result<()> {
        let (n, i, o) = (dy.shape().rows(), w.shape().last(), w.shape().rows());
        expect_some("linear.backward", "w", &[o, i])?;
        dy.shape().expect("linear.backward", "dy", &[n, o])?;
        dx.shape().expect("linear.backward", "dx", &[n, i])
    }

    /// dx (N, I) = dy (N, O)·w.
    ///
    /// # Errors
    /// `Shape`; `Device`.
    pub fn backward_input<T: Element>(on: &Arc<Stream>, dx: ViewMut<T>, dy: View<T>, w: View<T>) -> Result<()> {
        check_input(&dx, &dy, &w)?;
        multiply(on, dx, Mat::new(dy), Mat::new(w), None, 1.0)
    }

    /// dx (N, I) += dy (N, O)·w, rounded once.
    ///
    /// # Errors
    /// `Shape`; `Device`.
    pub fn backward_input_add<T: Element>(on: &Arc<Stream>, dx: ViewMut<T>, dy: View<T>, w: View<T>) -> Result<()> {
        check_input(&dx, &dy, &w)?;
        multiply_add(on, dx, Mat::new(dy), Mat::new(w), 1.0)
    }

    /// dw (O, I) += dyᵀ·x, dbias (O) += column sums of dy.
    ///
    /// # Errors
    /// `Shape`; `Device`.
    pub fn backward_weight<T: Element>(
        on: &Arc<Stream>,
        dw: ViewMut<f32>,
        dbias: Option<ViewMut<f32>>,
        dy: View<T>,
        x: View<T>,
    ) -> Result<()> {
        let (n, i, o) = (x.shape().rows(), x.shape().last(), dy.shape().last());
        dy.shape().expect("linear.backward", "dy", &[n, o])?;
        dw.shape().expect("linear.backward", "dw", &[o, i])?;
        expect_some("linear.backward", "dw", &[o, i])?;
        dbias.map_or(Ok(()), |dbias| backward_bias(on, dbias, dy))?;
        multiply_add(on, dw, Mat::new(dy).t(), Mat::new(x), 1.0)
    }

    /// dbias (O) += Σ of the rows of dy (N, O).
    ///
    /// # Errors
    /// `Shape`; `Device`.
    pub fn backward_bias<T: Element>(on: &Arc<Stream>, dbias: ViewMut<f32>, dy: View<T>) -> Result<()> {
        let o = dy.shape().last();
        expect_some("linear.backward", "dy", &[o])?;
        dbias.shape().expect("linear.backward", "dbias", &[o])?;
        device::add(on, dbias, dy)
    }
}
