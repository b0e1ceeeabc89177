//! y = act(x), element by element.

pub use crate::cpu::activation::Activation;

use crate::cpu::activation as cpu;
use crate::dtype::Element;
use crate::error::Result;
use crate::tensor::{View, ViewMut};

/// # Errors
/// `Shape` when y and x differ.
pub fn forward<T: Element>(mut y: ViewMut<T>, x: View<T>, kind: Activation) -> Result<()> {
    x.expect("activation", "x", y.shape().dims())?;
    cpu::forward(y.data(), x.data(), kind);
    Ok(())
}

/// dx = dy·act′(x).
///
/// # Errors
/// `Shape` when the three differ.
pub fn backward<T: Element>(mut dx: ViewMut<T>, dy: View<T>, x: View<T>, kind: Activation) -> Result<()> {
    dy.expect("activation.backward", "dy", dx.shape().dims())?;
    x.expect("activation.backward", "x", dx.shape().dims())?;
    cpu::backward(dx.data(), dy.data(), x.data(), kind);
    Ok(())
}

/// The same on a GPU.
#[cfg(feature = "cuda")]
pub mod cuda {
    use super::Activation;
    use crate::cuda::{Stream, View, ViewMut, activation as device};
    use crate::dtype::Element;
    use crate::error::Result;

    /// The kind as kernels/activation.cuh counts it.
    pub(in crate::ops) fn number(kind: Activation) -> i32 {
        match kind {
            Activation::Gelu => 0,
            Activation::GeluTanh => 1,
            Activation::Silu => 2,
            Activation::Relu => 3,
        }
    }

    /// # Errors
    /// `Shape` when y and x differ; `Device`.
    pub fn forward<T: Element>(on: &Stream, y: ViewMut<T>, x: View<T>, kind: Activation) -> Result<()> {
        x.shape().expect("activation", "x", y.shape().dims())?;
        device::forward(on, y, x, number(kind))
    }

    /// # Errors
    /// `Shape` when the three differ; `Device`.
    pub fn backward<T: Element>(on: &Stream, dx: ViewMut<T>, dy: View<T>, x: View<T>, kind: Activation) -> Result<()> {
        dy.shape().expect("activation.backward", "dy", dx.shape().dims())?;
        x.shape().expect("activation.backward", "x", dx.shape().dims())?;
        device::backward(on, dx, dy, x, number(kind))
    }
}
