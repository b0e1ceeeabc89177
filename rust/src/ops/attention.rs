//! Attention, softmax(q·kᵀ·scale)·v, causal or over all keys, with grouped key/value heads (Ainslie et al. 2023, arXiv 2305.13245).

pub use crate::cpu::attention::{Heads, Qkv};

use crate::cpu::attention as cpu;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::tensor::{View, ViewMut};

fn check_scale(op: &'static str, scale: f32) -> Result<()> {
    if scale > 0.0 && scale.is_finite() {
        return Ok(());
    }
    Err(Error::UnsupportedInput(format!("{op}: `scale` must be positive and finite, got {scale}")))
}

impl Qkv {
    fn check(&self, op: &'static str, len: usize) -> Result<()> {
        super::expect_len(op, "qkv", self.batch * self.time * self.row, len)?;
        super::expect_some(op, "heads", &[self.q.count, self.k.count, self.q.dim])?;
        check_scale(op, self.scale)?;
        let ends = [self.q.end(), self.k.end(), self.v.end()];
        let whole = self.q.count.is_multiple_of(self.k.count) && self.k.count == self.v.count;
        let dims = self.q.dim == self.k.dim && self.k.dim == self.v.dim;
        if whole && dims && ends.iter().all(|end| *end <= self.row) && self.disjoint() {
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
    out: ViewMut<T>,
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
    forward_of(out, lse, qkv, &Qkv { q, k, v, row, batch, time, scale, causal: true })
}

/// The same, over all keys too.
///
/// # Errors
/// As `forward`.
pub fn forward_of<T: Element>(mut out: ViewMut<T>, lse: &mut [f32], qkv: &[T], s: &Qkv) -> Result<()> {
    s.check("attention", qkv.len())?;
    out.expect("attention", "out", &s.outputs())?;
    super::expect_len("attention", "lse", s.batch * s.q.count * s.time, lse.len())?;
    if s.batch * s.time > 0 {
        cpu::forward(out.data(), lse, qkv, s);
    }
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
    backward_of(dqkv, dout, out, lse, qkv, &Qkv { q, k, v, row, batch, time, scale, causal: true })
}

/// The same, over all keys too.
///
/// # Errors
/// As `forward`.
pub fn backward_of<T: Element>(
    dqkv: &mut [T],
    dout: View<T>,
    out: View<T>,
    lse: &[f32],
    qkv: &[T],
    s: &Qkv,
) -> Result<()> {
    s.check("attention.backward", qkv.len())?;
    super::expect_len("attention.backward", "dqkv", qkv.len(), dqkv.len())?;
    dout.expect("attention.backward", "dout", &s.outputs())?;
    out.expect("attention.backward", "out", &s.outputs())?;
    super::expect_len("attention.backward", "lse", s.batch * s.q.count * s.time, lse.len())?;
    if s.batch * s.time > 0 {
        cpu::backward(dqkv, dout.data(), out.data(), lse, qkv, s);
    }
    Ok(())
}

/// One query token (A, d) against a cache of `length` keys and values (length, Kv, d); out (A, d).
///
/// # Errors
/// `Shape`; `UnsupportedInput` when the key heads do not divide the query heads.
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
    super::expect_some("attention.decode", "keys", &[length, kv_heads, head_dim])?;
    super::expect_some("attention.decode", "q", &[heads])?;
    check_scale("attention.decode", scale)?;
    if !heads.is_multiple_of(kv_heads) {
        return Err(Error::UnsupportedInput(format!(
            "attention.decode: {kv_heads} heads in `keys` do not divide {heads} heads in `q`"
        )));
    }
    super::expect_len("attention.decode", "q", heads * head_dim, q.len())?;
    super::expect_len("attention.decode", "out", heads * head_dim, out.len())?;
    super::expect_len("attention.decode", "keys", length * kv_heads * head_dim, keys.len())?;
    super::expect_len("attention.decode", "values", length * kv_heads * head_dim, values.len())?;
    cpu::decode(out, q, keys, values, heads, kv_heads, head_dim, length, scale);
    Ok(())
}
