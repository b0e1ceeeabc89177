//! y = (x − μ)·r·w + b,  r = 1/√(var + eps), biased variance in two passes.  Rows N, width D.

use rayon::prelude::*;

use super::isa::simd;
use super::linear::add_row;
use super::matmul::with_scratch;
use super::parallel::install;
use super::rms_norm::{ROWS, lane_sum};
use crate::dtype::Element;

pub mod reference {
    /// One row: x, w, b, y are (D).
    pub fn forward(x: &[f64], w: &[f64], b: &[f64], eps: f64) -> Vec<f64> {
        let d = x.len() as f64;
        let mean = x.iter().sum::<f64>() / d;
        let var = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / d;
        let r = (var + eps).sqrt().recip();
        x.iter().zip(w).zip(b).map(|((x, w), b)| (x - mean) * r * w + b).collect()
    }
}

pub fn forward<T: Element>(
    y: &mut [T],
    mean: &mut [f32],
    rstd: &mut [f32],
    x: &[T],
    w: &[T],
    bias: Option<&[T]>,
    eps: f64,
    d: usize,
) {
    install(|| {
        let rows = y.par_chunks_mut(d).zip(x.par_chunks(d)).zip(mean.par_iter_mut()).zip(rstd.par_iter_mut());
        rows.with_min_len(16).for_each(|(((y, x), mean), rstd)| (*mean, *rstd) = row(y, x, w, bias, eps));
    });
}

simd! {
fn row<T>(y: &mut [T], x: &[T], w: &[T], bias: Option<&[T]>, eps: f64) -> (f32, f32) {
    let d = x.len();
    let mean = lane_sum(d, |i| x[i].to_f32()) / d as f32;
    let var = lane_sum(d, |i| (x[i].to_f32() - mean) * (x[i].to_f32() - mean)) / d as f32;
    let r = 1.0 / (var + eps as f32).sqrt();
    for i in 0..d {
        let b = bias.map_or(0.0, |b| b[i].to_f32());
        y[i] = T::from_f32((x[i].to_f32() - mean) * r * w[i].to_f32() + b);
    }
    (mean, r)
}
}

pub fn forward_add<T: Element>(
    y: &mut [T],
    sum: &mut [T],
    mean: &mut [f32],
    rstd: &mut [f32],
    x: &[T],
    residual: &[T],
    w: &[T],
    bias: Option<&[T]>,
    eps: f64,
    d: usize,
) {
    install(|| {
        let rows = y.par_chunks_mut(d).zip(sum.par_chunks_mut(d)).zip(x.par_chunks(d)).zip(residual.par_chunks(d));
        let rows = rows.zip(mean.par_iter_mut()).zip(rstd.par_iter_mut()).with_min_len(16);
        rows.for_each(|(((((y, sum), x), residual), mean), rstd)| {
            for ((sum, x), residual) in sum.iter_mut().zip(x).zip(residual) {
                *sum = T::from_f32(x.to_f32() + residual.to_f32());
            }
            (*mean, *rstd) = row(y, sum, w, bias, eps);
        });
    });
}

/// With x̂ = (x − μ)·r and g = w·dy:  dx = r·(g − mean(g) − x̂·mean(g·x̂)) (+ dresidual);  dw += Σ dy·x̂;  dbias += Σ dy.
pub fn backward<T: Element>(
    dx: &mut [T],
    dw: &mut [f32],
    dbias: Option<&mut [f32]>,
    dy: &[T],
    x: &[T],
    mean: &[f32],
    rstd: &[f32],
    w: &[T],
    dresidual: Option<&[T]>,
    d: usize,
) {
    let pieces = rstd.len().div_ceil(ROWS);
    with_scratch(pieces * 2 * d, |partial| {
        install(|| {
            let work = dx.par_chunks_mut(ROWS * d).zip(partial.par_chunks_mut(2 * d)).enumerate();
            work.for_each(|(p, (dx, partial))| {
                partial.fill(0.0);
                let (dw, dbias) = partial.split_at_mut(d);
                for (k, dx) in dx.chunks_exact_mut(d).enumerate() {
                    let n = p * ROWS + k;
                    let at = n * d..(n + 1) * d;
                    let dresidual = dresidual.map(|g| &g[at.clone()]);
                    backward_row(dx, dw, dbias, &dy[at.clone()], &x[at], mean[n], rstd[n], w, dresidual);
                }
            });
        });
        partial.chunks_exact(2 * d).for_each(|partial| add_row(dw, &partial[..d]));
        if let Some(dbias) = dbias {
            partial.chunks_exact(2 * d).for_each(|partial| add_row(dbias, &partial[d..]));
        }
    });
}

simd! {
fn backward_row<T>(
    dx: &mut [T],
    dw: &mut [f32],
    dbias: &mut [f32],
    dy: &[T],
    x: &[T],
    mean: f32,
    r: f32,
    w: &[T],
    dresidual: Option<&[T]>,
) {
    let d = x.len();
    let grad = |i: usize| w[i].to_f32() * dy[i].to_f32();
    let normed = |i: usize| (x[i].to_f32() - mean) * r;
    let mean_g = lane_sum(d, grad) / d as f32;
    let mean_gx = lane_sum(d, |i| grad(i) * normed(i)) / d as f32;
    for i in 0..d {
        let dyi = dy[i].to_f32();
        dw[i] += dyi * normed(i);
        dbias[i] += dyi;
        let extra = dresidual.map_or(0.0, |g| g[i].to_f32());
        dx[i] = T::from_f32(r * (grad(i) - mean_g - normed(i) * mean_gx) + extra);
    }
}
}
