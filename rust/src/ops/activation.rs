//! y = act(x), element by element.

use crate::cpu::activation as cpu;
use crate::dtype::Element;
use crate::error::Result;
use crate::tensor::{View, ViewMut};

/// The non-linearity of the MLP; in a gated MLP, of its gate (swiglu = `Silu`, geglu = `Gelu`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x·Φ(x), with erf.
    Gelu,
    /// The tanh form, HF's `gelu_new`; NeoX selects it by `bias_gelu_fusion: true`.
    GeluTanh,
    /// x / (1 + exp(−x)).
    Silu,
    Relu,
}

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
