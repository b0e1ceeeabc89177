//! Borrowed, contiguous tensors: a shape over data that some arena owns.

use crate::dtype::DType;
use crate::dtype::Element;
use crate::error::{Error, Result};

/// Where the data of a tensor lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Device {
    Cpu,
    /// A GPU by its number, as the driver counts them.
    Cuda(usize),
}

/// Why there is no GPU.
#[cfg(not(feature = "cuda"))]
pub(crate) const WITHOUT_CUDA: &str =
    "this build has no CUDA (it was made without the Cargo feature `cuda`); install a wheel";

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

const MAX_RANK: usize = 4;

/// Extents, outermost first; at most four.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    rank: usize,
    dims: [usize; MAX_RANK],
}

impl Shape {
    /// # Panics
    /// With more than four extents: a shape is written by us, never read from a file.
    pub fn new(dims: &[usize]) -> Self {
        let mut all = [1; MAX_RANK];
        all[..dims.len()].copy_from_slice(dims);
        Self { rank: dims.len(), dims: all }
    }

    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.dims().iter().product()
    }

    /// The last extent (1 for a scalar).
    pub fn last(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    /// The product of all extents but the last: the number of rows.
    pub fn rows(&self) -> usize {
        self.dims()[..self.rank.saturating_sub(1)].iter().product()
    }

    /// # Errors
    /// `Error::Shape` naming `op` and `arg` when this is not `want`.
    pub fn expect(&self, op: &'static str, arg: &'static str, want: &[usize]) -> Result<()> {
        if self.dims() == want {
            return Ok(());
        }
        Err(Error::Shape { op, arg, want: want.to_vec(), got: self.dims().to_vec() })
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.dims().fmt(f)
    }
}

/// A contiguous tensor that may be read.
#[derive(Clone, Copy, Debug)]
pub struct View<'a, T> {
    data: &'a [T],
    shape: Shape,
}

/// A contiguous tensor that may be written.
#[derive(Debug)]
pub struct ViewMut<'a, T> {
    data: &'a mut [T],
    shape: Shape,
}

/// Whether `got` elements are those of `shape`.
pub(crate) fn check_count(arg: &'static str, shape: Shape, got: usize) -> Result<()> {
    if shape.count() == got {
        return Ok(());
    }
    Err(Error::Shape { op: "view", arg, want: shape.dims().to_vec(), got: vec![got] })
}

impl<'a, T: Element> View<'a, T> {
    /// # Errors
    /// `Error::Shape` when `data` has another number of elements than `dims`.
    pub fn new(data: &'a [T], dims: &[usize]) -> Result<Self> {
        let shape = Shape::new(dims);
        check_count("data", shape, data.len())?;
        Ok(Self { data, shape })
    }

    pub fn data(&self) -> &'a [T] {
        self.data
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    pub fn device(&self) -> Device {
        Device::Cpu
    }

    pub fn dtype(&self) -> DType {
        T::DTYPE
    }

    /// # Errors
    /// `Error::Shape` naming `op` and `arg` when the shape is not `want`.
    pub fn expect(&self, op: &'static str, arg: &'static str, want: &[usize]) -> Result<()> {
        self.shape.expect(op, arg, want)
    }
}

impl<'a, T: Element> ViewMut<'a, T> {
    /// # Errors
    /// `Error::Shape` when `data` has another number of elements than `dims`.
    pub fn new(data: &'a mut [T], dims: &[usize]) -> Result<Self> {
        let shape = Shape::new(dims);
        check_count("data", shape, data.len())?;
        Ok(Self { data, shape })
    }

    pub fn data(&mut self) -> &mut [T] {
        self.data
    }

    pub fn into_data(self) -> &'a mut [T] {
        self.data
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The same tensor, lent for a shorter time.
    pub fn reborrow(&mut self) -> ViewMut<'_, T> {
        ViewMut { data: self.data, shape: self.shape }
    }

    /// # Errors
    /// `Error::Shape` naming `op` and `arg` when the shape is not `want`.
    pub fn expect(&self, op: &'static str, arg: &'static str, want: &[usize]) -> Result<()> {
        self.shape.expect(op, arg, want)
    }
}
