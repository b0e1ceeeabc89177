//! Memory of a device, and tensors in it.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use bytemuck::Pod;

use super::driver::sys;
use super::stream::Stream;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::tensor::{Device, Shape, check_count};

/// Elements in the memory of a device, freed in the order of their stream.
pub struct Buffer<T> {
    pub(super) address: sys::CUdeviceptr,
    pub(super) len: usize,
    pub(super) stream: Arc<Stream>,
    pub(super) holds: PhantomData<T>,
}

impl<T: Pod> Buffer<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// # Errors
    /// `Shape` when `dims` has another number of elements.
    pub fn view(&self, dims: &[usize]) -> Result<View<'_, T>> {
        let shape = Shape::new(dims);
        check_count("data", shape, self.len)?;
        Ok(View { place: self.place(), shape, lent: PhantomData })
    }

    /// # Errors
    /// As `view`.
    pub fn view_mut(&mut self, dims: &[usize]) -> Result<ViewMut<'_, T>> {
        let shape = Shape::new(dims);
        check_count("data", shape, self.len)?;
        Ok(ViewMut { place: self.place(), shape, lent: PhantomData })
    }

    /// All of it, flat.
    pub fn all(&self) -> View<'_, T> {
        View { place: self.place(), shape: Shape::new(&[self.len]), lent: PhantomData }
    }

    /// As `all`.
    pub fn all_mut(&mut self) -> ViewMut<'_, T> {
        ViewMut { place: self.place(), shape: Shape::new(&[self.len]), lent: PhantomData }
    }

    /// A copy on the host, after all that the stream was asked for.
    ///
    /// # Errors
    /// `Device`.
    pub fn download(&self) -> Result<Vec<T>> {
        let mut data = vec![T::zeroed(); self.len];
        self.stream.read_back(&mut data, self.all())?;
        Ok(data)
    }

    fn place(&self) -> Place {
        Place { address: self.address, stream: self.stream.handle.addr(), ordinal: self.stream.device.ordinal }
    }
}

impl<T> std::fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} elements on cuda:{}", self.len, self.stream.device.ordinal)
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.address != 0 && self.stream.device.bind().is_ok() {
            // SAFETY: allocated in this stream, and all that uses it was asked for earlier in it. An error here is one
            // of an earlier kernel, which every later call on the device tells too.
            unsafe { sys::cuMemFreeAsync(self.address, self.stream.handle) };
        }
    }
}

/// Where a tensor lies, and in the order of which stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) address: sys::CUdeviceptr,
    pub(super) stream: usize,
    pub(super) ordinal: usize,
}

/// A contiguous tensor on a device that kernels may read.
#[derive(Clone, Copy, Debug)]
pub struct View<'a, T> {
    pub(super) place: Place,
    shape: Shape,
    lent: PhantomData<&'a T>,
}

/// A contiguous tensor on a device that kernels may write.
#[derive(Debug)]
pub struct ViewMut<'a, T> {
    pub(super) place: Place,
    shape: Shape,
    lent: PhantomData<&'a mut T>,
}

/// Rows `first..first + count` of a tensor, which must have them.
fn part<T>(place: Place, shape: Shape, first: usize, count: usize) -> Result<(Place, Shape)> {
    if first + count > shape.rows() {
        return Err(Error::Internal(format!("rows {first} to {} of a tensor {shape:?}", first + count)));
    }
    let address = place.address + (first * shape.last() * size_of::<T>()) as u64;
    Ok((Place { address, ..place }, Shape::new(&[count, shape.last()])))
}

/// The place of a stretch of `count` elements.
fn stretch<T>(mut place: Place, count: usize, range: &Range<usize>) -> (Place, Shape) {
    assert!(range.start <= range.end && range.end <= count, "{range:?} of {count} elements");
    place.address += (range.start * size_of::<T>()) as u64;
    (place, Shape::new(&[range.len()]))
}

impl<'a, T> View<'a, T> {
    /// A stretch of its elements, flat.
    ///
    /// # Panics
    /// As slices do, when it is not inside.
    pub(crate) fn stretch(self, range: Range<usize>) -> Self {
        let (place, shape) = stretch::<T>(self.place, self.shape.count(), &range);
        Self { place, shape, lent: PhantomData }
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// `count` rows from `first` on.
    pub(crate) fn part(&self, first: usize, count: usize) -> Result<Self> {
        let (place, shape) = part::<T>(self.place, self.shape, first, count)?;
        Ok(Self { place, shape, lent: PhantomData })
    }

    /// The same elements in another shape.
    pub(crate) fn shaped(&self, dims: &[usize]) -> Result<Self> {
        check_count("data", Shape::new(dims), self.shape.count())?;
        Ok(Self { shape: Shape::new(dims), ..*self })
    }

    /// The same, where the dtype is U.
    pub(crate) fn of<U: Element>(&self) -> Option<View<'a, U>>
    where
        T: Element,
    {
        (T::DTYPE == U::DTYPE).then_some(View { place: self.place, shape: self.shape, lent: PhantomData })
    }

    pub fn device(&self) -> Device {
        Device::Cuda(self.place.ordinal)
    }

    /// The tensor from element `start` on, for a kernel that is told how far apart its rows are, and stays inside.
    pub(crate) fn after(mut self, start: usize) -> Self {
        self.place.address += (start * size_of::<T>()) as u64;
        self
    }
}

impl<T> ViewMut<'_, T> {
    /// As `View::stretch`.
    ///
    /// # Panics
    /// As slices do.
    pub(crate) fn stretch(self, range: Range<usize>) -> Self {
        let (place, shape) = stretch::<T>(self.place, self.shape.count(), &range);
        Self { place, shape, lent: PhantomData }
    }

    /// What stands before element `at`, and the rest.
    ///
    /// # Panics
    /// As slices do.
    pub(crate) fn split(self, at: usize) -> (Self, Self) {
        let count = self.shape.count();
        let piece = |range| {
            let (place, shape) = stretch::<T>(self.place, count, &range);
            Self { place, shape, lent: PhantomData }
        };
        (piece(0..at), piece(at..count))
    }

    /// `shaped` for good.
    ///
    /// # Errors
    /// `Shape`.
    pub(crate) fn into_shape(self, dims: &[usize]) -> Result<Self> {
        check_count("data", Shape::new(dims), self.shape.count())?;
        Ok(Self { shape: Shape::new(dims), ..self })
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    pub fn device(&self) -> Device {
        Device::Cuda(self.place.ordinal)
    }

    /// The same elements in another shape.
    pub(crate) fn shaped(&mut self, dims: &[usize]) -> Result<ViewMut<'_, T>> {
        check_count("data", Shape::new(dims), self.shape.count())?;
        Ok(ViewMut { place: self.place, shape: Shape::new(dims), lent: PhantomData })
    }

    /// `count` rows from `first` on.
    pub(crate) fn part(&mut self, first: usize, count: usize) -> Result<ViewMut<'_, T>> {
        let (place, shape) = part::<T>(self.place, self.shape, first, count)?;
        Ok(ViewMut { place, shape, lent: PhantomData })
    }

    /// The same tensor, lent for a shorter time.
    pub fn reborrow(&mut self) -> ViewMut<'_, T> {
        ViewMut { place: self.place, shape: self.shape, lent: PhantomData }
    }

    /// The same tensor, to be read.
    pub fn read(&self) -> View<'_, T> {
        View { place: self.place, shape: self.shape, lent: PhantomData }
    }
}
