//! y = x·r·w,  r = 1/√(mean(x²) + eps).  Rows N, width D.

use rayon::prelude::*;

use super::cast::as_f32;
use super::isa::{Isa, Simd, dispatch, isa};
use super::math::{add_row, sum, sums3};
use super::parallel::share;
use super::scratch::with_scratch;
use crate::dtype::{DType, Element};

pub mod reference {
    /// One row: x, w, y are (D).
    pub fn forward(x: &[f64], w: &[f64], eps: f64) -> Vec<f64> {
        let r = (x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64 + eps).sqrt().recip();
        x.iter().zip(w).map(|(x, w)| x * r * w).collect()
    }

    /// (dx, dw) of one row.
    pub fn backward(dy: &[f64], x: &[f64], w: &[f64], eps: f64) -> (Vec<f64>, Vec<f64>) {
        let d = x.len();
        let r = (x.iter().map(|v| v * v).sum::<f64>() / d as f64 + eps).sqrt().recip();
        let dot: f64 = (0..d).map(|i| dy[i] * w[i] * x[i]).sum();
        let dx = (0..d).map(|i| r * w[i] * dy[i] - x[i] * r.powi(3) * dot / d as f64).collect();
        (dx, (0..d).map(|i| dy[i] * x[i] * r).collect())
    }
}

/// Rows whose weight gradients are summed together before the fixed-order total.
pub(super) const ROWS: usize = 32;

pub fn forward<T: Element>(y: &mut [T], rstd: &mut [f32], x: &[T], w: &[T], eps: f64, d: usize) {
    if d == 0 {
        return;
    }
    let isa = isa();
    let tasks = y.par_chunks_mut(TASK * d).zip(x.par_chunks(TASK * d)).zip(rstd.par_chunks_mut(TASK));
    share(tasks, |((y, x), rstd)| {
        with_wide::<T, _>(d, |wide| {
            dispatch!(isa, _s => {
                for ((y, x), rstd) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(rstd) {
                    *rstd = row(y, as_f32(wide, x), w, eps);
                }
            })
        });
    });
}

/// Rows that one task norms.
pub(super) const TASK: usize = 16;

/// Lends the place of a row in f32, where T is another type.
pub(super) fn with_wide<T: Element, R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    if T::DTYPE == DType::F32 { work(&mut []) } else { with_scratch(len, work) }
}

/// y = x·r·w; r.
#[inline(always)]
fn row<T: Element>(y: &mut [T], x: &[f32], w: &[T], eps: f64) -> f32 {
    let mean = sum(x, |x| x * x) / x.len() as f32;
    let r = 1.0 / (mean + eps as f32).sqrt();
    for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
        *y = T::from_f32(x * r * w.to_f32());
    }
    r
}

/// sum = x + residual; y = norm(sum)
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
    if d == 0 {
        return;
    }
    let isa = isa();
    let inputs = x.par_chunks(TASK * d).zip(residual.par_chunks(TASK * d));
    let outputs = y.par_chunks_mut(TASK * d).zip(sum.par_chunks_mut(TASK * d)).zip(rstd.par_chunks_mut(TASK));
    share(outputs.zip(inputs), |(((y, sum), rstd), (x, residual))| {
        with_wide::<T, _>(d, |wide| {
            dispatch!(isa, _s => {
                add(sum, x, residual);
                for ((y, sum), rstd) in y.chunks_exact_mut(d).zip(sum.chunks_exact(d)).zip(rstd) {
                    *rstd = row(y, as_f32(wide, sum), w, eps);
                }
            })
        });
    });
}

#[inline(always)]
pub(super) fn add<T: Element>(sum: &mut [T], x: &[T], residual: &[T]) {
    for ((sum, x), residual) in sum.iter_mut().zip(x).zip(residual) {
        *sum = T::from_f32(x.to_f32() + residual.to_f32());
    }
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
    let isa = isa();
    accumulate(isa, dx, dw, d, d, |first, dx, dw| {
        dispatch!(isa, s => for (n, dx) in (first..).zip(dx.chunks_exact_mut(d)) {
            let at = n * d..(n + 1) * d;
            let (dy, x, dresidual) = (&dy[at.clone()], &x[at.clone()], dresidual.map(|g| &g[at]));
            backward_row(s, dx, dw, dy, x, rstd[n], w, dresidual);
        });
    });
}

/// Calls `rows(n, rows of dx from n on, partial)` for each `ROWS` rows and adds the partial sums (size) to `total`, in
/// the order of the rows.
pub(super) fn accumulate<T: Element>(
    isa: Isa,
    dx: &mut [T],
    total: &mut [f32],
    d: usize,
    size: usize,
    rows: impl Fn(usize, &mut [T], &mut [f32]) + Send + Sync,
) {
    if d == 0 {
        return;
    }
    with_scratch((dx.len() / d).div_ceil(ROWS) * size, |partial| {
        share(dx.par_chunks_mut(ROWS * d).zip(partial.par_chunks_mut(size)).enumerate(), |(p, (dx, partial))| {
            partial.fill(0.0);
            rows(p * ROWS, dx, partial);
        });
        partial.chunks_exact(size).for_each(|partial| dispatch!(isa, _s => add_row(total, partial)));
    });
}

#[inline(always)]
fn backward_row<S: Simd, T: Element>(
    s: S,
    dx: &mut [T],
    dw: &mut [f32],
    dy: &[T],
    x: &[T],
    r: f32,
    w: &[T],
    dresidual: Option<&[T]>,
) {
    let (dot, _) = sums3(dy, x, w, |dy, x, w| (dy * w * x, 0.0));
    let c = -dot * r * r / x.len() as f32;
    let both = |dw: &mut f32, dy: &T, x: &T, w: &T| {
        let (dy, x) = (dy.to_f32(), x.to_f32());
        *dw = s.fma(dy * r, x, *dw);
        r * s.fma(x, c, w.to_f32() * dy)
    };
    let rows = dx.iter_mut().zip(dw).zip(dy).zip(x).zip(w);
    match dresidual {
        None => {
            for ((((dx, dw), dy), x), w) in rows {
                *dx = T::from_f32(both(dw, dy, x, w));
            }
        }
        Some(dresidual) => {
            for (((((dx, dw), dy), x), w), g) in rows.zip(dresidual) {
                *dx = T::from_f32(both(dw, dy, x, w) + g.to_f32());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, check_gradient, dot, each_dtype, place, random, sample};
    use super::*;

    const EPS: f64 = 1e-6;

    fn follows_the_reference<T: Element>() {
        for (n, d) in [(1, 1), (5, 16), (129, 33)] {
            let ((x, exact_x), (dy, exact_dy)) = (sample::<T>(1, n * d), sample::<T>(2, n * d));
            let (w, exact_w) = sample::<T>(3, d);
            let (mut y, mut dx, mut rstd) = (place::<T>(n * d), place::<T>(n * d), place::<f32>(n));
            let mut dw = vec![0.0f32; d];
            forward(&mut y, &mut rstd, &x, &w, EPS, d);
            backward(&mut dx, &mut dw, &dy, &x, &rstd, &w, None, d);
            let (mut exact_y, mut exact_dx, mut exact_dw) = (Vec::new(), Vec::new(), vec![0.0; d]);
            for (x, dy) in exact_x.chunks(d).zip(exact_dy.chunks(d)) {
                exact_y.extend(reference::forward(x, &exact_w, EPS));
                let (dx, dw) = reference::backward(dy, x, &exact_w, EPS);
                exact_dx.extend(dx);
                exact_dw.iter_mut().zip(dw).for_each(|(sum, dw)| *sum += dw);
            }
            assert_close("y", &y, &exact_y, 8.0);
            assert_close("dw", &dw, &exact_dw, 16.0);
            // One element a row: dx is 0 but for eps, nothing to compare with.
            if d > 1 {
                assert_close("dx", &dx, &exact_dx, 16.0);
            }
        }
    }

    #[test]
    fn fast_equals_reference() {
        each_dtype!(follows_the_reference);
    }

    #[test]
    fn reference_gradients() {
        let (x, w, dy) = (random(1, 7), random(2, 7), random(3, 7));
        let (dx, dw) = reference::backward(&dy, &x, &w, EPS);
        check_gradient("dx", |x| dot(&dy, &reference::forward(x, &w, EPS)), &x, &dx);
        check_gradient("dw", |w| dot(&dy, &reference::forward(&x, w, EPS)), &w, &dw);
    }
}
