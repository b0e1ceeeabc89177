//! A torch tensor as a typed slice: where it is, what it holds, and that it is what the op can take.

use std::marker::PhantomData;

use bytemuck::Pod;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyTuple;

use crate::cpu::parallel;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result as CoreResult};
use crate::memory;
use crate::py::error::PyError;
use crate::tensor::{View, ViewMut};

pub(super) type Any<'py> = Bound<'py, PyAny>;

const MAX_RANK: usize = 8;

/// torch's dtypes that a kernel takes; a dtype is one object for the life of the process.
struct DTypes {
    floats: [(DType, Py<PyAny>); 3],
    int64: Py<PyAny>,
}

static DTYPES: PyOnceLock<DTypes> = PyOnceLock::new();

fn dtypes(py: Python<'_>) -> PyResult<&DTypes> {
    DTYPES.get_or_try_init(py, || {
        let torch = py.import("torch")?;
        let float = |dtype: DType| PyResult::Ok((dtype, torch.getattr(dtype.name())?.unbind()));
        let floats = [float(DType::F32)?, float(DType::BF16)?, float(DType::F16)?];
        Ok(DTypes { floats, int64: torch.getattr("int64")?.unbind() })
    })
}

/// A CPU tensor, contiguous, that outlives the call.
pub(super) struct Tensor<'a> {
    op: &'static str,
    name: &'static str,
    address: usize,
    rank: usize,
    dims: [usize; MAX_RANK],
    /// None: int64.
    dtype: Option<DType>,
    held: PhantomData<&'a ()>,
}

pub(super) fn unsupported(what: String) -> PyErr {
    PyError::from(Error::UnsupportedInput(what)).into()
}

impl<'a> Tensor<'a> {
    /// Reads what `value`, an argument of `op`, says of itself.
    pub(super) fn read(op: &'static str, name: &'static str, value: &'a Any<'_>) -> PyResult<Self> {
        let py = value.py();
        if !value.getattr(intern!(py, "is_cpu"))?.is_truthy()? {
            let device = value.getattr(intern!(py, "device"))?.str()?.to_string();
            let what = format!("{op}: `{name}` is on the device {device}; kernels run on CPU tensors only: use .cpu()");
            return Err(PyError::from(Error::Device(what)).into());
        }
        if !value.call_method0(intern!(py, "is_contiguous"))?.is_truthy()? {
            return Err(unsupported(format!("{op}: `{name}` must be contiguous; use .contiguous()")));
        }
        let known = dtypes(py)?;
        let dtype = value.getattr(intern!(py, "dtype"))?;
        let float = known.floats.iter().find(|(_, object)| dtype.is(object)).map(|(dtype, _)| *dtype);
        if float.is_none() && !dtype.is(&known.int64) {
            let kinds = "float32, bfloat16, float16 (targets: int64)";
            return Err(unsupported(format!("{op}: `{name}` must be {kinds}, got {}", dtype.str()?)));
        }
        let shape = value.getattr(intern!(py, "shape"))?.cast_into::<PyTuple>()?;
        let (rank, mut dims) = (shape.len(), [1; MAX_RANK]);
        if rank > MAX_RANK {
            return Err(unsupported(format!("{op}: `{name}` has {rank} dimensions, at most {MAX_RANK} are handled")));
        }
        for (i, dim) in dims.iter_mut().enumerate().take(rank) {
            *dim = shape.get_borrowed_item(i)?.extract()?;
        }
        let address = value.call_method0(intern!(py, "data_ptr"))?.extract()?;
        Ok(Self { op, name, address, rank, dims, dtype: float, held: PhantomData })
    }

    pub(super) fn optional(op: &'static str, name: &'static str, value: Option<&'a Any<'_>>) -> PyResult<Option<Self>> {
        value.map(|value| Self::read(op, name, value)).transpose()
    }

    /// Its dtype, which selects the kernel.
    pub(super) fn float(&self) -> CoreResult<DType> {
        self.dtype.ok_or_else(|| self.wrong("a floating point dtype"))
    }

    pub(super) fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    pub(super) fn dim(&self, i: usize) -> usize {
        self.dims[i]
    }

    pub(super) fn count(&self) -> usize {
        self.dims().iter().product()
    }

    fn last(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    fn rows(&self) -> usize {
        self.dims().split_last().map_or(1, |(_, outer)| outer.iter().product())
    }

    fn wrong(&self, want: &str) -> Error {
        let got = self.dtype.map_or("int64", DType::name);
        Error::UnsupportedInput(format!("{}: `{}` must have {want}, got {got}", self.op, self.name))
    }

    /// # Errors
    /// `Shape` when it has another number of dimensions.
    pub(super) fn expect_rank(&self, rank: usize) -> CoreResult<()> {
        if self.rank == rank {
            return Ok(());
        }
        let (op, name, got) = (self.op, self.name, self.rank);
        Err(Error::UnsupportedInput(format!("{op}: `{name}` must have {rank} dimensions, got {got}")))
    }

    fn check<T>(&self, dtype: Option<DType>) -> CoreResult<usize> {
        if self.dtype != dtype {
            return Err(self.wrong(dtype.map_or("dtype int64", |dtype| match dtype {
                DType::F32 => "dtype float32",
                DType::BF16 => "dtype bfloat16",
                DType::F16 => "dtype float16",
            })));
        }
        let count = self.count();
        if count > 0 && (self.address == 0 || !self.address.is_multiple_of(align_of::<T>())) {
            let (op, name) = (self.op, self.name);
            return Err(Error::UnsupportedInput(format!("{op}: `{name}` has no data, or data that is not aligned")));
        }
        Ok(count)
    }

    pub(super) fn slice<T: Element>(&self) -> CoreResult<&'a [T]> {
        match self.check::<T>(Some(T::DTYPE))? {
            0 => Ok(&[]),
            // SAFETY: torch says that `count` contiguous elements of this dtype, any bits of which are a value, begin
            // here; the caller holds the tensor for 'a, and `apart` has kept it from what the op writes.
            count => Ok(unsafe { std::slice::from_raw_parts(self.address as *const T, count) }),
        }
    }

    pub(super) fn slice_mut<T: Element>(&mut self) -> CoreResult<&'a mut [T]> {
        let bytes = self.bytes();
        memory::before_overwriting(bytes.start, bytes.len());
        match self.check::<T>(Some(T::DTYPE))? {
            0 => Ok(&mut []),
            // SAFETY: as in `slice`; `apart` has kept what is written from everything else of the call.
            count => Ok(unsafe { std::slice::from_raw_parts_mut(self.address as *mut T, count) }),
        }
    }

    fn expect_pairs(&self) -> CoreResult<()> {
        if self.count().is_multiple_of(2) {
            return Ok(());
        }
        let (op, name, got) = (self.op, self.name, self.count());
        Err(Error::UnsupportedInput(format!("{op}: `{name}` must hold pairs, got {got} numbers")))
    }

    /// Two numbers of each row.
    pub(super) fn pairs<P: Pod>(&self) -> CoreResult<&'a [P]> {
        self.expect_pairs()?;
        Ok(bytemuck::cast_slice(self.slice::<f32>()?))
    }

    pub(super) fn pairs_mut<P: Pod>(&mut self) -> CoreResult<&'a mut [P]> {
        self.expect_pairs()?;
        Ok(bytemuck::cast_slice_mut(self.slice_mut::<f32>()?))
    }

    /// The two halves: numbers of all rows, then others of all rows.
    pub(super) fn halves(&self) -> CoreResult<(&'a [f32], &'a [f32])> {
        self.expect_pairs()?;
        Ok(self.slice()?.split_at(self.count() / 2))
    }

    pub(super) fn halves_mut(&mut self) -> CoreResult<(&'a mut [f32], &'a mut [f32])> {
        self.expect_pairs()?;
        let half = self.count() / 2;
        Ok(self.slice_mut()?.split_at_mut(half))
    }

    /// Targets.
    pub(super) fn ids(&self) -> CoreResult<&'a [i64]> {
        match self.check::<i64>(None)? {
            0 => Ok(&[]),
            // SAFETY: as in `slice`, with int64.
            count => Ok(unsafe { std::slice::from_raw_parts(self.address as *const i64, count) }),
        }
    }

    /// As rows of its last dimension.
    pub(super) fn view<T: Element>(&self) -> CoreResult<View<'a, T>> {
        View::new(self.slice()?, &[self.rows(), self.last()])
    }

    pub(super) fn view_mut<T: Element>(&mut self) -> CoreResult<ViewMut<'a, T>> {
        let dims = [self.rows(), self.last()];
        ViewMut::new(self.slice_mut()?, &dims)
    }

    /// As one row: weights and sums.
    pub(super) fn row<T: Element>(&self) -> CoreResult<View<'a, T>> {
        View::new(self.slice()?, &[self.count()])
    }

    /// As one row of sums, 0 for a start.
    pub(super) fn sums_mut(&mut self) -> CoreResult<ViewMut<'a, f32>> {
        let (dims, data) = ([self.count()], self.slice_mut()?);
        parallel::zero(data);
        ViewMut::new(data, &dims)
    }

    fn bytes(&self) -> std::ops::Range<usize> {
        let size = self.dtype.map_or(8, DType::size);
        self.address..self.address + self.count() * size
    }

    fn meets(&self, other: &Self) -> bool {
        let (a, b) = (self.bytes(), other.bytes());
        a.start < b.end && b.start < a.end
    }
}

/// Nothing that is written shares memory with anything else of the call.
///
/// # Errors
/// `UnsupportedInput` naming the two.
pub(super) fn apart<'t>(written: &[&Tensor<'t>], read: &[Option<&Tensor<'t>>]) -> CoreResult<()> {
    for (i, out) in written.iter().enumerate() {
        let others = written[i + 1..].iter().copied().chain(read.iter().copied().flatten());
        for other in others {
            if out.meets(other) {
                let what = format!("{}: `{}` and `{}` share memory", out.op, out.name, other.name);
                return Err(Error::UnsupportedInput(what));
            }
        }
    }
    Ok(())
}

/// Runs `$body` with `$t` the element type of the tensor.
macro_rules! typed {
    ($tensor:expr, $t:ident => $body:block) => {
        match $tensor.float().map_err($crate::py::error::PyError::from)? {
            $crate::dtype::DType::F32 => typed!(@ f32, $t, $body),
            $crate::dtype::DType::F16 => typed!(@ $crate::dtype::f16, $t, $body),
            $crate::dtype::DType::BF16 => typed!(@ $crate::dtype::bf16, $t, $body),
        }
    };
    (@ $element:ty, $t:ident, $body:block) => {{
        type $t = $element;
        $body
    }};
}

pub(super) use typed;
