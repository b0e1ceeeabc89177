//! fp16 loss scaling as DeepSpeed does it.
//!
//! The loss is multiplied by `scale` before the backward pass, so that small gradients do not
//! vanish in f16. A step whose gradient overflowed is skipped:
//!
//! - overflow: with more than one `hysteresis` left, one is used up; else the scale is halved, down
//!   to `min_loss_scale`.
//! - good step: the k-th in a row doubles the scale and refills the hysteresis when k - 1 is a
//!   positive multiple of `loss_scale_window`.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::train::config::ScalerConfig;

/// What a checkpoint keeps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ScalerState {
    pub scale: f64,
    pub hysteresis_left: u32,
    /// Good steps since the last overflow.
    pub good_steps: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossScaler {
    config: ScalerConfig,
    state: ScalerState,
}

impl LossScaler {
    /// # Errors
    /// `Error::Config` for a scale that is not positive or a window of 0.
    pub fn new(config: ScalerConfig) -> Result<Self> {
        if !(config.loss_scale >= 0.0 && config.loss_scale.is_finite()) {
            return Err(Error::Config(format!("fp16: loss_scale must be >= 0, got {}", config.loss_scale)));
        }
        if !(config.min_loss_scale > 0.0 && config.min_loss_scale.is_finite()) {
            return Err(Error::Config(format!("fp16: min_loss_scale must be > 0, got {}", config.min_loss_scale)));
        }
        if config.loss_scale_window == 0 {
            return Err(Error::Config("fp16: loss_scale_window must be at least 1".into()));
        }
        let fixed = config.loss_scale != 0.0;
        let scale = if fixed { config.loss_scale } else { f64::from(config.initial_scale_power).exp2() };
        Ok(Self { config, state: ScalerState { scale, hysteresis_left: config.hysteresis, good_steps: 0 } })
    }

    /// The factor for the next step's loss.
    pub fn scale(&self) -> f64 {
        self.state.scale
    }

    pub fn state(&self) -> ScalerState {
        self.state
    }

    /// Goes on from a checkpoint. A fixed `loss_scale` of the config wins.
    pub fn restore(&mut self, state: ScalerState) {
        if self.is_dynamic() {
            self.state = state;
        }
    }

    /// Takes note of a step; `overflow` says that its gradient was not finite.
    ///
    /// # Errors
    /// `Error::NonFinite` when the scale cannot fall further and the run shall stop there; the
    /// state is then as before.
    pub fn update(&mut self, overflow: bool) -> Result<()> {
        match (self.is_dynamic(), overflow) {
            (false, _) => Ok(()),
            (true, true) => self.overflowed(),
            (true, false) => {
                self.went_well();
                Ok(())
            }
        }
    }

    fn is_dynamic(&self) -> bool {
        self.config.loss_scale == 0.0
    }

    fn overflowed(&mut self) -> Result<()> {
        let ScalerConfig { min_loss_scale: min, abort_at_min, .. } = self.config;
        if self.state.hysteresis_left > 1 {
            self.state.hysteresis_left -= 1;
        } else if self.state.scale <= min && abort_at_min {
            return Err(Error::NonFinite(format!(
                "fp16: gradients overflow although the loss scale is already at min_loss_scale ({min}); \
                 the loss has diverged: lower the learning rate, or train with bf16"
            )));
        } else {
            self.state.scale = (self.state.scale / 2.0).max(min);
        }
        self.state.good_steps = 0;
        Ok(())
    }

    fn went_well(&mut self) {
        let before = self.state.good_steps;
        self.state.good_steps += 1;
        if before > 0 && before.is_multiple_of(self.config.loss_scale_window) {
            self.state.scale *= 2.0;
            self.state.hysteresis_left = self.config.hysteresis;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(hysteresis: u32, abort_at_min: bool) -> ScalerConfig {
        let (initial_scale_power, loss_scale_window, min_loss_scale) = (12, 3, 1.0);
        ScalerConfig {
            loss_scale: 0.0,
            initial_scale_power,
            loss_scale_window,
            hysteresis,
            min_loss_scale,
            abort_at_min,
        }
    }

    /// The scale used at each step ('O' overflows) and the one after the last.
    fn trace(config: ScalerConfig, steps: &str) -> Vec<f64> {
        let mut scaler = LossScaler::new(config).unwrap();
        let mut scales = vec![scaler.scale()];
        for step in steps.chars() {
            scaler.update(step == 'O').unwrap();
            scales.push(scaler.scale());
        }
        scales
    }

    const STEPS: &str = "OOOgggggggOggggOOg";

    #[test]
    fn golden_with_hysteresis() {
        let want = [
            4096, 4096, 2048, 1024, 1024, 1024, 1024, 2048, 2048, 2048, 4096, 4096, 4096, 4096, 4096, 8192, 8192, 4096,
            4096,
        ];
        assert_eq!(trace(config(2, true), STEPS), want.map(f64::from));
    }

    #[test]
    fn golden_without_hysteresis() {
        let want = [
            4096, 2048, 1024, 512, 512, 512, 512, 1024, 1024, 1024, 2048, 1024, 1024, 1024, 1024, 2048, 1024, 512, 512,
        ];
        assert_eq!(trace(config(1, false), STEPS), want.map(f64::from));
    }

    #[test]
    fn the_floor_aborts_or_holds() {
        let mut scaler = LossScaler::new(ScalerConfig { initial_scale_power: 0, ..config(1, true) }).unwrap();
        let before = scaler.state();
        assert!(matches!(scaler.update(true), Err(Error::NonFinite(_))));
        assert_eq!(scaler.state(), before);
        assert_eq!(trace(ScalerConfig { initial_scale_power: 0, ..config(1, false) }, "OO"), [1.0; 3]);
    }

    #[test]
    fn a_fixed_scale_never_moves() {
        let fixed = ScalerConfig { loss_scale: 128.0, ..config(2, true) };
        assert_eq!(trace(fixed, "OOgggggggO"), [128.0; 11]);
        let mut scaler = LossScaler::new(fixed).unwrap();
        scaler.restore(ScalerState { scale: 2.0, hysteresis_left: 1, good_steps: 9 });
        assert_eq!(scaler.scale(), 128.0);
    }

    #[test]
    fn a_restored_scaler_goes_on_alike() {
        for cut in 0..STEPS.len() {
            let mut first = LossScaler::new(config(2, true)).unwrap();
            STEPS[..cut].chars().for_each(|s| first.update(s == 'O').unwrap());
            let text = serde_json::to_string(&first.state()).unwrap();
            let mut second = LossScaler::new(config(2, true)).unwrap();
            second.restore(serde_json::from_str(&text).unwrap());
            STEPS[cut..].chars().for_each(|s| second.update(s == 'O').unwrap());
            assert_eq!(Some(&second.scale()), trace(config(2, true), STEPS).last());
        }
    }
}
