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
