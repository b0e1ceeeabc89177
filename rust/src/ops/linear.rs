//! y = x·wᵀ + b, torch's `linear`.

use crate::cpu::linear as cpu;
use crate::cpu::linear::{Columns, Mat};
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::tensor::{Shape, View, ViewMut};

/// y (N, O), x (N, I), w (O, I), bias (O).
///
/// # Errors
/// `Shape`.
pub fn forward<T: Element>(y: ViewMut<T>, x: View<T>, w: View<T>, bias: Option<View<T>>) -> Result<()> {
    y.expect("linear", "y", &[x.shape().rows(), w.shape().rows()])?;
    forward_into(y, 0, x, w, bias)
}

/// The same into the columns from `first` on of y (N, at least first + O).
///
/// # Errors
/// `Shape`.
pub fn forward_into<T: Element>(
    mut y: ViewMut<T>,
    first: usize,
    x: View<T>,
    w: View<T>,
    bias: Option<View<T>>,
) -> Result<()> {
    let (n, i, o) = (x.shape().rows(), x.shape().last(), w.shape().rows());
    w.expect("linear", "w", &[o, i])?;
    super::expect_some("linear", "w", &[o, i])?;
    let stride = expect_columns("linear", "y", y.shape(), n, first + o)?;
    if let Some(bias) = bias {
        bias.expect("linear", "bias", &[o])?;
    }
    let y = Columns { data: y.data(), stride, first };
    cpu::forward(y, x.data(), w.data(), bias.map(|b| b.data()), n, i, o);
    Ok(())
}

/// The width of rows (N, at least `columns`).
fn expect_columns(op: &'static str, arg: &'static str, shape: Shape, n: usize, columns: usize) -> Result<usize> {
    if shape.dims() == [n, shape.last()] && columns <= shape.last() {
        return Ok(shape.last());
    }
    Err(Error::Shape { op, arg, want: vec![n, columns], got: shape.dims().to_vec() })
}

/// The columns `first..first + o` of rows.
fn columns<T: Element>(rows: View<'_, T>, first: usize, o: usize) -> Mat<'_, T> {
    let (n, row) = (rows.shape().rows(), rows.shape().last());
    Mat { data: &rows.data()[if n == 0 { 0 } else { first }..], rows: n, cols: o, row, col: 1 }
}

/// dx (N, I) = dy (N, O)·w.
///
/// # Errors
/// `Shape`.
pub fn backward_input<T: Element>(dx: ViewMut<T>, dy: View<T>, w: View<T>) -> Result<()> {
    dy.expect("linear.backward", "dy", &[dy.shape().rows(), w.shape().rows()])?;
    backward_input_of(dx, dy, 0, w, false)
}

/// The same of the columns from `first` on of dy (N, at least first + O); dx += when `add`.
///
/// # Errors
/// `Shape`.
pub fn backward_input_of<T: Element>(
    mut dx: ViewMut<T>,
    dy: View<T>,
    first: usize,
    w: View<T>,
    add: bool,
) -> Result<()> {
    let (n, i, o) = (dy.shape().rows(), w.shape().last(), w.shape().rows());
    super::expect_some("linear.backward", "w", &[o, i])?;
    expect_columns("linear.backward", "dy", dy.shape(), n, first + o)?;
    dx.expect("linear.backward", "dx", &[n, i])?;
    cpu::backward_input(dx.data(), columns(dy, first, o), w.data(), i, add);
    Ok(())
}

/// dw (O, I) += dyᵀ·x, dbias (O) += column sums of dy.
///
/// # Errors
/// `Shape`.
pub fn backward_weight<T: Element>(
    dw: ViewMut<f32>,
    dbias: Option<ViewMut<f32>>,
    dy: View<T>,
    x: View<T>,
) -> Result<()> {
    dy.expect("linear.backward", "dy", &[x.shape().rows(), dw.shape().rows()])?;
    backward_weight_of(dw, dbias, dy, 0, x, true)
}

/// The same of the columns from `first` on of dy (N, at least first + O); dw = unless `add`.
///
/// # Errors
/// `Shape`.
pub fn backward_weight_of<T: Element>(
    mut dw: ViewMut<f32>,
    dbias: Option<ViewMut<f32>>,
    dy: View<T>,
    first: usize,
    x: View<T>,
    add: bool,
) -> Result<()> {
    let (n, i, o) = (x.shape().rows(), x.shape().last(), dw.shape().rows());
    dw.expect("linear.backward", "dw", &[o, i])?;
    super::expect_some("linear.backward", "dw", &[o, i])?;
    expect_columns("linear.backward", "dy", dy.shape(), n, first + o)?;
    if let Some(dbias) = &dbias {
        dbias.expect("linear.backward", "dbias", &[o])?;
    }
    let dbias = dbias.map(ViewMut::into_data);
    cpu::backward_weight(dw.data(), dbias, columns(dy, first, o), x.data(), i, add);
    Ok(())
}
