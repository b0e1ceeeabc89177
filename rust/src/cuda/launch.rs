//! Launching a kernel: its grid, and its arguments compared with the parameters that the compiler saw.

use bytemuck::Pod;

use super::driver::{call, sys};
use super::images;
use super::memory::{Place, View, ViewMut};
use super::stream::Stream;
use crate::error::{Error, Result};

/// Threads of a block where the kernel takes any.
pub(super) const THREADS: usize = 256;

/// Threads of a block that shares a row, at most (`__launch_bounds__` of the norms and of column_sums).
const ROW_THREADS: usize = 512;

/// What is launched, and of what shape, for errors.
pub(super) struct Launch<'a> {
    pub(super) kernel: &'a str,
    /// Of the tensor that the op is named for.
    pub(super) dims: &'a [usize],
    pub(super) grid: [usize; 2],
    pub(super) block: [usize; 2],
}

/// One argument.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arg {
    Memory(Option<Place>),
    Size(usize),
    I32(i32),
    U32(u32),
    F32(f32),
    F64(f64),
    /// By value: its bytes, and how many there are.
    Struct([u64; WORDS], usize),
}

/// Of the largest argument, in 8 bytes.
const WORDS: usize = 28;

impl Arg {
    /// A struct as it stands in memory, which is at most as large as the kernels'.
    pub(super) fn of_struct<S: Pod>(value: &S) -> Self {
        const { assert!(size_of::<S>() <= 8 * WORDS) };
        let mut words = [0; WORDS];
        bytemuck::cast_slice_mut(&mut words)[..size_of::<S>()].copy_from_slice(bytemuck::bytes_of(value));
        Self::Struct(words, size_of::<S>())
    }

    /// As the compiler's list of parameters has it.
    fn letter(self) -> String {
        match self {
            Self::Memory(_) | Self::Size(_) => "8".into(),
            Self::I32(_) | Self::U32(_) => "4".into(),
            Self::F32(_) => "f".into(),
            Self::F64(_) => "d".into(),
            Self::Struct(_, bytes) => format!("s{bytes}"),
        }
    }

    /// Little-endian, as on every machine that has these devices: the first bytes are the value's.
    fn words(self) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        words[0] = match self {
            Self::Memory(place) => place.map_or(0, |place| place.address),
            Self::Size(n) => n as u64,
            Self::I32(n) => u64::from(n as u32),
            Self::U32(n) => u64::from(n),
            Self::F32(x) => u64::from(x.to_bits()),
            Self::F64(x) => x.to_bits(),
            Self::Struct(words, _) => return words,
        };
        words
    }
}

macro_rules! arg_from {
    ($($t:ty => $variant:ident),*) => { $(impl From<$t> for Arg {
        fn from(value: $t) -> Self {
            Self::$variant(value)
        }
    })* };
}
arg_from!(usize => Size, i32 => I32, u32 => U32, f32 => F32, f64 => F64);

impl<T> From<View<'_, T>> for Arg {
    fn from(view: View<'_, T>) -> Self {
        Self::Memory(Some(view.place))
    }
}

impl<T> From<ViewMut<'_, T>> for Arg {
    fn from(view: ViewMut<'_, T>) -> Self {
        Self::Memory(Some(view.place))
    }
}

/// A null pointer for what is left out.
impl<T> From<Option<View<'_, T>>> for Arg {
    fn from(view: Option<View<'_, T>>) -> Self {
        Self::Memory(view.map(|view| view.place))
    }
}

impl<T> From<Option<ViewMut<'_, T>>> for Arg {
    fn from(view: Option<ViewMut<'_, T>>) -> Self {
        Self::Memory(view.map(|view| view.place))
    }
}

/// `args![y, x, eps, n]`
macro_rules! args {
    ($($value:expr),* $(,)?) => { &[$($crate::cuda::launch::Arg::from($value)),*] };
}
pub(super) use args;

/// Blocks that share `n` elements, `each` of them a thread at a time; more than the device runs at once gain nothing.
/// For kernels whose result does not depend on it.
pub(super) fn blocks(on: &Stream, n: usize, each: usize) -> usize {
    n.div_ceil(THREADS * each).clamp(1, 32 * on.device.properties.multiprocessors)
}

/// Blocks that share rows, a row a block at a time. For kernels whose result does not depend on it.
pub(super) fn row_blocks(on: &Stream, rows: usize) -> usize {
    rows.min(32 * on.device.properties.multiprocessors)
}

/// Threads that share a row of d elements of type T: whole warps, a vector of 16 bytes each.
pub(super) fn row_threads<T>(d: usize) -> usize {
    d.div_ceil(16 / size_of::<T>()).next_multiple_of(32).clamp(32, ROW_THREADS)
}

/// (rows, threads) of a block of a kernel of attention.
pub(super) fn tiles(kernel: &str) -> Result<[usize; 2]> {
    match images::kernel(kernel)?.tiles {
        Some([rows, threads, _]) => Ok([rows, threads]),
        None => Err(Error::Internal(format!("{kernel} has no tiles"))),
    }
}

impl Stream {
    /// Puts a kernel into the stream; nothing when the grid is empty.
    ///
    /// # Errors
    /// `Device`: tensors of several devices, or what the driver refuses. `Internal`: arguments that are not those of
    /// the kernel.
    ///
    /// # Safety
    /// The arguments mean what the kernel's file says, and their memory is as large.
    pub(super) unsafe fn launch(&self, what: &Launch<'_>, args: &[Arg]) -> Result<()> {
        if what.grid.contains(&0) {
            return Ok(());
        }
        let function = self.device.function(what.kernel)?;
        let letters: String = args.iter().map(|arg| arg.letter()).collect();
        if letters != function.parameters {
            let wanted = function.parameters;
            return Err(Error::Internal(format!("{} takes arguments {wanted}, got {letters}", what.kernel)));
        }
        let memory = args.iter().enumerate().filter_map(|(number, arg)| match arg {
            Arg::Memory(place) => place.map(|place| (number, place)),
            _ => None,
        });
        self.expect_own(|| self.describe(what), memory)?;
        let [x, y] = what.grid.map(u32::try_from);
        let (Ok(x), Ok(y)) = (x, y) else {
            return Err(Error::Device(format!("{}: too large for a grid", self.describe(what))));
        };
        let [across, down] = what.block.map(|threads| threads as u32);
        let mut values: Vec<_> = args.iter().map(|arg| arg.words()).collect();
        let mut pointers: Vec<_> = values.iter_mut().map(|words| words.as_mut_ptr().cast()).collect();
        self.device.bind()?;
        // SAFETY: function and stream live; there is a pointer for each parameter, to as many bytes, which the driver
        // copies; what they mean is the caller's promise.
        let answer = unsafe {
            let (params, none) = (pointers.as_mut_ptr(), std::ptr::null_mut());
            let shared = function.shared;
            sys::cuLaunchKernel(function.handle, x, y, 1, across, down, 1, shared, self.handle, params, none)
        };
        call(answer, || self.describe(what))
    }

    fn describe(&self, what: &Launch<'_>) -> String {
        let Launch { kernel, dims, grid, block } = what;
        format!("launching {kernel} of shape {dims:?} on {}, grid {grid:?}, block {block:?}", self.device)
    }

    /// All memory (number of the argument, place) belongs to this stream: else kernels would not wait for each other.
    pub(super) fn expect_own(
        &self,
        during: impl Fn() -> String,
        memory: impl Iterator<Item = (usize, Place)>,
    ) -> Result<()> {
        for (number, place) in memory {
            if place.ordinal != self.device.ordinal {
                let where_ = format!("argument {number} lies on cuda:{}", place.ordinal);
                return Err(Error::Device(format!("{}: {where_}; copy it there first", during())));
            }
            if place.stream != self.handle.addr() {
                return Err(Error::Internal(format!("{}: argument {number} belongs to another stream", during())));
            }
        }
        Ok(())
    }
}
