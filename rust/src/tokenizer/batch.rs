//! Many texts over several threads. A text is never cut: that would change its ids.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::places::{Place, Placed, Unit};
use super::sample::Sampling;
use super::tokenizer::Tokenizer;
use super::worker::{Text, Worker};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;

/// The ids of several texts, one after the other.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub ids: Vec<u32>,
    /// Of each id the place in its text, if asked for.
    pub places: Vec<Place>,
    /// Text `i` is `ids[offsets[i]..offsets[i + 1]]`.
    pub offsets: Vec<usize>,
}

/// How a batch is encoded.
#[derive(Debug, Clone, Copy)]
pub struct BatchOptions {
    /// At most so many; the result is the same for any number.
    pub threads: usize,
    /// Draws the segmentation of each text, by its number in the batch.
    pub sampling: Option<Sampling>,
    /// Asks for places.
    pub places: Option<Unit>,
}

/// Texts are handed out in runs of about this many bytes.
const RUN_BYTES: usize = 1 << 16;
/// Between two questions of a thread that only waits; below the 100 ms in which Ctrl-C is answered.
const PAUSE: Duration = Duration::from_millis(20);
/// Bytes of text to an id, at least, in most languages: what is set aside at first.
const BYTES_AN_ID: usize = 3;

/// Threads for a batch: `LLMJP_NUM_THREADS`, else `OMP_NUM_THREADS`, else what the machine allows.
pub fn default_threads() -> usize {
    let asked = ["LLMJP_NUM_THREADS", "OMP_NUM_THREADS"];
    let asked = asked.iter().find_map(|name| std::env::var(name).ok()?.trim().parse().ok());
    asked.filter(|n| *n > 0).unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
}

impl Tokenizer {
    /// Encodes `texts` in order. `interrupt` is asked on the calling thread alone, since only it
    /// may talk to Python.
    ///
    /// # Errors
    /// `Interrupted`; `Internal` when a thread could not be started; as `check_sampling`.
    pub fn encode_batch(&self, texts: &[Text<'_>], options: BatchOptions, interrupt: Interrupt<'_>) -> Result<Batch> {
        options.sampling.as_ref().map_or(Ok(()), |sampling| self.check_sampling(sampling))?;
        let runs = runs(texts);
        let threads = options.threads.clamp(1, runs.len().max(1));
        let size = size_of(texts);
        let job = Job { tokenizer: self, texts, options, order: order(texts, &runs), runs };
        let mut batch = Batch { offsets: Vec::with_capacity(texts.len() + 1), ..Batch::default() };
        batch.ids.reserve(size / BYTES_AN_ID);
        if options.places.is_some() {
            batch.places.reserve(size / BYTES_AN_ID);
        }
        batch.offsets.push(0);
        if threads == 1 { job.alone(batch, interrupt) } else { job.together(batch, threads, interrupt) }
    }
}

struct Job<'a> {
    tokenizer: &'a Tokenizer,
    texts: &'a [Text<'a>],
    options: BatchOptions,
    runs: Vec<Range<usize>>,
    /// In which order the runs are begun.
    order: Vec<usize>,
}

/// What the threads share.
struct Shared {
    next: AtomicUsize,
    stop: AtomicBool,
    ordered: Mutex<Ordered>,
}

/// Results in the order of the texts: those whose turn has not come wait.
struct Ordered {
    batch: Batch,
    done: usize,
    waiting: BTreeMap<usize, Batch>,
}

impl Ordered {
    /// Takes what was made of a run and empties it.
    fn take(&mut self, run: usize, part: &mut Batch) {
        if run != self.done {
            self.waiting.insert(run, std::mem::take(part));
            return;
        }
        self.batch.append(part);
        self.done += 1;
        while let Some(mut part) = self.waiting.remove(&self.done) {
            self.batch.append(&mut part);
            self.done += 1;
        }
    }
}

impl Batch {
    /// Takes a later part, whose offsets begin with the end of its first text, and empties it.
    fn append(&mut self, part: &mut Self) {
        let base = self.ids.len();
        self.offsets.extend(part.offsets.drain(..).map(|end| base + end));
        self.ids.append(&mut part.ids);
        self.places.append(&mut part.places);
    }
}

impl Job<'_> {
    fn alone(&self, mut batch: Batch, interrupt: Interrupt<'_>) -> Result<Batch> {
        let mut worker = self.tokenizer.worker();
        for run in &self.runs {
            self.encode(&mut worker, run.clone(), interrupt, &mut batch);
            interrupt.check()?;
        }
        Ok(batch)
    }

    fn together(&self, batch: Batch, threads: usize, interrupt: Interrupt<'_>) -> Result<Batch> {
        let ordered = Ordered { batch, done: 0, waiting: BTreeMap::new() };
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let shared = Shared { next, stop, ordered: Mutex::new(ordered) };
        let told = || shared.stop.load(Ordering::Relaxed);
        thread::scope(|scope| {
            let (gone, all_gone) = channel();
            let spawn = |gone: Sender<()>| {
                let work = || {
                    // Dropped at the end, also by a panic.
                    let _gone = gone;
                    self.work(&shared, Interrupt::new(&told));
                };
                thread::Builder::new().spawn_scoped(scope, work)
            };
            let helpers = (1..threads).map(|_| spawn(gone.clone())).collect::<std::io::Result<Vec<_>>>();
            drop(gone);
            let helpers = helpers.map_err(|error| {
                shared.stop.store(true, Ordering::Relaxed);
                Error::Internal(format!("cannot start a thread: {error}"))
            })?;
            self.work(&shared, interrupt);
            let mut asked = interrupt.check();
            while asked.is_ok() && all_gone.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                asked = interrupt.check();
            }
            asked.inspect_err(|_| shared.stop.store(true, Ordering::Relaxed))?;
            let panicked = helpers.into_iter().map(thread::ScopedJoinHandle::join).any(|joined| joined.is_err());
            if panicked { Err(Error::Internal("a tokenizer thread panicked".to_owned())) } else { Ok(()) }
        })?;
        Ok(shared.ordered.into_inner().unwrap_or_else(PoisonError::into_inner).batch)
    }

    /// Encodes runs until there are none left, or `interrupt` says so.
    fn work(&self, shared: &Shared, interrupt: Interrupt<'_>) {
        let mut worker = self.tokenizer.worker();
        let mut part = Batch::default();
        while let Some(&run) = self.order.get(shared.next.fetch_add(1, Ordering::Relaxed)) {
            self.encode(&mut worker, self.runs[run].clone(), interrupt, &mut part);
            if interrupt.check().is_err() {
                break;
            }
            shared.ordered.lock().unwrap_or_else(PoisonError::into_inner).take(run, &mut part);
        }
    }

    /// Appends a run's ids to `out`; some are missing after an interruption.
    fn encode(&self, worker: &mut Worker, run: Range<usize>, interrupt: Interrupt<'_>, out: &mut Batch) {
        let Batch { ids, places, offsets } = out;
        let texts = self.texts[run.clone()].iter().copied();
        match (self.options.sampling, self.options.places) {
            (None, None) => worker.encode_all(texts, interrupt, ids, |end| offsets.push(end)),
            (None, Some(unit)) => {
                let mut placed = Placed { ids: std::mem::take(ids), places: std::mem::take(places) };
                worker.place_all(texts, unit, interrupt, &mut placed, |end| offsets.push(end));
                Placed { ids: *ids, places: *places } = placed;
            }
            (Some(sampling), unit) => {
                let mut placed = Placed { ids: std::mem::take(ids), places: std::mem::take(places) };
                for (number, text) in run.zip(texts) {
                    if interrupt.check().is_err() {
                        break;
                    }
                    match unit {
                        None => worker.sample(text, &sampling, number as u64, &mut placed.ids),
                        Some(unit) => worker.sample_placed(text, &sampling, number as u64, unit, &mut placed),
                    }
                    offsets.push(placed.ids.len());
                }
                Placed { ids: *ids, places: *places } = placed;
            }
        }
    }
}

/// In bytes.
fn size_of(texts: &[Text<'_>]) -> usize {
    texts.iter().map(|text| text.bytes().len()).sum()
}

/// Long texts come first, so that no thread is left alone with one at the end.
fn order(texts: &[Text<'_>], runs: &[Range<usize>]) -> Vec<usize> {
    let long = |run: &usize| Some(size_of(&texts[runs[*run].clone()])).filter(|size| *size > 2 * RUN_BYTES);
    let mut order: Vec<usize> = (0..runs.len()).collect();
    order.sort_by_cached_key(|run| std::cmp::Reverse(long(run)));
    order
}

fn runs(texts: &[Text<'_>]) -> Vec<Range<usize>> {
    let (mut runs, mut from, mut bytes) = (Vec::new(), 0, 0);
    for (at, text) in texts.iter().enumerate() {
        bytes += text.bytes().len() + 32;
        if bytes >= RUN_BYTES {
            runs.push(from..at + 1);
            (from, bytes) = (at + 1, 0);
        }
    }
    if from < texts.len() {
        runs.push(from..texts.len());
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_come_first() {
        let (short, long, longer) = ("a".repeat(RUN_BYTES), "a".repeat(3 * RUN_BYTES), "a".repeat(4 * RUN_BYTES));
        let texts = [&short, &short, &long, &short, &longer, &short].map(|text| Text::Str(text));
        let runs = runs(&texts);
        assert_eq!(runs.len(), 6);
        assert_eq!(order(&texts, &runs), [4, 2, 0, 1, 3, 5]);
    }
}
