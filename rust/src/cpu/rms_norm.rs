//! y = x·r·w,  r = 1/√(mean(x²) + eps).  Rows N, width D.

use rayon::prelude::*;

use super::isa::simd;
use super::linear::add_row;
use super::matmul::with_scratch;
use super::parallel::install;
use crate::dtype::Element;

pub mod reference {
    /// One row: x, w, y are (D).
    pub fn forward(x: &[f64], w: &[f64], eps: f64) -> Vec<f64> {
        let r = (x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64 + eps).sqrt().recip();
        x.iter().zip(w).map(|(x, w)| x * r * w).collect()
    }
}

/// Rows whose weight gradients are summed together before the fixed-order total.
pub(super) const ROWS: usize = 64;

/// Σ f(i) in eight lanes, the order a vector unit adds in.
#[inline(always)]
pub(super) fn lane_sum(n: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    let whole = n / 16 * 16;
    for i in (0..whole).step_by(16) {
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane += f(i + l);
        }
    }
    for i in whole..n {
        lanes[i - whole] += f(i);
    }
    lanes.iter().sum()
}

/// The largest value; NaN if there is one.
#[inline(always)]
pub(super) fn lane_max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let larger = |a: f32, b: f32| if b > a || b.is_nan() { b } else { a };
    let chunks = x.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, v)| *lane = larger(*lane, *v));
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, v)| *lane = larger(*lane, *v));
    lanes.into_iter().fold(f32::NEG_INFINITY, larger)
}

pub fn forward<T: Element>(y: &mut [T], rstd: &mut [f32], x: &[T], w: &[T], eps: f64, d: usize) {
    install(|| {
        y.par_chunks_mut(d).zip(x.par_chunks(d)).zip(rstd.par_iter_mut()).with_min_len(16).for_each(
            |((y, x), rstd)| {
                *rstd = row(y, x, w, eps);
            },
        );
    });
}

simd! {
fn row<T>(y: &mut [T], x: &[T], w: &[T], eps: f64) -> f32 {
    let mean = lane_sum(x.len(), |i| x[i].to_f32() * x[i].to_f32()) / x.len() as f32;
    let r = 1.0 / (mean + eps as f32).sqrt();
    for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
        *y = T::from_f32(x.to_f32() * r * w.to_f32());
    }
    r
}
}

pub fn forward_add<T: Element>(
    y: &mut [T],
    sum: &mut [T],
    rstd: &mut [f32],
    x: &[T],
    residual: &[T],
    w: &[T],
    eps: f64,
    d: usize,
) {
    install(|| {
        let rows = y.par_chunks_mut(d).zip(sum.par_chunks_mut(d)).zip(x.par_chunks(d)).zip(residual.par_chunks(d));
        rows.zip(rstd.par_iter_mut()).with_min_len(16).for_each(|((((y, sum), x), residual), rstd)| {
            for ((sum, x), residual) in sum.iter_mut().zip(x).zip(residual) {
                *sum = T::from_f32(x.to_f32() + residual.to_f32());
            }
            *rstd = row(y, sum, w, eps);
        });
    });
}

/// dx = r·(w·dy − x·r²·mean(dy·w·x)) (+ dresidual);  dw += Σ dy·x·r.
pub fn backward<T: Element>(
    dx: &mut [T],
    dw: &mut [f32],
    dy: &[T],
    x: &[T],
    rstd: &[f32],
    w: &[T],
    dresidual: Option<&[T]>,
    d: usize,
) {
    let pieces = rstd.len().div_ceil(ROWS);
    with_scratch(pieces * d, |partial| {
        install(|| {
            let work = dx.par_chunks_mut(ROWS * d).zip(partial.par_chunks_mut(d)).enumerate();
            work.for_each(|(p, (dx, partial))| {
                partial.fill(0.0);
                for (k, dx) in dx.chunks_exact_mut(d).enumerate() {
                    let n = p * ROWS + k;
                    let at = n * d..(n + 1) * d;
                    let dresidual = dresidual.map(|g| &g[at.clone()]);
                    backward_row(dx, partial, &dy[at.clone()], &x[at], rstd[n], w, dresidual);
                }
            });
        });
        partial.chunks_exact(d).for_each(|partial| add_row(dw, partial));
    });
}

simd! {
fn backward_row<T>(dx: &mut [T], dw: &mut [f32], dy: &[T], x: &[T], r: f32, w: &[T], dresidual: Option<&[T]>) {
    let d = x.len();
    let dot = lane_sum(d, |i| dy[i].to_f32() * w[i].to_f32() * x[i].to_f32());
    let c = dot * r * r / d as f32;
    for i in 0..d {
        let (dyi, xi) = (dy[i].to_f32(), x[i].to_f32());
        dw[i] += dyi * xi * r;
        let extra = dresidual.map_or(0.0, |g| g[i].to_f32());
        dx[i] = T::from_f32(r * (w[i].to_f32() * dyi - xi * c) + extra);
    }
}
}
