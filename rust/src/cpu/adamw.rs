//! AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2), state in f32, one pass.

use rayon::prelude::*;

use super::isa::{Simd, dispatch, isa};
use super::parallel::install;

pub mod reference {
    use super::Step;

    /// (p, m, v) of one parameter with gradient g.
    pub fn step(p: f64, m: f64, v: f64, g: f64, s: &Step) -> (f64, f64, f64) {
        let (g, t) = (g * f64::from(s.grad_scale), s.step as f64);
        let m = s.beta1 * m + (1.0 - s.beta1) * g;
        let v = s.beta2 * v + (1.0 - s.beta2) * g * g;
        let (unbiased_m, unbiased_v) = (m / (1.0 - s.beta1.powf(t)), v / (1.0 - s.beta2.powf(t)));
        (p - s.lr * (unbiased_m / (unbiased_v.sqrt() + s.eps) + s.weight_decay * p), m, v)
    }
}

const BLOCK: usize = 1 << 14;

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
///
/// lr·wd·p is subtracted as such: 1 − lr·wd, rounded to f32, would be wrong by up to 3e-8, which can be a percent of
/// the decay.
pub fn step(p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], s: &Step) {
    let (isa, scalars) = (isa(), Scalars::new(s));
    install(|| {
        let blocks = p.par_chunks_mut(BLOCK).zip(m.par_chunks_mut(BLOCK)).zip(v.par_chunks_mut(BLOCK));
        blocks.zip(g.par_chunks(BLOCK)).for_each(|(((p, m), v), g)| dispatch!(isa, s => block(s, p, m, v, g, scalars)));
    });
}

#[derive(Clone, Copy)]
struct Scalars {
    decay: f32,
    step_size: f32,
    /// 1/√(1 − β₂ᵗ)
    root2: f32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    eps: f32,
    grad_scale: f32,
}

impl Scalars {
    fn new(s: &Step) -> Self {
        let t = s.step as f64;
        Self {
            decay: (s.lr * s.weight_decay) as f32,
            step_size: (s.lr / (1.0 - s.beta1.powf(t))) as f32,
            root2: (1.0 - s.beta2.powf(t)).sqrt().recip() as f32,
            beta1: s.beta1 as f32,
            rest1: (1.0 - s.beta1) as f32,
            beta2: s.beta2 as f32,
            rest2: (1.0 - s.beta2) as f32,
            eps: s.eps as f32,
            grad_scale: s.grad_scale,
        }
    }
}

#[inline(always)]
fn block<S: Simd>(simd: S, p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], s: Scalars) {
    for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
        let g = g * s.grad_scale;
        *m = simd.fma(s.beta1, *m, s.rest1 * g);
        *v = simd.fma(s.beta2, *v, s.rest2 * (g * g));
        let update = s.step_size * (*m / simd.fma(v.sqrt(), s.root2, s.eps));
        *p -= simd.fma(s.decay, *p, update);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, sample};
    use super::*;

    const STEP: Step =
        Step { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, grad_scale: 0.5, step: 3 };

    #[test]
    fn fast_equals_reference() {
        let n = BLOCK + 5;
        let (mut p, exact_p) = sample::<f32>(1, n);
        let (mut m, exact_m) = sample::<f32>(2, n);
        let (g, exact_g) = sample::<f32>(3, n);
        let mut v: Vec<f32> = m.iter().map(|m| m.abs()).collect();
        let exact_v: Vec<f64> = v.iter().map(|v| f64::from(*v)).collect();
        step(&mut p, &mut m, &mut v, &g, &STEP);
        let exact: Vec<_> =
            (0..n).map(|i| reference::step(exact_p[i], exact_m[i], exact_v[i], exact_g[i], &STEP)).collect();
        assert_close("p", &p, &exact.iter().map(|e| e.0).collect::<Vec<_>>(), 2.0);
        assert_close("m", &m, &exact.iter().map(|e| e.1).collect::<Vec<_>>(), 2.0);
        assert_close("v", &v, &exact.iter().map(|e| e.2).collect::<Vec<_>>(), 2.0);
    }
}
