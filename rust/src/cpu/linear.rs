//! y = x·wᵀ + b and its gradients.

use rayon::prelude::*;

use super::isa::{dispatch, isa};
use super::math::add_row;
use super::matmul::{Mat, matmul, matmul_add};
use super::parallel::share;
use super::scratch::with_scratch;
use crate::dtype::Element;

pub mod reference {
    /// y (N, O) = x (N, I) · wᵀ + bias (O);  w is (O, I).
    pub fn forward(x: &[f64], w: &[f64], bias: &[f64], i: usize) -> Vec<f64> {
        let mut y = Vec::new();
        for x in x.chunks_exact(i) {
            for (w, b) in w.chunks_exact(i).zip(bias) {
                y.push(b + x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>());
            }
        }
        y
    }

    /// (dx, dw, dbias) of dy (N, O).
    pub fn backward(dy: &[f64], x: &[f64], w: &[f64], i: usize) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let o = w.len() / i;
        let (mut dx, mut dw, mut dbias) = (vec![0.0; x.len()], vec![0.0; w.len()], vec![0.0; o]);
        for (n, dy) in dy.chunks_exact(o).enumerate() {
            for (j, dy) in dy.iter().enumerate() {
                dbias[j] += dy;
                for k in 0..i {
                    dx[n * i + k] += dy * w[j * i + k];
                    dw[j * i + k] += dy * x[n * i + k];
                }
            }
        }
        (dx, dw, dbias)
    }
}

/// Rows whose bias gradients are summed together before the fixed-order total.
const ROWS: usize = 64;

/// y (N, O) = x (N, I) · wᵀ + bias; w is (O, I).
pub fn forward<T: Element>(y: &mut [T], x: &[T], w: &[T], bias: Option<&[T]>, n: usize, i: usize, o: usize) {
    matmul(y, Mat::new(x, n, i), Mat::new(w, o, i).t(), bias);
}

/// dx (N, I) = dy (N, O) · w.
pub fn backward_input<T: Element>(dx: &mut [T], dy: &[T], w: &[T], n: usize, i: usize, o: usize) {
    matmul(dx, Mat::new(dy, n, o), Mat::new(w, o, i), None);
}

/// dx (N, I) += dy (N, O) · w.
pub fn backward_input_add(dx: &mut [f32], dy: &[f32], w: &[f32], n: usize, i: usize, o: usize) {
    matmul_add(dx, Mat::new(dy, n, o), Mat::new(w, o, i));
}

/// dw (O, I) = dyᵀ · x;  dbias (O) = column sums of dy.  Added to what is there if they are to `accumulate`.
pub fn backward_weight<T: Element>(
    dw: &mut [f32],
    dbias: Option<&mut [f32]>,
    dy: &[T],
    x: &[T],
    n: usize,
    i: usize,
    o: usize,
    accumulate: bool,
) {
    let product = if accumulate { matmul_add } else { overwrite };
    product(dw, Mat::new(dy, n, o).t(), Mat::new(x, n, i));
    if let Some(dbias) = dbias {
        if !accumulate {
            dbias.fill(0.0);
        }
        column_sums(dbias, dy, n, o);
    }
}

fn overwrite<A: Element, B: Element>(c: &mut [f32], a: Mat<A>, b: Mat<B>) {
    matmul(c, a, b, None);
}

/// sums (O) += Σ rows of dy (N, O), in a fixed order.
fn column_sums<T: Element>(sums: &mut [f32], dy: &[T], n: usize, o: usize) {
    if o == 0 {
        return;
    }
    let isa = isa();
    with_scratch(n.div_ceil(ROWS) * o, |partial| {
        share(partial.par_chunks_mut(o).zip(dy.par_chunks(ROWS * o)), |(partial, dy)| {
            partial.fill(0.0);
            dispatch!(isa, _s => dy.chunks_exact(o).for_each(|row| add_row(partial, row)));
        });
        partial.chunks_exact(o).for_each(|partial| add_row(sums, partial));
    });
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, check_gradient, dot, each_dtype, place, random, sample};
    use super::*;

    fn follows_the_reference<T: Element>() {
        for (n, i, o) in [(1, 1, 1), (5, 16, 3), (129, 33, 17)] {
            let ((x, exact_x), (w, exact_w)) = (sample::<T>(1, n * i), sample::<T>(2, o * i));
            let ((b, exact_b), (dy, exact_dy)) = (sample::<T>(3, o), sample::<T>(4, n * o));
            let (mut y, mut dx) = (place::<T>(n * o), place::<T>(n * i));
            let (mut dw, mut dbias) = (vec![0.0f32; o * i], vec![0.0f32; o]);
            forward(&mut y, &x, &w, Some(&b), n, i, o);
            backward_input(&mut dx, &dy, &w, n, i, o);
            backward_weight(&mut dw, Some(&mut dbias), &dy, &x, n, i, o, true);
            let (mut fresh, mut fresh_bias) = (place::<f32>(o * i), place::<f32>(o));
            backward_weight(&mut fresh, Some(&mut fresh_bias), &dy, &x, n, i, o, false);
            assert_eq!((&fresh, &fresh_bias), (&dw, &dbias));
            let exact = reference::backward(&exact_dy, &exact_x, &exact_w, i);
            assert_close("y", &y, &reference::forward(&exact_x, &exact_w, &exact_b, i), 16.0);
            assert_close("dx", &dx, &exact.0, 16.0);
            assert_close("dw", &dw, &exact.1, 16.0);
            assert_close("dbias", &dbias, &exact.2, 16.0);
        }
    }

    #[test]
    fn fast_equals_reference() {
        each_dtype!(follows_the_reference);
    }

    #[test]
    fn a_gradient_is_added() {
        let (n, i, o) = (65, 33, 17);
        let ((dy, exact_dy), (w, exact_w)) = (sample::<f32>(1, n * o), sample::<f32>(2, o * i));
        let (mut dx, before) = sample::<f32>(3, n * i);
        backward_input_add(&mut dx, &dy, &w, n, i, o);
        let (more, ..) = reference::backward(&exact_dy, &vec![0.0; n * i], &exact_w, i);
        let exact: Vec<f64> = before.iter().zip(&more).map(|(a, b)| a + b).collect();
        assert_close("dx", &dx, &exact, 16.0);
    }

    #[test]
    fn reference_gradients() {
        let (x, w, b, dy) = (random(1, 6), random(2, 15), random(3, 5), random(4, 10));
        let (dx, dw, dbias) = reference::backward(&dy, &x, &w, 3);
        check_gradient("dx", |x| dot(&dy, &reference::forward(x, &w, &b, 3)), &x, &dx);
        check_gradient("dw", |w| dot(&dy, &reference::forward(&x, w, &b, 3)), &w, &dw);
        check_gradient("dbias", |b| dot(&dy, &reference::forward(&x, &w, b, 3)), &b, &dbias);
    }
}
