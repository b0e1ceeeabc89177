//! Launches of kernels/attention.cu.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::launch::{Arg, Launch, THREADS, args, blocks, row_blocks, tiles};
use super::{Stream, View, ViewMut};
use crate::dtype::Element;
use crate::error::{Error, Result};

/// Head a of token t of sequence b begins at b·sequence + t·token + a·head.
#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct Heads {
    pub(crate) sequence: u64,
    pub(crate) token: u64,
    pub(crate) head: u64,
}

/// As kernels/attention_mask.cuh has it.
#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct Problem {
    pub(crate) q: Heads,
    pub(crate) k: Heads,
    pub(crate) v: Heads,
    pub(crate) out: Heads,
    pub(crate) dout: Heads,
    pub(crate) dq: Heads,
    pub(crate) dk: Heads,
    pub(crate) dv: Heads,
    pub(crate) heads: u32,
    pub(crate) kv_heads: u32,
    pub(crate) d: u32,
    pub(crate) time: i32,
    /// Negative: without end.
    pub(crate) left: i32,
    pub(crate) right: i32,
    pub(crate) scale: f32,
    pub(crate) end: u32,
}

/// As kernels/attention_decode.cuh has it.
#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct Decode {
    pub(crate) q: Heads,
    pub(crate) k: Heads,
    pub(crate) v: Heads,
    pub(crate) heads: u32,
    pub(crate) kv_heads: u32,
    pub(crate) d: u32,
    pub(crate) left: i32,
    pub(crate) piece: u32,
    pub(crate) pieces: u32,
    pub(crate) scale: f32,
    pub(crate) end: u32,
}

impl From<Problem> for Arg {
    fn from(problem: Problem) -> Self {
        Self::of_struct(&problem)
    }
}

impl From<Decode> for Arg {
    fn from(decode: Decode) -> Self {
        Self::of_struct(&decode)
    }
}

/// The widths of heads that there are kernels for.
const WIDTHS: [u32; 5] = [64, 80, 96, 128, 256];

/// The kernel of the smallest width that holds d.
fn kernel<T: Element>(what: &str, d: u32) -> Result<String> {
    let width = WIDTHS.into_iter().find(|width| d <= *width);
    let too_wide = || Error::UnsupportedInput(format!("attention: heads of {d} elements; on GPUs at most 256"));
    Ok(format!("attention_{what}_{}_d{}", T::DTYPE.short(), width.ok_or_else(too_wide)?))
}

/// A block a tile of `p.time` rows, head and sequence.
fn launch<T: Element>(on: &Stream, what: &str, heads: u32, batch: usize, p: &Problem, args: &[Arg]) -> Result<()> {
    let kernel = kernel::<T>(what, p.d)?;
    let [rows, threads] = tiles(&kernel)?;
    let dims = [batch, p.time as usize, p.heads as usize, p.d as usize];
    let grid = [dims[1].div_ceil(rows) * heads as usize * batch, 1];
    // SAFETY: the caller's tensors hold the heads that `p` tells, and lse and delta (batch, heads, time).
    unsafe { on.launch(&Launch { kernel: &kernel, dims: &dims, grid, block: [threads, 1] }, args) }
}

/// spans (tokens, 2) of ends (documents), which rise to `tokens`.
pub(crate) fn spans(on: &Stream, spans: ViewMut<i32>, ends: View<i32>, time: usize) -> Result<()> {
    let (tokens, documents) = (spans.shape().rows(), ends.shape().count());
    let grid = [blocks(on, tokens, 1), 1];
    let launch = Launch { kernel: "attention_spans", dims: &[tokens, 2], grid, block: [THREADS, 1] };
    // SAFETY: two numbers a token; each document has an end.
    unsafe { on.launch(&launch, args![spans, ends, documents as u32, time as u32, tokens]) }
}

/// out, q, k and v hold the heads that `p` tells; lse (batch, heads, time); spans (batch·time, 2).
pub(crate) fn forward<T: Element>(
    on: &Stream,
    batch: usize,
    out: ViewMut<T>,
    lse: ViewMut<f32>,
    [q, k, v]: [View<T>; 3],
    spans: Option<View<i32>>,
    p: Problem,
) -> Result<()> {
    launch::<T>(on, "fwd", p.heads, batch, &p, args![out, lse, q, k, v, spans, p])
}

/// The places of dq, dk and dv lie in `gradients`, which nobody else uses.
pub(crate) fn backward<T: Element>(
    on: &Arc<Stream>,
    batch: usize,
    gradients: [View<T>; 3],
    dout: View<T>,
    out: View<T>,
    lse: View<f32>,
    [q, k, v]: [View<T>; 3],
    spans: Option<View<i32>>,
    p: Problem,
) -> Result<()> {
    /// Lanes that share a row of out·dout in the kernel.
    const LANES: usize = 8;
    let rows = batch * p.heads as usize * p.time as usize;
    let mut delta = on.alloc::<f32>(rows)?;
    let kernel = format!("attention_delta_{}", T::DTYPE.short());
    let grid = [blocks(on, rows * LANES, 1), 1];
    let first = Launch { kernel: &kernel, dims: &[rows, p.d as usize], grid, block: [THREADS, 1] };
    // SAFETY: out and dout hold the heads that `p` tells, delta has an element for each.
    unsafe { on.launch(&first, args![delta.view_mut(&[rows])?, out, dout, p, rows])? };
    let ([dq, dk, dv], delta) = (gradients, delta.view(&[rows])?);
    launch::<T>(on, "bwd_kv", p.kv_heads, batch, &p, args![dk, dv, dout, q, k, v, lse, delta, spans, p])?;
    launch::<T>(on, "bwd_q", p.heads, batch, &p, args![dq, dout, q, k, v, lse, delta, spans, p])
}

/// Query heads of a block (`DECODE_HEADS`).
const DECODE_HEADS: u32 = 8;

/// out (batch, heads, d) of one query a sequence; lengths (batch), none 0, none beyond pieces · piece.
pub(crate) fn decode<T: Element>(
    on: &Arc<Stream>,
    out: ViewMut<T>,
    [q, k, v]: [View<T>; 3],
    lengths: View<i32>,
    p: Decode,
) -> Result<()> {
    let (batch, heads, d, pieces) = (lengths.shape().count(), p.heads as usize, p.d as usize, p.pieces as usize);
    let rows = batch * heads;
    let mut partial = on.alloc::<f32>(rows * pieces * d)?;
    let (mut tops, mut sums) = (on.alloc::<f32>(rows * pieces)?, on.alloc::<f32>(rows * pieces)?);
    let name = kernel::<T>("decode", p.d)?;
    let [_, threads] = tiles(&name)?;
    let dims = [batch, heads, d];
    let grid = [pieces * ((p.heads / p.kv_heads).div_ceil(DECODE_HEADS) * p.kv_heads) as usize * batch, 1];
    let launch = Launch { kernel: &name, dims: &dims, grid, block: [threads, 1] };
    let all = [rows * pieces];
    let (first, second, third) = (partial.view_mut(&[rows * pieces, d])?, tops.view_mut(&all)?, sums.view_mut(&all)?);
    // SAFETY: q, k and v hold the heads that `p` tells, the rest has an element, or d of them, a piece of each head.
    unsafe { on.launch(&launch, args![first, second, third, q, k, v, lengths, p])? };
    let name = format!("attention_combine_{}", T::DTYPE.short());
    let launch = Launch { kernel: &name, dims: &dims, grid: [row_blocks(on, rows), 1], block: [THREADS, 1] };
    let (partial, tops, sums) = (partial.view(&[rows * pieces, d])?, tops.view(&all)?, sums.view(&all)?);
    // SAFETY: as above; out has d elements a head.
    unsafe { on.launch(&launch, args![out, partial, tops, sums, p.pieces, p.d, p.scale, rows]) }
}
