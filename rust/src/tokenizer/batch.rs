//! Many texts over several threads. A text is never cut: that would change its ids.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::sample::Sampling;
use super::tokenizer::Tokenizer;
use super::worker::Text;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;

/// The ids of several texts, one after the other.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub ids: Vec<u32>,
    /// Text `i` is `ids[offsets[i]..offsets[i + 1]]`.
    pub offsets: Vec<usize>,
}

/// Texts are handed out in runs of about this many bytes.
const RUN_BYTES: usize = 1 << 16;

/// Threads for a batch: `LLMJP_NUM_THREADS`, else `OMP_NUM_THREADS`, else what the machine allows.
pub fn default_threads() -> usize {
    let asked = ["LLMJP_NUM_THREADS", "OMP_NUM_THREADS"];
    let asked = asked.iter().find_map(|name| std::env::var(name).ok()?.trim().parse().ok());
    asked.filter(|n| *n > 0).unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
}

impl Tokenizer {
    /// Encodes `texts` in order with up to `threads` threads; the result is the same for any number.
    /// With `sampling`, the segmentation of each text is drawn by its place in `texts`.
    ///
    /// # Errors
    /// `Interrupted`; `Internal` when a thread could not be started; as `check_sampling`.
    pub fn encode_batch(
        &self,
        texts: &[Text<'_>],
        threads: usize,
        sampling: Option<&Sampling>,
        interrupt: Interrupt<'_>,
    ) -> Result<Batch> {
        sampling.map_or(Ok(()), |sampling| self.check_sampling(sampling))?;
        let runs = runs(texts);
        let threads = threads.clamp(1, runs.len().max(1));
        let parts = if threads == 1 {
            self.one_by_one(texts, &runs, sampling, interrupt)?
        } else {
            self.with_threads(texts, &runs, threads, sampling, interrupt)?
        };
        Ok(join(parts))
    }

    fn one_by_one(
        &self,
        texts: &[Text<'_>],
        runs: &[(usize, usize)],
        sampling: Option<&Sampling>,
        interrupt: Interrupt<'_>,
    ) -> Result<Vec<Batch>> {
        let mut worker = self.worker();
        let encode = |&(from, to): &(usize, usize)| {
            interrupt.check()?;
            Ok(encode_run(&mut worker, texts, from..to, sampling))
        };
        runs.iter().map(encode).collect()
    }

    /// The calling thread waits and asks whether to stop, since only it may talk to Python.
    fn with_threads(
        &self,
        texts: &[Text<'_>],
        runs: &[(usize, usize)],
        threads: usize,
        sampling: Option<&Sampling>,
        interrupt: Interrupt<'_>,
    ) -> Result<Vec<Batch>> {
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let parts: Vec<Mutex<Batch>> = runs.iter().map(|_| Mutex::default()).collect();
        let work = || {
            let mut worker = self.worker();
            while !stop.load(Ordering::Relaxed) {
                let run = next.fetch_add(1, Ordering::Relaxed);
                let Some(&(from, to)) = runs.get(run) else { break };
                let part = encode_run(&mut worker, texts, from..to, sampling);
                *parts[run].lock().unwrap_or_else(std::sync::PoisonError::into_inner) = part;
            }
        };
        thread::scope(|scope| {
            let handles = (0..threads)
                .map(|_| thread::Builder::new().spawn_scoped(scope, work))
                .collect::<std::io::Result<Vec<_>>>()
                .map_err(|error| {
                    stop.store(true, Ordering::Relaxed);
                    Error::Internal(format!("cannot start a thread: {error}"))
                })?;
            while !handles.iter().all(thread::ScopedJoinHandle::is_finished) {
                interrupt.check().inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
                thread::sleep(std::time::Duration::from_millis(1));
            }
            let panicked = handles.into_iter().map(thread::ScopedJoinHandle::join).any(|joined| joined.is_err());
            if panicked { Err(Error::Internal("a tokenizer thread panicked".to_owned())) } else { Ok(()) }
        })?;
        Ok(parts.into_iter().map(|p| p.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)).collect())
    }
}

fn runs(texts: &[Text<'_>]) -> Vec<(usize, usize)> {
    let (mut runs, mut from, mut bytes) = (Vec::new(), 0, 0);
    for (at, text) in texts.iter().enumerate() {
        bytes += text.bytes().len() + 32;
        if bytes >= RUN_BYTES {
            runs.push((from, at + 1));
            (from, bytes) = (at + 1, 0);
        }
    }
    if from < texts.len() {
        runs.push((from, texts.len()));
    }
    runs
}

fn encode_run(
    worker: &mut super::Worker,
    texts: &[Text<'_>],
    numbers: Range<usize>,
    sampling: Option<&Sampling>,
) -> Batch {
    let mut batch = Batch { ids: Vec::new(), offsets: Vec::with_capacity(numbers.len()) };
    let Batch { ids, offsets } = &mut batch;
    let Some(sampling) = sampling else {
        worker.encode_all(texts[numbers].iter().copied(), ids, |end| offsets.push(end));
        return batch;
    };
    for number in numbers {
        worker.sample(texts[number], sampling, number as u64, ids);
        offsets.push(ids.len());
    }
    batch
}

fn join(parts: Vec<Batch>) -> Batch {
    let ids = parts.iter().map(|p| p.ids.len()).sum();
    let texts = parts.iter().map(|p| p.offsets.len()).sum::<usize>();
    let mut all = Batch { ids: Vec::with_capacity(ids), offsets: Vec::with_capacity(texts + 1) };
    all.offsets.push(0);
    for part in parts {
        let base = all.ids.len();
        all.offsets.extend(part.offsets.iter().map(|end| base + end));
        all.ids.extend_from_slice(&part.ids);
    }
    all
}
