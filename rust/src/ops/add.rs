//! y = a + b, where no norm follows that could take the sum with it.

use crate::cpu::add as cpu;
use crate::dtype::Element;
use crate::error::Result;
use crate::tensor::{Shape, View, ViewMut};

fn check(y: Shape, a: Shape, b: Shape) -> Result<()> {
    a.expect("add", "a", y.dims())?;
    b.expect("add", "b", y.dims())
}

/// # Errors
/// `Shape` when the three differ.
pub fn forward<T: Element>(mut y: ViewMut<T>, a: View<T>, b: View<T>) -> Result<()> {
    check(y.shape(), a.shape(), b.shape())?;
    cpu::forward(y.data(), a.data(), b.data());
    Ok(())
}

/// The same on a GPU.
#[cfg(feature = "cuda")]
pub mod cuda {
    use crate::cuda::{Stream, View, ViewMut, add as device};
    use crate::dtype::Element;
    use crate::error::Result;

    /// # Errors
    /// `Shape` when the three differ; `Device`.
    pub fn forward<T: Element>(on: &Stream, y: ViewMut<T>, a: View<T>, b: View<T>) -> Result<()> {
        super::check(y.shape(), a.shape(), b.shape())?;
        device::forward(on, y, a, b)
    }
}
