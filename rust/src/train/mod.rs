//! Configuration, optimizer, schedule, checkpoints and the trainer.

pub mod config;
