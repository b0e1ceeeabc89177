//! Asking, between kernels, whether the user wants to stop.

use crate::error::{Error, Result};

/// A question that long work asks at least every 100 ms of kernel time.
#[derive(Clone, Copy)]
pub struct Interrupt<'a>(Option<&'a (dyn Fn() -> bool + Sync)>);

impl<'a> Interrupt<'a> {
    pub const NEVER: Interrupt<'static> = Interrupt(None);

    pub fn new(wanted: &'a (dyn Fn() -> bool + Sync)) -> Self {
        Self(Some(wanted))
    }

    /// # Errors
    /// `Error::Interrupted` when the user asked to stop.
    pub fn check(&self) -> Result<()> {
        match self.0 {
            Some(wanted) if wanted() => Err(Error::Interrupted),
            _ => Ok(()),
        }
    }
}
