//! GELU (erf and tanh), SiLU, ReLU, element by element.

use rayon::prelude::*;

use super::isa::simd;
use super::math::{erf, exp, sigmoid, tanh};
use super::parallel::install;
use crate::dtype::Element;
use crate::ops::activation::Activation;

const BLOCK: usize = 1 << 13;

const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const INV_SQRT_2: f32 = std::f32::consts::FRAC_1_SQRT_2;
const INV_SQRT_2PI: f32 = 0.398_942_3;

pub mod reference {
    use crate::ops::activation::Activation;

    pub fn forward(x: f64, kind: Activation) -> f64 {
        match kind {
            Activation::Gelu => 0.5 * x * libm::erfc(-x / std::f64::consts::SQRT_2),
            Activation::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Relu => x.max(0.0),
        }
    }
}

/// act(x).
#[inline(always)]
pub fn value(x: f32, kind: Activation) -> f32 {
    match kind {
        Activation::Gelu => 0.5 * x * (1.0 + erf(x * INV_SQRT_2)),
        Activation::GeluTanh => 0.5 * x * (1.0 + tanh(inner(x))),
        Activation::Silu => x * sigmoid(x),
        Activation::Relu => x.max(0.0),
    }
}

#[inline(always)]
fn inner(x: f32) -> f32 {
    SQRT_2_OVER_PI * (x + 0.044715 * x * x * x)
}

/// d act(x) / dx.
#[inline(always)]
pub fn slope(x: f32, kind: Activation) -> f32 {
    match kind {
        Activation::Gelu => 0.5 * (1.0 + erf(x * INV_SQRT_2)) + x * INV_SQRT_2PI * exp(-0.5 * x * x),
        Activation::GeluTanh => {
            let t = tanh(inner(x));
            0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * SQRT_2_OVER_PI * (1.0 + 3.0 * 0.044715 * x * x)
        }
        Activation::Silu => {
            let s = sigmoid(x);
            s * (1.0 + x * (1.0 - s))
        }
        Activation::Relu => f32::from(x > 0.0),
    }
}

pub fn forward<T: Element>(y: &mut [T], x: &[T], kind: Activation) {
    install(|| y.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)).for_each(|(y, x)| forward_block(y, x, kind)));
}

pub fn backward<T: Element>(dx: &mut [T], dy: &[T], x: &[T], kind: Activation) {
    install(|| {
        let blocks = dx.par_chunks_mut(BLOCK).zip(dy.par_chunks(BLOCK)).zip(x.par_chunks(BLOCK));
        blocks.for_each(|((dx, dy), x)| backward_block(dx, dy, x, kind));
    });
}

/// Runs `$body` with `$name` a constant, so that the choice stays outside the vector loop.
macro_rules! by_kind {
    ($kind:expr, $name:ident => $body:expr) => {
        match $kind {
            Activation::Gelu => by_kind!(@ Gelu, $name, $body),
            Activation::GeluTanh => by_kind!(@ GeluTanh, $name, $body),
            Activation::Silu => by_kind!(@ Silu, $name, $body),
            Activation::Relu => by_kind!(@ Relu, $name, $body),
        }
    };
    (@ $variant:ident, $name:ident, $body:expr) => {{
        const $name: Activation = Activation::$variant;
        $body
    }};
}

pub(super) use by_kind;

simd! {
    fn forward_block<T>(y: &mut [T], x: &[T], kind: Activation) {
        by_kind!(kind, KIND => {
            y.iter_mut().zip(x).for_each(|(y, x)| *y = T::from_f32(value(x.to_f32(), KIND)));
        });
    }
}

simd! {
    fn backward_block<T>(dx: &mut [T], dy: &[T], x: &[T], kind: Activation) {
        by_kind!(kind, KIND => {
            for ((dx, dy), x) in dx.iter_mut().zip(dy).zip(x) {
                *dx = T::from_f32(dy.to_f32() * slope(x.to_f32(), KIND));
            }
        });
    }
}
