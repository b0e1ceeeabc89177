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
