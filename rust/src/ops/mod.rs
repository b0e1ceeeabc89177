//! The contract of each operation: maths, shapes, checks. The only code that knows all devices.

pub mod activation;
pub mod adamw;
pub mod add;
pub mod attention;
pub mod backend;
pub mod cast;
pub mod cross_entropy;
pub mod embedding;
pub mod gated_mlp;
pub mod grad_norm;
pub mod layer_norm;
pub mod linear;
pub mod linear_cross_entropy;
pub mod rms_norm;
pub mod rotary;
pub mod selftest;

use crate::error::{Error, Result};

/// A plain slice whose length must be `want`.
fn expect_len(op: &'static str, arg: &'static str, want: usize, got: usize) -> Result<()> {
    if want == got {
        return Ok(());
    }
    Err(Error::Shape { op, arg, want: vec![want], got: vec![got] })
}

/// An extent that rows are cut by: with none there is nothing to compute.
fn expect_some(op: &'static str, arg: &'static str, extents: &[usize]) -> Result<()> {
    if extents.iter().all(|extent| *extent > 0) {
        return Ok(());
    }
    Err(Error::UnsupportedInput(format!("{op}: `{arg}` has an extent of 0 in {extents:?}; it must be at least 1")))
}

/// Ids inside `0..limit`, or `ignore`.
fn expect_ids(op: &'static str, arg: &'static str, ids: &[i32], limit: usize, ignore: Option<i32>) -> Result<()> {
    let bad = |id: &i32| Some(*id) != ignore && !usize::try_from(*id).is_ok_and(|id| id < limit);
    match ids.iter().position(bad) {
        None => Ok(()),
        Some(at) => Err(Error::UnsupportedInput(format!(
            "{op}: `{arg}` holds id {} at position {at}, outside 0..{limit}; check that tokenizer and model belong together",
            ids[at]
        ))),
    }
}
