//! DLPack (github.com/dmlc/dlpack): how torch says in C what a tensor is.

use std::ffi::{CStr, c_void};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

pub(super) const CPU: i32 = 1;
pub(super) const INT: u8 = 0;
pub(super) const FLOAT: u8 = 2;
pub(super) const BFLOAT: u8 = 4;

#[repr(C)]
pub(super) struct DlTensor {
    pub data: *mut c_void,
    pub device_type: i32,
    pub device_id: i32,
    pub ndim: i32,
    pub code: u8,
    pub bits: u8,
    pub lanes: u16,
    pub shape: *mut i64,
    pub strides: *mut i64,
    pub byte_offset: u64,
}

/// The functions that a library offers; of version 1, which may grow at its end.
#[repr(C)]
struct ExchangeApi {
    major: u32,
    minor: u32,
    previous: *const c_void,
    allocate: *const c_void,
    to_managed: *const c_void,
    from_managed: *const c_void,
    // SAFETY: fills the second argument from the first, an object of the library; not 0 with an exception set.
    read: Option<unsafe extern "C" fn(*mut ffi::PyObject, *mut DlTensor) -> i32>,
}

const API: &CStr = c"dlpack_exchange_api";

/// torch's way to say what a tensor is, and the classes of plain tensors, whose instances it may be asked about.
struct Torch {
    read: unsafe extern "C" fn(*mut ffi::PyObject, *mut DlTensor) -> i32,
    classes: [Py<PyAny>; 2],
}

static TORCH: PyOnceLock<Option<Torch>> = PyOnceLock::new();

/// None for a torch from before it had one (2.10).
fn find(py: Python<'_>) -> PyResult<Option<Torch>> {
    let tensor = py.import("torch")?.getattr("Tensor")?;
    let parameter = py.import("torch.nn")?.getattr("Parameter")?;
    let Some(capsule) = tensor.getattr_opt("__dlpack_c_exchange_api__")? else { return Ok(None) };
    // SAFETY: any object may be asked; a valid capsule of this name holds a pointer to the structure.
    let api = unsafe {
        if ffi::PyCapsule_IsValid(capsule.as_ptr(), API.as_ptr()) != 1 {
            return Ok(None);
        }
        ffi::PyCapsule_GetPointer(capsule.as_ptr(), API.as_ptr()).cast::<ExchangeApi>()
    };
    // SAFETY: the structure lives as long as torch does, and every version begins with these two numbers.
    let major = unsafe { (*api).major };
    if major != 1 {
        return Ok(None);
    }
    // SAFETY: version 1 has this field.
    let read = unsafe { (*api).read };
    Ok(read.map(|read| Torch { read, classes: [tensor.unbind(), parameter.unbind()] }))
}

/// What a plain tensor says of itself; None where it has to be asked by its attributes.
pub(super) fn describe(value: &Bound<'_, PyAny>) -> PyResult<Option<DlTensor>> {
    let py = value.py();
    let Some(torch) = TORCH.get_or_try_init(py, || find(py))? else { return Ok(None) };
    let class = value.get_type();
    if !torch.classes.iter().any(|known| class.is(known)) {
        return Ok(None);
    }
    let mut tensor = std::mem::MaybeUninit::uninit();
    // SAFETY: `value` is a tensor of torch itself, as its class says, and the caller holds it.
    if unsafe { (torch.read)(value.as_ptr(), tensor.as_mut_ptr()) } != 0 {
        // Its attributes say more clearly what is the matter.
        drop(PyErr::take(py));
        return Ok(None);
    }
    // SAFETY: it has been filled.
    Ok(Some(unsafe { tensor.assume_init() }))
}

/// A number for each dimension.
///
/// # Safety
/// `numbers` points to `rank` of them, or is null.
pub(super) unsafe fn each(numbers: *const i64, rank: usize, to: &mut [usize]) -> bool {
    // SAFETY: as the caller says.
    let numbers = if numbers.is_null() { &[][..] } else { unsafe { std::slice::from_raw_parts(numbers, rank) } };
    for (to, n) in to.iter_mut().zip(numbers) {
        *to = *n as usize; // torch has no negative extents and strides
    }
    rank == 0 || !numbers.is_empty()
}
