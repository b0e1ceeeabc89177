//! Generation with a key/value cache, and the likelihood of a given continuation.

use super::decoder::Decoder;
use super::layout::Projection;
use super::pass::Pass;
use super::sampling::{Sampling, argmax};
use super::workspace::{Buffers, Keep, Sizes, Slot, table};
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::ops::attention::{self, Heads};
use crate::ops::backend::Cpu;
use crate::ops::rotary;

/// What to generate.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    pub max_new_tokens: usize,
    /// Any of these ends the sequence; it is kept in the result.
    pub stop: Vec<i32>,
    pub sampling: Sampling,
}

/// A continuation's log-probability, and whether greedy generation would have chosen it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likelihood {
    pub log_probability: f64,
    pub greedy: bool,
}

/// Keys and values of all layers, (length, Kv·d) each.
struct Cache<T> {
    layers: Vec<[Vec<T>; 2]>,
    /// One query, contiguous: (A·d).
    query: Vec<T>,
}

impl<T: Element> Cache<T> {
    fn new(layers: usize, capacity: usize, projection: &Projection) -> Self {
        let Projection { k, q, .. } = projection;
        let empty = || [(); 2].map(|()| Vec::with_capacity(capacity * k.count * k.dim));
        Self { layers: (0..layers).map(|_| empty()).collect(), query: Vec::with_capacity(q.count * q.dim) }
    }

    /// Takes over the rotated keys and the values of every token of a pass.
    fn extend(&mut self, layer: usize, qkv: &[T], projection: &Projection) {
        let [keys, values] = &mut self.layers[layer];
        for row in qkv.chunks(projection.row) {
            gather(keys, row, projection.k);
            gather(values, row, projection.v);
        }
    }
}

/// Appends the heads of one row, one after another.
fn gather<T: Element>(out: &mut Vec<T>, row: &[T], heads: Heads) {
    for head in 0..heads.count {
        let begin = heads.offset + head * heads.stride;
        out.extend_from_slice(&row[begin..begin + heads.dim]);
    }
}

impl<T: Element> Pass<'_, Cpu, T> {
    /// Attention of one token to itself and the tokens before it that its window leaves.
    fn attend_cached(&self, slot: &mut Slot<Cpu, T>, cache: &mut Cache<T>, layer: usize) -> Result<()> {
        self.rotate(&mut slot.qkv, false)?;
        cache.extend(layer, &slot.qkv, &self.projection);
        let Projection { q, k, .. } = self.projection;
        cache.query.clear();
        gather(&mut cache.query, &slot.qkv, q);
        let length = self.config.sliding_window.map_or(self.start + 1, |keys| keys.min(self.start + 1));
        let first = (self.start + 1 - length) * k.count * k.dim;
        let [keys, values] = &cache.layers[layer];
        let (keys, values) = (&keys[first..], &values[first..]);
        attention::decode(&mut slot.attended, &cache.query, keys, values, q.count, k.count, q.dim, length, self.scale())
    }
}

/// One sequence being continued.
struct Session<'a, T: Element> {
    decoder: &'a Decoder,
    weights: &'a [T],
    table: Option<rotary::Table>,
    cache: Cache<T>,
    /// Of one token.
    step: Buffers<Cpu, T>,
    logits: Vec<f32>,
    interrupt: Interrupt<'a>,
}

impl<'a, T: Element> Session<'a, T> {
    fn new(decoder: &'a Decoder, weights: &'a [T], capacity: usize, interrupt: Interrupt<'a>) -> Result<Self> {
        let config = decoder.config();
        let sizes = Sizes::new(config, 1, 1, Keep::Nothing)?;
        Ok(Self {
            decoder,
            weights,
            table: table(config, capacity),
            cache: Cache::new(config.num_layers, capacity, &Projection::of(config)),
            step: Buffers::allocate(&Cpu, sizes)?,
            logits: vec![0.0; config.vocab_size],
            interrupt,
        })
    }

    /// Runs the prompt; `logits` are then those after its last token.
    fn prefill(&mut self, prompt: &[i32]) -> Result<()> {
        let sizes = Sizes::new(self.decoder.config(), 1, prompt.len(), Keep::Nothing)?;
        let mut buffers = Buffers::allocate(&Cpu, sizes)?;
        let pass = self.decoder.pass(&Cpu, self.weights, 1, prompt.len(), self.table.as_ref(), self.interrupt);
        let cache = &mut self.cache;
        pass.walk(&mut buffers, &prompt, |pass, slot, layer| {
            pass.attend(slot)?;
            cache.extend(layer, &slot.qkv, &pass.projection);
            Ok(())
        })?;
        let last = &buffers.scratch.normed[(prompt.len() - 1) * pass.width()..];
        self.decoder.logit_rows(&mut self.logits, self.weights, last, self.interrupt)
    }

    /// Runs one token at `position`; `logits` are then those after it.
    fn advance(&mut self, token: i32, position: usize) -> Result<()> {
        let mut pass = self.decoder.pass(&Cpu, self.weights, 1, 1, self.table.as_ref(), self.interrupt);
        pass.start = position;
        let cache = &mut self.cache;
        pass.walk(&mut self.step, &&[token][..], |pass, slot, layer| pass.attend_cached(slot, cache, layer))?;
        self.decoder.logit_rows(&mut self.logits, self.weights, &self.step.scratch.normed, self.interrupt)
    }
}

impl Decoder {
    /// Continues `prompt`; returns the new tokens alone, a stop token included. `sequence` tells
    /// several prompts of one seed apart.
    ///
    /// # Errors
    /// `Error::UnsupportedInput` for an empty prompt, options out of range, or more tokens than the
    /// model has positions; `Error::NonFinite` when logits are not finite; `Error::Interrupted`.
    pub fn generate<T: Element>(
        &self,
        weights: &[T],
        prompt: &[i32],
        options: &GenerateOptions,
        sequence: u32,
        interrupt: Interrupt,
    ) -> Result<Vec<i32>> {
        options.sampling.check()?;
        self.check_arena("generate", "weights", weights.len())?;
        let capacity = self.capacity(prompt, options.max_new_tokens)?;
        let mut new = Vec::new();
        if options.max_new_tokens == 0 {
            return Ok(new);
        }
        let mut session = Session::new(self, weights, capacity, interrupt)?;
        session.prefill(prompt)?;
        loop {
            let position = prompt.len() + new.len();
            let token = options.sampling.choose(&session.logits, sequence, position as u64)? as i32;
            new.push(token);
            if new.len() == options.max_new_tokens || options.stop.contains(&token) {
                return Ok(new);
            }
            session.advance(token, position)?;
        }
    }

    /// Positions that prompt and continuation take; the last token is never fed back.
    fn capacity(&self, prompt: &[i32], max_new_tokens: usize) -> Result<usize> {
        if prompt.is_empty() {
            return Err(Error::UnsupportedInput(
                "the prompt has no tokens; begin with at least one, such as bos".into(),
            ));
        }
        let limit = self.config().max_position_embeddings;
        match prompt.len().checked_add(max_new_tokens) {
            Some(total) if total <= limit => Ok(total),
            _ => Err(Error::UnsupportedInput(format!(
                "a prompt of {} tokens and {max_new_tokens} new ones exceed the model's {limit} positions \
                 (`max_position_embeddings`); ask for at most {} new tokens",
                prompt.len(),
                limit.saturating_sub(prompt.len())
            ))),
        }
    }

    /// log p(continuation | context), summed over its tokens.
    ///
    /// # Errors
    /// `Error::UnsupportedInput` when either is empty or both together are too long for the model.
    pub fn loglikelihood<T: Element>(
        &self,
        weights: &[T],
        context: &[i32],
        continuation: &[i32],
        interrupt: Interrupt,
    ) -> Result<Likelihood> {
        for (name, ids) in [("context", context), ("continuation", continuation)] {
            if ids.is_empty() {
                return Err(Error::UnsupportedInput(format!("the {name} has no tokens; it needs at least one")));
            }
        }
        let all = [context, continuation].concat();
        let ids = &all[..all.len() - 1];
        let logits = self.last_logits(weights, ids, continuation.len(), interrupt)?;
        let mut total = Likelihood { log_probability: 0.0, greedy: true };
        for (row, target) in logits.chunks(self.config().vocab_size).zip(continuation) {
            let target = self.token(*target)?;
            total.log_probability += log_probability(row, target);
            total.greedy &= argmax(row) == target;
        }
        Ok(total)
    }

    fn token(&self, id: i32) -> Result<usize> {
        let vocab = self.config().vocab_size;
        usize::try_from(id).ok().filter(|id| *id < vocab).ok_or_else(|| {
            Error::UnsupportedInput(format!("token id {id} is outside the model's vocabulary of {vocab}"))
        })
    }

    /// Logits after the last `count` tokens of `ids`, (count, V).
    fn last_logits<T: Element>(
        &self,
        weights: &[T],
        ids: &[i32],
        count: usize,
        interrupt: Interrupt,
    ) -> Result<Vec<f32>> {
        self.check_arena("logits", "weights", weights.len())?;
        let mut buffers = Buffers::allocate(&Cpu, Sizes::new(self.config(), 1, ids.len(), Keep::Nothing)?)?;
        let angles = table(self.config(), ids.len());
        let pass = self.pass(&Cpu, weights, 1, ids.len(), angles.as_ref(), interrupt);
        pass.walk(&mut buffers, &ids, |pass, slot, _| pass.attend(slot))?;
        let mut logits = vec![0.0; count * self.config().vocab_size];
        let first = (ids.len() - count) * self.config().hidden_size;
        self.logit_rows(&mut logits, weights, &buffers.scratch.normed[first..], interrupt)?;
        Ok(logits)
    }
}

/// log softmax(row)[target], in f64.
fn log_probability(row: &[f32], target: usize) -> f64 {
    let max = f64::from(row[argmax(row)]);
    let sum: f64 = row.iter().map(|x| (f64::from(*x) - max).exp()).sum();
    f64::from(row[target]) - max - sum.ln()
}
