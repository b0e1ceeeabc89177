//! y = x·wᵀ + b and its gradients.

use rayon::prelude::*;

use super::isa::simd;
use super::matmul::{Mat, parallel_gemm, with_f32, with_f32_out, with_scratch};
use super::parallel::install;
use crate::dtype::Element;

/// Rows whose bias gradients are summed together before the fixed-order total.
const ROWS: usize = 256;

/// y (N, O) = x (N, I) · wᵀ + bias; w is (O, I).
pub fn forward<T: Element>(y: &mut [T], x: &[T], w: &[T], bias: Option<&[T]>, n: usize, i: usize, o: usize) {
    with_f32(x, |x| {
        with_f32(w, |w| {
            with_f32_out(y, |y| {
                parallel_gemm(y, Mat::new(x, n, i), Mat::new(w, o, i).t(), false);
                if let Some(bias) = bias {
                    install(|| y.par_chunks_mut(o).for_each(|y| add_bias(y, bias)));
                }
            });
        });
    });
}

simd! {
fn add_bias<T>(y: &mut [f32], bias: &[T]) {
    y.iter_mut().zip(bias).for_each(|(y, b)| *y += b.to_f32());
}
}

/// dx (N, I) = dy (N, O) · w.
pub fn backward_input<T: Element>(dx: &mut [T], dy: &[T], w: &[T], n: usize, i: usize, o: usize) {
    with_f32(dy, |dy| {
        with_f32(w, |w| {
            with_f32_out(dx, |dx| parallel_gemm(dx, Mat::new(dy, n, o), Mat::new(w, o, i), false));
        });
    });
}

/// dw (O, I) += dyᵀ · x;  dbias (O) += column sums of dy.
pub fn backward_weight<T: Element>(
    dw: &mut [f32],
    dbias: Option<&mut [f32]>,
    dy: &[T],
    x: &[T],
    n: usize,
    i: usize,
    o: usize,
) {
    with_f32(dy, |dy| {
        with_f32(x, |x| parallel_gemm(dw, Mat::new(dy, n, o).t(), Mat::new(x, n, i), true));
        if let Some(dbias) = dbias {
            column_sums(dbias, dy, n, o);
        }
    });
}

/// sums (O) += Σ rows of dy (N, O), in a fixed order.
fn column_sums(sums: &mut [f32], dy: &[f32], n: usize, o: usize) {
    let pieces = n.div_ceil(ROWS);
    with_scratch(pieces * o, |partial| {
        install(|| {
            partial.par_chunks_mut(o).zip(dy.par_chunks(ROWS * o)).for_each(|(partial, dy)| {
                partial.fill(0.0);
                dy.chunks_exact(o).for_each(|row| add_row(partial, row));
            });
        });
        partial.chunks_exact(o).for_each(|partial| add_row(sums, partial));
    });
}

simd! {
pub(super) fn add_row(sum: &mut [f32], row: &[f32]) {
    sum.iter_mut().zip(row).for_each(|(sum, v)| *sum += v);
}
}
