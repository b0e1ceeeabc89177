//! Products of matrices by cuBLASLt, in row-major order.
//!
//! cuBLASLt counts by columns: a matrix of ours is its transpose, so it is asked for outᵀ = bᵀ·aᵀ. Sums are f32, in an
//! order that shape, dtypes and alignment decide together with device and library: an algorithm that cuts the sum in
//! pieces (split-K) may only keep them apart in the workspace and add them in order, and each call has its own workspace.

use std::collections::HashMap;
use std::ffi::c_int;
use std::sync::{Arc, Mutex, PoisonError};

use super::blas::{self, Calls, Description, Found, Handle, Status};
use super::memory::{Place, View, ViewMut};
use super::stream::Stream;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};

/// What an algorithm may ask for. NVIDIA's own advice for Hopper.
const MOST_WORKSPACE: usize = 32 << 20;

/// A matrix in rows, read as it stands or transposed.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a, T> {
    data: View<'a, T>,
    rows: usize,
    cols: usize,
    transposed: bool,
}

impl<'a, T> Mat<'a, T> {
    /// A tensor with its last extent as columns.
    pub(crate) fn new(data: View<'a, T>) -> Self {
        let shape = data.shape();
        Self { data, rows: shape.rows(), cols: shape.last(), transposed: false }
    }

    pub(crate) fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
    }

    /// Its rows and columns in memory.
    fn stored(&self) -> [usize; 2] {
        if self.transposed { [self.cols, self.rows] } else { [self.rows, self.cols] }
    }
}

/// What an algorithm is chosen for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Problem {
    /// As a and b stand in memory, and out: rows, columns.
    extents: [[usize; 2]; 3],
    transposed: [bool; 2],
    /// Of a and b, and of out.
    dtypes: [DType; 2],
    bias: bool,
    /// Bytes that divide the addresses of a, b and out; the library asks about no more than 256.
    alignments: [u32; 3],
}

/// cuBLASLt on one device.
pub(super) struct Blas {
    calls: &'static Calls,
    handle: Handle,
    chosen: Mutex<HashMap<Problem, Found>>,
}

// SAFETY: the handle may be used from any thread (cuBLAS library, "thread safety"); what changes is behind a mutex.
unsafe impl Send for Blas {}
// SAFETY: as above.
unsafe impl Sync for Blas {}

/// out (M, N) = a (M, K)·b (K, N)·scale + bias (N).
pub(crate) fn multiply<T: Element, D: Element>(
    on: &Arc<Stream>,
    out: ViewMut<D>,
    a: Mat<T>,
    b: Mat<T>,
    bias: Option<View<D>>,
    scale: f32,
) -> Result<()> {
    product(on, out, a, b, bias, [scale, 0.0])
}

/// out (M, N) += a (M, K)·b (K, N)·scale.
pub(crate) fn multiply_add<T: Element, D: Element>(
    on: &Arc<Stream>,
    out: ViewMut<D>,
    a: Mat<T>,
    b: Mat<T>,
    scale: f32,
) -> Result<()> {
    product(on, out, a, b, None, [scale, 1.0])
}

/// `scales` of the product and of what out was before.
fn product<T: Element, D: Element>(
    on: &Arc<Stream>,
    out: ViewMut<D>,
    a: Mat<T>,
    b: Mat<T>,
    bias: Option<View<D>>,
    scales: [f32; 2],
) -> Result<()> {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    let during = || format!("multiplying {m} x {k} by {k} x {n} in {} on {}", T::DTYPE.name(), on.device());
    let fits = k == b.rows && [m, n] == [out.shape().rows(), out.shape().last()];
    if !fits || bias.is_some_and(|bias| bias.shape().count() != n) {
        return Err(Error::Internal(format!("{}: {} rows of b, {:?} of out", during(), b.rows, out.shape())));
    }
    if m == 0 || n == 0 || (k == 0 && scales[1] == 1.0) {
        return Ok(());
    }
    let places = [a.data.place, b.data.place, out.place];
    let bias = bias.map(|bias| bias.place);
    on.expect_own(during, places.into_iter().chain(bias).enumerate())?;
    let problem = Problem {
        extents: [a.stored(), b.stored(), [m, n]],
        transposed: [a.transposed, b.transposed],
        dtypes: [T::DTYPE, D::DTYPE],
        bias: bias.is_some(),
        alignments: places.map(|place| 1 << place.address.trailing_zeros().min(8)),
    };
    let blas = on.device.blas()?;
    let described = Described::new(blas.calls, &problem, bias).map_err(|answer| blas::error(answer, during()))?;
    let found = blas.choose(&problem, &described).map_err(|answer| blas::error(answer, during()))?;
    // SAFETY: the tensors have the extents that `problem` tells; they are all of this stream.
    unsafe { blas.launch(on, &described, &found, places, scales, during) }
}

impl Blas {
    /// On the device whose context is current.
    pub(super) fn new() -> Result<Self> {
        let (calls, mut handle) = (blas::calls()?, std::ptr::null_mut());
        // SAFETY: the place for the answer is valid; the handle is never destroyed.
        blas::call(unsafe { (calls.create)(&raw mut handle) }, || "starting cuBLASLt".into())?;
        Ok(Self { calls, handle, chosen: Mutex::default() })
    }

    /// The algorithm that the library thinks fastest, asked for once.
    fn choose(&self, problem: &Problem, described: &Described) -> Result<Found, Status> {
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = chosen.get(problem) {
            return Ok(*found);
        }
        let preference = preference(self.calls, problem)?;
        let (mut found, mut count) = (Found::default(), 0);
        let Described { product, a, b, out } = described;
        // SAFETY: handle and descriptions live; there is room for the one answer that is asked for.
        check(unsafe {
            let (found, count) = (&raw mut found, &raw mut count);
            let (a, b, out) = (a.it, b.it, out.it);
            (self.calls.heuristic)(self.handle, product.it, b, a, out, out, preference.it, 1, found, count)
        })?;
        check(if count == 1 { found.state } else { blas::NOT_SUPPORTED })?;
        chosen.insert(*problem, found);
        Ok(found)
    }

    /// # Safety
    /// The tensors (a, b, out) are what the descriptions say, and of this stream.
    unsafe fn launch(
        &self,
        on: &Arc<Stream>,
        described: &Described,
        found: &Found,
        places: [Place; 3],
        [scale, of_old]: [f32; 2],
        during: impl Fn() -> String,
    ) -> Result<()> {
        let workspace = on.alloc::<u8>(found.workspace)?;
        let ([a, b, out], handle) = (places.map(|place| place.address), self.handle);
        let Described { product, a: of_a, b: of_b, out: of_out } = described;
        on.device.bind()?;
        // SAFETY: handle, descriptions and stream live; the tensors are the caller's promise; the scales are read
        // before the call returns; the workspace is freed in the order of the stream.
        let answer = unsafe {
            let (scale, of_old, algorithm) = (&raw const scale, &raw const of_old, &raw const found.algorithm);
            let (a, b, out) = ((a, of_a.it), (b, of_b.it), (out, of_out.it));
            let workspace = (workspace.address, found.workspace);
            (self.calls.matmul)(
                handle,
                product.it,
                scale,
                b.0,
                b.1,
                a.0,
                a.1,
                of_old,
                out.0,
                out.1,
                out.0,
                out.1,
                algorithm,
                workspace.0,
                workspace.1,
                on.handle,
            )
        };
        blas::call(answer, during)
    }
}

// SAFETY: called with what the library has made, once.
type Destroy = unsafe extern "C" fn(Description) -> Status;

/// One description of the library's, destroyed with this.
struct Handled {
    it: Description,
    destroy: Destroy,
}

impl Handled {
    fn new(destroy: Destroy, create: impl FnOnce(*mut Description) -> Status) -> Result<Self, Status> {
        let mut it = std::ptr::null_mut();
        check(create(&raw mut it))?;
        Ok(Self { it, destroy })
    }
}

impl Drop for Handled {
    fn drop(&mut self) {
        // SAFETY: made by the library, and nobody else has it any more. It has no error to tell.
        unsafe { (self.destroy)(self.it) };
    }
}

/// What a product is, in the order of rows.
struct Described {
    product: Handled,
    a: Handled,
    b: Handled,
    out: Handled,
}

impl Described {
    fn new(calls: &Calls, problem: &Problem, bias: Option<Place>) -> Result<Self, Status> {
        let [a, b, out] = problem.extents;
        let [from, to] = problem.dtypes.map(number);
        // SAFETY: the place for the answer is valid.
        let create = |it| unsafe { (calls.desc_create)(it, blas::COMPUTE_32F, blas::R_32F) };
        let product = Handled::new(calls.desc_destroy, create)?;
        let set = |which, value: &[u8]| {
            // SAFETY: the description lives, the value has the length that is told.
            check(unsafe { (calls.desc_set)(product.it, which, value.as_ptr().cast(), value.len()) })
        };
        let [of_a, of_b] = problem.transposed.map(|yes| c_int::from(yes).to_ne_bytes());
        set(blas::TRANSA, &of_b)?;
        set(blas::TRANSB, &of_a)?;
        if let Some(bias) = bias {
            set(blas::EPILOGUE, &blas::EPILOGUE_BIAS.to_ne_bytes())?;
            set(blas::BIAS_POINTER, &bias.address.to_ne_bytes())?;
        }
        Ok(Self { product, a: layout(calls, from, a)?, b: layout(calls, from, b)?, out: layout(calls, to, out)? })
    }
}

/// Rows of ours are the library's columns.
fn layout(calls: &Calls, dtype: c_int, [rows, cols]: [usize; 2]) -> Result<Handled, Status> {
    // SAFETY: the place for the answer is valid.
    Handled::new(calls.layout_destroy, |it| unsafe {
        (calls.layout_create)(it, dtype, cols as u64, rows as u64, cols as i64)
    })
}

fn preference(calls: &Calls, problem: &Problem) -> Result<Handled, Status> {
    // SAFETY: the place for the answer is valid.
    let preference = Handled::new(calls.preference_destroy, |it| unsafe { (calls.preference_create)(it) })?;
    let set = |which, value: &[u8]| {
        // SAFETY: the preference lives, the value has the length that is told.
        check(unsafe { (calls.preference_set)(preference.it, which, value.as_ptr().cast(), value.len()) })
    };
    set(blas::MAX_WORKSPACE_BYTES, &MOST_WORKSPACE.to_ne_bytes())?;
    set(blas::REDUCTION_SCHEME_MASK, &blas::REDUCTION_COMPUTE_TYPE.to_ne_bytes())?;
    let [a, b, out] = problem.alignments;
    for (which, alignment) in blas::MIN_ALIGNMENT_BYTES.into_iter().zip([b, a, out, out]) {
        set(which, &alignment.to_ne_bytes())?;
    }
    Ok(preference)
}

fn check(answer: Status) -> Result<(), Status> {
    if answer == blas::SUCCESS { Ok(()) } else { Err(answer) }
}

fn number(dtype: DType) -> c_int {
    match dtype {
        DType::F32 => blas::R_32F,
        DType::F16 => blas::R_16F,
        DType::BF16 => blas::R_16BF,
    }
}
