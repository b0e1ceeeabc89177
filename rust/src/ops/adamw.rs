//! One AdamW step over a slice of the arena (decoupled decay; arXiv 1711.05101).

pub use crate::cpu::adamw::{Dither, Step};

use crate::cpu::adamw as cpu;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};

/// # Errors
/// `Shape` when the four slices differ in length; `UnsupportedInput` for a step 0, whose bias correction divides by 0,
/// and for random rounding where nothing is stored as bf16.
pub fn step<P: Element, M: Element>(p: &mut [P], m: &mut [M], v: &mut [M], g: &[P], step: &Step) -> Result<()> {
    super::expect_len("adamw", "m", p.len(), m.len())?;
    super::expect_len("adamw", "v", p.len(), v.len())?;
    super::expect_len("adamw", "g", p.len(), g.len())?;
    if step.step == 0 {
        return Err(Error::UnsupportedInput("adamw: `step` counts from 1, got 0".into()));
    }
    if step.dither.is_some() && P::DTYPE != DType::BF16 && M::DTYPE != DType::BF16 {
        let (p, m) = (P::DTYPE.name(), M::DTYPE.name());
        let what = format!("stochastic rounding is for bfloat16; the parameters are {p}, the moments {m}");
        return Err(Error::UnsupportedInput(format!("adamw: {what}")));
    }
    cpu::step(p, m, v, g, step);
    Ok(())
}
