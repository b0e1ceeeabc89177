//! Causal attention, softmax(q·kᵀ·scale)·v, with grouped key/value heads (Ainslie et al. 2023, arXiv 2305.13245).

use crate::cpu::attention as cpu;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::tensor::{View, ViewMut};

/// Heads inside a fused projection: head a of token t begins at t·row + offset + a·stride.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    pub offset: usize,
    pub stride: usize,
    pub count: usize,
    pub dim: usize,
}

impl Heads {
    /// One past the last element in a row.
    pub fn end(&self) -> usize {
        if self.count == 0 { 0 } else { self.offset + (self.count - 1) * self.stride + self.dim }
    }
}

/// Where queries, keys and values stand, and how many tokens there are.
#[derive(Debug, Clone, Copy)]
pub struct Qkv {
    pub q: Heads,
    pub k: Heads,
    pub v: Heads,
    /// Elements from one token to the next.
    pub row: usize,
    pub batch: usize,
    pub time: usize,
    pub scale: f32,
}

impl Qkv {
    /// Query heads that share one key/value head.
    pub fn group(&self) -> usize {
        self.q.count / self.k.count
    }

    fn check(&self, op: &'static str, len: usize) -> Result<()> {
        super::expect_len(op, "qkv", self.batch * self.time * self.row, len)?;
        let ends = [self.q.end(), self.k.end(), self.v.end()];
        let whole = self.k.count > 0 && self.q.count.is_multiple_of(self.k.count) && self.k.count == self.v.count;
        let dims = self.q.dim == self.k.dim && self.k.dim == self.v.dim;
        if whole && dims && ends.iter().all(|end| *end <= self.row) {
            return Ok(());
        }
        Err(Error::UnsupportedInput(format!(
            "{op}: heads do not fit: {} query, {} key, {} value heads, rows of {} elements; key heads must divide query heads",
            self.q.count, self.k.count, self.v.count, self.row
        )))
    }

    fn outputs(&self) -> [usize; 3] {
        [self.batch, self.time, self.q.count * self.q.dim]
    }
}

/// out (B, T, A·d); lse (B, A, T) is kept for the backward pass.
///
/// # Errors
/// `Shape`; `UnsupportedInput` when the heads do not fit each other.
pub fn forward<T: Element>(
    mut out: ViewMut<T>,
    lse: &mut [f32],
    q: Heads,
    k: Heads,
    v: Heads,
    qkv: &[T],
    row: usize,
    batch: usize,
    time: usize,
    scale: f32,
) -> Result<()> {
    let s = Qkv { q, k, v, row, batch, time, scale };
    s.check("attention", qkv.len())?;
    out.expect("attention", "out", &s.outputs())?;
    super::expect_len("attention", "lse", batch * q.count * time, lse.len())?;
    cpu::forward(out.data(), lse, qkv, &s);
    Ok(())
}

/// Overwrites the places of q, k and v in dqkv.
///
/// # Errors
/// As `forward`.
pub fn backward<T: Element>(
    dqkv: &mut [T],
    dout: View<T>,
    out: View<T>,
    lse: &[f32],
    qkv: &[T],
    q: Heads,
    k: Heads,
    v: Heads,
    row: usize,
    batch: usize,
    time: usize,
    scale: f32,
) -> Result<()> {
    let s = Qkv { q, k, v, row, batch, time, scale };
    s.check("attention.backward", qkv.len())?;
    super::expect_len("attention.backward", "dqkv", qkv.len(), dqkv.len())?;
    dout.expect("attention.backward", "dout", &s.outputs())?;
    out.expect("attention.backward", "out", &s.outputs())?;
    super::expect_len("attention.backward", "lse", batch * q.count * time, lse.len())?;
    cpu::backward(dqkv, dout.data(), out.data(), lse, qkv, &s);
    Ok(())
}

/// One query token (A, d) against a cache of `length` keys and values (length, Kv, d); out (A, d).
///
/// # Errors
/// `Shape`.
pub fn decode<T: Element>(
    out: &mut [T],
    q: &[T],
    keys: &[T],
    values: &[T],
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    length: usize,
    scale: f32,
) -> Result<()> {
    super::expect_len("attention.decode", "q", heads * head_dim, q.len())?;
    super::expect_len("attention.decode", "out", heads * head_dim, out.len())?;
    super::expect_len("attention.decode", "keys", length * kv_heads * head_dim, keys.len())?;
    super::expect_len("attention.decode", "values", length * kv_heads * head_dim, values.len())?;
    cpu::decode(out, q, keys, values, heads, kv_heads, head_dim, length, scale);
    Ok(())
}
