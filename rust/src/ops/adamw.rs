//! One AdamW step over a slice of the arena (decoupled decay; arXiv 1711.05101).

pub use crate::cpu::adamw::Step;

use crate::cpu::adamw as cpu;
use crate::error::{Error, Result};

/// # Errors
/// `Shape` when the four slices differ in length; `UnsupportedInput` for a step 0, whose bias correction divides by 0.
pub fn step(p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], step: &Step) -> Result<()> {
    super::expect_len("adamw", "m", p.len(), m.len())?;
    super::expect_len("adamw", "v", p.len(), v.len())?;
    super::expect_len("adamw", "g", p.len(), g.len())?;
    if step.step == 0 {
        return Err(Error::UnsupportedInput("adamw: `step` counts from 1, got 0".into()));
    }
    cpu::step(p, m, v, g, step);
    Ok(())
}
