//! The global gradient norm's parts.

pub use crate::cpu::grad_norm::{first_non_finite, sum_of_squares};
