//! What a step and an evaluation tell their caller.

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// The number of the step, from 1.
    pub iteration: usize,
    /// Before the update; z-loss included where it is on.
    pub loss: f64,
    /// What the update used (upstream logs the next step's).
    pub learning_rate: f64,
    /// Global L2 norm before clipping, unscaled.
    pub grad_norm: f64,
    /// fp16 only: the scale of this step.
    pub loss_scale: Option<f64>,
    /// No update was made, see `note`.
    pub skipped: bool,
    /// The loss itself was not finite.
    pub nan: bool,
    /// Why the step was skipped, naming the tensor.
    pub note: Option<String>,
    /// Of this step.
    pub samples: usize,
    pub tokens: usize,
    pub consumed_samples: usize,
    pub consumed_tokens: u64,
    /// Of the whole run.
    pub skipped_total: usize,
    pub nan_total: usize,
    /// Passes over the training data.
    pub epoch: f64,
    pub seconds: f64,
    pub timers: Timers,
}

/// Where the seconds of a step went, under upstream's names.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Timers {
    pub batch_generator: f64,
    pub forward_backward: f64,
    /// Norm, clipping, update, rounding.
    pub optimizer: f64,
}

/// Which held-out data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Valid,
    Test,
}

/// Mean loss over all targets of the batches seen (token-weighted), without z-loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    pub iteration: usize,
    pub loss: f64,
    /// exp(loss); infinite where that overflows.
    pub perplexity: f64,
    /// Targets counted.
    pub targets: usize,
    pub seconds: f64,
}
