//! Scores as `tokenizers` reads them.
//!
//! It reads decimal numbers by serde_json's quick way: the digits as an integer, rounded to a double, times or by a
//! power of ten, rounded again. That is off by a unit in the last place for one number of ten, and sums of scores that
//! are equal but for rounding are decided by it.

/// The double that the quick way makes of the shortest decimal form of `score`, which is how JSON writers spell it.
pub(in super::super) fn as_read(score: f64) -> f64 {
    let text = format!("{score:e}");
    let Some((digits, exponent)) = text.split_once('e') else { return score };
    let fraction = digits.split_once('.').map_or(0, |(_, fraction)| fraction.len()) as i32;
    let whole: String = digits.chars().filter(char::is_ascii_digit).collect();
    // 17 digits at most.
    let (Ok(whole), Ok(exponent)) = (whole.parse::<u64>(), exponent.parse::<i32>()) else { return score };
    let scale = exponent - fraction;
    // Powers of ten are exact up to 10^22, and the nearest double as literals beyond.
    let power: f64 = format!("1e{}", scale.abs()).parse().unwrap_or(f64::INFINITY);
    let size = if scale < 0 { whole as f64 / power } else { whole as f64 * power };
    if size.is_finite() { size.copysign(score) } else { score }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_double_beside_the_nearest() {
        // 11016628328943547 lies between two doubles that are two apart.
        assert_eq!(as_read(-11.016628328943547), -(11_016_628_328_943_548.0 / 1e15));
        assert_ne!(as_read(-11.016628328943547), -11.016628328943547);
        for exact in [0.0, -0.0, 1.0, -2.5, -127.5, 1e22, f64::from(-7.25f32), 1e-300] {
            assert_eq!(as_read(exact).to_bits(), exact.to_bits());
        }
    }
}
