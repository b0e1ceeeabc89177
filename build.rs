//! Compiles kernels/*.cu for the GPUs that are meant into one archive, which `rust/src/cuda/images.rs` reads.
//!
//! Only with the feature `cuda`. The work is that of scripts/compile_kernels.py; images that have not changed are kept
//! in OUT_DIR. Without NVRTC 12, and with LLMJP_NO_CUDA=1, the archive holds the reason instead, which `lc.info()`
//! tells: such a build runs on the CPU only.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// What the script says where there is no NVRTC.
const NO_COMPILER: i32 = 3;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    // Only kernels whose launches stand in rust/src/cuda are put into the library.
    for path in ["kernels", "rust/src/cuda", "scripts/compile_kernels.py"] {
        println!("cargo:rerun-if-changed={path}");
    }
    for name in ["LLMJP_NO_CUDA", "PYO3_PYTHON"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    if let Err(reason) = archive(&out) {
        println!("cargo:warning=no CUDA kernels in this build: {reason}");
        let plain: String =
            reason.chars().map(|c| if c.is_control() || "\"\\".contains(c) { ' ' } else { c }).collect();
        let header = format!("{{\"missing\": \"{plain}\"}}");
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.into_bytes());
        fs::write(out.join("kernels.bin"), bytes).expect("OUT_DIR can be written");
    }
}

/// Writes `kernels.bin`, or says why a build without kernels is what is left. A kernel that does not compile ends the
/// build.
fn archive(out: &Path) -> Result<(), String> {
    if env::var("LLMJP_NO_CUDA").is_ok_and(|value| !value.is_empty() && value != "0") {
        return Err("LLMJP_NO_CUDA was set when it was built".into());
    }
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return Err("kernels are compiled on Linux only".into());
    }
    let mut reasons = Vec::new();
    for python in interpreters() {
        let mut command = Command::new(&python);
        command.arg("scripts/compile_kernels.py").arg("--products").arg(out.join("kernels"));
        let Ok(done) = command.arg("--archive").arg(out.join("kernels.bin")).output() else { continue };
        let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        match done.status.code() {
            Some(0) => return Ok(()),
            Some(NO_COMPILER) => reasons.push(said),
            _ => panic!("{} scripts/compile_kernels.py: {}\n{said}", python.display(), done.status),
        }
    }
    Err(reasons.first().cloned().unwrap_or_else(|| "no Python to compile them with".into()))
}

/// The Python that the extension is built for, that of an environment, that of `make setup`, any.
fn interpreters() -> Vec<PathBuf> {
    let environment = |root: PathBuf| root.join("bin/python");
    let own = env::var_os("PYO3_PYTHON").map(PathBuf::from);
    let active = env::var_os("VIRTUAL_ENV").map(|root| environment(root.into()));
    let made = Some(environment(".venv".into())).filter(|python| python.exists());
    [own, active, made, Some("python3".into())].into_iter().flatten().collect()
}
