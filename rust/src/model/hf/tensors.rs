//! One safetensors file: the header is checked before a tensor is read, tensors are read and
//! written one at a time.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::dtype::{DType, Element, bf16, f16};
use crate::error::{Error, Result};
use crate::files;

/// The format's own limit of a header.
const MAX_HEADER: u64 = 100_000_000;

/// A safetensors file whose header agrees with its length.
pub(super) struct TensorFile {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    /// First byte after the header.
    start: u64,
}

fn damaged(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::UnsupportedModel(format!("{}: not a whole safetensors file: {what}", path.display()))
}

impl TensorFile {
    /// # Errors
    /// `Error::Io`; `Error::UnsupportedModel` when the file is cut, or its header is not valid.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io(path, "open"))?;
        let len = file.metadata().map_err(Error::io(path, "read"))?.len();
        let header = read_header(path, &mut file, len)?;
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| damaged(path, e))?;
        let start = 8 + header.len() as u64;
        let want = start + metadata.data_len() as u64;
        if want != len {
            return Err(damaged(path, format!("the header describes {want} bytes, the file has {len}")));
        }
        Ok(Self { path: path.to_owned(), file, metadata, start })
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// Reads the tensor `name` into `out`, converting to T.
    ///
    /// # Errors
    /// `Error::UnsupportedModel` naming the tensor when its shape or dtype is not what is wanted.
    pub(super) fn read<T: Element>(&mut self, name: &str, shape: &[usize], out: &mut [T]) -> Result<()> {
        let refuse = |what: String| Error::UnsupportedModel(format!("{}: tensor `{name}` {what}", self.path.display()));
        let info = self.metadata.info(name).ok_or_else(|| refuse("is missing".into()))?;
        if info.shape != shape {
            return Err(refuse(format!("has shape {:?}, config.json asks for {shape:?}", info.shape)));
        }
        let dtype = match info.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => return Err(refuse(format!("has dtype {other}; only F32, F16 and BF16 are read"))),
        };
        let (begin, end) = info.data_offsets;
        let mut bytes = vec![0; end - begin];
        let seek = self.file.seek(SeekFrom::Start(self.start + begin as u64));
        seek.and_then(|_| self.file.read_exact(&mut bytes)).map_err(Error::io(&self.path, "read"))?;
        decode(dtype, &bytes, out);
        Ok(())
    }
}

fn read_header(path: &Path, file: &mut File, len: u64) -> Result<Vec<u8>> {
    let mut size = [0; 8];
    if len < 8 {
        return Err(damaged(path, format!("it has only {len} bytes")));
    }
    file.read_exact(&mut size).map_err(Error::io(path, "read"))?;
    let size = u64::from_le_bytes(size);
    if size > MAX_HEADER || size > len - 8 {
        return Err(damaged(path, format!("a header of {size} bytes in a file of {len}")));
    }
    let mut header = vec![0; size as usize];
    file.read_exact(&mut header).map_err(Error::io(path, "read"))?;
    Ok(header)
}

fn decode<T: Element>(dtype: DType, bytes: &[u8], out: &mut [T]) {
    fn each<T: Element, const N: usize>(bytes: &[u8], out: &mut [T], value: impl Fn([u8; N]) -> f32) {
        let (words, _) = bytes.as_chunks::<N>();
        out.iter_mut().zip(words).for_each(|(out, word)| *out = T::from_f32(value(*word)));
    }
    match dtype {
        DType::F32 => each(bytes, out, f32::from_le_bytes),
        DType::F16 => each(bytes, out, |word| f16::from_le_bytes(word).to_f32()),
        DType::BF16 => each(bytes, out, |word| bf16::from_le_bytes(word).to_f32()),
    }
}

/// A tensor to be written: values of T, or zeros where the model has no such parameter.
pub(super) struct Source<'w, T> {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Option<&'w [T]>,
}

impl<T: Element> Source<'_, T> {
    fn count(&self) -> usize {
        self.shape.iter().product()
    }

    pub(super) fn bytes(&self, dtype: DType) -> usize {
        self.count() * dtype.size()
    }

    fn write(&self, out: &mut impl Write, dtype: DType) -> std::io::Result<()> {
        let Some(values) = self.values else { return out.write_all(&vec![0; self.bytes(dtype)]) };
        for values in values.chunks(1 << 16) {
            out.write_all(&encode(values, dtype))?;
        }
        Ok(())
    }
}

fn encode<T: Element>(values: &[T], dtype: DType) -> Vec<u8> {
    let values = values.iter().map(|value| value.to_f32());
    match dtype {
        DType::F32 => values.flat_map(f32::to_le_bytes).collect(),
        DType::F16 => values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect(),
        DType::BF16 => values.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect(),
    }
}

/// Writes `sources`, in the order given, as one file.
///
/// # Errors
/// `Error::Io`; then no file is left.
pub(super) fn write<T: Element>(path: &Path, sources: &[&Source<T>], dtype: DType) -> Result<()> {
    let header = header(sources, dtype)?;
    files::write_atomically(path, |out| {
        let failed = Error::io(path, "write");
        let mut all = || {
            out.write_all(&(header.len() as u64).to_le_bytes())?;
            out.write_all(&header)?;
            sources.iter().try_for_each(|source| source.write(out, dtype))
        };
        all().map_err(failed)
    })
}

/// The JSON header, padded with spaces to eight bytes so that the data is aligned.
fn header<T: Element>(sources: &[&Source<T>], dtype: DType) -> Result<Vec<u8>> {
    let stored = match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
    };
    let mut end = 0;
    let infos = sources.iter().map(|source| {
        let begin = end;
        end += source.bytes(dtype);
        (source.name.clone(), TensorInfo { dtype: stored, shape: source.shape.clone(), data_offsets: (begin, end) })
    });
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let internal = |e: &dyn std::fmt::Display| Error::Internal(format!("safetensors header: {e}"));
    let metadata = Metadata::new(Some(format), infos.collect()).map_err(|e| internal(&e))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|e| internal(&e))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}
