//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864), of halves or of neighbours.

pub use crate::cpu::rotary::{Pairing, Table};

use super::attention::{Grid, Heads, Operand, Place};
use crate::cpu::rotary as cpu;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::tensor::View;

/// The table of HF's `cos` and `sin` (T, ndims), where each pair's value stands at both of its elements.
///
/// # Errors
/// `Shape`; `UnsupportedInput` when the two differ, as those of interleaved rotation do for `Pairing::Halves`.
pub fn table<T: Element>(cos: View<T>, sin: View<T>, pairing: Pairing) -> Result<Table> {
    let ndims = cos.shape().last();
    sin.expect("rotary", "sin", cos.shape().dims())?;
    if ndims == 0 || !ndims.is_multiple_of(2) {
        return Err(Error::UnsupportedInput(format!("rotary: `cos` must have an even number of columns, got {ndims}")));
    }
    let half = ndims / 2;
    let first = |name: &str, values: &[T]| {
        let mut kept = Vec::with_capacity(values.len() / 2);
        for row in values.chunks_exact(ndims) {
            let (twice, what) = match pairing {
                Pairing::Halves => {
                    let (first, second) = row.split_at(half);
                    kept.extend(first.iter().map(|x| x.to_f32()));
                    (
                        first == second,
                        "repeat its first half in its second; interleaved=True is for pairs of neighbours",
                    )
                }
                Pairing::Neighbours => {
                    let (pairs, _) = row.as_chunks();
                    kept.extend(pairs.iter().map(|[x, _]| x.to_f32()));
                    (pairs.iter().all(|[x, y]| x == y), "hold each value twice in a row, as repeat_interleave(2) does")
                }
            };
            if !twice {
                return Err(Error::UnsupportedInput(format!("rotary: each row of `{name}` must {what}")));
            }
        }
        Ok(kept)
    };
    Ok(Table::from_parts(first("cos", cos.data())?, first("sin", sin.data())?, half, pairing))
}

fn check(len: usize, row: usize, heads: Heads, batch: usize, time: usize, table: &Table, start: usize) -> Result<()> {
    super::expect_some("rotary", "qkv", &[row])?;
    super::expect_len("rotary", "qkv", batch * time * row, len)?;
    check_heads(row, heads, time, (table.time(), table.half()), start)
}

/// `positions` and `half` are the table's.
fn check_heads(row: usize, heads: Heads, time: usize, (positions, half): (usize, usize), start: usize) -> Result<()> {
    if heads.end() > row || 2 * half > heads.dim {
        return Err(Error::Shape { op: "rotary", arg: "heads", want: vec![row], got: vec![heads.end(), 2 * half] });
    }
    if start + time > positions {
        return Err(Error::UnsupportedInput(format!(
            "rotary: position {} is beyond the table of {positions} positions; raise max_position_embeddings",
            start + time.saturating_sub(1),
        )));
    }
    Ok(())
}

/// Rotates the first dims of every head in place: qkv (B·T, row), the first token at position `start`.
///
/// # Errors
/// `Shape`; `UnsupportedInput` for positions beyond the table.
pub fn forward<T: Element>(
    qkv: &mut [T],
    row: usize,
    heads: Heads,
    batch: usize,
    time: usize,
    table: &Table,
    start: usize,
) -> Result<()> {
    check(qkv.len(), row, heads, batch, time, table, start)?;
    if table.half() > 0 {
        cpu::rotate(qkv, row, heads, time, table, start, 1.0);
    }
    Ok(())
}

/// Tables for `batch` sequences of `time` tokens and heads of `dim`: one for each, or one for all.
fn check_tables(tables: &[Table], grid: &Grid) -> Result<()> {
    if tables.len() != 1 && tables.len() != grid.batch {
        return Err(Error::Shape { op: "rotary", arg: "cos", want: vec![grid.batch], got: vec![tables.len()] });
    }
    for table in tables {
        if 2 * table.half() > grid.dim || table.time() < grid.time {
            let (want, got) = (vec![grid.time, grid.dim], vec![table.time(), 2 * table.half()]);
            return Err(Error::Shape { op: "rotary", arg: "cos", want, got });
        }
    }
    Ok(())
}

fn sign(backward: bool) -> f32 {
    if backward { -1.0 } else { 1.0 }
}

/// y = x rotated, backwards when `backward`; both stand anywhere.
///
/// # Errors
/// As `forward`.
pub fn into<T: Element>(y: &Place<T>, x: Operand<T>, tables: &[Table], backward: bool) -> Result<()> {
    let (got, want) = (y.grid(), x.grid());
    if (got.batch, got.time, got.count, got.dim) != (want.batch, want.time, want.count, want.dim) {
        let list = |grid: &Grid| vec![grid.batch, grid.time, grid.count, grid.dim];
        return Err(Error::Shape { op: "rotary", arg: "y", want: list(want), got: list(got) });
    }
    check_tables(tables, want)?;
    if !want.is_empty() {
        cpu::rotate_into(y, x, tables, sign(backward));
    }
    Ok(())
}

/// The same in place.
///
/// # Errors
/// As `forward`.
pub fn heads<T: Element>(y: &Place<T>, tables: &[Table], backward: bool) -> Result<()> {
    check_tables(tables, y.grid())?;
    if !y.grid().is_empty() {
        cpu::rotate_heads(y, tables, sign(backward));
    }
    Ok(())
}

/// The transpose of `forward`: rotation by minus the angle.
///
/// # Errors
/// As `forward`.
pub fn backward<T: Element>(
    qkv: &mut [T],
    row: usize,
    heads: Heads,
    batch: usize,
    time: usize,
    table: &Table,
    start: usize,
) -> Result<()> {
    check(qkv.len(), row, heads, batch, time, table, start)?;
    if table.half() > 0 {
        cpu::rotate(qkv, row, heads, time, table, start, -1.0);
    }
    Ok(())
}

/// The same on a GPU.
#[cfg(feature = "cuda")]
pub mod cuda {
    use std::sync::Arc;

    use super::super::expect_some;
    use super::{Heads, Pairing, check_heads};
    use crate::cuda::{Buffer, Stream, ViewMut, rotary as device};
    use crate::dtype::Element;
    use crate::error::{Error, Result};

    /// Cosines and sines on a device.
    #[derive(Debug)]
    pub struct Table {
        cos: Buffer<f32>,
        sin: Buffer<f32>,
        positions: usize,
        half: usize,
        pairing: Pairing,
    }

    impl Table {
        /// A copy of the first `positions` of a table.
        ///
        /// # Errors
        /// `UnsupportedInput` when it has not so many; `Device`.
        pub fn new(on: &Arc<Stream>, table: &super::Table, positions: usize) -> Result<Self> {
            if positions > table.time() {
                let have = table.time();
                let what = format!("rotary: {positions} positions asked of a table of {have}");
                return Err(Error::UnsupportedInput(format!("{what}; raise max_position_embeddings")));
            }
            let rows = || (0..positions).map(|position| table.at(position));
            let cos: Vec<f32> = rows().flat_map(|(cos, _)| cos).copied().collect();
            let sin: Vec<f32> = rows().flat_map(|(_, sin)| sin).copied().collect();
            Ok(Self {
                cos: on.upload(&cos)?,
                sin: on.upload(&sin)?,
                positions,
                half: table.half(),
                pairing: table.pairing(),
            })
        }
    }

    /// Rotates the first dims of every head in place, backwards when `backward`: qkv (B·T, row), each sequence of
    /// `time` tokens from position `start` on.
    ///
    /// # Errors
    /// `Shape`; `UnsupportedInput` for positions beyond the table; `Device`.
    pub fn rotate<T: Element>(
        on: &Stream,
        qkv: ViewMut<T>,
        heads: Heads,
        time: usize,
        table: &Table,
        start: usize,
        backward: bool,
    ) -> Result<()> {
        let (tokens, row) = (qkv.shape().rows(), qkv.shape().last());
        expect_some("rotary", "qkv", &[row])?;
        expect_some("rotary", "time", &[time])?;
        check_heads(row, heads, time, (table.positions, table.half), start)?;
        if !tokens.is_multiple_of(time) {
            return Err(Error::Shape { op: "rotary", arg: "qkv", want: vec![time, row], got: vec![tokens, row] });
        }
        if table.half == 0 {
            return Ok(());
        }
        let dims = [table.positions, table.half];
        let (cos, sin) = (table.cos.view(&dims)?, table.sin.view(&dims)?);
        let heads = device::Heads { offset: heads.offset, stride: heads.stride, count: heads.count };
        let interleaved = table.pairing == Pairing::Neighbours;
        device::rotate(on, qkv, heads, interleaved, cos, sin, time, start, if backward { -1.0 } else { 1.0 })
    }
}
