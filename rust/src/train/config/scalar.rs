//! What a plain (unquoted) YAML 1.1 scalar means, as PyYAML's loader decides it.
//!
//! GPT-NeoX files are written for that loader, and YAML 1.2 reads some scalars differently:
//! `010` is 8, `yes` is true, `12:30` is 750, and `1e-5` is a text.

/// The value of a plain scalar; `Text` keeps the scalar as it is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scalar {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text,
}

/// Resolves one plain scalar.
pub(crate) fn resolve(text: &str) -> Scalar {
    if matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Scalar::Null;
    }
    if let Some(value) = boolean(text) {
        return Scalar::Bool(value);
    }
    if let Some(value) = integer(text) {
        return Scalar::Int(value);
    }
    float(text).map_or(Scalar::Text, Scalar::Float)
}

/// A whole number that YAML 1.1 reads in base 8 or 60, which few people mean.
pub(crate) fn surprise(text: &str) -> Option<&'static str> {
    let digits = unsigned(text);
    if digits.contains(':') {
        return Some("base 60");
    }
    let octal = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0x") && !digits.starts_with("0b");
    octal.then_some("base 8")
}

/// The number in a text such as `1e-5` or `6E4`, which YAML 1.1 takes for a text.
pub(crate) fn numeric_text(text: &str) -> Option<f64> {
    let text = text.trim_ascii();
    let digit_first = unsigned(text).trim_start_matches('.').starts_with(|c: char| c.is_ascii_digit());
    text.parse().ok().filter(|value: &f64| digit_first && value.is_finite())
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Some(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

fn unsigned(text: &str) -> &str {
    text.strip_prefix(['-', '+']).unwrap_or(text)
}

fn sign(text: &str) -> i128 {
    if text.starts_with('-') { -1 } else { 1 }
}

fn digits(text: &str, radix: u32) -> bool {
    !text.is_empty() && text.chars().all(|c| c == '_' || c.is_digit(radix))
}

/// `[-+]?` then `0b…`, `0x…`, `0…` (octal), `0`, `[1-9]…` or `a:b:c` in base 60.
fn integer(text: &str) -> Option<i128> {
    let body = unsigned(text);
    let (tail, radix) = match body.as_bytes() {
        [b'0', b'b', ..] => (&body[2..], 2),
        [b'0', b'x', ..] => (&body[2..], 16),
        [b'0', _, ..] => (&body[1..], 8),
        [b'0'..=b'9', ..] => (body, 10),
        _ => return None,
    };
    if radix == 10 && body.contains(':') {
        return sexagesimal(body).map(|value| sign(text) * value);
    }
    if !digits(tail, radix) {
        return None;
    }
    let plain = tail.replace('_', "");
    let zero = radix == 8 && plain.is_empty(); // `0_` is 0
    let value = if zero { Some(0) } else { i128::from_str_radix(&plain, radix).ok() };
    value.map(|value| sign(text) * value)
}

/// `12:30` = 12·60 + 30.
fn sexagesimal(body: &str) -> Option<i128> {
    let mut parts = body.split(':');
    let first = parts.next().filter(|part| digits(part, 10))?;
    let mut value: i128 = first.replace('_', "").parse().ok()?;
    for part in parts {
        value = value.checked_mul(60)?.checked_add(minute(part)?.into())?;
    }
    Some(value)
}

/// `[0-5]?[0-9]`
fn minute(part: &str) -> Option<u8> {
    let short = (1..=2).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    part.parse().ok().filter(|value| short && *value < 60)
}

/// A dot is required, and an exponent needs its sign: `1.0e-5`, `.5`, `1.`; also `.inf`, `.nan`.
fn float(text: &str) -> Option<f64> {
    let body = unsigned(text);
    match body {
        ".inf" | ".Inf" | ".INF" => return Some(sign(text) as f64 * f64::INFINITY),
        ".nan" | ".NaN" | ".NAN" if body == text => return Some(f64::NAN),
        _ => {}
    }
    if body.contains(':') {
        return sexagesimal_float(body).map(|value| sign(text) as f64 * value);
    }
    let (mantissa, exponent) = match body.find(['e', 'E']) {
        Some(at) => (&body[..at], Some(&body[at + 1..])),
        None => (body, None),
    };
    let (whole, fraction) = mantissa.split_once('.')?;
    let signed_exponent = exponent.is_none_or(|exponent| {
        exponent.starts_with(['-', '+']) && exponent.len() > 1 && exponent[1..].bytes().all(|b| b.is_ascii_digit())
    });
    let fraction_ok = fraction.is_empty() || digits(fraction, 10);
    let lead_ok = if whole.is_empty() {
        // PyYAML allows no sign before a bare `.5`.
        body == text && fraction.starts_with(|c: char| c.is_ascii_digit())
    } else {
        whole.starts_with(|c: char| c.is_ascii_digit()) && digits(whole, 10)
    };
    if !(signed_exponent && fraction_ok && lead_ok) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// `1:30.5` = 90.5.
fn sexagesimal_float(body: &str) -> Option<f64> {
    let (whole, last) = body.rsplit_once(':')?;
    let (seconds, fraction) = last.split_once('.')?;
    let whole = if whole.contains(':') {
        sexagesimal(whole)?
    } else {
        whole.starts_with(|c: char| c.is_ascii_digit()).then(|| whole.replace('_', "").parse().ok())??
    };
    let fraction_ok = fraction.is_empty() || digits(fraction, 10);
    let seconds = f64::from(minute(seconds)?) + format!("0.{}0", fraction.replace('_', "")).parse::<f64>().ok()?;
    fraction_ok.then_some(whole as f64 * 60.0 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_1_1_scalars() {
        for (text, want) in [
            ("1e-5", Scalar::Text),
            ("6e4", Scalar::Text),
            ("1E-5", Scalar::Text),
            ("2.0e5", Scalar::Text),
            ("1.0e-5", Scalar::Float(1e-5)),
            (".97e-4", Scalar::Float(0.97e-4)),
            ("1.e-8", Scalar::Float(1e-8)),
            ("1.0E+5", Scalar::Float(1e5)),
            ("1_0.2_5", Scalar::Float(10.25)),
            ("yes", Scalar::Bool(true)),
            ("Off", Scalar::Bool(false)),
            ("True", Scalar::Bool(true)),
            ("y", Scalar::Text),
            ("010", Scalar::Int(8)),
            ("-010", Scalar::Int(-8)),
            ("08", Scalar::Text),
            ("0o10", Scalar::Text),
            ("0x1F", Scalar::Int(31)),
            ("0b101", Scalar::Int(5)),
            ("1_000", Scalar::Int(1000)),
            ("_1", Scalar::Text),
            ("12:30", Scalar::Int(750)),
            ("1:30.5", Scalar::Float(90.5)),
            ("12:99", Scalar::Text),
            ("~", Scalar::Null),
            ("", Scalar::Null),
            ("-.inf", Scalar::Float(f64::NEG_INFINITY)),
            ("969, 30, 1", Scalar::Text),
            ("-", Scalar::Text),
            (".", Scalar::Text),
            ("1.5.2", Scalar::Text),
        ] {
            assert_eq!(resolve(text), want, "{text}");
        }
    }

    #[test]
    fn numbers_written_as_text() {
        assert_eq!(numeric_text("1e-5"), Some(1e-5));
        assert_eq!(numeric_text(" -6E4 "), Some(-6e4));
        assert_eq!(numeric_text("nan"), None);
        assert_eq!(numeric_text("inf"), None);
        assert_eq!(numeric_text("1e400"), None);
        assert_eq!(numeric_text("five"), None);
    }

    #[test]
    fn spellings_few_people_mean() {
        assert_eq!(surprise("010"), Some("base 8"));
        assert_eq!(surprise("12:30"), Some("base 60"));
        assert_eq!(surprise("0"), None);
        assert_eq!(surprise("0x10"), None);
        assert_eq!(surprise("10"), None);
    }
}
