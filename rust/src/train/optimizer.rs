//! AdamW over the arena: groups of weight decay, clipping, the update.
//!
//! Norms and biases do not decay; matrices do, the embedding and the output among them. A gradient
//! longer than `gradient_clipping` (global L2 norm) is scaled by clip / (norm + 1e-6).

use crate::dtype::Element;
use crate::error::Result;
use crate::model::Param;
use crate::ops::adamw::{Group, Numbers};
use crate::ops::backend::{Backend, Cpu};
use crate::train::config::OptimizerConfig;

/// The arena cut into as few stretches of one weight decay as possible.
pub fn groups(params: &[Param], weight_decay: f64) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for param in params {
        let (end, weight_decay) = (param.range().end, if param.decay { weight_decay } else { 0.0 });
        match groups.last_mut() {
            Some(last) if last.weight_decay == weight_decay => last.end = end,
            _ => groups.push(Group { end, weight_decay }),
        }
    }
    groups
}

/// AdamW's moments and groups.
#[derive(Debug)]
pub struct Optimizer<B: Backend = Cpu> {
    config: OptimizerConfig,
    groups: Vec<Group>,
    pub m: B::Buffer<f32>,
    pub v: B::Buffer<f32>,
}

/// One update.
#[derive(Debug, Clone, Copy)]
pub struct Update {
    pub learning_rate: f64,
    /// AdamW's t, from 1.
    pub step: usize,
}

impl<B: Backend> Optimizer<B> {
    /// # Errors
    /// `Device`: there is not so much memory.
    pub fn new(on: &B, config: OptimizerConfig, params: &[Param]) -> Result<Self> {
        let len = params.last().map_or(0, |param| param.range().end);
        Ok(Self { config, groups: groups(params, config.weight_decay), m: on.zeros(len)?, v: on.zeros(len)? })
    }

    /// `factor` is multiplied into the gradient: clipping and unscaling. `low` becomes the new weights, rounded.
    ///
    /// # Errors
    /// `Shape` when the arenas differ in length; then nothing has changed.
    pub fn step<T: Element>(
        &mut self,
        on: &B,
        weights: B::SliceMut<'_, f32>,
        low: Option<B::SliceMut<'_, T>>,
        grads: B::Slice<'_, f32>,
        factor: &B::Factor,
        update: Update,
    ) -> Result<()> {
        let OptimizerConfig { betas: (beta1, beta2), eps, .. } = self.config;
        let numbers = Numbers { lr: update.learning_rate, beta1, beta2, eps, step: update.step as u64 };
        let (m, v) = (B::write(&mut self.m), B::write(&mut self.v));
        on.adamw(weights, m, v, low, grads, factor, &self.groups, &numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Activation, Bias, Decoder, ModelConfig, Norm, Position};
    use crate::ops::grad_norm::clip_coefficient;

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
            let group = groups.iter().find(|group| param.offset < group.end).unwrap();
            let exempt = param.name.contains("norm") || param.name.ends_with("bias");
            assert_eq!(group.weight_decay, if exempt { 0.0 } else { 0.1 }, "{}", param.name);
        }
        assert!(groups.is_sorted_by(|a, b| a.end < b.end && a.weight_decay != b.weight_decay));
        assert_eq!(groups.last().unwrap().end, decoder.num_params());
    }

    #[test]
    fn without_decay_there_is_one_group() {
        let decoder = decoder();
        assert_eq!(groups(decoder.params(), 0.0), [Group { end: decoder.num_params(), weight_decay: 0.0 }]);
    }

    #[test]
    fn long_gradients_alone_are_clipped() {
        assert_eq!(clip_coefficient(0.5, 1.0), 1.0);
        assert_eq!(clip_coefficient(1e9, 0.0), 1.0);
        assert!((clip_coefficient(4.0, 1.0) - 1.0 / 4.000001).abs() < 1e-15);
        assert!(clip_coefficient(1.0, 1.0) < 1.0);
    }
}
