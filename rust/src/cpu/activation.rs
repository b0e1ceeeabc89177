//! GELU (erf and tanh), SiLU, ReLU, element by element.
//!
//! GELU: x·Φ(x).  Its tanh form, ½x(1 + tanh u) with u = √(2/π)(x + 0.044715x³), is x·σ(2u), which loses nothing
//! to cancellation where tanh is near −1.

use rayon::prelude::*;

use super::isa::{Simd, dispatch, isa};
use super::math::{normal, sigmoid};
use super::parallel::share;
use crate::dtype::Element;

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

/// Elements that one task makes.
const BLOCK: usize = 1 << 14;

/// 1/√(2π)
const BELL: f32 = 0.398_942_3;
/// 2·√(2/π)
const TANH_SCALE: f32 = 1.595_769_1;
const TANH_CUBE: f32 = 0.044715;

/// (act(x), act′(x)); what is not used costs nothing once `kind` is a constant.
#[inline(always)]
pub(super) fn both<S: Simd>(s: S, x: f32, kind: Activation) -> (f32, f32) {
    match kind {
        Activation::Gelu => {
            let (cdf, bell) = normal(s, x);
            (x * cdf, s.fma(x * BELL, bell, cdf))
        }
        Activation::GeluTanh => {
            let square = x * x;
            let (gate, rest) = sigmoid(s, x * s.fma(TANH_SCALE * TANH_CUBE, square, TANH_SCALE));
            let inner = s.fma(TANH_SCALE * 3.0 * TANH_CUBE, square, TANH_SCALE);
            (x * gate, s.fma(x * gate * rest, inner, gate))
        }
        Activation::Silu => {
            let (gate, rest) = sigmoid(s, x);
            (x * gate, gate * s.fma(x, rest, 1.0))
        }
        // Not `max`, which turns NaN into 0.
        Activation::Relu => (if x <= 0.0 { 0.0 } else { x }, if x <= 0.0 { 0.0 } else { 1.0 }),
    }
}

/// `for_kind!(kind, K => body)`: the body once for each kind, with `K` a constant.
macro_rules! for_kind {
    ($kind:expr, $k:ident => $body:expr) => {{
        use $crate::cpu::activation::Activation;
        match $kind {
            Activation::Gelu => {
                const $k: Activation = Activation::Gelu;
                $body
            }
            Activation::GeluTanh => {
                const $k: Activation = Activation::GeluTanh;
                $body
            }
            Activation::Silu => {
                const $k: Activation = Activation::Silu;
                $body
            }
            Activation::Relu => {
                const $k: Activation = Activation::Relu;
                $body
            }
        }
    }};
}
pub(super) use for_kind;

/// y = act(x)
pub fn forward<T: Element>(y: &mut [T], x: &[T], kind: Activation) {
    let isa = isa();
    share(y.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)), |(y, x)| {
        for_kind!(kind, K => dispatch!(isa, s => map(y, x, |x| both(s, x, K).0)));
    });
}

#[inline(always)]
fn map<T: Element>(y: &mut [T], x: &[T], f: impl Fn(f32) -> f32) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y = T::from_f32(f(x.to_f32())));
}

/// dx = dy·act′(x)
pub fn backward<T: Element>(dx: &mut [T], dy: &[T], x: &[T], kind: Activation) {
    let isa = isa();
    share(dx.par_chunks_mut(BLOCK).zip(dy.par_chunks(BLOCK)).zip(x.par_chunks(BLOCK)), |((dx, dy), x)| {
        for_kind!(kind, K => dispatch!(isa, s => map2(dx, dy, x, |dy, x| dy * both(s, x, K).1)));
    });
}

/// y = f(a, b)
#[inline(always)]
pub(super) fn map2<T: Element>(y: &mut [T], a: &[T], b: &[T], f: impl Fn(f32, f32) -> f32) {
    for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
        *y = T::from_f32(f(a.to_f32(), b.to_f32()));
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
        KINDS
            .iter()
            .for_each(|kind| assert!(both(super::super::isa::Baseline, f32::NAN, *kind).0.is_nan(), "{kind:?}"));
    }
}
