//! AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2), one pass, f32 inside; parameters and moments are
//! stored as f32, bf16 or f16.
//!
//! bf16 has 8 bits: a β₂ of 0.999 changes v by less than half of its last one, and rounding to the nearest would leave
//! it where it is. `Dither` rounds at random instead, up as often as the rest is large, so that small changes add up.

use rayon::prelude::*;

use super::isa::{Simd, dispatch, isa};
use super::parallel::share;
use crate::dtype::{DType, Element};
use crate::philox::philox;

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

/// Elements of one task.
const BLOCK: usize = 1 << 14;
/// Elements that share one vector of random blocks.
const DITHERED: usize = 2 * LANES;
const LANES: usize = 16;

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
    /// Whether, and with which random numbers, what is stored as bf16 is rounded at random.
    pub dither: Option<Dither>,
}

/// Random numbers by address: (seed, tensor, step, element).
#[derive(Debug, Clone, Copy)]
pub struct Dither {
    pub seed: u64,
    pub tensor: u32,
}

/// p −= lr·(m̂/(√v̂ + eps) + wd·p), with the decay applied to the old p.
///
/// lr·wd·p is subtracted as such: 1 − lr·wd, rounded to f32, would be wrong by up to 3e-8, which can be a percent of
/// the decay.
pub fn step<P: Element, M: Element>(p: &mut [P], m: &mut [M], v: &mut [M], g: &[P], s: &Step) {
    let (isa, scalars) = (isa(), Scalars::new(s));
    let blocks = p.par_chunks_mut(BLOCK).zip(m.par_chunks_mut(BLOCK)).zip(v.par_chunks_mut(BLOCK));
    share(blocks.zip(g.par_chunks(BLOCK)).enumerate(), |(i, (((p, m), v), g))| match s.dither {
        None => dispatch!(isa, s => block(s, p, m, v, g, scalars)),
        Some(dither) => {
            let noise = Noise::new(dither, s.step, i);
            dispatch!(isa, s => dithered(s, p, m, v, g, scalars, noise));
        }
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

/// (p, m, v) of one parameter.
#[inline(always)]
fn update<S: Simd>(simd: S, p: f32, m: f32, v: f32, g: f32, s: Scalars) -> (f32, f32, f32) {
    let g = g * s.grad_scale;
    let m = simd.fma(s.beta1, m, s.rest1 * g);
    let v = simd.fma(s.beta2, v, s.rest2 * (g * g));
    let update = s.step_size * (m / simd.fma(v.sqrt(), s.root2, s.eps));
    (p - simd.fma(s.decay, p, update), m, v)
}

#[inline(always)]
fn block<S: Simd, P: Element, M: Element>(simd: S, p: &mut [P], m: &mut [M], v: &mut [M], g: &[P], s: Scalars) {
    for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
        let new = update(simd, p.to_f32(), m.to_f32(), v.to_f32(), g.to_f32(), s);
        (*p, *m, *v) = (P::from_f32(new.0), M::from_f32(new.1), M::from_f32(new.2));
    }
}

/// The random words of a task's elements.
#[derive(Clone, Copy)]
struct Noise {
    key: [u32; 2],
    tensor: u32,
    step: u32,
    first: u64,
}

impl Noise {
    fn new(dither: Dither, step: u64, block: usize) -> Self {
        let key = [dither.seed as u32, (dither.seed >> 32) as u32];
        Self { key, tensor: dither.tensor, step: step as u32, first: (block * BLOCK / 2) as u64 }
    }

    /// Three words for each of `LANES` places from `at` on: one for p, one for m, one for v.
    #[inline(always)]
    fn words(&self, at: usize) -> [[u32; LANES]; 3] {
        let mut words = [[0; LANES]; 3];
        for lane in 0..LANES {
            let place = self.first + (at + lane) as u64;
            let [a, b, c, _] = philox([place as u32, (place >> 32) as u32, self.tensor, self.step], self.key);
            (words[0][lane], words[1][lane], words[2][lane]) = (a, b, c);
        }
        words
    }
}

/// The low halves of the words belong to the first `LANES` elements, the high halves to the next.
#[inline(always)]
fn dithered<S: Simd, P: Element, M: Element>(
    simd: S,
    p: &mut [P],
    m: &mut [M],
    v: &mut [M],
    g: &[P],
    s: Scalars,
    noise: Noise,
) {
    let moments = m.chunks_mut(DITHERED).zip(v.chunks_mut(DITHERED));
    let pieces = p.chunks_mut(DITHERED).zip(g.chunks(DITHERED)).zip(moments);
    for (i, ((p, g), (m, v))) in pieces.enumerate() {
        let words = noise.words(i * LANES);
        let halves = p.chunks_mut(LANES).zip(g.chunks(LANES)).zip(m.chunks_mut(LANES).zip(v.chunks_mut(LANES)));
        for (half, ((p, g), (m, v))) in halves.enumerate() {
            for lane in 0..p.len() {
                let new = update(simd, p[lane].to_f32(), m[lane].to_f32(), v[lane].to_f32(), g[lane].to_f32(), s);
                let noise = words.map(|word| word[lane] >> (16 * half) & 0xffff);
                p[lane] = round_at_random(new.0, noise[0]);
                m[lane] = round_at_random(new.1, noise[1]);
                v[lane] = round_at_random(new.2, noise[2]);
            }
        }
    }
}

/// bf16: up with the probability of what is cut off, out of `noise`, of 0..2^16. Others: to the nearest.
#[inline(always)]
fn round_at_random<T: Element>(x: f32, noise: u32) -> T {
    if T::DTYPE != DType::BF16 {
        return T::from_f32(x);
    }
    let finite = x.abs() < f32::INFINITY;
    let moved = f32::from_bits(x.to_bits().wrapping_add(noise) & 0xffff_0000);
    T::from_f32(if finite { moved } else { x })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, same_on_all_threads, sample};
    use super::*;
    use crate::dtype::{bf16, f16};

    const STEP: Step = Step {
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        grad_scale: 0.5,
        step: 3,
        dither: None,
    };

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

    fn stored_is_rounded_once<P: Element, M: Element>() {
        let n = 2 * BLOCK + 37;
        let ((mut p, exact_p), (mut m, exact_m)) = (sample::<P>(1, n), sample::<M>(2, n));
        let (g, exact_g) = sample::<P>(3, n);
        let mut v: Vec<M> = m.iter().map(|m| M::from_f32(m.to_f32().abs())).collect();
        let exact_v: Vec<f64> = v.iter().map(|v| f64::from(v.to_f32())).collect();
        step(&mut p, &mut m, &mut v, &g, &STEP);
        let exact: Vec<_> =
            (0..n).map(|i| reference::step(exact_p[i], exact_m[i], exact_v[i], exact_g[i], &STEP)).collect();
        assert_close("p", &p, &exact.iter().map(|e| e.0).collect::<Vec<_>>(), 2.0);
        assert_close("m", &m, &exact.iter().map(|e| e.1).collect::<Vec<_>>(), 2.0);
        assert_close("v", &v, &exact.iter().map(|e| e.2).collect::<Vec<_>>(), 2.0);
    }

    #[test]
    fn each_storage_type() {
        for isa in crate::cpu::isa::all() {
            crate::cpu::isa::with(isa, || {
                stored_is_rounded_once::<bf16, bf16>();
                stored_is_rounded_once::<f16, f16>();
                stored_is_rounded_once::<f32, bf16>();
                stored_is_rounded_once::<bf16, f32>();
                stored_is_rounded_once::<f16, f32>();
            });
        }
    }

    /// p, m, v of `n` equal bf16 parameters, rounded at random.
    fn many(n: usize, seed: u64, tensor: u32, step: u64) -> [Vec<bf16>; 3] {
        let of = |x: f32| vec![bf16::from_f32(x); n];
        let (mut p, mut m, mut v, g) = (of(1.0), of(0.5), of(0.25), of(0.125));
        super::step(&mut p, &mut m, &mut v, &g, &Step { step, dither: Some(Dither { seed, tensor }), ..STEP });
        [p, m, v]
    }

    /// The mean of N roundings lies within five deviations, each of at most half a unit.
    #[test]
    fn rounding_at_random_has_the_right_mean() {
        let n = 3 * BLOCK + 5;
        let exact = reference::step(1.0, 0.5, 0.25, 0.125, &STEP);
        let stored = many(n, 7, 0, STEP.step);
        for (stored, exact) in stored.iter().zip([exact.0, exact.1, exact.2]) {
            let (low, high) = (exact * (1.0 - 1.0 / 128.0), exact * (1.0 + 1.0 / 128.0));
            let values: Vec<f64> = stored.iter().map(|x| f64::from(x.to_f32())).collect();
            assert!(values.iter().all(|x| *x > low && *x < high) && values.iter().any(|x| *x != values[0]));
            let (mean, unit) = (values.iter().sum::<f64>() / n as f64, exact / 128.0);
            assert!((mean - exact).abs() < 5.0 * 0.5 * unit / (n as f64).sqrt(), "{mean}, not {exact}");
        }
        let nearest = f64::from(bf16::from_f32(exact.0 as f32).to_f32());
        assert!((nearest - exact.0).abs() > 5.0 * 0.5 / 128.0 / (n as f64).sqrt(), "the nearest would be seen");
    }

    #[test]
    fn random_numbers_have_addresses() {
        let base = many(100, 7, 0, 3);
        assert_eq!(base, many(100, 7, 0, 3));
        for other in [many(100, 8, 0, 3), many(100, 7 | 1 << 32, 0, 3), many(100, 7, 1, 3)] {
            assert_ne!(base, other);
        }
        // No element has the numbers of another: not in the other half, the next piece or the next task.
        let p = &many(2 * BLOCK, 7, 0, 3)[0];
        for (i, j) in [(0, LANES), (0, DITHERED), (LANES, DITHERED), (0, BLOCK)] {
            assert_ne!(p[i..][..LANES], p[j..][..LANES]);
        }
        same_on_all_threads("dithered adamw", || many(5 * BLOCK + 3, 1, 2, 3).concat());
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let stored: bf16 = round_at_random(x, 0xffff);
            assert_eq!(stored.to_f32().to_bits() >> 16, bf16::from_f32(x).to_f32().to_bits() >> 16);
        }
        assert_eq!(round_at_random::<bf16>(-1.5, 0xffff).to_f32(), -1.5);
    }
}
