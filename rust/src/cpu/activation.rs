//! GELU (erf and tanh), SiLU, ReLU, element by element.

use rayon::prelude::*;

use super::isa::simd;
use super::math::{erf, exp, sigmoid};
use super::parallel::install;
use crate::dtype::Element;
const BLOCK: usize = 1 << 13;

const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const INV_SQRT_2: f32 = std::f32::consts::FRAC_1_SQRT_2;
const INV_SQRT_2PI: f32 = 0.398_942_3;

pub mod reference {
    use super::Activation;

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

    /// d forward(x) / dx.
    pub fn slope(x: f64, kind: Activation) -> f64 {
        match kind {
            Activation::Gelu => {
                let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
                0.5 * libm::erfc(-x / std::f64::consts::SQRT_2) + x * density
            }
            Activation::GeluTanh => {
                let root = (2.0 / std::f64::consts::PI).sqrt();
                let t = (root * (x + 0.044715 * x.powi(3))).tanh();
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * root * (1.0 + 3.0 * 0.044715 * x * x)
            }
            Activation::Silu => {
                let s = 1.0 / (1.0 + (-x).exp());
                s * (1.0 + x * (1.0 - s))
            }
            Activation::Relu => f64::from(x > 0.0),
        }
    }
}

/// The non-linearity of the MLP; in a gated MLP, of its gate (swiglu = `Silu`, geglu = `Gelu`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x·Φ(x), with erf.
    Gelu,
    /// The tanh form, HF's `gelu_new`; NeoX selects it by `bias_gelu_fusion: true`.
    GeluTanh,
    /// x / (1 + exp(−x)).
    Silu,
    Relu,
}

/// act(x).
#[inline(always)]
pub fn value(x: f32, kind: Activation) -> f32 {
    match kind {
        Activation::Gelu => 0.5 * x * (1.0 + erf(x * INV_SQRT_2)),
        Activation::GeluTanh => x * gate(x),
        Activation::Silu => x * sigmoid(x),
        // Not `max`, which turns NaN into 0.
        Activation::Relu => {
            if x <= 0.0 {
                0.0
            } else {
                x
            }
        }
    }
}

/// ½(1 + tanh u) = sigmoid(2u), which keeps its digits where tanh is near −1;  u = √(2/π)·(x + 0.044715·x³).
#[inline(always)]
fn gate(x: f32) -> f32 {
    sigmoid(2.0 * SQRT_2_OVER_PI * (x + 0.044715 * x * x * x))
}

/// d act(x) / dx.
#[inline(always)]
pub fn slope(x: f32, kind: Activation) -> f32 {
    match kind {
        Activation::Gelu => 0.5 * (1.0 + erf(x * INV_SQRT_2)) + x * INV_SQRT_2PI * exp(-0.5 * x * x),
        Activation::GeluTanh => {
            let s = gate(x);
            s + x * s * (1.0 - s) * 2.0 * SQRT_2_OVER_PI * (1.0 + 3.0 * 0.044715 * x * x)
        }
        Activation::Silu => {
            let s = sigmoid(x);
            s * (1.0 + x * (1.0 - s))
        }
        Activation::Relu => {
            if x <= 0.0 {
                0.0
            } else {
                1.0
            }
        }
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

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, check_gradient, each_dtype, place, sample};
    use super::*;

    const KINDS: [Activation; 4] = [Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::Relu];

    fn follows_the_reference<T: Element>() {
        for kind in KINDS {
            let (x, exact_x) = sample::<T>(1, 129);
            let (dy, exact_dy) = sample::<T>(2, 129);
            let (mut y, mut dx) = (place::<T>(129), place::<T>(129));
            forward(&mut y, &x, kind);
            backward(&mut dx, &dy, &x, kind);
            let exact: Vec<f64> = exact_x.iter().map(|x| reference::forward(*x, kind)).collect();
            assert_close("y", &y, &exact, 4.0);
            let exact: Vec<f64> =
                exact_x.iter().zip(&exact_dy).map(|(x, dy)| dy * reference::slope(*x, kind)).collect();
            assert_close("dx", &dx, &exact, 4.0);
        }
    }

    #[test]
    fn fast_equals_reference() {
        each_dtype!(follows_the_reference);
    }

    #[test]
    fn slopes_are_the_gradients() {
        for kind in KINDS {
            let x: Vec<f64> = (-40..40).map(|i| f64::from(i) * 0.1 + 0.05).collect();
            let slopes: Vec<f64> = x.iter().map(|x| reference::slope(*x, kind)).collect();
            check_gradient("slope", |x| x.iter().map(|x| reference::forward(*x, kind)).sum(), &x, &slopes);
        }
    }

    #[test]
    fn nan_stays_nan() {
        KINDS.iter().for_each(|kind| assert!(value(f32::NAN, *kind).is_nan(), "{kind:?}"));
    }
}
