//! A stream: what is asked for in it happens in that order, and later than the call returns.

use std::marker::PhantomData;
use std::sync::Arc;

use bytemuck::Pod;

use super::device::{Device, device};
use super::driver::{call, sys};
use super::memory::{Buffer, View, ViewMut};
use crate::error::Result;
use crate::tensor::check_count;

/// A queue of work on a device. Buffers hold on to theirs.
pub struct Stream {
    pub(super) device: &'static Device,
    pub(super) handle: sys::CUstream,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a stream on {}", self.device)
    }
}

// SAFETY: a handle of the driver, which may be used from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// A new queue on the device of this number.
    ///
    /// # Errors
    /// `Device`.
    pub fn new(ordinal: usize) -> Result<Arc<Self>> {
        let device = device(ordinal)?;
        device.bind()?;
        let mut handle = std::ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the place for the answer is valid, the device's context current.
        call(unsafe { sys::cuStreamCreate(&raw mut handle, flags) }, || format!("making a stream on {device}"))?;
        Ok(Arc::new(Self { device, handle }))
    }

    pub fn device(&self) -> &'static Device {
        self.device
    }

    /// Waits until all is done that was asked for.
    ///
    /// # Errors
    /// `Device`: the driver tells here, or at any later call, when a kernel failed.
    pub fn synchronize(&self) -> Result<()> {
        self.device.bind()?;
        // SAFETY: the stream lives.
        let answer = unsafe { sys::cuStreamSynchronize(self.handle) };
        call(answer, || format!("waiting for the kernels on {}", self.device))
    }

    /// Memory for `len` elements, holding anything.
    ///
    /// # Errors
    /// `Device`: there is not so much.
    pub fn alloc<T: Pod>(self: &Arc<Self>, len: usize) -> Result<Buffer<T>> {
        let (bytes, mut address) = (size_of::<T>() * len, 0);
        if bytes > 0 {
            self.device.bind()?;
            let (pool, stream) = (self.device.pool, self.handle);
            // SAFETY: pool and stream live; what is freed later is freed in the order of this stream.
            let answer = unsafe { sys::cuMemAllocFromPoolAsync(&raw mut address, bytes, pool, stream) };
            call(answer, || format!("asking {} for {bytes} bytes ({})", self.device, self.room()))?;
        }
        Ok(Buffer { address, len, stream: Arc::clone(self), holds: PhantomData })
    }

    fn room(&self) -> String {
        let (mut free, mut total) = (0, 0);
        // SAFETY: the places for the answers are valid.
        match unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) } {
            sys::CUresult::CUDA_SUCCESS => format!("{free} of {total} bytes are free"),
            answer => format!("how much is free cannot be told: {answer:?}"),
        }
    }

    /// Memory of zeros.
    ///
    /// # Errors
    /// As `alloc`.
    pub fn zeros<T: Pod>(self: &Arc<Self>, len: usize) -> Result<Buffer<T>> {
        let mut buffer = self.alloc(len)?;
        self.clear(buffer.all_mut())?;
        Ok(buffer)
    }

    /// A copy of host memory; when this returns the source may change.
    ///
    /// # Errors
    /// As `alloc`.
    pub fn upload<T: Pod>(self: &Arc<Self>, from: &[T]) -> Result<Buffer<T>> {
        let buffer = self.alloc(from.len())?;
        self.copy_in(buffer.address, from)?;
        Ok(buffer)
    }

    /// The tensor becomes zeros.
    ///
    /// # Errors
    /// `Device`.
    pub fn clear<T: Pod>(&self, to: ViewMut<'_, T>) -> Result<()> {
        let bytes = size_of::<T>() * to.shape().count();
        if bytes > 0 {
            self.device.bind()?;
            // SAFETY: the tensor has so many bytes.
            let answer = unsafe { sys::cuMemsetD8Async(to.place.address, 0, bytes, self.handle) };
            call(answer, || format!("filling {bytes} bytes on {}", self.device))?;
        }
        Ok(())
    }

    /// The tensor becomes a copy of host memory, which may change when this returns.
    ///
    /// # Errors
    /// `Shape`; `Device`.
    pub fn overwrite<T: Pod>(&self, to: ViewMut<'_, T>, from: &[T]) -> Result<()> {
        check_count("data", to.shape(), from.len())?;
        self.copy_in(to.place.address, from)
    }

    fn copy_in<T: Pod>(&self, to: sys::CUdeviceptr, from: &[T]) -> Result<()> {
        if from.is_empty() {
            return Ok(());
        }
        self.device.bind()?;
        let bytes = size_of_val(from);
        // SAFETY: both have so many bytes; the driver has read pageable memory when the call returns (CUDA driver API,
        // "API synchronization behavior").
        let answer = unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.as_ptr().cast(), bytes, self.handle) };
        call(answer, || format!("copying {bytes} bytes to {}", self.device))
    }

    /// `to` becomes a copy of the tensor; waits for all that was asked for before.
    ///
    /// # Errors
    /// `Shape`; `Device`.
    pub fn read_back<T: Pod>(&self, to: &mut [T], from: View<'_, T>) -> Result<()> {
        check_count("data", from.shape(), to.len())?;
        if !to.is_empty() {
            self.device.bind()?;
            let (bytes, address) = (size_of_val(to), from.place.address);
            // SAFETY: both have so many bytes, and `to` is lent until the copy has been waited for below.
            let answer = unsafe { sys::cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), address, bytes, self.handle) };
            call(answer, || format!("copying {bytes} bytes from {}", self.device))?;
        }
        self.synchronize()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: nobody else has the handle any more. The driver ends what is under way first. An error here is one
        // of an earlier kernel, which every later call on the device tells too.
        unsafe { sys::cuStreamDestroy_v2(self.handle) };
    }
}
