//! Making the work so far durable while more is done: a disk may take seconds.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use super::Options;
use super::journal::Journal;
use crate::data::writer::Unsynced;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;

/// The journal speaks of what is in the files, so it is written after they were synced.
pub(super) struct Work {
    pub(super) files: Vec<Unsynced>,
    pub(super) journal: Journal,
}

/// The thread that saves.
pub(super) fn save_all(work: &Receiver<Work>, saved: &Sender<Result<()>>, options: &Options) {
    for Work { files, journal } in work {
        let result = files.iter().try_for_each(Unsynced::sync).and_then(|()| journal.save(options));
        if saved.send(result).is_err() {
            return;
        }
    }
}

/// The other end of it.
pub(super) struct Saver<'s> {
    work: Sender<Work>,
    saved: &'s Receiver<Result<()>>,
    busy: bool,
}

impl<'s> Saver<'s> {
    pub(super) fn new(work: Sender<Work>, saved: &'s Receiver<Result<()>>) -> Self {
        Self { work, saved, busy: false }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    pub(super) fn start(&mut self, work: Work) -> Result<()> {
        self.busy = true;
        self.work.send(work).map_err(|_| lost())
    }

    /// Waits for the end of what was started; whether it has come.
    ///
    /// # Errors
    /// Those of saving.
    pub(super) fn finished(&mut self, wait: Duration) -> Result<bool> {
        if !self.busy {
            return Ok(false);
        }
        match self.saved.recv_timeout(wait) {
            Ok(result) => {
                self.busy = false;
                result.map(|()| true)
            }
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => Err(lost()),
        }
    }

    /// As `finished`, for as long as it takes.
    pub(super) fn wait(&mut self, pause: Duration, interrupt: Interrupt) -> Result<bool> {
        while self.busy {
            interrupt.check()?;
            if self.finished(pause)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn lost() -> Error {
    Error::Internal("the thread that saves has ended".into())
}
