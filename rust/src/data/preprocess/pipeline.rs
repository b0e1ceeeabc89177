//! Threads: one reads, some encode, the caller's writes in order, one more makes that durable now and then.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::chunks::{Chunk, Chunks, Filled, Position};
use super::inputs::Meter;
use super::journal::{self, Journal};
use super::saver::{self, Saver};
use super::work::{self, Encoded, Scratch, Tokens};
use super::{Counts, Encode, KeyCounts, MAX_ERRORS, OnError, Options, Status, Summary, open_writers, place};
use crate::data::writer::DatasetWriter;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;

/// How often Ctrl-C is looked for and progress is told.
const TICK: Duration = Duration::from_millis(50);

/// A chunk's number, where it lies, and what became of it.
struct Done {
    number: u64,
    input: usize,
    next: Position,
    encoded: Result<Encoded>,
    /// To be filled again.
    text: Filled,
}

/// The right to read another chunk, and the buffers that one before it used: they go from the reader to a
/// worker to the writer and back.
#[derive(Default)]
struct Permit {
    text: Filled,
    tokens: Vec<Tokens>,
}

/// A chunk's number, the chunk, and buffers for its tokens.
type Numbered = (u64, Result<Chunk>, Vec<Tokens>);

/// Encodes all chunks from the output's position on and writes them.
pub(super) fn run<'e>(
    options: &Options,
    output: &mut Output,
    worker: &(dyn Fn() -> Result<Box<dyn Encode + 'e>> + Sync),
    observe: &mut dyn FnMut(&Status) -> Result<()>,
    interrupt: Interrupt,
) -> Result<()> {
    let meter = Arc::new(Meter::default());
    let done_before = options.inputs[..output.position.input].iter().map(|input| input.len).sum();
    meter.bytes.store(done_before, Ordering::Relaxed);
    let chunks = Chunks::new(&options.inputs, &options.keys, options.parquet.clone(), output.position, meter.clone());
    let encoders = (0..options.workers).map(|_| worker()).collect::<Result<Vec<_>>>()?;
    let in_flight = 2 * options.workers + 2;
    let (permit, permits) = channel();
    for _ in 0..in_flight {
        let _ = permit.send(Permit::default());
    }
    let (work, queue) = sync_channel(in_flight);
    let (done, results) = channel();
    let queue = Mutex::new(queue);
    let (save, to_save) = channel();
    let (saved_by_thread, saved) = channel();
    let result = std::thread::scope(|scope| {
        scope.spawn(move || feed(chunks, &permits, &work));
        scope.spawn(move || saver::save_all(&to_save, &saved_by_thread, options));
        for encoder in encoders {
            let (queue, done) = (&queue, done.clone());
            scope.spawn(move || encode_all(queue, &done, options, encoder));
        }
        drop(done);
        // Leaving this closure drops `permit`, `results` and `save`, at which the threads end.
        let saver = Saver::new(save, &saved);
        let collector = Collector { options, output, meter: &meter, permit, saver, told: Instant::now() };
        let collected = collector.collect(results, observe, interrupt);
        meter.stop.store(true, Ordering::Relaxed);
        collected
    });
    // What was being saved when an error came up.
    output.has_journal |= saved.iter().any(|saved| saved.is_ok());
    result
}

/// The reader thread: a chunk for each permit.
fn feed(mut chunks: Chunks, permits: &Receiver<Permit>, work: &SyncSender<Numbered>) {
    for number in 0.. {
        let Ok(Permit { text, tokens }) = permits.recv() else { return };
        let Some(chunk) = chunks.next(text).transpose() else { return };
        if work.send((number, chunk, tokens)).is_err() {
            return;
        }
    }
}

/// A worker thread.
fn encode_all(
    queue: &Mutex<Receiver<Numbered>>,
    done: &Sender<Done>,
    options: &Options,
    mut encoder: Box<dyn Encode + '_>,
) {
    let mut scratch = Scratch::default();
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((number, chunk, tokens)) = next else { return };
        let one = encode_one(number, chunk, tokens, options, encoder.as_mut(), &mut scratch);
        if done.send(one).is_err() {
            return;
        }
    }
}

fn encode_one(
    number: u64,
    chunk: Result<Chunk>,
    tokens: Vec<Tokens>,
    options: &Options,
    encoder: &mut dyn Encode,
    scratch: &mut Scratch,
) -> Done {
    let chunk = match chunk {
        Ok(chunk) => chunk,
        Err(e) => {
            return Done { number, input: 0, next: Position::default(), encoded: Err(e), text: Filled::default() };
        }
    };
    let work = AssertUnwindSafe(|| work::encode(&chunk, tokens, options, encoder, scratch));
    let encoded = catch_unwind(work).unwrap_or_else(|_| {
        // The default hook has printed where.
        Err(Error::Internal("the tokenizer panicked".into()))
    });
    Done { number, input: chunk.input, next: chunk.next, encoded, text: chunk.text }
}

struct Collector<'a> {
    options: &'a Options,
    output: &'a mut Output,
    meter: &'a Meter,
    permit: Sender<Permit>,
    saver: Saver<'a>,
    told: Instant,
}

impl Collector<'_> {
    /// Writes results in the order of their numbers until all threads are through.
    fn collect(
        mut self,
        results: Receiver<Done>,
        observe: &mut dyn FnMut(&Status) -> Result<()>,
        interrupt: Interrupt,
    ) -> Result<()> {
        let (mut waiting, mut next) = (BTreeMap::new(), 0);
        loop {
            interrupt.check()?;
            match results.recv_timeout(TICK) {
                Ok(done) => drop(waiting.insert(done.number, done)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) if waiting.is_empty() => {
                    self.output.has_journal |= self.saver.wait(TICK, interrupt)?;
                    return observe(&self.status());
                }
                Err(RecvTimeoutError::Disconnected) => return Err(Error::Internal(format!("chunk {next} is lost"))),
            }
            while let Some(done) = waiting.remove(&next) {
                next += 1;
                let permit = self.output.take(self.options, done)?;
                // The reader may have ended; then nobody wants the permit.
                let _ = self.permit.send(permit);
                interrupt.check()?;
            }
            if self.told.elapsed() >= 2 * TICK {
                observe(&self.status())?;
                self.told = Instant::now();
            }
            self.save_if_due()?;
        }
    }

    fn save_if_due(&mut self) -> Result<()> {
        self.output.has_journal |= self.saver.finished(Duration::ZERO)?;
        if self.saver.is_busy() || !self.output.is_due(self.options) {
            return Ok(());
        }
        self.saver.start(self.output.reached()?)
    }

    fn status(&self) -> Status {
        let counts = &self.output.counts;
        Status {
            documents: counts.keys[0].documents,
            tokens: counts.keys[0].tokens,
            skipped: counts.skipped,
            bytes_read: self.meter.bytes.load(Ordering::Relaxed),
            bytes_total: self.options.inputs.iter().map(|input| input.len).sum(),
        }
    }
}

/// The datasets under way, and how far they are.
pub(super) struct Output {
    writers: Vec<DatasetWriter>,
    position: Position,
    counts: Counts,
    job: String,
    /// When the last journal was begun, and how far it was then.
    synced: Instant,
    synced_to: Position,
    has_journal: bool,
    resumed: bool,
}

impl Output {
    /// Goes on from the journal of an earlier run of this job, or starts afresh.
    pub(super) fn open(options: &Options, interrupt: Interrupt) -> Result<Self> {
        let job = journal::job(options);
        let journal = if options.tokenizer.is_some() { Journal::load(options, &job)? } else { None };
        if let Some(journal) = journal {
            match Self::start(options, journal, true, interrupt) {
                // Somebody removed or cut the part files.
                Err(Error::CorruptDataset { .. }) => {}
                started => return started,
            }
        }
        Journal::remove(options)?;
        let keys = vec![KeyCounts::default(); options.keys.len()];
        let counts = Counts { keys, ..Counts::default() };
        let fresh = Journal { job, position: Position::default(), outputs: Vec::new(), counts };
        Self::start(options, fresh, false, interrupt)
    }

    fn start(options: &Options, journal: Journal, resumed: bool, interrupt: Interrupt) -> Result<Self> {
        let Journal { job, position, outputs, counts } = journal;
        let writers = open_writers(options, &outputs, interrupt)?;
        let synced = Instant::now();
        Ok(Self { writers, position, counts, job, synced, synced_to: position, has_journal: resumed, resumed })
    }

    /// Writes one chunk's tokens; gives its buffers back.
    fn take(&mut self, options: &Options, done: Done) -> Result<Permit> {
        let encoded = done.encoded?;
        if done.input != self.counts.input {
            (self.counts.input, self.counts.lines_of_input) = (done.input, 0);
        }
        self.reject(options, done.input, &encoded)?;
        for ((tokens, writer), counts) in encoded.tokens.iter().zip(&mut self.writers).zip(&mut self.counts.keys) {
            writer.stored_documents(&tokens.bytes, &tokens.lengths)?;
            counts.add(tokens, writer.kind().size());
        }
        self.counts.lines += encoded.lines;
        self.counts.lines_of_input += encoded.lines;
        self.counts.blank_lines += encoded.blank;
        self.position = done.next;
        Ok(Permit { text: done.text, tokens: encoded.tokens })
    }

    fn reject(&mut self, options: &Options, input: usize, encoded: &Encoded) -> Result<()> {
        let path = &options.inputs[input].path;
        for reject in &encoded.rejects {
            let line = reject.line.map(|line| self.counts.lines_of_input + line + 1);
            if options.on_error == OnError::Raise {
                let what = line.map_or_else(|| reject.what.clone(), |line| format!("line {line}: {}", reject.what));
                return Err(Error::CorruptDataset { path: path.clone(), what });
            }
            self.counts.skipped += 1;
            if self.counts.errors.len() < MAX_ERRORS {
                self.counts.errors.push(format!("{}: {}", place(path, line), reject.what));
            }
        }
        Ok(())
    }

    fn is_due(&self, options: &Options) -> bool {
        options.tokenizer.is_some() && self.position != self.synced_to && self.synced.elapsed() >= options.sync_every
    }

    fn reached(&mut self) -> Result<saver::Work> {
        (self.synced, self.synced_to) = (Instant::now(), self.position);
        let reached = self.writers.iter_mut().map(DatasetWriter::reached).collect::<Result<Vec<_>>>()?;
        let (outputs, files): (Vec<_>, Vec<_>) = reached.into_iter().unzip();
        let (job, position, counts) = (self.job.clone(), self.position, self.counts.clone());
        let journal = Journal { job, position, outputs, counts };
        Ok(saver::Work { files: files.into_iter().flatten().collect(), journal })
    }

    pub(super) fn check_not_empty(&self) -> Result<()> {
        let Some(at) = self.counts.keys.iter().position(|counts| counts.documents == 0) else { return Ok(()) };
        let Counts { lines, blank_lines, skipped, .. } = self.counts;
        let empty = self.counts.keys[at].empty;
        let first = self.counts.errors.first().map_or(String::new(), |error| format!("; the first error: {error}"));
        Err(Error::UnsupportedInput(format!(
            "no document became tokens: {lines} lines, of which {blank_lines} blank; {empty} documents without text, \
             {skipped} with errors{first}. Nothing was written"
        )))
    }

    /// After an error: keeps what a later run can go on from, else leaves nothing.
    pub(super) fn abandon(mut self, error: &Error, options: &Options) {
        let keep = self.has_journal && !matches!(error, Error::Io { .. });
        self.writers.iter_mut().for_each(|writer| writer.keep_parts(keep));
        if !keep {
            // The error at hand is the one to report.
            let _ = Journal::remove(options);
        }
    }

    pub(super) fn finish(self, options: &Options) -> Result<Summary> {
        // First: a journal must not outlive the part files it speaks of.
        Journal::remove(options)?;
        let written = self.writers.into_iter().map(DatasetWriter::finish).collect::<Result<Vec<_>>>()?;
        Ok(Summary { written, counts: self.counts, resumed: self.resumed })
    }
}

impl KeyCounts {
    fn add(&mut self, tokens: &Tokens, token_size: usize) {
        self.documents += tokens.lengths.len() as u64;
        self.tokens += (tokens.bytes.len() / token_size) as u64;
        self.empty += tokens.empty;
        self.text_bytes += tokens.text_bytes;
        self.characters += tokens.characters;
    }
}
