//! h = act(gate)·up: SwiGLU and GeGLU (Shazeer 2020, arXiv 2002.05202).

use super::activation::Activation;
use crate::cpu::gated_mlp as cpu;
use crate::dtype::Element;
use crate::error::Result;
use crate::tensor::{View, ViewMut};

/// h (N, F); gate_up (N, 2F), each row [gate | up].
///
/// # Errors
/// `Shape`.
pub fn forward<T: Element>(mut h: ViewMut<T>, gate_up: View<T>, kind: Activation) -> Result<()> {
    let (n, f) = (h.shape().rows(), h.shape().last());
    super::expect_some("gated_mlp", "h", &[f])?;
    gate_up.expect("gated_mlp", "gate_up", &[n, 2 * f])?;
    cpu::forward(h.data(), gate_up.data(), kind, f);
    Ok(())
}

/// h, gate and up of one shape, each a tensor of its own.
///
/// # Errors
/// `Shape`.
pub fn forward_apart<T: Element>(mut h: ViewMut<T>, gate: View<T>, up: View<T>, kind: Activation) -> Result<()> {
    gate.expect("gated_mlp", "gate", h.shape().dims())?;
    up.expect("gated_mlp", "up", h.shape().dims())?;
    cpu::forward_apart(h.data(), gate.data(), up.data(), kind);
    Ok(())
}

/// dgate and dup from dh, all of one shape.
///
/// # Errors
/// `Shape`.
pub fn backward_apart<T: Element>(
    mut dgate: ViewMut<T>,
    mut dup: ViewMut<T>,
    dh: View<T>,
    gate: View<T>,
    up: View<T>,
    kind: Activation,
) -> Result<()> {
    let shape = dgate.shape();
    dup.expect("gated_mlp.backward", "dup", shape.dims())?;
    dh.expect("gated_mlp.backward", "dh", shape.dims())?;
    gate.expect("gated_mlp.backward", "gate", shape.dims())?;
    up.expect("gated_mlp.backward", "up", shape.dims())?;
    cpu::backward_apart(dgate.data(), dup.data(), dh.data(), gate.data(), up.data(), kind);
    Ok(())
}

/// dgate_up (N, 2F) from dh (N, F); act is computed again, nothing is kept.
///
/// # Errors
/// `Shape`.
pub fn backward<T: Element>(mut dgate_up: ViewMut<T>, dh: View<T>, gate_up: View<T>, kind: Activation) -> Result<()> {
    let (n, f) = (dh.shape().rows(), dh.shape().last());
    super::expect_some("gated_mlp.backward", "dh", &[f])?;
    gate_up.expect("gated_mlp.backward", "gate_up", &[n, 2 * f])?;
    dgate_up.expect("gated_mlp.backward", "dgate_up", &[n, 2 * f])?;
    cpu::backward(dgate_up.data(), dh.data(), gate_up.data(), kind, f);
    Ok(())
}

/// The same on a GPU.
#[cfg(feature = "cuda")]
pub mod cuda {
    use super::super::activation::cuda::number;
    use super::super::expect_some;
    use super::Activation;
    use crate::cuda::{Stream, View, ViewMut, gated_mlp as device};
    use crate::dtype::Element;
    use crate::error::Result;

    /// h (N, F); gate_up (N, 2F), each row [gate | up].
    ///
    /// # Errors
    /// `Shape`; `Device`.
    pub fn forward<T: Element>(on: &Stream, h: ViewMut<T>, gate_up: View<T>, kind: Activation) -> Result<()> {
        let (n, f) = (h.shape().rows(), h.shape().last());
        expect_some("gated_mlp", "h", &[f])?;
        gate_up.shape().expect("gated_mlp", "gate_up", &[n, 2 * f])?;
        device::forward(on, h, gate_up, number(kind))
    }

    /// h, gate and up of one shape, each a tensor of its own.
    ///
    /// # Errors
    /// `Shape`; `Device`.
    pub fn forward_apart<T: Element>(
        on: &Stream,
        h: ViewMut<T>,
        gate: View<T>,
        up: View<T>,
        kind: Activation,
    ) -> Result<()> {
        let shape = h.shape();
        expect_some("gated_mlp", "h", &[shape.last()])?;
        gate.shape().expect("gated_mlp", "gate", shape.dims())?;
        up.shape().expect("gated_mlp", "up", shape.dims())?;
        device::forward_apart(on, h, gate, up, number(kind))
    }

    /// dgate_up (N, 2F) from dh (N, F).
    ///
    /// # Errors
    /// `Shape`; `Device`.
    pub fn backward<T: Element>(
        on: &Stream,
        dgate_up: ViewMut<T>,
        dh: View<T>,
        gate_up: View<T>,
        kind: Activation,
    ) -> Result<()> {
        let (n, f) = (dh.shape().rows(), dh.shape().last());
        expect_some("gated_mlp.backward", "dh", &[f])?;
        gate_up.shape().expect("gated_mlp.backward", "gate_up", &[n, 2 * f])?;
        dgate_up.shape().expect("gated_mlp.backward", "dgate_up", &[n, 2 * f])?;
        device::backward(on, dgate_up, dh, gate_up, number(kind))
    }

    /// dgate and dup from dh, all of one shape.
    ///
    /// # Errors
    /// `Shape`; `Device`.
    pub fn backward_apart<T: Element>(
        on: &Stream,
        dgate: ViewMut<T>,
        dup: ViewMut<T>,
        dh: View<T>,
        gate: View<T>,
        up: View<T>,
        kind: Activation,
    ) -> Result<()> {
        let shape = dgate.shape();
        expect_some("gated_mlp.backward", "dgate", &[shape.last()])?;
        let all = [("dup", dup.shape()), ("dh", dh.shape()), ("gate", gate.shape()), ("up", up.shape())];
        all.iter().try_for_each(|(arg, got)| got.expect("gated_mlp.backward", arg, shape.dims()))?;
        device::backward_apart(on, dgate, dup, dh, gate, up, number(kind))
    }
}
