//! The only file that names `cudarc`: the driver's calls, and its errors in words.

use std::sync::OnceLock;

pub(super) use cudarc::driver::sys;
use sys::CUresult;

use crate::error::{Error, Result};

/// What the kernels' code needs; such a driver has every call that this library makes.
const NEEDED: i32 = 12_000;

/// The version of CUDA that the driver runs, as 12040 for 12.4.
///
/// # Errors
/// `Device`: no driver, one that is too old, or no GPU that it sees.
pub(super) fn version() -> Result<i32> {
    static VERSION: OnceLock<Result<i32, String>> = OnceLock::new();
    VERSION.get_or_init(start).clone().map_err(Error::Device)
}

/// Loads and starts the driver, once in a process.
fn start() -> Result<i32, String> {
    // SAFETY: loading runs the initialisers of the driver's library, which is what it is there for.
    if !unsafe { sys::is_culib_present() } {
        return Err("no NVIDIA driver here: libcuda.so.1 is not found; install driver 525 or later, \
                    or go on with the CPU"
            .into());
    }
    let mut version = 0;
    // SAFETY: the place for the answer is valid; this call needs no cuInit.
    words(unsafe { sys::cuDriverGetVersion(&raw mut version) }, "asking the NVIDIA driver for its version")?;
    if version < NEEDED {
        return Err(format!(
            "the NVIDIA driver is too old: it runs CUDA {}, and {} is needed; install driver 525 or later",
            dotted(version),
            dotted(NEEDED)
        ));
    }
    // SAFETY: has no precondition.
    words(unsafe { sys::cuInit(0) }, "starting the NVIDIA driver")?;
    Ok(version)
}

/// `12.4`
pub(super) fn dotted(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// An answer of the driver as a result; `what` was being done.
pub(super) fn call(answer: CUresult, what: impl FnOnce() -> String) -> Result<()> {
    if answer == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    words(answer, &what()).map_err(Error::Device)
}

fn words(answer: CUresult, what: &str) -> Result<(), String> {
    match answer {
        CUresult::CUDA_SUCCESS => Ok(()),
        _ => Err(format!("{what}: {answer:?}; {}", advice(answer))),
    }
}

fn advice(answer: CUresult) -> &'static str {
    match answer {
        CUresult::CUDA_ERROR_NO_DEVICE => "no GPU is visible; CUDA_VISIBLE_DEVICES may hide it",
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => "make the batch smaller, or free what else holds the device's memory",
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
        | CUresult::CUDA_ERROR_INVALID_PTX
        | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        | CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => "a newer NVIDIA driver may help",
        CUresult::CUDA_ERROR_NOT_INITIALIZED | CUresult::CUDA_ERROR_DEINITIALIZED => {
            "a forked process cannot use the GPU of its parent: start it with the method `spawn`"
        }
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        | CUresult::CUDA_ERROR_LAUNCH_FAILED
        | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
        | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUresult::CUDA_ERROR_ASSERT => {
            "the device's memory of this process is lost: start it anew; with CUDA_LAUNCH_BLOCKING=1 the error names \
             the kernel; please report it"
        }
        _ => "`nvidia-smi` shows whether the device works at all",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_and_what_to_do() {
        let answer = call(CUresult::CUDA_ERROR_OUT_OF_MEMORY, || "cuda:0: asking for 7 bytes".into());
        let text = answer.expect_err("it is an error").to_string();
        assert!(text.starts_with("cuda:0: asking for 7 bytes: CUDA_ERROR_OUT_OF_MEMORY; make the batch"), "{text}");
        assert!(call(CUresult::CUDA_SUCCESS, || unreachable!()).is_ok());
        assert_eq!(dotted(12_040), "12.4");
    }
}
