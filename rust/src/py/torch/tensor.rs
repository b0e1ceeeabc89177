//! A torch tensor as a typed slice: where it is, what it holds, and that it is what the op can take.

use std::marker::PhantomData;

use bytemuck::Pod;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyTuple;

use super::dlpack;
use crate::cpu::parallel;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result as CoreResult};
use crate::memory;
use crate::ops::attention::{Grid, Operand, Place};
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

/// A CPU tensor that outlives the call; contiguous, unless it has been read as `strided`.
pub(super) struct Tensor<'a> {
    op: &'static str,
    name: &'static str,
    address: usize,
    rank: usize,
    dims: [usize; MAX_RANK],
    strides: [usize; MAX_RANK],
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
        let tensor = Self::strided(op, name, value)?;
        if !tensor.is_contiguous() {
            return Err(unsupported(format!("{op}: `{name}` must be contiguous; use .contiguous()")));
        }
        Ok(tensor)
    }

    /// The same with any strides.
    pub(super) fn strided(op: &'static str, name: &'static str, value: &'a Any<'_>) -> PyResult<Self> {
        let Some(said) = dlpack::describe(value)? else { return Self::from_attributes(op, name, value) };
        let rank = said.ndim as usize;
        let dtype = match (said.code, said.bits, said.lanes) {
            (dlpack::FLOAT, 32, 1) => Some(DType::F32),
            (dlpack::BFLOAT, 16, 1) => Some(DType::BF16),
            (dlpack::FLOAT, 16, 1) => Some(DType::F16),
            (dlpack::INT, 64, 1) => None,
            _ => return Self::from_attributes(op, name, value),
        };
        let (mut dims, mut strides) = ([1; MAX_RANK], [1; MAX_RANK]);
        if said.device_type != dlpack::CPU || rank > MAX_RANK {
            return Self::from_attributes(op, name, value);
        }
        // SAFETY: torch has set `ndim` extents, which live as long as the tensor, and the caller holds that.
        let sized = unsafe { dlpack::each(said.shape, rank, &mut dims) };
        // SAFETY: so it has strides.
        let spaced = unsafe { dlpack::each(said.strides, rank, &mut strides) };
        if !sized || !spaced {
            return Self::from_attributes(op, name, value);
        }
        let address = (said.data.addr()).wrapping_add(said.byte_offset as usize);
        Ok(Self { op, name, address, rank, dims, strides, dtype, held: PhantomData })
    }

    /// One question after another: an older torch, another class of tensor, or a tensor that is refused.
    fn from_attributes(op: &'static str, name: &'static str, value: &'a Any<'_>) -> PyResult<Self> {
        let py = value.py();
        if !value.getattr(intern!(py, "is_cpu"))?.is_truthy()? {
            let device = value.getattr(intern!(py, "device"))?.str()?.to_string();
            let what = format!("{op}: `{name}` is on the device {device}; kernels run on CPU tensors only: use .cpu()");
            return Err(PyError::from(Error::Device(what)).into());
        }
        let known = dtypes(py)?;
        let dtype = value.getattr(intern!(py, "dtype"))?;
        let float = known.floats.iter().find(|(_, object)| dtype.is(object)).map(|(dtype, _)| *dtype);
        if float.is_none() && !dtype.is(&known.int64) {
            let kinds = "float32, bfloat16, float16 (targets: int64)";
            return Err(unsupported(format!("{op}: `{name}` must be {kinds}, got {}", dtype.str()?)));
        }
        let shape = value.getattr(intern!(py, "shape"))?.cast_into::<PyTuple>()?;
        let stride = value.call_method0(intern!(py, "stride"))?.cast_into::<PyTuple>()?;
        let (rank, mut dims, mut strides) = (shape.len(), [1; MAX_RANK], [1; MAX_RANK]);
        if rank > MAX_RANK {
            return Err(unsupported(format!("{op}: `{name}` has {rank} dimensions, at most {MAX_RANK} are handled")));
        }
        for i in 0..rank {
            dims[i] = shape.get_borrowed_item(i)?.extract()?;
            strides[i] = stride.get_borrowed_item(i)?.extract()?;
        }
        let address = value.call_method0(intern!(py, "data_ptr"))?.extract()?;
        Ok(Self { op, name, address, rank, dims, strides, dtype: float, held: PhantomData })
    }

    /// As torch sees it: strides of one place do not matter.
    fn is_contiguous(&self) -> bool {
        let mut step = 1;
        let all = self.dims().iter().zip(&self.strides).rev().all(|(dim, stride)| {
            let fits = *dim == 1 || *stride == step;
            step *= dim;
            fits
        });
        all || self.count() == 0
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

    pub(super) fn rows(&self) -> usize {
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

    /// Elements from the first to the last.
    fn span(&self) -> usize {
        if self.count() == 0 {
            return 0;
        }
        self.dims().iter().zip(&self.strides).map(|(dim, stride)| (dim - 1) * stride).sum::<usize>() + 1
    }

    /// Where heads stand in (B, T, A, d), or (B, A, T, d) when heads are the second dimension.
    pub(super) fn grid(&self, heads_first: bool) -> CoreResult<Grid> {
        self.expect_rank(4)?;
        let (dims, strides) = (&self.dims, &self.strides);
        if strides[3] != 1 && dims[3] > 1 && self.count() > 0 {
            let (op, name, got) = (self.op, self.name, strides[3]);
            let what = format!("{op}: the last dimension of `{name}` must be contiguous, its stride is {got}");
            return Err(Error::UnsupportedInput(what));
        }
        let (t, a) = if heads_first { (2, 1) } else { (1, 2) };
        Ok(Grid {
            batch: dims[0],
            time: dims[t],
            count: dims[a],
            dim: dims[3],
            sequence: strides[0],
            token: strides[t],
            head: strides[a],
        })
    }

    /// Heads to read.
    pub(super) fn operand<T: Element>(&self, heads_first: bool) -> CoreResult<Operand<'a, T>> {
        let grid = self.grid(heads_first)?;
        Operand::new(self.elements()?, grid).ok_or_else(|| self.wrong("strides that stay inside it"))
    }

    /// Heads to write.
    pub(super) fn place<T: Element>(&mut self, heads_first: bool) -> CoreResult<Place<'a, T>> {
        let grid = self.grid(heads_first)?;
        Place::new(self.elements_mut()?, grid).ok_or_else(|| self.wrong("strides that keep its elements apart"))
    }

    fn check<T>(&self, dtype: Option<DType>) -> CoreResult<usize> {
        if self.dtype != dtype {
            return Err(self.wrong(dtype.map_or("dtype int64", |dtype| match dtype {
                DType::F32 => "dtype float32",
                DType::BF16 => "dtype bfloat16",
                DType::F16 => "dtype float16",
            })));
        }
        let count = self.span();
        if count > 0 && (self.address == 0 || !self.address.is_multiple_of(align_of::<T>())) {
            let (op, name) = (self.op, self.name);
            return Err(Error::UnsupportedInput(format!("{op}: `{name}` has no data, or data that is not aligned")));
        }
        Ok(count)
    }

    pub(super) fn slice<T: Element>(&self) -> CoreResult<&'a [T]> {
        self.elements()
    }

    pub(super) fn slice_mut<T: Element>(&mut self) -> CoreResult<&'a mut [T]> {
        self.elements_mut()
    }

    /// From the first to the last; with strides, some between them may be of other tensors.
    fn elements<T: Element>(&self) -> CoreResult<&'a [T]> {
        match self.check::<T>(Some(T::DTYPE))? {
            0 => Ok(&[]),
            // SAFETY: torch says that elements of this dtype, any bits of which are a value, stand from here to
            // `count` further; the caller holds the tensor for 'a, and `apart` has kept it from what the op writes.
            count => Ok(unsafe { std::slice::from_raw_parts(self.address as *const T, count) }),
        }
    }

    fn elements_mut<T: Element>(&mut self) -> CoreResult<&'a mut [T]> {
        let bytes = self.bytes();
        memory::before_overwriting(bytes.start, bytes.len());
        match self.check::<T>(Some(T::DTYPE))? {
            0 => Ok(&mut []),
            // SAFETY: as in `elements`; `apart` has kept what is written from everything else of the call.
            count => Ok(unsafe { std::slice::from_raw_parts_mut(self.address as *mut T, count) }),
        }
    }

    pub(super) fn expect_pairs(&self) -> CoreResult<()> {
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
            // SAFETY: as in `elements`, with int64.
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
        let mut sums = self.row_mut()?;
        parallel::zero(sums.data());
        Ok(sums)
    }

    /// As one row, to be overwritten.
    pub(super) fn row_mut(&mut self) -> CoreResult<ViewMut<'a, f32>> {
        let dims = [self.count()];
        ViewMut::new(self.slice_mut()?, &dims)
    }

    fn bytes(&self) -> std::ops::Range<usize> {
        let size = self.dtype.map_or(8, DType::size);
        self.address..self.address + self.span() * size
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
