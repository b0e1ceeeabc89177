//! Numbered jobs over threads, their results taken in order of number: what is added up from them
//! has the same bits for any number of threads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::tokenizer::train::Progress;

/// How long the calling thread sleeps before it asks again whether to stop.
const PATIENCE: Duration = Duration::from_millis(20);

/// Set when the results are not wanted any more; a job asks it every few milliseconds.
pub(super) struct Stop<'a>(&'a AtomicBool);

impl Stop<'_> {
    #[inline]
    pub(super) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// Threads, and how to ask whether to go on.
#[derive(Clone, Copy)]
pub(super) struct Jobs<'a> {
    pub(super) threads: usize,
    pub(super) progress: Progress<'a>,
}

impl Jobs<'_> {
    /// Calls `job` with each number below `count`, and `take` with the results in order. The calling
    /// thread works not, since only it may talk to Python: it waits, takes, and asks whether to stop.
    ///
    /// # Errors
    /// `Interrupted`; what a job or `take` gave; `Internal` when a thread could not be started.
    pub(super) fn in_order<W, T: Send>(
        &self,
        count: usize,
        worker: impl Fn() -> W + Sync,
        job: impl Fn(&mut W, usize, &Stop<'_>) -> Result<T> + Sync,
        mut take: impl FnMut(usize, T) -> Result<()>,
    ) -> Result<()> {
        self.progress.check()?;
        let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (sender, results) = mpsc::channel();
        let work = |sender: mpsc::Sender<(usize, Result<T>)>| {
            let (mut worker, stop) = (worker(), Stop(&stopped));
            while stop.check().is_ok() {
                let number = next.fetch_add(1, Ordering::Relaxed);
                // Sending fails once the calling thread has given up.
                if number >= count || sender.send((number, job(&mut worker, number, &stop))).is_err() {
                    break;
                }
            }
        };
        thread::scope(|scope| {
            let _stop_when_done = SetOnDrop(&stopped);
            for _ in 0..self.threads.clamp(1, count.max(1)) {
                let (sender, work) = (sender.clone(), &work);
                let started = thread::Builder::new().spawn_scoped(scope, move || work(sender));
                started.map_err(|error| Error::Internal(format!("cannot start a thread: {error}")))?;
            }
            drop(sender);
            let (mut early, mut wanted, mut asked) = (BTreeMap::new(), 0, Instant::now());
            while wanted < count {
                match results.recv_timeout(PATIENCE) {
                    Ok((number, result)) => drop(early.insert(number, result?)),
                    Err(RecvTimeoutError::Timeout) => {}
                    // A thread panicked: the scope passes that on.
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                if asked.elapsed() >= PATIENCE {
                    self.progress.check()?;
                    asked = Instant::now();
                }
                while let Some(result) = early.remove(&wanted) {
                    take(wanted, result)?;
                    wanted += 1;
                }
            }
            Ok(())
        })
    }
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupt::Interrupt;

    #[test]
    fn results_come_in_order() {
        for threads in [1, 2, 3, 7] {
            let jobs = Jobs { threads, progress: Progress::SILENT };
            let mut taken = Vec::new();
            let job = |_: &mut (), i: usize, _: &Stop<'_>| Ok(i * i);
            let take = |i, square| {
                taken.push((i, square));
                Ok(())
            };
            jobs.in_order(100, || (), job, take).unwrap();
            assert_eq!(taken, (0..100).map(|i| (i, i * i)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_interrupt_ends_long_jobs() {
        let wanted = || true;
        let asked = AtomicBool::new(false);
        let later = || asked.swap(true, Ordering::Relaxed);
        let endless = |_: &mut (), _: usize, stop: &Stop<'_>| -> Result<()> {
            loop {
                stop.check()?;
                thread::sleep(Duration::from_millis(1));
            }
        };
        for interrupt in [Interrupt::new(&wanted), Interrupt::new(&later)] {
            let jobs = Jobs { threads: 2, progress: Progress::new(interrupt, None) };
            assert!(matches!(jobs.in_order(4, || (), endless, |_, ()| Ok(())), Err(Error::Interrupted)));
        }
    }

    #[test]
    fn the_error_of_a_job_is_passed_on() {
        let jobs = Jobs { threads: 2, progress: Progress::SILENT };
        let job = |_: &mut (), i: usize, _: &Stop<'_>| {
            if i == 3 { Err(Error::Tokenizer("three".to_owned())) } else { Ok(()) }
        };
        assert!(matches!(jobs.in_order(10, || (), job, |_, ()| Ok(())), Err(Error::Tokenizer(_))));
    }
}
