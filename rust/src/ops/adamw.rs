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

/// A stretch of the arena, up to `end`, and its weight decay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    pub end: usize,
    pub weight_decay: f64,
}

/// One step's numbers.
#[derive(Debug, Clone, Copy)]
pub struct Numbers {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// From 1.
    pub step: u64,
}

/// On a GPU: a whole arena in one launch.
#[cfg(feature = "cuda")]
pub mod cuda {
    use std::sync::Arc;

    pub use super::{Group, Numbers};

    use super::super::expect_len;
    use crate::cuda::{Stream, View, ViewMut, adamw as device};
    use crate::dtype::Element;
    use crate::error::{Error, Result};

    impl Numbers {
        /// As the kernel takes them.
        fn derived(&self) -> device::Numbers {
            let t = self.step as f64;
            device::Numbers {
                step_size: (self.lr / (1.0 - self.beta1.powf(t))) as f32,
                root2: (1.0 - self.beta2.powf(t)).sqrt().recip() as f32,
                beta1: self.beta1 as f32,
                rest1: (1.0 - self.beta1) as f32,
                beta2: self.beta2 as f32,
                rest2: (1.0 - self.beta2) as f32,
                eps: self.eps as f32,
            }
        }
    }

    /// p, m and v after a step with g·grad_scale, all (n); low (n) is p rounded. Groups end where the next begins, the
    /// last at n. Where grad_scale (1) is not finite nothing is written.
    ///
    /// # Errors
    /// `Shape`; `UnsupportedInput` for groups that are not so, and for a step 0; `Device`.
    pub fn step<T: Element>(
        on: &Arc<Stream>,
        p: ViewMut<f32>,
        m: ViewMut<f32>,
        v: ViewMut<f32>,
        low: Option<ViewMut<T>>,
        g: View<f32>,
        grad_scale: View<f32>,
        groups: &[Group],
        numbers: &Numbers,
    ) -> Result<()> {
        let n = p.shape().count();
        let low_count = low.as_ref().map_or(n, |low| low.shape().count());
        let counts = [("m", m.shape().count()), ("v", v.shape().count()), ("g", g.shape().count()), ("low", low_count)];
        counts.iter().try_for_each(|(arg, got)| expect_len("adamw", arg, n, *got))?;
        expect_len("adamw", "grad_scale", 1, grad_scale.shape().count())?;
        if numbers.step == 0 {
            return Err(Error::UnsupportedInput("adamw: `step` counts from 1, got 0".into()));
        }
        if !groups.is_sorted_by_key(|group| group.end) || groups.last().is_none_or(|last| last.end != n) {
            return Err(Error::UnsupportedInput(format!("adamw: `groups` must end in order, the last at {n}")));
        }
        let ends: Vec<u64> = groups.iter().map(|group| group.end as u64).collect();
        let decays: Vec<f32> = groups.iter().map(|group| (numbers.lr * group.weight_decay) as f32).collect();
        let (ends, decays) = (on.upload(&ends)?, on.upload(&decays)?);
        let (ends, decays) = (ends.view(&[groups.len()])?, decays.view(&[groups.len()])?);
        device::step(on, p, m, v, low, g, grad_scale, ends, decays, &numbers.derived())
    }
}
