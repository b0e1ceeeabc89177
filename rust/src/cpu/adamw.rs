//! AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2), state in f32.

use rayon::prelude::*;

use super::isa::simd;
use super::parallel::install;

const BLOCK: usize = 1 << 15;

/// One step's numbers.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// Multiplied into every gradient: clipping and loss unscaling.
    pub grad_scale: f32,
    /// From 1.
    pub step: u64,
}

/// p −= lr·(m̂/(√v̂ + eps) + wd·p), with the decay applied to the old p.
pub fn step(p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], s: &Step) {
    let t = s.step as f64;
    let scalars = Scalars {
        decay: (1.0 - s.lr * s.weight_decay) as f32,
        step_size: (s.lr / (1.0 - s.beta1.powf(t))) as f32,
        root2: (1.0 - s.beta2.powf(t)).sqrt() as f32,
        beta1: s.beta1 as f32,
        rest1: (1.0 - s.beta1) as f32,
        beta2: s.beta2 as f32,
        rest2: (1.0 - s.beta2) as f32,
        eps: s.eps as f32,
        grad_scale: s.grad_scale,
    };
    install(|| {
        let blocks = p.par_chunks_mut(BLOCK).zip(m.par_chunks_mut(BLOCK)).zip(v.par_chunks_mut(BLOCK));
        blocks.zip(g.par_chunks(BLOCK)).for_each(|(((p, m), v), g)| block(p, m, v, g, &scalars));
    });
}

struct Scalars {
    decay: f32,
    step_size: f32,
    root2: f32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    eps: f32,
    grad_scale: f32,
}

simd! {
fn block(p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], s: &Scalars) {
    for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
        let g = g * s.grad_scale;
        *m = s.beta1 * *m + s.rest1 * g;
        *v = s.beta2 * *v + s.rest2 * (g * g);
        *p = *p * s.decay - s.step_size * (*m / (v.sqrt() / s.root2 + s.eps));
    }
}
}
