//! The loss of the output matrix, in chunks of tokens: the (N, V) logits never exist whole.  The loss of one row of
//! logits is in `cross_entropy`.

use rayon::prelude::*;

pub use super::cross_entropy::LossOptions;
use super::cross_entropy::row;
use super::isa::{dispatch, isa};
use super::matmul::{Mat, matmul, matmul_add};
use super::parallel::install;
use super::scratch::with_block;
use crate::dtype::Element;
use crate::error::Result;
use crate::interrupt::Interrupt;

pub mod reference {
    //! Of the logits x·wᵀ; the rest are products.
    pub use super::super::cross_entropy::reference::{backward, forward};
}

/// Numbers of logits held at a time: 32 MiB.
const CHUNK: usize = 8 << 20;

/// Tokens of a chunk for a vocabulary of `v`, by the shape alone. Fewer than 256 would spend too much on reading the
/// output matrix and its gradient again for each chunk.
fn chunk(v: usize) -> usize {
    (CHUNK / v.max(1)).next_multiple_of(64).clamp(256, 2048)
}

fn rows(logits: &mut [f32], losses: &mut [f32], targets: &[i32], o: &LossOptions, scale: Option<f32>, v: usize) {
    let isa = isa();
    install(|| {
        logits.par_chunks_mut(v).zip(losses).zip(targets).for_each(|((l, loss), target)| {
            *loss = dispatch!(isa, s => row(s, l, *target, o, scale));
        });
    });
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
    let size = chunk(v);
    with_block(size.min(targets.len()) * v, |logits| {
        for (i, (losses, targets)) in losses.chunks_mut(size).zip(targets.chunks(size)).enumerate() {
            interrupt.check()?;
            let n = targets.len();
            let (logits, x) = (&mut logits[..n * v], &x[i * size * d..][..n * d]);
            matmul(logits, Mat::new(x, n, d), Mat::new(w, v, d).t(), None);
            rows(logits, losses, targets, o, None, v);
        }
        Ok(())
    })
}

/// The same, with dx (N, D) overwritten and dw (V, D) added to, chunk after chunk.
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
    interrupt: Interrupt,
) -> Result<()> {
    let size = chunk(v);
    with_block(size.min(targets.len()) * v, |logits| {
        for (i, (losses, targets)) in losses.chunks_mut(size).zip(targets.chunks(size)).enumerate() {
            interrupt.check()?;
            let n = targets.len();
            let tokens = i * size * d..(i * size + n) * d;
            let (logits, x) = (&mut logits[..n * v], Mat::new(&x[tokens.clone()], n, d));
            matmul(logits, x, Mat::new(w, v, d).t(), None);
            rows(logits, losses, targets, o, Some(grad_scale), v);
            interrupt.check()?;
            let logits = Mat::new(&*logits, n, v);
            matmul(&mut dx[tokens], logits, Mat::new(w, v, d), None);
            interrupt.check()?;
            matmul_add(dw, logits.t(), x);
        }
        Ok(())
    })
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
        forward_backward(&mut losses, &mut dx, &mut dw, &x, &w, &targets, scale, &OPTIONS, d, v, Interrupt::NEVER)
            .expect("never interrupted");
        assert_close("losses", &losses, &exact, 16.0);
        assert_close("dx", &dx, &exact_dx, 32.0);
        assert_close("dw", &dw, &exact_dw, 32.0);
    }

    #[test]
    fn fast_equals_reference() {
        each_dtype!(follows_the_reference);
    }
}
