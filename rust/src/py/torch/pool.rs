//! Large results: memory that comes back here when torch lets a tensor go, and serves the next one of its size.
//!
//! It is handed over by DLPack (github.com/dmlc/dlpack), the unversioned structure, which torch reads whatever its
//! own version.

use std::ffi::{CStr, c_void};

use pyo3::ffi;
use pyo3::prelude::*;

use super::dlpack::{BFLOAT, CPU, DlTensor, FLOAT};
use super::tensor::{Any, Tensor};
use crate::dtype::DType;
use crate::memory::Block;
use crate::py::error::PyError;

const NAME: &CStr = c"dltensor";
#[repr(C)]
struct DlManagedTensor {
    tensor: DlTensor,
    context: *mut c_void,
    // SAFETY: called once, with the tensor it stands in, as DLPack says.
    deleter: Option<unsafe extern "C" fn(*mut DlManagedTensor)>,
}

/// What a tensor lives on; `managed` comes first and is what the consumer knows of it.
#[repr(C)]
struct Held {
    managed: DlManagedTensor,
    shape: Vec<i64>,
    block: Option<Block>,
}

impl Held {
    fn new(block: Block, shape: Vec<i64>, dtype: DType) -> Box<Self> {
        let code = if dtype == DType::BF16 { BFLOAT } else { FLOAT };
        let tensor = DlTensor {
            data: block.start().cast(),
            device_type: CPU,
            device_id: 0,
            ndim: shape.len() as i32,
            code,
            bits: 8 * dtype.size() as u8,
            lanes: 1,
            shape: std::ptr::null_mut(),
            strides: std::ptr::null_mut(),
            byte_offset: 0,
        };
        let managed = DlManagedTensor { tensor, context: std::ptr::null_mut(), deleter: Some(let_go) };
        let mut held = Box::new(Self { managed, shape, block: Some(block) });
        held.managed.tensor.shape = held.shape.as_mut_ptr();
        held
    }
}

/// The end of a tensor, on any thread.
///
/// # Safety
/// `managed` is that of a [`Held`] on the heap, and nobody uses it any more.
unsafe extern "C" fn let_go(managed: *mut DlManagedTensor) {
    // SAFETY: DLPack calls this once, with the pointer that `pooled` made of a boxed `Held`, which begins with it.
    let mut held = unsafe { Box::from_raw(managed.cast::<Held>()) };
    if let Some(block) = held.block.take() {
        block.keep();
    }
}

/// A capsule that nobody has taken: the consumer renames those that it takes.
///
/// # Safety
/// `capsule` is one that `pooled` made, at its end.
unsafe extern "C" fn unused(capsule: *mut ffi::PyObject) {
    // SAFETY: Python calls this with the capsule that `pooled` made, whose pointer under this name is a `Held`.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, NAME.as_ptr()) == 1 {
            let_go(ffi::PyCapsule_GetPointer(capsule, NAME.as_ptr()).cast());
        }
    }
}

/// A DLPack capsule of dtype and shape of x, but for the last extent where `width` is given; contiguous, any numbers
/// in it; None where the system has no memory.
#[pyfunction]
#[pyo3(signature = (x, width = None))]
pub(super) fn pooled<'py>(py: Python<'py>, x: &Any<'py>, width: Option<u32>) -> PyResult<Option<Any<'py>>> {
    let x = Tensor::read("pooled", "x", x)?;
    let dtype = x.float().map_err(PyError::from)?;
    let mut shape: Vec<i64> = x.dims().iter().map(|dim| *dim as i64).collect();
    if let (Some(last), Some(width)) = (shape.last_mut(), width) {
        *last = width.into();
    }
    let bytes = shape.iter().try_fold(dtype.size(), |n, dim| n.checked_mul(*dim as usize));
    let Some(block) = bytes.and_then(Block::take) else { return Ok(None) };
    let held: *mut Held = Box::into_raw(Held::new(block, shape, dtype));
    // SAFETY: the name lives for ever, and `unused` frees what the capsule points to, unless its consumer does.
    let capsule = unsafe { ffi::PyCapsule_New(held.cast(), NAME.as_ptr(), Some(unused)) };
    // SAFETY: a new reference, or null with an exception set.
    let made = unsafe { Bound::from_owned_ptr_or_err(py, capsule) };
    if made.is_err() {
        // SAFETY: no capsule has it.
        unsafe { let_go(held.cast()) };
    }
    made.map(Some)
}
