//! exp, the logistic and the normal distribution, and sums over slices: straight-line f32 code that becomes vectors.

use super::isa::Simd;
use crate::dtype::Element;

/// e^x for x ≤ 0 within 1 ulp with FMA, 2 without; below −87.33 (where results are subnormal) 0.
///
/// x = n·ln 2 + r, |r| ≤ ln 2 / 2;  e^x = 2^n·(1 + r + r²·q(r)), q fitted to minimise the relative error.
#[inline(always)]
pub fn exp_nonpositive<S: Simd>(s: S, x: f32) -> f32 {
    /// Adding 1.5·2^23 rounds to an integer and leaves it in the low bits; 127 more make it the exponent's bits.
    const ROUND: f32 = 12_582_912.0 + 127.0;
    /// ln 2 in two parts; the first has 9 bits, so that n·LN2_HIGH is exact.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// −126·ln 2: the result is the smallest normal number.
    const LEAST: f32 = -87.336_54;
    let shifted = s.fma(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = s.fma(n, -LN2_LOW, s.fma(n, -LN2_HIGH, x));
    let q = s.fma(r, 1.381_453_8e-3, 8.368_745e-3);
    let q = s.fma(r, q, 4.166_839e-2);
    let q = s.fma(r, q, 0.166_665_21);
    let q = s.fma(r, q, 0.499_999_94);
    let p = 1.0 + s.fma(r * r, q, r);
    // What is above the exponent's place is shifted out.
    if x < LEAST { 0.0 } else { p * f32::from_bits(shifted.to_bits() << 23) }
}

/// (1 / (1 + e^−x), 1 / (1 + e^x)): the logistic of x and of −x, whose sum is 1, neither by subtraction.
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: f32) -> (f32, f32) {
    let e = exp_nonpositive(s, -x.abs());
    let large = 1.0 / (1.0 + e);
    let small = e * large;
    if x < 0.0 { (small, large) } else { (large, small) }
}

/// (Φ(x), e^(−x²/2)) of the standard normal distribution; Φ has a relative error below 6e-7 down to x = −4 and an
/// absolute error below 3e-7 everywhere.
///
/// 1 − Φ(a) = e^(−a²/2)·P(t), t = 1 / (1 + 0.3·a), for a = |x|; P fitted on 0..9.
#[inline(always)]
pub fn normal<S: Simd>(s: S, x: f32) -> (f32, f32) {
    let a = x.abs();
    let bell = exp_nonpositive(s, -0.5 * x * x);
    let t = 1.0 / s.fma(0.3, a, 1.0);
    let p = s.fma(t, 0.037_536_424, -0.165_022_78);
    let p = s.fma(t, p, 0.219_976_95);
    let p = s.fma(t, p, -0.066_408_21);
    let p = s.fma(t, p, 0.135_423_4);
    let p = s.fma(t, p, 0.097_782_87);
    let p = s.fma(t, p, 0.121_105_894);
    let p = s.fma(t, p, 0.119_605_48);
    let tail = bell * p * t;
    (if x < 0.0 { tail } else { 1.0 - tail }, bell)
}

/// Numbers that are added side by side: four vectors of eight hide the latency of an addition.
pub const LANES: usize = 32;

#[inline(always)]
fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Σ f(x), in an order that the length alone decides.
#[inline(always)]
pub fn sum<T: Element>(x: &[T], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for x in blocks {
        for l in 0..LANES {
            lanes[l] += f(x[l].to_f32());
        }
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, x)| *lane += f(x.to_f32()));
    fold(lanes)
}

/// Σ x·y; the order is that of [`sum`].
#[inline(always)]
pub fn dot<S: Simd, T: Element, U: Element>(s: S, x: &[T], y: &[U]) -> f32 {
    let mut lanes = [0.0; LANES];
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in x.iter().zip(y) {
        for l in 0..LANES {
            lanes[l] = s.fma(x[l].to_f32(), y[l].to_f32(), lanes[l]);
        }
    }
    for ((lane, x), y) in lanes.iter_mut().zip(x_rest).zip(y_rest) {
        *lane = s.fma(x.to_f32(), y.to_f32(), *lane);
    }
    fold(lanes)
}

/// Two sums over three slices in one pass.
#[inline(always)]
pub fn sums3<T: Element>(x: &[T], y: &[T], z: &[T], f: impl Fn(f32, f32, f32) -> (f32, f32)) -> (f32, f32) {
    let mut lanes = ([0.0; LANES], [0.0; LANES]);
    let (x, x_rest) = x.as_chunks::<LANES>();
    let (y, y_rest) = y.as_chunks::<LANES>();
    let (z, z_rest) = z.as_chunks::<LANES>();
    for ((x, y), z) in x.iter().zip(y).zip(z) {
        for l in 0..LANES {
            let (a, b) = f(x[l].to_f32(), y[l].to_f32(), z[l].to_f32());
            lanes.0[l] += a;
            lanes.1[l] += b;
        }
    }
    for (l, ((x, y), z)) in x_rest.iter().zip(y_rest).zip(z_rest).enumerate() {
        let (a, b) = f(x.to_f32(), y.to_f32(), z.to_f32());
        lanes.0[l] += a;
        lanes.1[l] += b;
    }
    (fold(lanes.0), fold(lanes.1))
}

/// The largest number, NaN left out; −∞ of nothing.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for x in blocks {
        for l in 0..LANES {
            lanes[l] = larger(lanes[l], x[l]);
        }
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, x)| *lane = larger(*lane, *x));
    // By halves, as vectors: one after another they would take as long as a row of 240.
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] = larger(lanes[l], lanes[l + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// sum += row, element by element.
#[inline(always)]
pub fn add_row<T: Element>(sum: &mut [f32], row: &[T]) {
    for (sum, x) in sum.iter_mut().zip(row) {
        *sum += x.to_f32();
    }
}

#[cfg(test)]
#[expect(clippy::neg_cmp_op_on_partial_ord, reason = "NaN must stay in the filtered ranges")]
mod tests {
    use super::super::isa::{all, dispatch};
    use super::*;

    /// Every 1009th f32 of all 2³², the special values among them.
    fn whole_range() -> Vec<f32> {
        let special = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 88.72, 88.73, -87.33, -87.34, 0.5, -1.0];
        (0..u32::MAX).step_by(1009).map(f32::from_bits).chain(special).collect()
    }

    /// The largest of `error(x, f(x))`, over x where the exact result is normal.
    fn worst(
        f: impl Fn(&mut [f32], &[f32]),
        x: &[f32],
        exact: impl Fn(f64) -> f64,
        error: impl Fn(f64, f64) -> f64,
    ) -> f64 {
        let mut y = vec![0.0; x.len()];
        f(&mut y, x);
        let mut worst = 0.0f64;
        for (x, y) in x.iter().zip(y) {
            let exact = exact(f64::from(*x));
            if exact.is_nan() || x.is_nan() {
                assert!(y.is_nan(), "f({x}) = {y}");
            } else if exact > f64::from(f32::MAX) {
                assert!(y == f32::INFINITY || y == f32::MAX, "f({x}) = {y}");
            } else if exact < 1.1755e-38 {
                assert!((0.0..1.2e-38).contains(&y), "f({x}) = {y}");
            } else {
                worst = worst.max(error(f64::from(y), exact));
            }
        }
        worst
    }

    fn relative(y: f64, exact: f64) -> f64 {
        (y - exact).abs() / exact
    }

    /// In units of the last place of the exact result.
    fn ulp(y: f64, exact: f64) -> f64 {
        (y - exact).abs() / (f64::from(exact as f32).log2().floor() - 23.0).exp2()
    }

    #[inline(always)]
    fn map(y: &mut [f32], x: &[f32], f: impl Fn(f32) -> f32) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = f(*x));
    }

    #[test]
    fn exp_over_the_whole_range() {
        for isa in all() {
            let bound = if isa.name() == "baseline" { 2.0 } else { 1.0 };
            let below: Vec<f32> = whole_range().into_iter().filter(|x| !(*x > 0.0)).collect();
            let error = worst(|y, x| dispatch!(isa, s => map(y, x, |x| exp_nonpositive(s, x))), &below, f64::exp, ulp);
            assert!(error > 0.4 && error < bound, "{}: {error} ulp", isa.name());
        }
    }

    #[test]
    fn sigmoid_over_the_whole_range() {
        for isa in all() {
            let exact = |x: f64| 1.0 / (1.0 + (-x).exp());
            // Where e^−x overflows, the result is 0.
            let x: Vec<f32> = whole_range().into_iter().filter(|x| !(*x < -87.0)).collect();
            let error = worst(|y, x| dispatch!(isa, s => map(y, x, |x| sigmoid(s, x).0)), &x, exact, ulp);
            assert!(error > 0.4 && error < 3.0, "{}: {error} ulp", isa.name());
            assert_eq!(dispatch!(isa, s => sigmoid(s, -200.0)), (0.0, 1.0));
            let rest = |y: &mut [f32], x: &[f32]| dispatch!(isa, s => map(y, x, |x| sigmoid(s, -x).1));
            let error = worst(rest, &x, exact, ulp);
            assert!(error > 0.4 && error < 3.0, "{}: {error} ulp", isa.name());
        }
    }

    #[test]
    fn normal_over_the_whole_range() {
        for isa in all() {
            let exact = |x: f64| 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2);
            let cdf = |y: &mut [f32], x: &[f32]| dispatch!(isa, s => map(y, x, |x| normal(s, x).0));
            let x: Vec<f32> = whole_range().into_iter().filter(|x| !(*x < -13.0)).collect();
            let error = worst(cdf, &x, exact, |y, exact| (y - exact).abs());
            assert!(error > 4e-8 && error < 3e-7, "{}: {error}", isa.name());
            let near: Vec<f32> = x.into_iter().filter(|x| *x >= -4.0).collect();
            let error = worst(cdf, &near, exact, relative);
            assert!(error > 5e-8 && error < 6e-7, "{}: {error}", isa.name());
        }
    }

    #[test]
    fn sums_take_all_elements() {
        for n in [0, 1, 5, 16, 31, 32, 33, 129] {
            let x: Vec<f32> = (0..n).map(|i| i as f32 - 7.0).collect();
            let square: f32 = x.iter().map(|x| x * x).sum();
            for isa in all() {
                assert_eq!(dispatch!(isa, _s => sum(&x, |x| x)), x.iter().sum::<f32>());
                assert_eq!(dispatch!(isa, s => dot(s, &x, &x)), square);
                assert_eq!(dispatch!(isa, _s => sums3(&x, &x, &x, |a, b, c| (a, b * c))), (x.iter().sum(), square));
                assert_eq!(dispatch!(isa, _s => max(&x)), if n == 0 { f32::NEG_INFINITY } else { n as f32 - 8.0 });
            }
        }
    }
}
