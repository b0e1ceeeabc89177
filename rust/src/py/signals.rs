//! Ctrl-C during long work: the interpreter is released, and asked now and then.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::error::PyError;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;

/// Between two questions; well below the 100 ms in which Ctrl-C is answered.
const PAUSE: Duration = Duration::from_millis(20);

/// When Python was last asked, and what a signal handler raised.
struct State {
    asked: Instant,
    raised: Option<PyErr>,
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn wanted(state: &Mutex<State>) -> bool {
    let due = {
        let mut state = lock(state);
        let due = state.raised.is_none() && state.asked.elapsed() >= PAUSE;
        if due {
            state.asked = Instant::now();
        }
        due
    };
    if due && let Err(raised) = Python::attach(|py| py.check_signals()) {
        lock(state).raised = Some(raised);
    }
    lock(state).raised.is_some()
}

/// Runs `work` without the interpreter. When a signal handler raises, `work` is told to stop, and
/// what was raised is returned.
pub(crate) fn detached<R: Send>(py: Python<'_>, work: impl FnOnce(Interrupt<'_>) -> Result<R> + Send) -> PyResult<R> {
    let state = Mutex::new(State { asked: Instant::now(), raised: None });
    let ask = || wanted(&state);
    let result = py.detach(|| work(Interrupt::new(&ask)));
    match (result, lock(&state).raised.take()) {
        // Also where the work was done before it looked: what a handler raised must not vanish.
        (Ok(_) | Err(Error::Interrupted), Some(raised)) => Err(raised),
        (result, _) => Ok(result.map_err(PyError::from)?),
    }
}

/// As `detached`, for work that asks from other threads, on which Python does not look for signals:
/// the work gets a thread of its own, and this one looks.
pub(crate) fn watched<R: Send>(py: Python<'_>, work: impl FnOnce(Interrupt<'_>) -> Result<R> + Send) -> PyResult<R> {
    detached(py, |interrupt| {
        let stop = AtomicBool::new(false);
        let asked = || stop.load(Ordering::Relaxed);
        thread::scope(|scope| {
            let (done, finished) = channel::<()>();
            let worker = scope.spawn(|| {
                let _done = done; // dropped at the end, also by a panic
                work(Interrupt::new(&asked))
            });
            while finished.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                if interrupt.check().is_err() {
                    stop.store(true, Ordering::Relaxed);
                }
            }
            // The default hook has printed where.
            worker.join().unwrap_or_else(|_| Err(Error::Internal("a worker thread panicked".to_owned())))
        })
    })
}
