//! y = (x − μ)·r·w + b,  r = 1/√(var + eps), biased variance in two passes.  Rows N, width D.

use rayon::prelude::*;

use super::cast::as_f32;
use super::isa::{Simd, dispatch, isa};
use super::math::{add_row, sum, sums3};
use super::parallel::share;
use super::rms_norm::{TASK, accumulate, add, with_wide};
use super::scratch::with_scratch;
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

    /// (dx, dw) of one row; dbias is dy.
    pub fn backward(dy: &[f64], x: &[f64], w: &[f64], eps: f64) -> (Vec<f64>, Vec<f64>) {
        let d = x.len();
        let over = |f: &dyn Fn(usize) -> f64| (0..d).map(f).sum::<f64>() / d as f64;
        let mean = over(&|i| x[i]);
        let r = (over(&|i| (x[i] - mean).powi(2)) + eps).sqrt().recip();
        let normed = |i: usize| (x[i] - mean) * r;
        let (mean_g, mean_gx) = (over(&|i| w[i] * dy[i]), over(&|i| w[i] * dy[i] * normed(i)));
        let dx = (0..d).map(|i| r * (w[i] * dy[i] - mean_g - normed(i) * mean_gx)).collect();
        (dx, (0..d).map(|i| dy[i] * normed(i)).collect())
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
    if d == 0 {
        return;
    }
    let isa = isa();
    let inputs = y.par_chunks_mut(TASK * d).zip(x.par_chunks(TASK * d));
    share(inputs.zip(mean.par_chunks_mut(TASK)).zip(rstd.par_chunks_mut(TASK)), |(((y, x), mean), rstd)| {
        with_wide::<T, _>(d, |wide| {
            dispatch!(isa, s => {
                for (((y, x), mean), rstd) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(mean).zip(rstd) {
                    (*mean, *rstd) = row(s, y, as_f32(wide, x), w, bias, eps);
                }
            })
        });
    });
}

#[inline(always)]
fn row<S: Simd, T: Element>(s: S, y: &mut [T], x: &[f32], w: &[T], bias: Option<&[T]>, eps: f64) -> (f32, f32) {
    let d = x.len() as f32;
    let mean = sum(x, |x| x) / d;
    let var = sum(x, |x| (x - mean) * (x - mean)) / d;
    let r = 1.0 / (var + eps as f32).sqrt();
    match bias {
        None => {
            for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                *y = T::from_f32((x - mean) * r * w.to_f32());
            }
        }
        Some(bias) => {
            for (((y, x), w), b) in y.iter_mut().zip(x).zip(w).zip(bias) {
                *y = T::from_f32(s.fma((x - mean) * r, w.to_f32(), b.to_f32()));
            }
        }
    }
    (mean, r)
}

/// sum = x + residual; y = norm(sum)
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
    if d == 0 {
        return;
    }
    let isa = isa();
    let inputs = x.par_chunks(TASK * d).zip(residual.par_chunks(TASK * d));
    let outputs = y.par_chunks_mut(TASK * d).zip(sum.par_chunks_mut(TASK * d));
    let tasks = outputs.zip(mean.par_chunks_mut(TASK)).zip(rstd.par_chunks_mut(TASK)).zip(inputs);
    share(tasks, |((((y, sum), mean), rstd), (x, residual))| {
        with_wide::<T, _>(d, |wide| {
            dispatch!(isa, s => {
                add(sum, x, residual);
                for (((y, sum), mean), rstd) in y.chunks_exact_mut(d).zip(sum.chunks_exact(d)).zip(mean).zip(rstd) {
                    (*mean, *rstd) = row(s, y, as_f32(wide, sum), w, bias, eps);
                }
            })
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
    let isa = isa();
    with_scratch(2 * d, |total| {
        total.fill(0.0);
        accumulate(isa, dx, total, d, 2 * d, |first, dx, partial| {
            dispatch!(isa, s => for (n, dx) in (first..).zip(dx.chunks_exact_mut(d)) {
                let at = n * d..(n + 1) * d;
                let (dy, x, dresidual) = (&dy[at.clone()], &x[at.clone()], dresidual.map(|g| &g[at]));
                backward_row(s, dx, partial, dy, x, mean[n], rstd[n], w, dresidual);
            });
        });
        add_row(dw, &total[..d]);
        if let Some(dbias) = dbias {
            add_row(dbias, &total[d..]);
        }
    });
}

/// `partial` holds dw, then dbias.
#[inline(always)]
fn backward_row<S: Simd, T: Element>(
    s: S,
    dx: &mut [T],
    partial: &mut [f32],
    dy: &[T],
    x: &[T],
    mean: f32,
    r: f32,
    w: &[T],
    dresidual: Option<&[T]>,
) {
    let (g, gx) = sums3(dy, x, w, |dy, x, w| (dy * w, dy * w * (x - mean)));
    let (mean_g, c) = (g / x.len() as f32, -gx * r * r / x.len() as f32);
    let (dw, dbias) = partial.split_at_mut(x.len());
    let all = |dw: &mut f32, dbias: &mut f32, dy: &T, x: &T, w: &T| {
        let (dy, x) = (dy.to_f32(), x.to_f32() - mean);
        *dw = s.fma(x * r, dy, *dw);
        *dbias += dy;
        r * s.fma(x, c, s.fma(w.to_f32(), dy, -mean_g))
    };
    let rows = dx.iter_mut().zip(dw).zip(dbias).zip(dy).zip(x).zip(w);
    match dresidual {
        None => {
            for (((((dx, dw), dbias), dy), x), w) in rows {
                *dx = T::from_f32(all(dw, dbias, dy, x, w));
            }
        }
        Some(dresidual) => {
            for ((((((dx, dw), dbias), dy), x), w), g) in rows.zip(dresidual) {
                *dx = T::from_f32(all(dw, dbias, dy, x, w) + g.to_f32());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, check_gradient, dot, each_dtype, place, random, sample};
    use super::*;

    const EPS: f64 = 1e-5;

    fn follows_the_reference<T: Element>() {
        for (n, d) in [(1, 1), (5, 16), (129, 33)] {
            let ((x, exact_x), (dy, exact_dy)) = (sample::<T>(1, n * d), sample::<T>(2, n * d));
            let ((w, exact_w), (b, exact_b)) = (sample::<T>(3, d), sample::<T>(4, d));
            let (mut y, mut dx) = (place::<T>(n * d), place::<T>(n * d));
            let (mut mean, mut rstd) = (place::<f32>(n), place::<f32>(n));
            let (mut dw, mut dbias) = (vec![0.0f32; d], vec![0.0f32; d]);
            forward(&mut y, &mut mean, &mut rstd, &x, &w, Some(&b), EPS, d);
            backward(&mut dx, &mut dw, Some(&mut dbias), &dy, &x, &mean, &rstd, &w, None, d);
            let (mut exact_y, mut exact_dx) = (Vec::new(), Vec::new());
            let (mut exact_dw, mut exact_dbias) = (vec![0.0; d], vec![0.0; d]);
            for (x, dy) in exact_x.chunks(d).zip(exact_dy.chunks(d)) {
                exact_y.extend(reference::forward(x, &exact_w, &exact_b, EPS));
                let (dx, dw) = reference::backward(dy, x, &exact_w, EPS);
                exact_dx.extend(dx);
                (0..d).for_each(|i| (exact_dw[i], exact_dbias[i]) = (exact_dw[i] + dw[i], exact_dbias[i] + dy[i]));
            }
            assert_close("y", &y, &exact_y, 8.0);
            assert_close("dbias", &dbias, &exact_dbias, 16.0);
            // One element a row: x̂ and dx are 0, nothing to compare with.
            if d > 1 {
                assert_close("dx", &dx, &exact_dx, 16.0);
                assert_close("dw", &dw, &exact_dw, 16.0);
            }
        }
    }

    #[test]
    fn fast_equals_reference() {
        each_dtype!(follows_the_reference);
    }

    #[test]
    fn reference_gradients() {
        let (x, w, b, dy) = (random(1, 7), random(2, 7), random(3, 7), random(4, 7));
        let (dx, dw) = reference::backward(&dy, &x, &w, EPS);
        check_gradient("dx", |x| dot(&dy, &reference::forward(x, &w, &b, EPS)), &x, &dx);
        check_gradient("dw", |w| dot(&dy, &reference::forward(&x, w, &b, EPS)), &w, &dw);
    }
}
