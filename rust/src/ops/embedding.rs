//! y[i] = table[ids[i]].

use crate::cpu::embedding as cpu;
use crate::dtype::Element;
use crate::error::Result;
use crate::tensor::{View, ViewMut};

/// y (N, D), table (V, D), ids (N).
///
/// # Errors
/// `Shape`; `UnsupportedInput` naming the position of an id outside the table.
pub fn forward<T: Element>(mut y: ViewMut<T>, table: View<T>, ids: &[i32]) -> Result<()> {
    let d = table.shape().last();
    super::expect_some("embedding", "table", &[d])?;
    y.expect("embedding", "y", &[ids.len(), d])?;
    super::expect_ids("embedding", "ids", ids, table.shape().rows(), None)?;
    cpu::forward(y.data(), table.data(), ids, d);
    Ok(())
}

/// dtable (V, D) += the rows of dy (N, D), in the order of the tokens.
///
/// # Errors
/// As `forward`.
pub fn backward<T: Element>(mut dtable: ViewMut<f32>, dy: View<T>, ids: &[i32]) -> Result<()> {
    let d = dtable.shape().last();
    super::expect_some("embedding.backward", "dtable", &[d])?;
    dy.expect("embedding.backward", "dy", &[ids.len(), d])?;
    super::expect_ids("embedding.backward", "ids", ids, dtable.shape().rows(), None)?;
    cpu::backward(dtable.data(), dy.data(), ids, d);
    Ok(())
}
