//! cuBLASLt: the library, loaded when a product is first asked for, the calls that are in use, and its errors in words.
//!
//! Not by `cudarc`, whose loader cannot be told a folder. Numbers and signatures are those of cublasLt.h, the same in
//! versions 12 and 13.

use std::ffi::{c_int, c_void};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use libloading::Library;

use super::driver;
use crate::error::{Error, Result};

pub(super) type Handle = *mut c_void;
/// Of a product, of a matrix, or of what is wished for.
pub(super) type Description = *mut c_void;
pub(super) type Status = c_int;

pub(super) const SUCCESS: Status = 0;
const ALLOC_FAILED: Status = 3;
pub(super) const NOT_SUPPORTED: Status = 15;

/// `CUBLAS_COMPUTE_32F`: sums in f32, and f32 is not shortened to TF32.
pub(super) const COMPUTE_32F: c_int = 68;
/// `cudaDataType`
pub(super) const R_32F: c_int = 0;
pub(super) const R_16F: c_int = 2;
pub(super) const R_16BF: c_int = 14;

/// `cublasLtMatmulDescAttributes_t`
pub(super) const TRANSA: c_int = 3;
pub(super) const TRANSB: c_int = 4;
pub(super) const EPILOGUE: c_int = 7;
pub(super) const BIAS_POINTER: c_int = 8;
/// `CUBLASLT_EPILOGUE_BIAS`
pub(super) const EPILOGUE_BIAS: u32 = 4;

/// `cublasLtMatmulPreferenceAttributes_t`
pub(super) const MAX_WORKSPACE_BYTES: c_int = 1;
pub(super) const REDUCTION_SCHEME_MASK: c_int = 3;
pub(super) const MIN_ALIGNMENT_BYTES: [c_int; 4] = [5, 6, 7, 8];
/// `CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE`
pub(super) const REDUCTION_COMPUTE_TYPE: u32 = 2;

/// `cublasLtMatmulAlgo_t`: opaque.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Algorithm([u64; 8]);

/// `cublasLtMatmulHeuristicResult_t`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    pub(super) algorithm: Algorithm,
    pub(super) workspace: usize,
    pub(super) state: Status,
    waves: f32,
    reserved: [c_int; 4],
}

macro_rules! calls {
    ($($name:ident: $symbol:literal ($($arg:ty),*);)*) => {
        /// The calls of the library; its functions live until the process ends.
        pub(super) struct Calls {
            // SAFETY: of each call, what cublasLt.h asks of it.
            $(pub(super) $name: unsafe extern "C" fn($($arg),*) -> Status,)*
        }

        impl Calls {
            fn of(library: &'static Library) -> Result<Self, String> {
                Ok(Self { $(
                    // SAFETY: the signature is that of cublasLt.h.
                    $name: *unsafe { library.get($symbol) }.map_err(|error| error.to_string())?,
                )* })
            }
        }
    };
}

calls! {
    create: b"cublasLtCreate" (*mut Handle);
    desc_create: b"cublasLtMatmulDescCreate" (*mut Description, c_int, c_int);
    desc_set: b"cublasLtMatmulDescSetAttribute" (Description, c_int, *const c_void, usize);
    desc_destroy: b"cublasLtMatmulDescDestroy" (Description);
    layout_create: b"cublasLtMatrixLayoutCreate" (*mut Description, c_int, u64, u64, i64);
    layout_destroy: b"cublasLtMatrixLayoutDestroy" (Description);
    preference_create: b"cublasLtMatmulPreferenceCreate" (*mut Description);
    preference_set: b"cublasLtMatmulPreferenceSetAttribute" (Description, c_int, *const c_void, usize);
    preference_destroy: b"cublasLtMatmulPreferenceDestroy" (Description);
    heuristic: b"cublasLtMatmulAlgoGetHeuristic" (Handle, Description, Description, Description, Description,
        Description, Description, c_int, *mut Found, *mut c_int);
    matmul: b"cublasLtMatmul" (Handle, Description, *const f32, u64, Description, u64, Description, *const f32, u64,
        Description, u64, Description, *const Algorithm, u64, usize, *mut driver::sys::CUstream_st);
}

static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Where Python's packages lie, NVIDIA's `nvidia-cublas` perhaps among them.
pub fn look_in(folders: Vec<PathBuf>) {
    *FOLDERS.lock().unwrap_or_else(PoisonError::into_inner) = folders;
}

/// The library, loaded once in a process.
///
/// # Errors
/// `Device`: there is none that the driver can work with.
pub(super) fn calls() -> Result<&'static Calls> {
    static CALLS: OnceLock<Result<Calls, String>> = OnceLock::new();
    let driver = driver::version()? / 1000;
    CALLS.get_or_init(|| load(driver)).as_ref().map_err(|why| Error::Device(why.clone()))
}

/// Versions that have these calls, as files and as pip has them, the newest first.
const VERSIONS: [(i32, &str, &str, &str); 2] = [
    (13, "libcublasLt.so.13", "nvidia/cu13/lib", "nvidia-cublas"),
    (12, "libcublasLt.so.12", "nvidia/cublas/lib", "nvidia-cublas-cu12"),
];

/// What the process holds already (torch's) or the system has, then pip's. None is newer than the driver's CUDA.
fn load(driver: i32) -> Result<Calls, String> {
    let fit: Vec<_> = VERSIONS.into_iter().filter(|version| version.0 <= driver).collect();
    let folders = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let of_pip = fit.iter().flat_map(|(_, file, place, _)| folders.iter().map(move |f| f.join(place).join(file)));
    let candidates = fit.iter().map(|(_, file, ..)| PathBuf::from(file)).chain(of_pip.filter(|path| path.is_file()));
    let mut failed = String::new();
    for path in candidates {
        // SAFETY: loading runs the initialisers of NVIDIA's library, which is what it is there for.
        match unsafe { Library::new(&path) } {
            Ok(library) => return Calls::of(Box::leak(Box::new(library))),
            Err(error) if path.is_absolute() => failed += &format!("; {error}"),
            Err(_) => {}
        }
    }
    let files: Vec<_> = fit.iter().map(|(_, file, ..)| *file).collect();
    let package = fit.first().map_or("nvidia-cublas-cu12", |(.., package)| *package);
    Err(format!(
        "no cuBLASLt here, which multiplies matrices on GPUs: neither the system nor Python's packages have {}{failed}; \
         `pip install {package}`, or add the folder of CUDA's libraries to LD_LIBRARY_PATH before the start",
        files.join(" or ")
    ))
}

/// An answer of the library as a result; `what` was being done.
pub(super) fn call(answer: Status, what: impl FnOnce() -> String) -> Result<()> {
    match answer {
        SUCCESS => Ok(()),
        _ => Err(error(answer, what())),
    }
}

pub(super) fn error(answer: Status, what: String) -> Error {
    Error::Device(format!("{what}: {}; {}", name(answer), advice(answer)))
}

fn name(status: Status) -> String {
    let known = match status {
        1 => "NOT_INITIALIZED",
        ALLOC_FAILED => "ALLOC_FAILED",
        7 => "INVALID_VALUE",
        8 => "ARCH_MISMATCH",
        11 => "MAPPING_ERROR",
        13 => "EXECUTION_FAILED",
        14 => "INTERNAL_ERROR",
        NOT_SUPPORTED => "NOT_SUPPORTED",
        16 => "LICENSE_ERROR",
        _ => return format!("cuBLASLt's error {status}"),
    };
    format!("CUBLAS_STATUS_{known}")
}

fn advice(status: Status) -> &'static str {
    match status {
        ALLOC_FAILED => "make the batch smaller, or free what else holds the device's memory",
        NOT_SUPPORTED => "this cuBLASLt has no such product; a newer one may, please report it",
        7 => "please report it",
        _ => {
            "with CUDA_LAUNCH_BLOCKING=1 an earlier kernel that failed is named; a cuBLASLt of the driver's age may help"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said() {
        let told = load(11).err().expect("no version is that old");
        assert!(told.contains("pip install nvidia-cublas-cu12"), "{told}");
        let told = call(NOT_SUPPORTED, || "7 times 8".into()).expect_err("it is an error").to_string();
        assert!(told.starts_with("7 times 8: CUBLAS_STATUS_NOT_SUPPORTED; "), "{told}");
        assert!(call(99, String::new).expect_err("it is one").to_string().contains("error 99"));
    }
}
