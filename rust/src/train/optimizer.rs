//! AdamW over the arena: groups of weight decay, clipping, the update.
//!
//! Norms and biases do not decay; matrices do, the embedding and the output among them. A gradient
//! longer than `gradient_clipping` (global L2 norm) is scaled by clip / (norm + 1e-6).

use std::ops::Range;

use crate::error::Result;
use crate::memory::zeros;
use crate::model::Param;
use crate::ops::adamw;
use crate::train::config::OptimizerConfig;

/// Neighbouring parameters of one weight decay: a stretch of the arena.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    pub range: Range<usize>,
    pub weight_decay: f64,
}

/// The arena cut into as few groups as possible.
pub fn groups(params: &[Param], weight_decay: f64) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for param in params {
        let weight_decay = if param.decay { weight_decay } else { 0.0 };
        match groups.last_mut() {
            Some(last) if last.weight_decay == weight_decay && last.range.end == param.offset => {
                last.range.end = param.range().end;
            }
            _ => groups.push(Group { range: param.range(), weight_decay }),
        }
    }
    groups
}

/// The factor for a gradient of this norm; 1 where clipping is off (`max` 0) or the norm fits.
pub fn clip_coefficient(norm: f64, max: f64) -> f64 {
    if max > 0.0 && norm + 1e-6 > max { max / (norm + 1e-6) } else { 1.0 }
}

/// AdamW's moments and groups.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    groups: Vec<Group>,
    pub m: Vec<f32>,
    pub v: Vec<f32>,
}

/// One update.
#[derive(Debug, Clone, Copy)]
pub struct Update {
    pub learning_rate: f64,
    /// AdamW's t, from 1.
    pub step: usize,
    /// Multiplied into the gradient: clipping and unscaling.
    pub grad_scale: f64,
}

impl Optimizer {
    pub fn new(config: OptimizerConfig, params: &[Param]) -> Self {
        let len = params.last().map_or(0, |param| param.range().end);
        Self { config, groups: groups(params, config.weight_decay), m: zeros(len), v: zeros(len) }
    }

    /// # Errors
    /// `Shape` when the arenas differ in length; then nothing has changed.
    pub fn step(&mut self, weights: &mut [f32], grads: &[f32], update: Update) -> Result<()> {
        let OptimizerConfig { betas, eps, .. } = self.config;
        for Group { range, weight_decay } in &self.groups {
            let step = adamw::Step {
                lr: update.learning_rate,
                beta1: betas.0,
                beta2: betas.1,
                eps,
                weight_decay: *weight_decay,
                grad_scale: update.grad_scale as f32,
                step: update.step as u64,
                dither: None,
            };
            let r = || range.clone();
            adamw::step(&mut weights[r()], &mut self.m[r()], &mut self.v[r()], &grads[r()], &step)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Activation, Bias, Decoder, ModelConfig, Norm, Position};

    fn decoder() -> Decoder {
        Decoder::new(ModelConfig {
            num_layers: 2,
            hidden_size: 8,
            num_attention_heads: 2,
            num_kv_heads: 2,
            head_dim: 4,
            ffn_hidden_size: 16,
            vocab_size: 11,
            max_position_embeddings: 16,
            norm: Norm::LayerNorm,
            norm_eps: 1e-5,
            activation: Activation::Gelu,
            gated: false,
            position: Position::Rotary { ndims: 2, base: 1e4 },
            parallel_residual: true,
            bias: Bias { norm: true, attention: true, mlp: true },
            tie_word_embeddings: false,
            sliding_window: None,
        })
        .unwrap()
    }

    #[test]
    fn norms_and_biases_alone_do_not_decay() {
        let decoder = decoder();
        let groups = groups(decoder.params(), 0.1);
        for param in decoder.params() {
            let group = groups.iter().find(|g| g.range.contains(&param.offset)).unwrap();
            let exempt = param.name.contains("norm") || param.name.ends_with("bias");
            assert_eq!(group.weight_decay, if exempt { 0.0 } else { 0.1 }, "{}", param.name);
        }
        let covered: usize = groups.iter().map(|g| g.range.len()).sum();
        assert_eq!(covered, decoder.num_params());
    }

    #[test]
    fn without_decay_there_is_one_group() {
        let decoder = decoder();
        assert_eq!(groups(decoder.params(), 0.0), [Group { range: 0..decoder.num_params(), weight_decay: 0.0 }]);
    }

    #[test]
    fn long_gradients_alone_are_clipped() {
        assert_eq!(clip_coefficient(0.5, 1.0), 1.0);
        assert_eq!(clip_coefficient(1e9, 0.0), 1.0);
        assert!((clip_coefficient(4.0, 1.0) - 1.0 / 4.000001).abs() < 1e-15);
        assert!(clip_coefficient(1.0, 1.0) < 1.0);
    }
}
