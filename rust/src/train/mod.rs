//! Configuration, optimizer, schedule, checkpoints and the trainer.

mod batch;
mod begin;
pub mod checkpoint;
mod compute;
pub mod config;
mod non_finite;
pub mod optimizer;
mod report;
pub mod saving;
pub mod scaler;
pub mod schedule;
#[cfg(test)]
mod tests;
mod trainer;

pub use report::{Evaluation, Part, StepReport, Timers};
pub use trainer::{FP16_SKIPS, SKIPS, Trainer};
