//! A safetensors file of f32 tensors that lie in arenas: written and read without a copy.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::error::{Error, Result};
use crate::files;
use crate::interrupt::Interrupt;

/// The format's own limit of a header.
const MAX_HEADER: u64 = 100_000_000;
/// Elements written between two looks at the interrupt.
const CHUNK: usize = 1 << 20;

/// A tensor to write.
#[derive(Debug, Clone)]
pub(super) struct Tensor<'a> {
    pub name: String,
    pub shape: &'a [usize],
    pub data: &'a [f32],
}

/// Writes `tensors` in their order.
///
/// # Errors
/// `Io`; `Interrupted`. Then no file is left.
pub(super) fn write(path: &Path, tensors: &[Tensor], interrupt: Interrupt) -> Result<()> {
    let header = header(tensors)?;
    files::write_atomically(path, |out| {
        let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(Error::io(path, "write"));
        put(&(header.len() as u64).to_le_bytes())?;
        put(&header)?;
        for chunk in tensors.iter().flat_map(|tensor| tensor.data.chunks(CHUNK)) {
            interrupt.check()?;
            put(bytemuck::cast_slice(chunk))?;
        }
        Ok(())
    })
}

/// The JSON header, padded with blanks so that the data begins at a multiple of eight.
fn header(tensors: &[Tensor]) -> Result<Vec<u8>> {
    let mut end = 0;
    let infos = tensors.iter().map(|tensor| {
        let begin = end;
        end += size_of_val(tensor.data);
        let info = TensorInfo { dtype: Dtype::F32, shape: tensor.shape.to_vec(), data_offsets: (begin, end) };
        (tensor.name.clone(), info)
    });
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let internal = |e: &dyn std::fmt::Display| Error::Internal(format!("safetensors header: {e}"));
    let metadata = Metadata::new(Some(format), infos.collect()).map_err(|e| internal(&e))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|e| internal(&e))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

/// An opened file whose header agrees with its length.
pub(super) struct TensorFile {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    /// First byte after the header.
    start: u64,
}

impl TensorFile {
    /// # Errors
    /// `Io`; `Checkpoint` when the file is cut or its header is not valid.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let damaged = |what: String| Error::Checkpoint { path: path.to_owned(), what };
        let mut file = File::open(path).map_err(Error::io(path, "open"))?;
        let len = file.metadata().map_err(Error::io(path, "read"))?.len();
        let mut size = [0; 8];
        if len < 8 {
            return Err(damaged(format!("only {len} bytes; not a safetensors file")));
        }
        file.read_exact(&mut size).map_err(Error::io(path, "read"))?;
        let size = u64::from_le_bytes(size);
        if size > MAX_HEADER || size > len - 8 {
            return Err(damaged(format!("a header of {size} bytes in a file of {len}; the file is damaged")));
        }
        let mut header = vec![0; size as usize];
        file.read_exact(&mut header).map_err(Error::io(path, "read"))?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|e| damaged(format!("unreadable header: {e}")))?;
        let (start, want) = (8 + size, 8 + size + metadata.data_len() as u64);
        if want != len {
            return Err(damaged(format!("the header describes {want} bytes, the file has {len}; it was cut")));
        }
        Ok(Self { path: path.to_owned(), file, metadata, start })
    }

    /// Reads the f32 tensor `name` into `out`; other tensors of the file do not matter.
    ///
    /// # Errors
    /// `Checkpoint` naming the tensor when it is missing, of another shape or type, or not finite.
    pub(super) fn read(&mut self, name: &str, shape: &[usize], out: &mut [f32]) -> Result<()> {
        let refuse = |what: String| Err(Error::Checkpoint { path: self.path.clone(), what });
        let Some(info) = self.metadata.info(name) else { return refuse(format!("tensor `{name}` is missing")) };
        if info.shape != shape || info.dtype != Dtype::F32 {
            return refuse(format!("tensor `{name}` is {} {:?}, wanted F32 {shape:?}", info.dtype, info.shape));
        }
        let begin = self.start + info.data_offsets.0 as u64;
        let seek = self.file.seek(SeekFrom::Start(begin));
        seek.and_then(|_| self.file.read_exact(bytemuck::cast_slice_mut(out)))
            .map_err(Error::io(&self.path, "read"))?;
        match out.iter().position(|value| !value.is_finite()) {
            Some(i) => refuse(format!("tensor `{name}` holds {} at element {i}", out[i])),
            None => Ok(()),
        }
    }
}

#[cfg(target_endian = "big")]
compile_error!("safetensors files are little endian; arenas are written as they lie in memory");

#[cfg(test)]
mod tests {
    use super::*;

    fn written(dir: &Path) -> PathBuf {
        let path = dir.join("x.safetensors");
        let (a, b) = ([1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], [7.5f32]);
        let tensors =
            [Tensor { name: "a".into(), shape: &[2, 3], data: &a }, Tensor { name: "b".into(), shape: &[1], data: &b }];
        write(&path, &tensors, Interrupt::NEVER).unwrap();
        path
    }

    #[test]
    fn the_official_reader_and_ours_agree() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path());
        let bytes = std::fs::read(&path).unwrap();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut ours = TensorFile::open(&path).unwrap();
        let mut a = [0.0; 6];
        ours.read("a", &[2, 3], &mut a).unwrap();
        assert_eq!(theirs.tensor("a").unwrap().data(), bytemuck::cast_slice::<f32, u8>(&a));
        assert_eq!(theirs.tensor("b").unwrap().shape(), [1]);
    }

    #[test]
    fn a_cut_file_is_refused_at_every_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path());
        let whole = std::fs::read(&path).unwrap();
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            assert!(matches!(TensorFile::open(&path), Err(Error::Checkpoint { .. })), "{len} bytes");
        }
    }

    #[test]
    fn what_is_missing_misshapen_or_not_finite_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let data = [1.0, f32::NAN];
        write(&path, &[Tensor { name: "a".into(), shape: &[2], data: &data }], Interrupt::NEVER).unwrap();
        let mut file = TensorFile::open(&path).unwrap();
        let mut what = |name: &str, shape: &[usize]| file.read(name, shape, &mut [0.0; 2]).unwrap_err().to_string();
        assert!(what("b", &[2]).contains("`b` is missing"));
        assert!(what("a", &[1, 2]).contains("F32 [2], wanted F32 [1, 2]"));
        assert!(what("a", &[2]).contains("holds NaN at element 1"));
    }

    #[test]
    fn an_interrupt_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let tensors = [Tensor { name: "a".into(), shape: &[1], data: &[1.0] }];
        let stopped = write(&path, &tensors, Interrupt::new(&|| true));
        assert!(matches!(stopped, Err(Error::Interrupted)));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
