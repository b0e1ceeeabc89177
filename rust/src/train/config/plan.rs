//! What a run needs before anything is allocated: parameters, bytes, arithmetic, cards.

use serde::Serialize;
use serde_json::Value as Json;

use super::count::Parameters;
use super::run::{Precision, RunConfig};
use crate::dtype::DType;
use crate::error::Result;
use crate::model::Decoder;

/// Bytes by kind. One process holds all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bytes {
    /// In the precision of the run.
    pub weights: u64,
    /// fp32 master weights; 0 in fp32, where the weights are their own masters.
    pub masters: u64,
    pub gradients: u64,
    pub moments: u64,
    /// Of one micro-batch: `Decoder::activation_bytes`.
    pub activations: u64,
    pub total: u64,
}

/// Operations of forward and backward for one token, by convention.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FlopsPerToken {
    pub full: f64,
    pub causal: f64,
    pub neox: f64,
}

/// What each convention counts. N: non-embedding parameters, h: hidden size, V: padded vocabulary,
/// L: layers, s: sequence length.
pub const CONVENTIONS: [(&str, &str); 3] = [
    ("full", "6N + 6hV + 12Lhs: every pair of tokens"),
    ("causal", "6N + 6hV + 6Lhs: pairs that attention sees"),
    ("neox", "24fLh^2 (1 + s/6h + V/16Lh), f = 3, or 4 with recompute: GPT-NeoX's log"),
];

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Card {
    pub card: &'static str,
    /// Bytes that the run may take.
    pub capacity: u64,
    /// As configured.
    pub fits: bool,
    /// With the recompute block that needs least.
    pub fits_with_recompute: bool,
    /// With the configured recompute; 0 where not even one sequence fits.
    pub largest_micro_batch: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BatchPlan {
    pub micro_batch_size: usize,
    pub gradient_accumulation_steps: usize,
    pub seq_length: usize,
    pub tokens_per_step: u64,
    /// Of the run; `None` with `train_epochs`.
    pub tokens: Option<u64>,
    pub tokens_per_parameter: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    pub parameters: Parameters,
    pub precision: &'static str,
    pub bytes: Bytes,
    pub flops_per_token: FlopsPerToken,
    pub batch: BatchPlan,
    pub recompute_layers: Option<usize>,
    pub fits: Vec<Card>,
    pub suggestion: String,
}

impl Plan {
    /// With the conventions of the FLOPs beside them.
    pub fn to_json(&self) -> Json {
        let mut json = serde_json::json!(self);
        json["conventions"] = CONVENTIONS.into_iter().map(|(name, what)| (name, Json::from(what))).collect();
        json
    }
}

const GIB: u64 = 1 << 30;

/// Sold as GB, built as GiB; the driver, the CUDA context and workspaces take about one.
const CARDS: [(&str, u64); 3] = [("24 GB", 23 * GIB), ("40 GB", 39 * GIB), ("80 GB", 79 * GIB)];

/// # Errors
/// As `Decoder::new`, for a configuration that did not come from `load`.
pub fn plan(run: &RunConfig) -> Result<Plan> {
    let planner = Planner { run, decoder: Decoder::new(run.model.clone())?, parameters: Parameters::of(&run.model)? };
    planner.plan()
}

struct Planner<'a> {
    run: &'a RunConfig,
    decoder: Decoder,
    parameters: Parameters,
}

impl Planner<'_> {
    fn plan(&self) -> Result<Plan> {
        let fits = CARDS.iter().map(|(name, capacity)| self.card(name, *capacity)).collect::<Result<Vec<_>>>()?;
        Ok(Plan {
            parameters: self.parameters,
            precision: self.dtype().name(),
            bytes: self.bytes()?,
            flops_per_token: self.flops(),
            batch: self.batch(),
            recompute_layers: self.run.recompute_layers,
            suggestion: self.suggestion(&fits)?,
            fits,
        })
    }

    fn dtype(&self) -> DType {
        match self.run.precision {
            Precision::Fp32 => DType::F32,
            Precision::Fp16 => DType::F16,
            Precision::Bf16 => DType::BF16,
        }
    }

    fn activations(&self, micro_batch: usize, recompute: Option<usize>) -> Result<u64> {
        let bytes = self.decoder.activation_bytes(micro_batch, self.run.seq_length, recompute, self.dtype())?;
        Ok(bytes as u64)
    }

    /// Weights, masters, gradients and moments.
    fn states(&self) -> [u64; 4] {
        let n = self.parameters.total;
        let masters = if self.run.precision == Precision::Fp32 { 0 } else { 4 * n };
        [self.dtype().size() as u64 * n, masters, 4 * n, 8 * n]
    }

    fn bytes(&self) -> Result<Bytes> {
        let [weights, masters, gradients, moments] = self.states();
        let activations = self.activations(self.run.micro_batch_size, self.run.recompute_layers)?;
        let total = weights + masters + gradients + moments + activations;
        Ok(Bytes { weights, masters, gradients, moments, activations, total })
    }

    fn flops(&self) -> FlopsPerToken {
        let model = &self.run.model;
        let (h, v) = (model.hidden_size as f64, model.vocab_size as f64);
        let (l, s) = (model.num_layers as f64, self.run.seq_length as f64);
        let dense = 6.0 * self.parameters.non_embedding as f64 + 6.0 * h * v;
        let attention = 12.0 * l * (model.num_attention_heads * model.head_dim) as f64 * s;
        let passes = if self.run.recompute_layers.is_some() { 4.0 } else { 3.0 };
        let neox = 24.0 * passes * l * h * h * (1.0 + s / (6.0 * h) + v / (16.0 * l * h));
        FlopsPerToken { full: dense + attention, causal: dense + attention / 2.0, neox }
    }

    fn batch(&self) -> BatchPlan {
        let run = self.run;
        let tokens_per_step = run.train_batch_size as u64 * run.seq_length as u64;
        let tokens = run.train_iters.map(|iters| tokens_per_step.saturating_mul(iters as u64));
        BatchPlan {
            micro_batch_size: run.micro_batch_size,
            gradient_accumulation_steps: run.gradient_accumulation_steps,
            seq_length: run.seq_length,
            tokens_per_step,
            tokens,
            tokens_per_parameter: tokens.map(|tokens| tokens as f64 / self.parameters.total as f64),
        }
    }

    fn needed(&self, micro_batch: usize, recompute: Option<usize>) -> Result<u64> {
        Ok(self.states().iter().sum::<u64>() + self.activations(micro_batch, recompute)?)
    }

    fn card(&self, card: &'static str, capacity: u64) -> Result<Card> {
        let run = self.run;
        let lean = Some(self.leanest_block()?);
        Ok(Card {
            card,
            capacity,
            fits: self.needed(run.micro_batch_size, run.recompute_layers)? <= capacity,
            fits_with_recompute: self.needed(run.micro_batch_size, lean)? <= capacity,
            largest_micro_batch: self.largest_micro_batch(capacity)?,
        })
    }

    /// The block length whose recompute keeps the fewest bytes (near √layers).
    fn leanest_block(&self) -> Result<usize> {
        const LONGEST: usize = 64;
        let mut best = (u64::MAX, 1);
        for block in 1..=self.run.model.num_layers.min(LONGEST) {
            best = best.min((self.activations(self.run.micro_batch_size, Some(block))?, block));
        }
        Ok(best.1)
    }

    /// By doubling, then halving the gap; activations grow with the micro-batch.
    fn largest_micro_batch(&self, capacity: u64) -> Result<usize> {
        let fits = |batch: usize| Ok(self.needed(batch, self.run.recompute_layers)? <= capacity);
        if !fits(1)? {
            return Ok(0);
        }
        let (mut low, mut high) = (1, 2);
        while fits(high)? {
            (low, high) = (high, high * 2);
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if fits(middle)? { low = middle } else { high = middle }
        }
        Ok(low)
    }

    fn suggestion(&self, cards: &[Card]) -> Result<String> {
        let states: u64 = self.states().iter().sum();
        if let Some(card) = cards.iter().find(|card| card.fits) {
            return Ok(format!("A card of {} holds this run as it is.", card.card));
        }
        if let Some(card) = cards.iter().find(|card| card.fits_with_recompute) {
            let block = self.leanest_block()?;
            return Ok(format!(
                "checkpoint_activations: true with checkpoint_num_layers: {block} makes it fit a card of {}.",
                card.card
            ));
        }
        let largest = cards.iter().max_by_key(|card| card.capacity);
        let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / GIB as f64);
        Ok(match largest.filter(|card| states <= card.capacity) {
            Some(card) => format!(
                "Activations are too many for a card of {}: recompute them and make \
                 train_micro_batch_size_per_gpu or seq_length smaller.",
                card.card
            ),
            None => format!(
                "Weights, gradients and moments alone take {}: no single card holds them; they must be split over \
                 several devices.",
                gib(states)
            ),
        })
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
