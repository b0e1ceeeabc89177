//! One AdamW step over a slice of the arena (decoupled decay; arXiv 1711.05101).

pub use crate::cpu::adamw::Step;

use crate::cpu::adamw as cpu;
use crate::error::Result;

/// # Errors
/// `Shape` when the four slices differ in length.
pub fn step(p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], step: &Step) -> Result<()> {
    super::expect_len("adamw", "m", p.len(), m.len())?;
    super::expect_len("adamw", "v", p.len(), v.len())?;
    super::expect_len("adamw", "g", p.len(), g.len())?;
    cpu::step(p, m, v, g, step);
    Ok(())
}
