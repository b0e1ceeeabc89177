//! Configuration, optimizer, schedule, checkpoints and the trainer.

pub mod checkpoint;
pub mod config;
pub mod scaler;
pub mod schedule;
