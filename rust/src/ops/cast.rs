//! Rounding f32 to a storage type, to nearest, ties to even.

use crate::cpu::cast as cpu;
use crate::dtype::Element;
use crate::error::Result;

/// # Errors
/// `Shape` when the lengths differ.
pub fn from_f32<T: Element>(out: &mut [T], x: &[f32]) -> Result<()> {
    super::expect_len("cast", "x", out.len(), x.len())?;
    cpu::from_f32(out, x);
    Ok(())
}

/// The same on a GPU.
#[cfg(feature = "cuda")]
pub mod cuda {
    use crate::cuda::{Stream, View, ViewMut, cast as device};
    use crate::dtype::Element;
    use crate::error::Result;

    /// # Errors
    /// `Shape` when the two differ; `Device`.
    pub fn from_f32<T: Element>(on: &Stream, out: ViewMut<T>, x: View<f32>) -> Result<()> {
        x.shape().expect("cast", "x", out.shape().dims())?;
        device::from_f32(on, out, x)
    }
}
