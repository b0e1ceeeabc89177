//! Which files hold the text, in which order, and how they are read.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Error, Result};

/// What the documents of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    JsonLines,
    /// The whole file is one document.
    TextFile,
    /// Each line is a document.
    TextLines,
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        match word {
            "jsonl" => Ok(Self::JsonLines),
            "file" => Ok(Self::TextFile),
            "line" => Ok(Self::TextLines),
            _ => Err(Error::UnsupportedInput(format!(
                "text format `{word}`: jsonl, file (a text a file) or line (a text a line)"
            ))),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
    Xz,
    /// Rows, which a [`Parquet`] turns into JSON Lines.
    Parquet,
}

/// Reads Parquet files: columns with the names of the keys, as JSON Lines, a row a line.
pub trait Parquet: Send + Sync {
    /// # Errors
    /// `UnsupportedInput` where the file has no such columns, or nothing is there to read it with; `CorruptDataset`.
    fn open(&self, path: &Path, keys: &[String]) -> Result<Box<dyn Read + Send>>;
}

/// A file that will be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    pub path: PathBuf,
    pub format: Format,
    compression: Compression,
    /// Bytes on disk, and when they were written (for the journal).
    pub len: u64,
    pub modified_ns: u128,
}

/// The files that patterns mean.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inputs {
    pub files: Vec<Input>,
    /// Files in a folder whose name says no format: not read, and said so.
    pub ignored: Vec<PathBuf>,
}

/// Finds the files of `patterns` (files, folders with all below them, globs) in their order, each
/// pattern's sorted by name. `.txt` files are read as `text`; `format` overrides what names say.
///
/// # Errors
/// `Io` for a name that does not exist; `UnsupportedInput` for a pattern without files, a file of
/// unknown format, or one that is named twice.
pub fn expand(patterns: &[String], format: Option<Format>, text: Format) -> Result<Inputs> {
    let mut inputs = Inputs::default();
    for pattern in patterns {
        let path = Path::new(pattern);
        if path.is_dir() {
            add_folder(&mut inputs, path, format, text)?;
        } else if path.exists() || !pattern.contains(['*', '?', '[']) {
            inputs.files.push(Input::new(path, format, text)?);
        } else {
            add_glob(&mut inputs, pattern, format, text)?;
        }
    }
    if inputs.files.is_empty() {
        return Err(Error::UnsupportedInput("no input files were given".into()));
    }
    refuse_twins(&inputs.files)?;
    Ok(inputs)
}

fn add_folder(inputs: &mut Inputs, folder: &Path, format: Option<Format>, text: Format) -> Result<()> {
    let before = inputs.files.len();
    for path in files_below(folder)? {
        match format.or_else(|| kind_of(&path, text).map(|(format, _)| format)) {
            Some(_) => inputs.files.push(Input::new(&path, format, text)?),
            None => inputs.ignored.push(path),
        }
    }
    if inputs.files.len() == before {
        return Err(Error::UnsupportedInput(format!("{}: no file in it is one of {KNOWN}", folder.display())));
    }
    Ok(())
}

/// Sorted by name; hidden files are left out.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    let mut paths: Vec<PathBuf> = entries.map_err(Error::io(folder, "list"))?.iter().map(fs::DirEntry::path).collect();
    paths.retain(|path| !path.file_name().unwrap_or_default().as_encoded_bytes().starts_with(b"."));
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() { files.extend(files_below(&path)?) } else { files.push(path) }
    }
    Ok(files)
}

fn add_glob(inputs: &mut Inputs, pattern: &str, format: Option<Format>, text: Format) -> Result<()> {
    let bad = |what: String| Error::UnsupportedInput(format!("input pattern `{pattern}`: {what}"));
    let found = glob::glob(pattern).map_err(|e| bad(e.to_string()))?;
    let mut paths = found.collect::<Result<Vec<_>, _>>().map_err(|e| bad(e.to_string()))?;
    paths.retain(|path| !path.is_dir());
    paths.sort();
    if paths.is_empty() {
        return Err(bad("no file matches".into()));
    }
    for path in paths {
        inputs.files.push(Input::new(&path, format, text)?);
    }
    Ok(())
}

fn refuse_twins(files: &[Input]) -> Result<()> {
    let mut seen = HashSet::new();
    match files.iter().find(|input| !seen.insert(&input.path)) {
        None => Ok(()),
        Some(twin) => Err(Error::UnsupportedInput(format!(
            "{} is named twice among the inputs; to use text more often, give its dataset a larger weight",
            twin.path.display()
        ))),
    }
}

const KNOWN: &str = ".jsonl, .json, .ndjson, .txt (also with .gz, .zst, .xz), .parquet";

/// Format and compression by name.
fn kind_of(path: &Path, text: Format) -> Option<(Format, Compression)> {
    let name = path.file_name()?.to_str()?.to_lowercase();
    if name.ends_with(".parquet") {
        return Some((Format::JsonLines, Compression::Parquet));
    }
    let endings = [
        (".gz", Compression::Gzip),
        (".zst", Compression::Zstd),
        (".zstd", Compression::Zstd),
        (".xz", Compression::Xz),
        ("", Compression::None),
    ];
    let (stem, compression) = endings.into_iter().find_map(|(end, c)| Some((name.strip_suffix(end)?, c)))?;
    match stem.rsplit_once('.')?.1 {
        "jsonl" | "json" | "ndjson" => Some((Format::JsonLines, compression)),
        "txt" => Some((text, compression)),
        _ => None,
    }
}

fn compression_of(path: &Path) -> Compression {
    match path.extension().and_then(|e| e.to_str()) {
        Some("gz") => Compression::Gzip,
        Some("zst" | "zstd") => Compression::Zstd,
        Some("xz") => Compression::Xz,
        Some("parquet") => Compression::Parquet,
        _ => Compression::None,
    }
}

impl Input {
    fn new(path: &Path, format: Option<Format>, text: Format) -> Result<Self> {
        let meta = fs::metadata(path).map_err(Error::io(path, "open"))?;
        let (format, compression) = match (format, kind_of(path, text)) {
            (Some(format), _) => (format, compression_of(path)),
            (None, Some(kind)) => kind,
            (None, None) => {
                let path = path.display();
                return Err(Error::UnsupportedInput(format!("{path}: the name does not say what it is: {KNOWN}")));
            }
        };
        if compression == Compression::Parquet && format != Format::JsonLines {
            let path = path.display();
            return Err(Error::UnsupportedInput(format!("{path}: Parquet has columns; leave `format` out")));
        }
        let age = meta.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        let modified_ns = age.map_or(0, |age| age.as_nanos());
        Ok(Self { path: path.to_owned(), format, compression, len: meta.len(), modified_ns })
    }

    /// Opens the text from its byte `start` on.
    pub(super) fn open(
        &self,
        start: u64,
        meter: &Arc<Meter>,
        keys: &[String],
        parquet: Option<&dyn Parquet>,
    ) -> Result<Box<dyn Read + Send>> {
        if self.compression == Compression::Parquet {
            let path = self.path.display();
            let none = || Error::UnsupportedInput(format!("{path}: nothing here can read Parquet"));
            let rows = parquet.ok_or_else(none)?.open(&self.path, keys)?;
            return self.skip(Box::new(Whole { inner: rows, len: self.len, meter: meter.clone() }), start);
        }
        let mut file = File::open(&self.path).map_err(Error::io(&self.path, "open"))?;
        if self.compression == Compression::None {
            file.seek(SeekFrom::Start(start)).map_err(Error::io(&self.path, "seek"))?;
            meter.bytes.fetch_add(start, Ordering::Relaxed);
            return Ok(Box::new(Counted { inner: file, meter: meter.clone() }));
        }
        let counted = BufReader::with_capacity(1 << 18, Counted { inner: file, meter: meter.clone() });
        let text: Box<dyn Read + Send> = match self.compression {
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(counted)),
            Compression::Xz => Box::new(lzma_rust2::XzReader::new(counted, true)),
            _ => Box::new(zstd_reader(counted).map_err(Error::io(&self.path, "open"))?),
        };
        self.skip(text, start)
    }

    /// `text` from its byte `start` on.
    fn skip(&self, mut text: Box<dyn Read + Send>, start: u64) -> Result<Box<dyn Read + Send>> {
        let skipped = io::copy(&mut (&mut text).take(start), &mut io::sink()).map_err(|e| self.read_error(e, 0))?;
        if skipped < start {
            let what = format!("{skipped} bytes of text, but an earlier run had read {start}");
            return Err(Error::CorruptDataset { path: self.path.clone(), what });
        }
        Ok(text)
    }

    /// An error of reading after `at` bytes of text: the disk's, or damaged compressed data.
    pub(super) fn read_error(&self, error: io::Error, at: u64) -> Error {
        if self.compression == Compression::None || error.raw_os_error().is_some() {
            return Error::io(&self.path, "read")(error);
        }
        let kind = format!("{:?}", self.compression).to_lowercase();
        let what = format!("damaged or cut {kind} data after {at} bytes of text: {error}");
        Error::CorruptDataset { path: self.path.clone(), what }
    }
}

/// Frames of any window size, one after the other.
fn zstd_reader<R: io::BufRead>(inner: R) -> io::Result<zstd::Decoder<'static, R>> {
    let mut decoder = zstd::Decoder::with_buffer(inner)?;
    decoder.window_log_max(31)?;
    Ok(decoder)
}

/// Bytes of the input files read so far, and whether reading shall stop.
#[derive(Default)]
pub(super) struct Meter {
    pub(super) bytes: AtomicU64,
    pub(super) stop: AtomicBool,
}

impl Meter {
    fn check(&self) -> io::Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(io::Error::other("reading was stopped")) } else { Ok(()) }
    }
}

struct Counted<R> {
    inner: R,
    meter: Arc<Meter>,
}

/// Counts a file's bytes when all of it is read.
struct Whole {
    inner: Box<dyn Read + Send>,
    len: u64,
    meter: Arc<Meter>,
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.meter.check()?;
        let n = self.inner.read(buffer)?;
        if n == 0 {
            self.meter.bytes.fetch_add(std::mem::take(&mut self.len), Ordering::Relaxed);
        }
        Ok(n)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.meter.check()?;
        let n = self.inner.read(buffer)?;
        self.meter.bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}
