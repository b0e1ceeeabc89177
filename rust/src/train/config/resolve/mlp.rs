//! The width between the two matrices of the MLP.

use crate::error::{Error, Result};
use crate::train::config::values::{Value, Values};

/// GPT-NeoX's rule for the width i (intermediate_size or 4h) and the multiple m.
///
/// Ungated: f = ⌈i⌉ₘ, i rounded up to a multiple of m. Gated: with j = ⌊2i/3⌋ the first matrix has
/// ⌈j⌉₂ₘ rows (value and gate), the second f = ⌈⌊j/2⌋⌉ₘ columns; they fit only if the first is 2f.
/// Returns (f, rows of the first matrix).
pub(crate) fn neox_width(i: usize, m: usize, gated: bool) -> (usize, usize) {
    if !gated {
        let f = i.next_multiple_of(m);
        return (f, f);
    }
    let j = i * 2 / 3;
    ((j / 2).next_multiple_of(m), j.next_multiple_of(2 * m))
}

/// The largest width that is taken for meant: products with it stay far from overflow.
const WIDEST: usize = 1 << 32;

/// `ffn_hidden_size`, or GPT-NeoX's width of `intermediate_size` or `expansion_factor`.
pub(super) fn width(values: &mut Values, hidden: usize, gated: bool) -> Result<usize> {
    let i = intermediate(values, hidden)?;
    let m = values.usize("mlp_multiple_of")?;
    let explicit = values.opt_usize("ffn_hidden_size")?;
    if i > WIDEST || m > WIDEST || explicit.is_some_and(|f| f > WIDEST) {
        return Err(Error::Config(format!("an MLP of width {i} (multiple of {m}) is too wide")));
    }
    let (f, rows) = neox_width(i, m, gated);
    let written = ["intermediate_size", "expansion_factor"].into_iter().find(|name| values.given(name));
    match (explicit, written) {
        (Some(explicit), Some(name)) if explicit != f || (gated && rows != 2 * f) => Err(Error::Config(format!(
            "{} gives an MLP of {f}, but {} is {explicit}; remove one of the two",
            values.at(name),
            values.at("ffn_hidden_size")
        ))),
        (Some(explicit), _) => Ok(explicit),
        (None, _) if gated && rows != 2 * f => Err(misfit(values, i, m, f, rows)),
        (None, _) => {
            values.derive("ffn_hidden_size", Value::Int(f as i64));
            Ok(f)
        }
    }
}

fn intermediate(values: &Values, hidden: usize) -> Result<usize> {
    let size = values.opt_usize("intermediate_size")?;
    let factor = values.opt_float("expansion_factor")?;
    match (size, factor) {
        (Some(_), Some(_)) => Err(Error::Config(format!(
            "{} and {} exclude each other; remove one",
            values.at("intermediate_size"),
            values.at("expansion_factor")
        ))),
        (Some(size), None) => Ok(size),
        (None, Some(factor)) => Ok((factor * hidden as f64) as usize),
        (None, None) => Ok(4 * hidden),
    }
}

fn misfit(values: &Values, i: usize, m: usize, f: usize, rows: usize) -> Error {
    let at = values.at("intermediate_size");
    Error::Config(format!(
        "{at}: a gated MLP from {i} and mlp_multiple_of {m} has {rows} rows in its first matrix, but twice {f} in \
         its second; write the width you mean as \"ffn_hidden_size\" (Hugging Face's intermediate_size), or a \
         multiple of {} as \"intermediate_size\" (three times that width)",
        3 * m
    ))
}

#[cfg(test)]
mod tests {
    use super::neox_width;

    #[test]
    fn golden_widths() {
        for (i, m, f, rows) in [
            (32768, 256, 11008, 22016),
            (40960, 256, 13824, 27648),
            (86016, 256, 28672, 57344),
            (43008, 256, 14336, 28672),
            (6144, 1, 2048, 4096),
            (14336, 1, 4778, 9558),
        ] {
            assert_eq!(neox_width(i, m, true), (f, rows), "{i} {m}");
        }
        assert_eq!(neox_width(3072, 1, false), (3072, 3072));
        assert_eq!(neox_width(3073, 64, false), (3136, 3136));
    }
}
