//! The learning rate of every update.
//!
//! `n` counts the updates made before: the first update uses n = 0, and a skipped step does not
//! move it. D = `decay_iters`, w = `warmup_iters`, k = n - w, e = D - w:
//!
//! | part | neox | megatron |
//! |---|---|---|
//! | n <= w | lr * max(1, n) / w | lr * n / w |
//! | constant | lr | lr |
//! | linear | lr * (e - k) / e | min + (lr - min) * (1 - k / e) |
//! | cosine | min + (lr - min) / 2 * (1 + cos(pi * k / e)) | the same |
//! | exponential | lr * exp(-0.693 * k / e) | - |
//! | wsd | lr, then linear to min over the last `wsd_decay_iters` | the same |
//!
//! After the warm-up no value is below `min_lr`. After D the rate stays at `min_lr`; upstream's
//! cosine rises again there. `exponential` has no end and `constant` no decay. With w < 1 the rate
//! of n = 0 is `lr`, where upstream gives lr / w.

use std::f64::consts::PI;

use crate::error::{Error, Result};
use crate::train::config::{DecayStyle, ScheduleConfig, ScheduleFlavor};

/// A checked schedule; a pure function of `n`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule(ScheduleConfig);

impl Schedule {
    /// # Errors
    /// `Error::Config` when a value is not finite, negative or out of order.
    pub fn new(config: ScheduleConfig) -> Result<Self> {
        match fault(&config) {
            Some(what) => Err(Error::Config(format!("learning-rate schedule: {what}"))),
            None => Ok(Self(config)),
        }
    }

    pub fn config(&self) -> &ScheduleConfig {
        &self.0
    }

    /// The rate of the update that follows `n` updates.
    pub fn learning_rate(&self, n: usize) -> f64 {
        let c = &self.0;
        if c.warmup_iters > 0.0 && n as f64 <= c.warmup_iters {
            return warmup(c, n as f64);
        }
        decay(c, n as f64).max(c.min_lr)
    }
}

impl ScheduleFlavor {
    const ALL: [Self; 2] = [Self::Neox, Self::Megatron];

    /// The word of a configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Neox => "neox",
            Self::Megatron => "megatron",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|flavor| flavor.name() == name)
    }
}

impl DecayStyle {
    const ALL: [Self; 5] = [Self::Constant, Self::Linear, Self::Cosine, Self::Exponential, Self::Wsd];

    /// The word of a configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Linear => "linear",
            Self::Cosine => "cosine",
            Self::Exponential => "exponential",
            Self::Wsd => "wsd",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|style| style.name() == name)
    }
}

fn fault(c: &ScheduleConfig) -> Option<String> {
    if !(c.lr.is_finite() && c.lr >= 0.0) {
        return Some(format!("lr must be a finite number >= 0, got {}", c.lr));
    }
    if !(0.0..=c.lr).contains(&c.min_lr) {
        return Some(format!("min_lr must lie in 0..=lr ({}), got {}", c.lr, c.min_lr));
    }
    if c.decay_iters == 0 {
        return Some("lr_decay_iters must be at least 1".into());
    }
    if !(0.0..=c.decay_iters as f64).contains(&c.warmup_iters) {
        return Some(format!("warm-up of {} steps does not fit lr_decay_iters {}", c.warmup_iters, c.decay_iters));
    }
    if c.flavor == ScheduleFlavor::Megatron && c.style == DecayStyle::Exponential {
        return Some("lr_decay_style exponential is GPT-NeoX's; Megatron has none: set schedule_flavor neox".into());
    }
    let stable = c.decay_iters as f64 - c.warmup_iters;
    if c.style == DecayStyle::Wsd && !(1.0..=stable).contains(&(c.wsd_decay_iters as f64)) {
        return Some(format!("wsd decay of {} steps must lie in 1..={stable}", c.wsd_decay_iters));
    }
    None
}

fn warmup(c: &ScheduleConfig, n: f64) -> f64 {
    let steps = match c.flavor {
        ScheduleFlavor::Neox => n.max(1.0).min(c.warmup_iters),
        ScheduleFlavor::Megatron => n,
    };
    c.lr * steps / c.warmup_iters
}

fn decay(c: &ScheduleConfig, n: f64) -> f64 {
    let end = c.decay_iters as f64;
    let ratio = (n - c.warmup_iters) / (end - c.warmup_iters);
    match c.style {
        DecayStyle::Constant => c.lr,
        DecayStyle::Exponential => c.lr * (-0.693 * ratio).exp(),
        _ if n > end => c.min_lr,
        DecayStyle::Linear if c.flavor == ScheduleFlavor::Neox => c.lr * (1.0 - ratio),
        DecayStyle::Linear => between(c, 1.0 - ratio),
        DecayStyle::Cosine => between(c, 0.5 * (1.0 + (PI * ratio).cos())),
        DecayStyle::Wsd => between(c, ((end - n) / c.wsd_decay_iters as f64).min(1.0)),
    }
}

fn between(c: &ScheduleConfig, share: f64) -> f64 {
    c.min_lr + (c.lr - c.min_lr) * share
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flavor: ScheduleFlavor, style: DecayStyle) -> ScheduleConfig {
        let (lr, min_lr, warmup_iters) = (2e-4, 2e-5, 10.0);
        ScheduleConfig { flavor, style, lr, min_lr, warmup_iters, decay_iters: 1000, wsd_decay_iters: 200 }
    }

    fn rates(config: ScheduleConfig, steps: &[usize]) -> Vec<f64> {
        let schedule = Schedule::new(config).unwrap();
        steps.iter().map(|&n| schedule.learning_rate(n)).collect()
    }

    fn assert_close(got: &[f64], want: &[f64]) {
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            assert!((got - want).abs() <= 1e-9 * want, "value {i}: {got} is not {want}");
        }
    }

    const STEPS: [usize; 10] = [0, 1, 5, 10, 11, 250, 505, 999, 1000, 1200];

    #[test]
    fn neox_golden() {
        use DecayStyle::{Cosine, Exponential, Linear};
        let of = |style| rates(config(ScheduleFlavor::Neox, style), &STEPS);
        let head = [2e-5, 2e-5, 1e-4, 2e-4];
        let cosine = [1.999995469e-4, 1.751360634e-4, 1.1e-4, 2.000045315e-5, 2e-5, 2e-5];
        assert_close(&of(Cosine), &[&head[..], &cosine].concat());
        let linear = [1.997979798e-4, 1.515151515e-4, 1e-4, 2e-5, 2e-5, 2e-5];
        assert_close(&of(Linear), &[&head[..], &linear].concat());
        let exponential =
            [1.998600490e-4, 1.690707669e-4, 1.414317639e-4, 1.000847540e-4, 1.000147191e-4, 8.694861974e-5];
        assert_close(&of(Exponential), &[&head[..], &exponential].concat());
    }

    #[test]
    fn megatron_starts_at_zero_and_aims_at_min() {
        let linear = rates(config(ScheduleFlavor::Megatron, DecayStyle::Linear), &[0, 5, 10, 505, 1000, 1001]);
        assert_close(&linear, &[0.0, 1e-4, 2e-4, 1.1e-4, 2e-5, 2e-5]);
    }

    #[test]
    fn wsd_is_flat_then_linear() {
        for flavor in [ScheduleFlavor::Neox, ScheduleFlavor::Megatron] {
            let wsd = rates(config(flavor, DecayStyle::Wsd), &[10, 400, 800, 900, 1000, 2000]);
            assert_close(&wsd, &[2e-4, 2e-4, 2e-4, 1.1e-4, 2e-5, 2e-5]);
        }
    }

    #[test]
    fn a_warmup_shorter_than_a_step_never_exceeds_lr() {
        let mut c = config(ScheduleFlavor::Neox, DecayStyle::Cosine);
        c.warmup_iters = 0.5;
        assert_close(&rates(c, &[0]), &[2e-4]);
    }

    #[test]
    fn contradictions_are_refused() {
        let good = config(ScheduleFlavor::Neox, DecayStyle::Wsd);
        for bad in [
            ScheduleConfig { min_lr: 1.0, ..good },
            ScheduleConfig { lr: f64::NAN, ..good },
            ScheduleConfig { decay_iters: 0, ..good },
            ScheduleConfig { warmup_iters: 2000.0, ..good },
            ScheduleConfig { wsd_decay_iters: 995, ..good },
            config(ScheduleFlavor::Megatron, DecayStyle::Exponential),
        ] {
            assert!(matches!(Schedule::new(bad), Err(Error::Config(_))), "{bad:?}");
        }
    }
}
