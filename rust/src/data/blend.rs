//! Blending: one sequence of samples drawn from several sets in given proportions.
//!
//! Place `i` goes to the set `d` that is furthest behind its share: the largest
//! `w_d * max(i, 1) - taken_d`, the first of equals; there it takes the next unused sample.

use std::sync::{Arc, Mutex, PoisonError};

use super::Samples;
use crate::error::{Error, Result};

/// Sets and their normalised weights. The order is worked out as far as it is asked for.
pub(super) struct Blend {
    sets: Vec<Arc<dyn Samples>>,
    len: usize,
    order: Mutex<Order>,
}

impl Blend {
    /// `weights` must be normalised; `len` is where the sequence begins again.
    pub(super) fn new(sets: Vec<Arc<dyn Samples>>, weights: Vec<f64>, len: usize) -> Self {
        Self { sets, len, order: Mutex::new(Order::new(weights)) }
    }
}

impl Samples for Blend {
    fn len(&self) -> usize {
        self.len
    }

    fn fill(&self, index: usize, inputs: &mut [i32], targets: &mut [i32]) -> Result<()> {
        let (set, item) = {
            // A thread that panicked here left a shorter, still valid order.
            let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
            order.at(index % self.len)
        };
        self.sets[set].fill(item, inputs, targets)
    }
}

/// Places between two notes of how much was taken: 2 bytes a place instead of 10.
const BLOCK: usize = 1024;

/// Which set each place belongs to, grown on demand.
struct Order {
    weights: Vec<f64>,
    taken: Vec<u64>,
    choice: Vec<u16>,
    /// `taken` as it was at the start of each block.
    notes: Vec<Vec<u64>>,
}

impl Order {
    fn new(weights: Vec<f64>) -> Self {
        let taken = vec![0; weights.len()];
        Self { weights, taken, choice: Vec::new(), notes: Vec::new() }
    }

    /// The set of place `i`, and how many samples of it stand before.
    fn at(&mut self, i: usize) -> (usize, usize) {
        while self.choice.len() <= i {
            self.grow();
        }
        let (block, set) = (i / BLOCK, self.choice[i]);
        let since = self.choice[block * BLOCK..i].iter().filter(|&&choice| choice == set).count();
        (set as usize, self.notes[block][set as usize] as usize + since)
    }

    fn grow(&mut self) {
        if self.choice.len().is_multiple_of(BLOCK) {
            self.notes.push(self.taken.clone());
        }
        let place = self.choice.len().max(1) as f64;
        let (mut best, mut most) = (0, f64::NEG_INFINITY);
        for (set, (weight, taken)) in self.weights.iter().zip(&self.taken).enumerate() {
            let behind = weight * place - *taken as f64;
            if behind > most {
                (best, most) = (set, behind);
            }
        }
        self.choice.push(best as u16);
        self.taken[best] += 1;
    }
}

/// Shares that sum to 1.
///
/// # Errors
/// `Config` for a negative or non-finite weight, or none above 0.
pub(super) fn normalized(weights: &[f64]) -> Result<Vec<f64>> {
    if let Some(weight) = weights.iter().find(|w| !w.is_finite() || **w < 0.0) {
        return Err(Error::Config(format!("data weight {weight}: weights are numbers from 0 up")));
    }
    let total = compensated_sum(weights);
    if total <= 0.0 || weights.len() > usize::from(u16::MAX) {
        let sets = weights.len();
        return Err(Error::Config(format!("{sets} data weights with sum {total}: 1 to 65535 sets, one above 0")));
    }
    Ok(weights.iter().map(|w| w / total).collect())
}

/// Python's `sum` of floats since 3.12 (Neumaier). GPT-NeoX divides by it first and by numpy's sum
/// after that, and the last bit of a weight decides ties: .7 .2 .1 give another order without it.
fn compensated_sum(x: &[f64]) -> f64 {
    let (mut sum, mut lost) = (0.0f64, 0.0f64);
    for &x in x {
        let next = sum + x;
        lost += if sum.abs() >= x.abs() { (sum - next) + x } else { (x - next) + sum };
        sum = next;
    }
    sum + lost
}

/// Divides by the sum as numpy forms it, so that the shares are GPT-NeoX's to the last bit.
pub(super) fn normalized_as_numpy(weights: &[f64]) -> Vec<f64> {
    let total = pairwise_sum(weights);
    weights.iter().map(|w| w / total).collect()
}

/// numpy's `sum` of a contiguous f64 array: eight running sums in blocks of at most 128.
fn pairwise_sum(x: &[f64]) -> f64 {
    if x.len() < 8 {
        return x.iter().sum();
    }
    if x.len() > 128 {
        let half = x.len() / 2 / 8 * 8;
        return pairwise_sum(&x[..half]) + pairwise_sum(&x[half..]);
    }
    let (blocks, rest) = x.as_chunks::<8>();
    let mut r = blocks[0];
    for block in &blocks[1..] {
        r.iter_mut().zip(block).for_each(|(r, x)| *r += x);
    }
    let sum = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
    rest.iter().fold(sum, |sum, x| sum + x)
}

/// Weights from document counts: with u the share of documents, p ~ u^alpha, w ~ p * (1 - u).
/// A small alpha raises the sets that have few documents.
pub fn weights_by_documents(documents: &[usize], alpha: f64) -> Vec<f64> {
    if documents.len() < 2 {
        return vec![1.0; documents.len()];
    }
    let normalized = |x: Vec<f64>| {
        let total = compensated_sum(&x);
        x.into_iter().map(|x| x / total).collect::<Vec<_>>()
    };
    let shares = normalized(documents.iter().map(|&n| n as f64).collect());
    let tempered = normalized(shares.iter().map(|u| u.powf(alpha)).collect());
    normalized(tempered.iter().zip(&shares).map(|(p, u)| p * (1.0 - u)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(weights: &[f64], n: usize) -> Vec<usize> {
        let mut order = Order::new(normalized_as_numpy(&normalized(weights).unwrap()));
        (0..n).map(|i| order.at(i).0).collect()
    }

    #[test]
    fn orders_equal_their_goldens() {
        assert_eq!(order(&[0.7, 0.2, 0.1], 12), [0, 1, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1]);
        assert_eq!(order(&[1.0, 1.0], 6), [0, 1, 0, 1, 0, 1]);
        assert_eq!(order(&[0.3, 0.3, 0.4], 8), [2, 0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn every_sample_of_a_set_comes_once_and_in_order() {
        let mut order = Order::new(vec![0.5, 0.3, 0.2]);
        // Asked for from the back first: the answer does not depend on it.
        let _ = order.at(5000);
        let mut next = [0; 3];
        for i in 0..5001 {
            let (set, item) = order.at(i);
            assert_eq!(item, next[set], "place {i}");
            next[set] += 1;
        }
    }

    #[test]
    fn alpha_weights_equal_their_goldens() {
        let close = |got: Vec<f64>, want: [f64; 3]| got.iter().zip(want).all(|(a, b)| (a - b).abs() < 5e-5);
        assert!(close(weights_by_documents(&[100, 300, 600], 1.0), [0.1667, 0.3889, 0.4444]));
        assert!(close(weights_by_documents(&[100, 300, 600], 0.3), [0.35184, 0.38048, 0.26768]));
        assert_eq!(weights_by_documents(&[7], 0.3), [1.0]);
    }

    #[test]
    fn bad_weights_are_refused() {
        for weights in [&[][..], &[0.0, 0.0], &[1.0, -1.0], &[f64::NAN]] {
            assert!(matches!(normalized(weights), Err(Error::Config(_))));
        }
    }
}
