//! The compiled kernels in this library: which there are, and which fit a device. build.rs made the archive.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::OnceLock;

use flate2::read::ZlibDecoder;
use serde::Deserialize;

use crate::error::{Error, Result};

static ARCHIVE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.bin"));

#[derive(Deserialize, Default)]
#[serde(default)]
struct Header {
    /// Why there are none.
    missing: Option<String>,
    /// The version of the compiler, `12.9`.
    compiler: String,
    /// By op, then by target: `sm_90`, or `compute_80` for PTX.
    images: BTreeMap<String, BTreeMap<String, Place>>,
    kernels: BTreeMap<String, Kernel>,
}

#[derive(Deserialize, Clone, Copy)]
struct Place {
    at: usize,
    packed: usize,
    bytes: usize,
}

/// One entry of an op's file.
#[derive(Deserialize)]
pub struct Kernel {
    pub op: String,
    /// A letter each: `8` and `4` bytes of an address or a whole number, `f` f32, `d` f64; `s` and its bytes a struct.
    pub parameters: String,
    /// Of kernels of attention: (rows, threads, bytes of dynamic shared memory) of a block.
    pub(super) tiles: Option<[usize; 3]>,
}

fn header() -> Result<&'static Header> {
    static HEADER: OnceLock<Result<Header, String>> = OnceLock::new();
    HEADER
        .get_or_init(|| parse(ARCHIVE))
        .as_ref()
        .map_err(|error| Error::Internal(format!("the archive of CUDA kernels is damaged: {error}")))
}

fn parse(archive: &[u8]) -> Result<Header, String> {
    let (length, rest) = archive.split_first_chunk().ok_or("no length")?;
    let text = rest.get(..u64::from_le_bytes(*length) as usize).ok_or("no header")?;
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

/// Why this library has no kernels, if so.
pub(super) fn missing() -> Option<String> {
    match header() {
        Ok(header) => header.missing.as_ref().map(|why| {
            format!("this build has no CUDA kernels: {why}; install a wheel, or build it where NVRTC 12 is installed")
        }),
        Err(error) => Some(error.to_string()),
    }
}

/// The version of NVRTC that made the kernels; empty when there are none.
pub fn compiler() -> String {
    header().map(|header| header.compiler.clone()).unwrap_or_default()
}

/// The ops that have kernels.
pub fn ops() -> Vec<String> {
    header().map(|header| header.images.keys().cloned().collect()).unwrap_or_default()
}

/// What they are compiled for.
pub fn targets() -> Vec<String> {
    let all = |header: &Header| header.images.values().next().map(|images| images.keys().cloned().collect());
    header().ok().and_then(all).unwrap_or_default()
}

/// Every kernel by name.
pub fn kernels() -> impl Iterator<Item = (&'static str, &'static Kernel)> {
    header().ok().into_iter().flat_map(|header| header.kernels.iter().map(|(name, kernel)| (name.as_str(), kernel)))
}

pub(super) fn kernel(name: &str) -> Result<&'static Kernel> {
    header()?.kernels.get(name).ok_or_else(|| Error::Internal(format!("no kernel `{name}` in this library")))
}

/// Machine code that runs on a device of this compute capability (major, minor): that of its own generation, at most
/// its own version (CUDA programming guide, "binary compatibility").
pub(super) fn target_for(capability: (i32, i32), among: &[String]) -> Option<String> {
    let fits = |target: &&String| {
        let number: Option<i32> = target.strip_prefix("sm_").and_then(|number| number.parse().ok());
        number.is_some_and(|n| n / 10 == capability.0 && n % 10 <= capability.1)
    };
    among.iter().filter(fits).max().cloned()
}

/// The PTX among targets, which the driver compiles for any device from its compute capability on.
pub(super) fn ptx_for(capability: (i32, i32), among: &[String]) -> Option<String> {
    let fits = |target: &&String| {
        let number: Option<i32> = target.strip_prefix("compute_").and_then(|number| number.parse().ok());
        number.is_some_and(|n| n <= capability.0 * 10 + capability.1)
    };
    among.iter().find(fits).cloned()
}

/// An image, with the 0 that ends PTX.
pub(super) fn image(op: &str, target: &str) -> Result<Vec<u8>> {
    let damaged = || Error::Internal(format!("the CUDA kernels of {op} for {target} are damaged in this library"));
    let place = *header()?.images.get(op).and_then(|images| images.get(target)).ok_or_else(damaged)?;
    let start = header_length().ok_or_else(damaged)? + place.at;
    let packed = ARCHIVE.get(start..start + place.packed).ok_or_else(damaged)?;
    let mut bytes = Vec::with_capacity(place.bytes + 1);
    let read = ZlibDecoder::new(packed).read_to_end(&mut bytes);
    if read.is_err() || bytes.len() != place.bytes {
        return Err(damaged());
    }
    bytes.push(0);
    Ok(bytes)
}

/// Where images begin.
fn header_length() -> Option<usize> {
    ARCHIVE.first_chunk().map(|length| 8 + u64::from_le_bytes(*length) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_takes_code_of_its_own_generation() {
        let among: Vec<String> = ["compute_80", "sm_80", "sm_86", "sm_89", "sm_90"].map(String::from).into();
        let choice = |capability| target_for(capability, &among);
        assert_eq!(choice((8, 0)).as_deref(), Some("sm_80"));
        assert_eq!(choice((8, 7)).as_deref(), Some("sm_86"));
        assert_eq!(choice((8, 9)).as_deref(), Some("sm_89"));
        assert_eq!(choice((9, 0)).as_deref(), Some("sm_90"));
        assert_eq!((choice((7, 5)), choice((10, 0)), choice((12, 0))), (None, None, None));
        assert_eq!(ptx_for((12, 0), &among).as_deref(), Some("compute_80"));
        assert_eq!(ptx_for((7, 5), &among), None);
    }

    /// As build.rs writes it.
    #[test]
    fn a_build_without_kernels_says_why() {
        let text = br#"{"missing": "no compiler"}"#;
        let archive = [&(text.len() as u64).to_le_bytes()[..], text].concat();
        let header = parse(&archive).expect("it is whole");
        assert_eq!((header.missing.as_deref(), header.kernels.len()), (Some("no compiler"), 0));
        assert!(parse(&archive[..20]).is_err() && parse(b"").is_err());
    }

    #[test]
    fn every_image_unpacks() {
        for op in ops() {
            for target in targets() {
                let bytes = image(&op, &target).expect("it was packed whole");
                let start: &[u8] = if target.starts_with("sm_") { b"\x7fELF" } else { b"//" };
                assert!(bytes.starts_with(start), "{op} {target}");
            }
        }
        assert!(missing().is_some() || kernels().count() >= 50);
    }
}
