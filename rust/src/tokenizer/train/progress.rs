//! What training tells while it runs, and the question whether to stop.

use std::fmt;

use crate::error::Result;
use crate::interrupt::Interrupt;

/// A part of training that takes time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Sentences are read and normalised; counts bytes.
    Read,
    /// Equal words are merged; counts sentences.
    Words,
    /// BPE: pairs are merged; counts pieces.
    Merge,
    /// Unigram: frequent substrings are looked for; counts steps.
    Seeds,
    /// Unigram: expectation, maximisation and pruning; counts rounds.
    Estimate,
    /// The pieces are chosen and written.
    Finish,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Words => "words",
            Self::Merge => "merge",
            Self::Seeds => "seeds",
            Self::Estimate => "estimate",
            Self::Finish => "finish",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Called often by any thread; the observer decides how much of it is shown.
pub type Tell<'a> = &'a (dyn Fn(Stage, u64, u64) + Sync);

#[derive(Clone, Copy)]
pub struct Progress<'a> {
    interrupt: Interrupt<'a>,
    tell: Option<Tell<'a>>,
}

impl<'a> Progress<'a> {
    /// Shows nothing and never stops.
    pub const SILENT: Progress<'static> = Progress { interrupt: Interrupt::NEVER, tell: None };

    pub fn new(interrupt: Interrupt<'a>, tell: Option<Tell<'a>>) -> Self {
        Self { interrupt, tell }
    }

    /// Says that `done` of `total` (0: not known) are done, and asks whether to stop. To be called
    /// at least every 50 ms.
    ///
    /// # Errors
    /// `Interrupted`.
    pub fn step(&self, stage: Stage, done: u64, total: u64) -> Result<()> {
        if let Some(tell) = self.tell {
            tell(stage, done, total);
        }
        self.interrupt.check()
    }

    /// Asks whether to stop.
    ///
    /// # Errors
    /// `Interrupted`.
    pub fn check(&self) -> Result<()> {
        self.interrupt.check()
    }
}
