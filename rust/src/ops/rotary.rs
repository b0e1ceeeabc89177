//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864), half rotation as HF writes it.

use super::attention::Heads;
use crate::cpu::rotary as cpu;
use crate::dtype::Element;
use crate::error::{Error, Result};

/// cos and sin of position · base^(−2j/ndims), (T, ndims/2), each computed in f32 as HF does.
#[derive(Debug, Clone)]
pub struct Table {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Table {
    pub fn new(time: usize, ndims: usize, base: f64) -> Self {
        let half = ndims / 2;
        // torch: 1.0 / base ** (arange(0, n, 2, float32) / n)
        let frequency = |j: usize| 1.0 / (base as f32).powf((2 * j) as f32 / ndims as f32);
        let angle = |i: usize| (i / half) as f32 * frequency(i % half);
        let values = |f: fn(f32) -> f32| (0..time * half).map(|i| f(angle(i))).collect();
        Self { half, cos: values(f32::cos), sin: values(f32::sin) }
    }

    /// Pairs that rotate.
    pub fn half(&self) -> usize {
        self.half
    }

    /// Positions it holds.
    pub fn time(&self) -> usize {
        self.cos.len().checked_div(self.half).unwrap_or(usize::MAX)
    }

    /// (cos, sin) of one position.
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let place = position * self.half..(position + 1) * self.half;
        (&self.cos[place.clone()], &self.sin[place])
    }
}

fn check(len: usize, row: usize, heads: Heads, batch: usize, time: usize, table: &Table, start: usize) -> Result<()> {
    super::expect_len("rotary", "qkv", batch * time * row, len)?;
    if heads.end() > row || 2 * table.half > heads.dim {
        return Err(Error::Shape {
            op: "rotary",
            arg: "heads",
            want: vec![row],
            got: vec![heads.end(), 2 * table.half],
        });
    }
    if start + time > table.time() {
        return Err(Error::UnsupportedInput(format!(
            "rotary: position {} is beyond the table of {} positions; raise max_position_embeddings",
            start + time - 1,
            table.time()
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
    if table.half > 0 {
        cpu::rotate(qkv, row, heads, time, table, start, 1.0);
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
    if table.half > 0 {
        cpu::rotate(qkv, row, heads, time, table, start, -1.0);
    }
    Ok(())
}
