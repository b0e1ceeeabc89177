//! The loss of the output matrix, in chunks of tokens: the (N, V) logits never exist whole.  The loss of one row of
//! logits is in `cross_entropy`.
//!
//! Logits are f32. Their gradients are f32 too, but for bf16 they are rounded to it, so that both products that they
//! enter are of bf16; f16 would lose the small ones.

use rayon::prelude::*;

pub use super::cross_entropy::LossOptions;
use super::cross_entropy::row;
use super::isa::{dispatch, isa};
use super::matmul::{Mat, matmul, matmul_add};
use super::parallel::share;
use super::scratch::with_block;
use crate::dtype::{DType, Element, bf16};
use crate::error::Result;
use crate::interrupt::Interrupt;

pub mod reference {
    //! Of the logits x·wᵀ; the rest are products.
    pub use super::super::cross_entropy::reference::{backward, forward};
}

/// Numbers of logits held at a time at most: 128 MiB, unless 256 tokens have more.
const CHUNK: usize = 32 << 20;

/// Tokens of each chunk of `n`, but for the last, by the shape alone: a fifth of all, a tenth of what logits and their
/// gradients would take. Each chunk reads the output matrix and its gradient again; with fewer tokens than 256 that takes
/// too long.
fn chunk(n: usize, v: usize) -> usize {
    let most = (n / 5).min(CHUNK / v.max(1)).max(256);
    n.div_ceil(n.div_ceil(most).max(1)).next_multiple_of(64).max(64)
}

/// Losses; with `scale`, gradients in the place of logits, as [`slopes`] reads them.
fn rows<T: Element>(
    logits: &mut [f32],
    losses: &mut [f32],
    targets: &[i32],
    o: &LossOptions,
    scale: Option<f32>,
    v: usize,
) {
    let isa = isa();
    share(logits.par_chunks_mut(v).zip(losses).zip(targets), |((l, loss), target)| {
        *loss = dispatch!(isa, s => row(s, l, *target, o, scale));
        if scale.is_some() && T::DTYPE == DType::BF16 {
            dispatch!(isa, _s => narrow_in_place(l));
        }
    });
}

/// The numbers of a row as bf16, in the first half of its memory.
#[inline(always)]
fn narrow_in_place(row: &mut [f32]) {
    const PART: usize = 64;
    for first in (0..row.len()).step_by(PART) {
        let count = PART.min(row.len() - first);
        let mut part = [0.0; PART];
        part[..count].copy_from_slice(&row[first..][..count]);
        let narrow: &mut [bf16] = bytemuck::cast_slice_mut(row);
        for (narrow, x) in narrow[first..][..count].iter_mut().zip(&part) {
            *narrow = Element::from_f32(*x);
        }
    }
}

/// What [`rows`] left in bf16: lines of their old length.
fn slopes(logits: &[f32], n: usize, v: usize) -> Mat<'_, bf16> {
    Mat { data: bytemuck::cast_slice(logits), rows: n, cols: v, row: 2 * v, col: 1 }
}

/// losses (N) of x (N, D) and w (V, D).
pub fn forward<T: Element>(
    losses: &mut [f32],
    x: &[T],
    w: &[T],
    targets: &[i32],
    o: &LossOptions,
    d: usize,
    v: usize,
    interrupt: Interrupt,
) -> Result<()> {
    let size = chunk(targets.len(), v);
    with_block(size.min(targets.len()) * v, |logits| {
        for (i, (losses, targets)) in losses.chunks_mut(size).zip(targets.chunks(size)).enumerate() {
            interrupt.check()?;
            let n = targets.len();
            let (logits, x) = (&mut logits[..n * v], &x[i * size * d..][..n * d]);
            matmul(logits, Mat::new(x, n, d), Mat::new(w, v, d).t(), None);
            rows::<T>(logits, losses, targets, o, None, v);
        }
        Ok(())
    })
}

/// The same, with dx (N, D) overwritten, and dw (V, D) too unless it is to `accumulate`, chunk after chunk.
pub fn forward_backward<T: Element>(
    losses: &mut [f32],
    dx: &mut [T],
    dw: &mut [f32],
    x: &[T],
    w: &[T],
    targets: &[i32],
    grad_scale: f32,
    o: &LossOptions,
    d: usize,
    v: usize,
    accumulate: bool,
    interrupt: Interrupt,
) -> Result<()> {
    let size = chunk(targets.len(), v);
    if targets.is_empty() && !accumulate {
        dw.fill(0.0);
    }
    with_block(size.min(targets.len()) * v, |logits| {
        for (i, (losses, targets)) in losses.chunks_mut(size).zip(targets.chunks(size)).enumerate() {
            interrupt.check()?;
            let (n, add) = (targets.len(), accumulate || i > 0);
            let tokens = i * size * d..(i * size + n) * d;
            let (logits, x) = (&mut logits[..n * v], Mat::new(&x[tokens.clone()], n, d));
            matmul(logits, x, Mat::new(w, v, d).t(), None);
            rows::<T>(logits, losses, targets, o, Some(grad_scale), v);
            interrupt.check()?;
            let (dx, w) = (&mut dx[tokens], Mat::new(w, v, d));
            if T::DTYPE == DType::BF16 {
                gradients(dx, dw, add, slopes(logits, n, v), x, w, interrupt)?;
            } else {
                gradients(dx, dw, add, Mat::new(&*logits, n, v), x, w, interrupt)?;
            }
        }
        Ok(())
    })
}

fn gradients<S: Element, T: Element>(
    dx: &mut [T],
    dw: &mut [f32],
    add: bool,
    slopes: Mat<S>,
    x: Mat<T>,
    w: Mat<T>,
    interrupt: Interrupt,
) -> Result<()> {
    matmul(dx, slopes, w, None);
    interrupt.check()?;
    if add {
        matmul_add(dw, slopes.t(), x);
    } else {
        matmul(dw, slopes.t(), x, None);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::linear::reference as linear;
    use super::super::testing::{assert_close, each_dtype, place, sample};
    use super::*;

    const OPTIONS: LossOptions = LossOptions { ignore_index: -1, label_smoothing: 0.1, z_loss: 1e-2 };

    fn follows_the_reference<T: Element>() {
        let (n, d, v, scale) = (9, 16, 33, 0.25);
        let ((x, exact_x), (w, exact_w)) = (sample::<T>(1, n * d), sample::<T>(2, v * d));
        let targets: Vec<i32> = (0..n as i32).map(|i| if i == 4 { -1 } else { i * 3 }).collect();
        let logits = linear::forward(&exact_x, &exact_w, &vec![0.0; v], d);
        let rows = || logits.chunks(v).zip(&targets);
        let exact: Vec<f64> = rows().map(|(l, t)| reference::forward(l, *t, &OPTIONS)).collect();
        let slopes: Vec<f64> =
            rows().flat_map(|(l, t)| reference::backward(l, *t, &OPTIONS)).map(|g| g * scale).collect();
        let (exact_dx, exact_dw, _) = linear::backward(&slopes, &exact_x, &exact_w, d);

        let mut losses = place::<f32>(n);
        forward(&mut losses, &x, &w, &targets, &OPTIONS, d, v, Interrupt::NEVER).expect("never interrupted");
        assert_close("losses", &losses, &exact, 16.0);
        let (mut losses, mut dx, mut dw) = (place::<f32>(n), place::<T>(n * d), vec![0.0f32; v * d]);
        let scale = scale as f32;
        let mut run = |dw: &mut [f32], accumulate| {
            let (losses, dx, never) = (&mut losses, &mut dx, Interrupt::NEVER);
            forward_backward(losses, dx, dw, &x, &w, &targets, scale, &OPTIONS, d, v, accumulate, never)
                .expect("never interrupted");
        };
        run(&mut dw, true);
        let mut fresh = place::<f32>(v * d);
        run(&mut fresh, false);
        assert_eq!(fresh, dw);
        assert_close("losses", &losses, &exact, 16.0);
        // Gradients of logits that are rounded to bf16 are off by 2^−9 of their size, 2^15 roundings to f32.
        let roundings = if T::DTYPE == DType::BF16 { f64::from(1 << 16) } else { 32.0 };
        assert_close("dx", &dx, &exact_dx, roundings);
        assert_close("dw", &dw, &exact_dw, roundings);
    }

    #[test]
    fn fast_equals_reference() {
        each_dtype!(follows_the_reference);
    }

    #[test]
    fn chunks_are_even() {
        for (n, v, want) in
            [(0, 50_000, 64), (9, 33, 64), (1024, 50_000, 256), (2048, 32_000, 384), (4096, 50_000, 640)]
        {
            assert_eq!(chunk(n, v), want, "{n} tokens, {v} words");
        }
        assert_eq!(chunk(8192, 250_000), 256);
    }

    #[test]
    fn a_row_becomes_bf16_in_its_place() {
        for v in [1, 2, 63, 64, 65, 129, 200] {
            let (row, _) = sample::<f32>(v as u64, v);
            let mut place = row.clone();
            narrow_in_place(&mut place);
            let want: Vec<bf16> = row.iter().map(|x| Element::from_f32(*x)).collect();
            assert_eq!(slopes(&place, 1, v).line(0), want);
        }
    }
}
