//! y = x·wᵀ + b and its gradients.

use rayon::prelude::*;

use super::isa::{dispatch, isa};
use super::math::add_row;
pub use super::matmul::{Columns, Mat};
use super::matmul::{matmul, matmul_add, matmul_columns};
use super::parallel::install;
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

/// Columns of y = x (N, I) · wᵀ + bias; w is (O, I).
pub fn forward<T: Element>(y: Columns<T>, x: &[T], w: &[T], bias: Option<&[T]>, n: usize, i: usize, o: usize) {
    matmul_columns(y, Mat::new(x, n, i), Mat::new(w, o, i).t(), bias);
}

/// dx (N, I) = dy (N, O) · w, or dx += when `add`.
pub fn backward_input<T: Element>(dx: &mut [T], dy: Mat<T>, w: &[T], i: usize, add: bool) {
    let w = Mat::new(w, dy.cols, i);
    if add { matmul_add(dx, dy, w) } else { matmul(dx, dy, w, None) }
}

/// dw (O, I) = dyᵀ · x, or dw += when `add`;  dbias (O) += column sums of dy.
pub fn backward_weight<T: Element>(
    dw: &mut [f32],
    dbias: Option<&mut [f32]>,
    dy: Mat<T>,
    x: &[T],
    i: usize,
    add: bool,
) {
    let x = Mat::new(x, dy.rows, i);
    if add { matmul_add(dw, dy.t(), x) } else { matmul(dw, dy.t(), x, None) }
    if let Some(dbias) = dbias {
        column_sums(dbias, dy);
    }
}

/// sums (O) += Σ rows of dy (N, O), in a fixed order.
fn column_sums<T: Element>(sums: &mut [f32], dy: Mat<T>) {
    let (o, isa) = (dy.cols, isa());
    if o == 0 {
        return;
    }
    with_scratch(dy.rows.div_ceil(ROWS) * o, |partial| {
        install(|| {
            partial.par_chunks_mut(o).zip(dy.data.par_chunks(ROWS * dy.row)).for_each(|(partial, rows)| {
                partial.fill(0.0);
                dispatch!(isa, _s => rows.chunks(dy.row).for_each(|row| add_row(partial, &row[..o])));
            });
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
            forward(Columns { data: &mut y, stride: o, first: 0 }, &x, &w, Some(&b), n, i, o);
            backward_input(&mut dx, Mat::new(&dy, n, o), &w, i, false);
            backward_weight(&mut dw, Some(&mut dbias), Mat::new(&dy, n, o), &x, i, true);
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

    /// Columns of wider rows, written and read: what a tensor of their own gives, and nothing beside them.
    fn parts_of_rows<T: Element>() {
        let (wide, first) = (23, 4);
        for (n, i, o) in [(2, 16, 3), (65, 33, 17)] {
            let ((x, _), (w, _), (b, _)) = (sample::<T>(1, n * i), sample::<T>(2, o * i), sample::<T>(3, o));
            let (mut y, mut rows) = (place::<T>(n * o), vec![T::from_f32(7.0); n * wide]);
            forward(Columns { data: &mut y, stride: o, first: 0 }, &x, &w, Some(&b), n, i, o);
            forward(Columns { data: &mut rows, stride: wide, first }, &x, &w, Some(&b), n, i, o);
            for (row, y) in rows.chunks(wide).zip(y.chunks(o)) {
                assert!(&row[first..first + o] == y, "the columns");
                assert!(row[..first].iter().chain(&row[first + o..]).all(|x| x.to_f32() == 7.0), "beside them");
            }
            let part = Mat { data: &rows[first..], rows: n, cols: o, row: wide, col: 1 };
            let gradients = |dy: Mat<T>, add: bool| {
                let (mut dx, mut dw, mut db) = (x.clone(), vec![1.0; o * i], vec![1.0; o]);
                backward_input(&mut dx, dy, &w, i, add);
                backward_weight(&mut dw, Some(&mut db), dy, &x, i, add);
                (dx, dw, db)
            };
            for add in [false, true] {
                assert!(gradients(part, add) == gradients(Mat::new(&y, n, o), add), "gradients");
            }
            let (added, alone) = (gradients(part, true), gradients(part, false));
            let sum = |a: T, b: T| f64::from(a.to_f32()) + f64::from(b.to_f32());
            let want: Vec<f64> = alone.0.iter().zip(&x).map(|(a, b)| sum(*a, *b)).collect();
            assert_close("dx +=", &added.0, &want, 16.0);
            let want: Vec<f64> = alone.1.iter().map(|a| f64::from(*a) + 1.0).collect();
            assert_close("dw +=", &added.1, &want, 16.0);
        }
    }

    #[test]
    fn columns_of_wider_rows() {
        each_dtype!(parts_of_rows);
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
