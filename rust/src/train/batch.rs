//! The tokens of one step, micro-batch by micro-batch.

use crate::data::{IGNORE, Samples};
use crate::error::Result;
use crate::train::config::LossReduction;

/// Extents of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchShape {
    /// Micro-batches of a step.
    pub accumulation: usize,
    /// Sequences of a micro-batch.
    pub micro: usize,
    /// Tokens of a sequence.
    pub time: usize,
}

impl BatchShape {
    pub(super) fn sequences(&self) -> usize {
        self.accumulation * self.micro
    }

    pub(super) fn tokens(&self) -> usize {
        self.sequences() * self.time
    }
}

/// Inputs and targets of one step, filled anew each time.
#[derive(Debug)]
pub(super) struct Batch {
    shape: BatchShape,
    inputs: Vec<i32>,
    targets: Vec<i32>,
}

impl Batch {
    pub(super) fn new(shape: BatchShape) -> Self {
        Self { shape, inputs: vec![0; shape.tokens()], targets: vec![0; shape.tokens()] }
    }

    /// Reads items `start..` of the data.
    ///
    /// # Errors
    /// Of the data, naming file and place.
    pub(super) fn fill(&mut self, data: &dyn Samples, start: usize) -> Result<()> {
        let time = self.shape.time;
        let rows = self.inputs.chunks_mut(time).zip(self.targets.chunks_mut(time));
        for (i, (inputs, targets)) in rows.enumerate() {
            data.fill(start + i, inputs, targets)?;
        }
        Ok(())
    }

    /// (inputs, targets) of each micro-batch.
    pub(super) fn micro_batches(&self) -> impl Iterator<Item = (&[i32], &[i32])> {
        let len = self.shape.micro * self.shape.time;
        self.inputs.chunks(len).zip(self.targets.chunks(len))
    }

    /// What each target of each micro-batch weighs in the step's loss; the weights of all targets
    /// add up to 1. A micro-batch without targets takes no part.
    ///
    /// `Microbatch`: 1 / (K n_k), for K micro-batches of n_k targets. `GlobalTokens`: 1 / sum n_k.
    pub(super) fn target_weights(&self, reduction: LossReduction) -> impl Iterator<Item = f64> {
        let count = |targets: &[i32]| targets.iter().filter(|target| **target != IGNORE).count();
        let (mut total, mut filled) = (0, 0);
        for (_, targets) in self.micro_batches() {
            let n = count(targets);
            total += n;
            filled += usize::from(n > 0);
        }
        self.micro_batches().map(move |(_, targets)| match (reduction, count(targets)) {
            (_, 0) => 0.0,
            (LossReduction::Microbatch, n) => 1.0 / (filled * n) as f64,
            (LossReduction::GlobalTokens, _) => 1.0 / total as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Item i holds the tokens i, i, ..., and targets in its first `i % 4` places.
    struct Ramp;

    impl Samples for Ramp {
        fn len(&self) -> usize {
            8
        }

        fn fill(&self, index: usize, inputs: &mut [i32], targets: &mut [i32]) -> Result<()> {
            let item = index % self.len();
            inputs.fill(item as i32);
            targets.fill(IGNORE);
            targets[..item % 4].fill(item as i32);
            Ok(())
        }
    }

    fn batch(start: usize) -> Batch {
        let mut batch = Batch::new(BatchShape { accumulation: 3, micro: 1, time: 4 });
        batch.fill(&Ramp, start).unwrap();
        batch
    }

    #[test]
    fn items_follow_each_other_and_wrap() {
        let batch = batch(6);
        let firsts: Vec<i32> = batch.micro_batches().map(|(inputs, _)| inputs[0]).collect();
        assert_eq!(firsts, [6, 7, 0]);
    }

    #[test]
    fn target_weights_add_up_to_one() {
        let batch = batch(4); // 0, 1 and 2 targets
        let micro: Vec<f64> = batch.target_weights(LossReduction::Microbatch).collect();
        assert_eq!(micro, [0.0, 0.5, 0.25]);
        let global: Vec<f64> = batch.target_weights(LossReduction::GlobalTokens).collect();
        assert_eq!(global, [0.0, 1.0 / 3.0, 1.0 / 3.0]);
    }
}
