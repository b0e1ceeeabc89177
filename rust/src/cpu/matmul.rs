//! C = A·B (+ C) in f32, any layout by strides. The only file that names the matmul crate.
//!
//! `matrixmultiply` cuts the inner dimension at constants, so a product has the same bits however
//! its rows and columns are shared out. That holds for alpha = 1 and beta of 0 or 1, the only ones used.

use std::cell::RefCell;

use crate::cpu::{cast, parallel};
use crate::dtype::{DType, Element};

/// A matrix that may be read: element (i, j) is `data[i * row + j * col]`.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    pub row: usize,
    pub col: usize,
}

impl<'a> Mat<'a> {
    /// Row-major (rows, cols) with rows `stride` apart.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        Self { data, rows, cols, row: stride, col: 1 }
    }

    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// The same data, rows and columns exchanged.
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row: self.col, col: self.row, ..self }
    }

    fn fits(&self) -> bool {
        self.rows == 0 || self.cols == 0 || (self.rows - 1) * self.row + (self.cols - 1) * self.col < self.data.len()
    }
}

/// One thread: c (m, n) with rows `stride` apart = a·b, or += with `accumulate`.
///
/// # Panics
/// When the extents do not fit each other or the data: a caller's mistake, checked because the crate below is unsafe.
pub fn gemm(c: &mut [f32], stride: usize, a: Mat, b: Mat, accumulate: bool) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert_eq!(k, b.rows, "inner extents of a product");
    assert!(a.fits() && b.fits() && (m == 0 || n == 0 || (m - 1) * stride + n <= c.len()), "extents within the data");
    let beta = if accumulate { 1.0 } else { 0.0 };
    // SAFETY: the asserts above keep every element that the strides address inside its slice, and `c` is borrowed
    // exclusively.
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            1.0,
            a.data.as_ptr(),
            a.row as isize,
            a.col as isize,
            b.data.as_ptr(),
            b.row as isize,
            b.col as isize,
            beta,
            c.as_mut_ptr(),
            stride as isize,
            1,
        );
    }
}

/// Rows of one piece: a multiple of the micro-kernel, large enough that packing B again is cheap.
fn piece(rows: usize) -> usize {
    rows.div_ceil(8).next_multiple_of(8).max(128)
}

/// All threads: c (m, n), contiguous, = a·b, or += with `accumulate`.
pub fn parallel_gemm(c: &mut [f32], a: Mat, b: Mat, accumulate: bool) {
    use rayon::prelude::*;
    let (m, n) = (a.rows, b.cols);
    if m == 0 || n == 0 {
        return;
    }
    let rows = piece(m);
    parallel::install(|| {
        c[..m * n].par_chunks_mut(rows * n).enumerate().for_each(|(i, c)| {
            let part = Mat { data: &a.data[i * rows * a.row..], rows: c.len() / n, ..a };
            gemm(c, n, part, b, accumulate);
        });
    });
}

thread_local! {
    static SCRATCH: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Lends f32 scratch that is kept for the next call on this thread.
pub fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = SCRATCH.with_borrow_mut(|free| free.pop()).unwrap_or_default();
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    let result = work(&mut buffer[..len]);
    SCRATCH.with_borrow_mut(|free| free.push(buffer));
    result
}

/// Lends `x` as f32: itself, or a widened copy.
pub fn with_f32<T: Element, R>(x: &[T], work: impl FnOnce(&[f32]) -> R) -> R {
    if T::DTYPE == DType::F32 {
        return work(bytemuck::cast_slice(x));
    }
    with_scratch(x.len(), |wide| {
        cast::to_f32(wide, x);
        work(wide)
    })
}

/// Lends an f32 place for a result of type T; it is rounded into `y` afterwards.
pub fn with_f32_out<T: Element, R>(y: &mut [T], work: impl FnOnce(&mut [f32]) -> R) -> R {
    if T::DTYPE == DType::F32 {
        return work(bytemuck::cast_slice_mut(y));
    }
    with_scratch(y.len(), |wide| {
        let result = work(wide);
        cast::from_f32(y, wide);
        result
    })
}
