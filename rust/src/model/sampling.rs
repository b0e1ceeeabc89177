//! Choosing the next token.

use super::random::{Purpose, Stream};
use crate::error::{Error, Result};

/// How the next token is chosen. Filters apply in the order temperature, top-k, top-p.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 takes the most likely token.
    pub temperature: f64,
    /// Only the k most likely tokens; 0 is off.
    pub top_k: usize,
    /// Only the most likely tokens whose probabilities reach p together; 0 and 1 are off.
    pub top_p: f64,
    pub seed: u64,
}

impl Sampling {
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 };

    /// # Errors
    /// `Error::UnsupportedInput` naming the option that is out of range.
    pub fn check(&self) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            let got = self.temperature;
            return Err(Error::UnsupportedInput(format!("`temperature` must be a finite number >= 0, got {got}")));
        }
        if !(0.0..=1.0).contains(&self.top_p) {
            return Err(Error::UnsupportedInput(format!("`top_p` must lie between 0 and 1, got {}", self.top_p)));
        }
        Ok(())
    }

    /// The token after `logits` (V); its random number is addressed by (seed, sequence, position).
    ///
    /// # Errors
    /// `Error::NonFinite` when a logit is NaN or +inf.
    pub(super) fn choose(&self, logits: &[f32], sequence: u32, position: u64) -> Result<usize> {
        if let Some(token) = logits.iter().position(|x| x.is_nan() || *x == f32::INFINITY) {
            return Err(Error::NonFinite(format!(
                "the logit of token {token} at position {position} is {}",
                logits[token]
            )));
        }
        if self.temperature == 0.0 {
            return Ok(argmax(logits));
        }
        let u = Stream::new(self.seed, Purpose::Sampling, sequence).uniform(position);
        Ok(pick(&self.candidates(logits), u))
    }

    /// Tokens with their unnormalised probabilities, most likely first where a filter sorts them.
    fn candidates(&self, logits: &[f32]) -> Vec<(usize, f64)> {
        let max = f64::from(logits[argmax(logits)]);
        let weight = |logit: &f32| ((f64::from(*logit) - max) / self.temperature).exp();
        let mut all: Vec<_> = logits.iter().map(weight).enumerate().collect();
        let (by_k, by_p) = (self.top_k > 0 && self.top_k < all.len(), self.top_p > 0.0 && self.top_p < 1.0);
        if by_k || by_p {
            // The sort is stable: of equals the lower id stands first.
            all.sort_by(|a, b| b.1.total_cmp(&a.1));
        }
        if by_k {
            all.truncate(self.top_k);
        }
        if by_p {
            all.truncate(nucleus(&all, self.top_p));
        }
        all
    }
}

/// The first of the largest.
pub(super) fn argmax(logits: &[f32]) -> usize {
    let better = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
    (1..logits.len()).fold(0, better)
}

/// How many of the leading candidates reach the share `p`; at least one.
fn nucleus(sorted: &[(usize, f64)], p: f64) -> usize {
    let total: f64 = sorted.iter().map(|(_, w)| w).sum();
    let mut reached = 0.0;
    let before = sorted.iter().take_while(|(_, w)| {
        let open = reached < p * total;
        reached += w;
        open
    });
    before.count().max(1)
}

/// The candidate in whose share of [0, 1) `u` falls.
fn pick(candidates: &[(usize, f64)], u: f64) -> usize {
    let target = u * candidates.iter().map(|(_, w)| w).sum::<f64>();
    let mut reached = 0.0;
    let hit = candidates.iter().find(|(_, w)| {
        reached += w;
        target < reached
    });
    // Rounding may leave the target at the very end; the last with any weight is meant.
    let last = candidates.iter().rev().find(|(_, w)| *w > 0.0);
    hit.or(last).map_or(0, |(token, _)| *token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.1, 2.0, -1.0, 1.0, 0.5];

    fn counts(sampling: Sampling) -> [usize; 5] {
        let mut counts = [0; 5];
        (0..20_000).for_each(|i| counts[sampling.choose(&LOGITS, 0, i).unwrap()] += 1);
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        assert_eq!(Sampling::GREEDY.choose(&LOGITS, 0, 0).unwrap(), 1);
        assert_eq!(Sampling::GREEDY.choose(&[0.0, 3.0, 3.0], 0, 0).unwrap(), 1);
        assert_eq!(Sampling::GREEDY.choose(&[f32::NEG_INFINITY; 3], 0, 0).unwrap(), 0);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        for temperature in [0.5, 1.0, 2.0] {
            let weights = LOGITS.map(|x| (f64::from(x) / temperature).exp());
            let total: f64 = weights.iter().sum();
            let counts = counts(Sampling { temperature, top_k: 0, top_p: 1.0, seed: 5 });
            for (count, weight) in counts.iter().zip(weights) {
                let p = weight / total;
                let deviation = (20_000.0 * p * (1.0 - p)).sqrt();
                assert!((*count as f64 - 20_000.0 * p).abs() < 4.5 * deviation, "{counts:?} {p}");
            }
        }
    }

    #[test]
    fn filters_cut_the_tail() {
        let top_k = counts(Sampling { temperature: 1.0, top_k: 2, top_p: 1.0, seed: 5 });
        assert!(top_k[1] > top_k[3] && top_k[3] > 0 && top_k[0] + top_k[2] + top_k[4] == 0, "{top_k:?}");
        // Probabilities 0.557, 0.205, 0.124, 0.083, 0.028: 0.7 needs two tokens, 0.77 three.
        let top_p = |p| counts(Sampling { temperature: 1.0, top_k: 0, top_p: p, seed: 5 }).map(|n| n > 0);
        assert_eq!(top_p(0.7), [false, true, false, true, false]);
        assert_eq!(top_p(0.77), [false, true, false, true, true]);
        assert_eq!(top_p(1e-9), [false, true, false, false, false]);
    }

    #[test]
    fn addressed_by_seed_sequence_and_position() {
        let run = |seed, sequence| -> Vec<_> {
            let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed };
            (0..64).map(|i| sampling.choose(&LOGITS, sequence, i).unwrap()).collect()
        };
        assert_eq!(run(1, 0), run(1, 0));
        assert_ne!(run(1, 0), run(2, 0));
        assert_ne!(run(1, 0), run(1, 1));
    }

    #[test]
    fn nan_is_named_and_options_are_checked() {
        let error = Sampling::GREEDY.choose(&[0.0, f32::NAN], 0, 7).unwrap_err().to_string();
        assert!(error.contains("token 1") && error.contains("position 7"), "{error}");
        assert!(Sampling { temperature: -1.0, ..Sampling::GREEDY }.check().is_err());
        assert!(Sampling { top_p: 1.5, ..Sampling::GREEDY }.check().is_err());
        assert!(Sampling { temperature: f64::NAN, ..Sampling::GREEDY }.check().is_err());
    }
}
