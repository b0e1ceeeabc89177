//! y = a + b, where no norm follows that could take the sum with it.

use crate::cpu::add as cpu;
use crate::dtype::Element;
use crate::error::Result;
use crate::tensor::{View, ViewMut};

/// # Errors
/// `Shape` when the three differ.
pub fn forward<T: Element>(mut y: ViewMut<T>, a: View<T>, b: View<T>) -> Result<()> {
    a.expect("add", "a", y.shape().dims())?;
    b.expect("add", "b", y.shape().dims())?;
    cpu::forward(y.data(), a.data(), b.data());
    Ok(())
}
