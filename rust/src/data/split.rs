//! Cutting the documents of one dataset into train, valid and test.

use super::config::IndexFlavor;
use crate::error::{Error, Result};

/// Document bounds `[0, train end, valid end, total]` of a split like "969, 30, 1" or "98/2".
///
/// GPT-NeoX rounds each part by itself and moves the bounds so that the last one meets the total;
/// Megatron-LM rounds each cumulative bound. Both round half to even.
///
/// # Errors
/// `Config` for numbers that are not shares.
pub fn bounds(split: &str, documents: usize, flavor: IndexFlavor) -> Result<[usize; 4]> {
    let shares = shares(split)?;
    let count = documents as f64;
    let mut bounds = [0i64; 4];
    let mut cumulative = 0.0;
    for (part, share) in shares.into_iter().enumerate() {
        cumulative += share;
        bounds[part + 1] = match flavor {
            IndexFlavor::Neox => bounds[part] + (share * count).round_ties_even() as i64,
            IndexFlavor::Megatron => (cumulative * count).round_ties_even() as i64,
        };
    }
    let shift = match flavor {
        IndexFlavor::Neox => documents as i64 - bounds[3],
        IndexFlavor::Megatron => 0,
    };
    for bound in &mut bounds[1..] {
        *bound = (*bound + shift).clamp(0, documents as i64);
    }
    Ok(bounds.map(|bound| bound as usize))
}

/// Three shares that sum to 1.
fn shares(split: &str) -> Result<[f64; 3]> {
    let wrong = |why: &str| Error::Config(format!("split `{split}`: {why}; write shares like \"969, 30, 1\""));
    let separator = if split.contains(',') { ',' } else { '/' };
    let numbers: Result<Vec<f64>, _> = split.split(separator).map(|number| number.trim().parse::<f64>()).collect();
    let numbers = numbers.map_err(|e| wrong(&e.to_string()))?;
    if numbers.len() > 3 {
        return Err(wrong("more than three numbers"));
    }
    if numbers.iter().any(|share| !share.is_finite() || *share < 0.0) {
        return Err(wrong("a share is negative or not finite"));
    }
    let total: f64 = numbers.iter().sum();
    if total <= 0.0 {
        return Err(wrong("the shares sum to 0"));
    }
    let mut shares = [0.0; 3];
    shares.iter_mut().zip(numbers).for_each(|(share, number)| *share = number / total);
    Ok(shares)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neox_golden() {
        let neox = |split, documents| bounds(split, documents, IndexFlavor::Neox).unwrap();
        assert_eq!(neox("969, 30, 1", 1000), [0, 969, 999, 1000]);
        assert_eq!(neox("969, 30, 1", 1234), [0, 1196, 1233, 1234]);
        assert_eq!(neox("969, 30, 1", 20), [0, 19, 20, 20]);
        assert_eq!(neox("949,50,1", 777), [0, 737, 776, 777]);
        assert_eq!(neox("1,1,1", 100), [0, 34, 67, 100]);
        assert_eq!(neox("99,1", 50), [0, 50, 50, 50]);
        assert_eq!(neox("99/1", 50), [0, 50, 50, 50]);
        assert_eq!(neox("1", 7), [0, 7, 7, 7]);
    }

    #[test]
    fn megatron_rounds_each_bound() {
        let megatron = |split, documents| bounds(split, documents, IndexFlavor::Megatron).unwrap();
        assert_eq!(megatron("1,1,1", 100), [0, 33, 67, 100]);
        assert_eq!(megatron("969, 30, 1", 1234), [0, 1196, 1233, 1234]);
        assert_eq!(megatron("1000,0,0", 31), [0, 31, 31, 31]);
    }

    #[test]
    fn nonsense_is_refused() {
        for split in ["", "a,b", "1,-1,0", "0,0,0", "1,2,3,4", "nan", "inf,1"] {
            assert!(matches!(bounds(split, 10, IndexFlavor::Neox), Err(Error::Config(_))), "{split}");
        }
    }
}
