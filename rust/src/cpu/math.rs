//! exp, sigmoid and erf as straight-line f32 code that compilers turn into vectors.
//!
//! Only additions and multiplications that are rounded one by one: every instruction set gives the same bits.

/// e^x within 1 ulp for normal results: 2^n · p(r), r = x − n·ln 2 in [−ln2/2, ln2/2].
/// Results below the smallest normal number are 0; NaN stays NaN; above 88.72 infinity.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4; // 355/512: n·LN2_HIGH is exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x > 88.8 { 88.8 } else { x };
    let clamped = if clamped < -87.4 { -87.4 } else { clamped };
    // Adding 1.5·2^23 rounds to the nearest integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.0
        + r
        + r * r
            * (0.5
                + r * (0.166_666_67 + r * (0.041_666_64 + r * (0.008_333_361 + r * (0.001_389_27 + r * 1.980_7e-4)))));
    // 2^n in two factors, so that n = 128 does not overflow before the product does.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    let scale = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    let y = p * scale(half) * scale(n - half);
    if x < -87.336_54 { 0.0 } else { y }
}

/// 1 / (1 + e^−x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// erf x, absolute error below 1.5e-7: an odd polynomial below 0.9, 1 − e^−h(x) above, both fitted at Chebyshev nodes.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let a = x.abs();
    let a = if a > 4.0 { 4.0 } else { a };
    let s = a * a;
    let near = a
        * (std::f32::consts::FRAC_2_SQRT_PI
            + s * (-0.376_126_33
                + s * (0.112_836_9
                    + s * (-0.026_859_06 + s * (0.005_200_126 + s * (-8.131_834_5e-4 + s * 8.322_186e-5))))));
    let h = -2.874_518_5e-4
        + a * (1.130_099_6
            + a * (0.632_057_1
                + a * (0.109_860_13
                    + a * (-0.026_294_686
                        + a * (0.004_714_566 + a * (-5.870_857e-4 + a * (4.489_293e-5 + a * -1.577_648e-6)))))));
    let far = 1.0 - exp(-h);
    let y = if a < 0.9 { near } else { far };
    let y = if x.is_nan() { x } else { y };
    y.copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every 4001st f32 from −100 to 100, and the special values.
    fn sample() -> impl Iterator<Item = f32> {
        let finite = (0..u32::MAX).step_by(4001).map(f32::from_bits).filter(|x| x.abs() < 100.0);
        finite.chain((-1000..1000).map(|i| i as f32 * 0.01))
    }

    #[test]
    fn exp_is_within_two_ulp_of_f64() {
        for x in sample() {
            let exact = f64::from(x).exp();
            let ours = f64::from(exp(x));
            if exact > 3.0e38 {
                assert!(ours > 3.0e38 || ours.is_infinite(), "{x}");
            } else if exact > 1.2e-38 {
                assert!((ours / exact - 1.0).abs() < 1.5e-7, "{x}: {ours} {exact}");
            } else {
                assert!(ours <= 1.3e-38, "{x}: {ours}");
            }
        }
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn sigmoid_follows_f64() {
        for x in sample() {
            let exact = f64::from(x);
            assert!((f64::from(sigmoid(x)) - 1.0 / (1.0 + (-exact).exp())).abs() < 1.2e-7, "sigmoid {x}");
        }
        assert!(sigmoid(f32::NAN).is_nan());
    }

    #[test]
    fn erf_follows_libm() {
        for x in sample() {
            let exact = libm::erf(f64::from(x));
            assert!((f64::from(erf(x)) - exact).abs() < 1.5e-7, "erf {x}: {} {exact}", erf(x));
        }
        assert!(erf(f32::NAN).is_nan());
        assert_eq!(erf(f32::NEG_INFINITY), -1.0);
    }
}
