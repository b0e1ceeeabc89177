//! Segmentations drawn at random, for training (subword regularization).
//!
//! Unigram: a segmentation with score s is drawn with a probability in proportion to
//! exp(alpha s), among all of them or among the best few. BPE: each merge that would be done is
//! left out with probability alpha, for good (BPE dropout). A text's draw depends on the seed and
//! its number in the batch alone.

use super::automaton::{Automaton, Match, Packed, ROOT, Score};
use super::sample_bpe::Dropout;
use super::tokenizer::{Engine, Inner, Tokenizer};
use super::unigram::Step;
use super::worker::{Emitter, Text, Worker};
use crate::error::{Error, Result};

/// As in the reference.
const MAX_NBEST: i64 = 512;
/// Partial segmentations that are looked at for the best few, beyond some for each piece that can
/// stand in the text. Where scores tie there may be more than memory holds.
const MAX_PARTIAL: usize = 1 << 18;
const PARTIAL_AN_EDGE: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Unigram: 0 makes all segmentations equal, large values the best one sure. BPE: the
    /// probability with which a merge is left out.
    pub alpha: f64,
    /// Unigram: below 0 all segmentations, 0 and 1 the best one, above 1 that many of the best.
    pub nbest_size: i64,
    pub seed: u64,
}

/// SplitMix64, started from two numbers.
pub(super) struct Random(u64);

fn mix(mut z: u64) -> u64 {
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    pub(super) fn new(seed: u64, number: u64) -> Self {
        Self(mix(mix(seed.wrapping_add(STEP)) ^ mix(number.wrapping_mul(STEP).wrapping_add(1))))
    }

    /// In [0, 1).
    pub(super) fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(STEP);
        (mix(self.0) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A place drawn by weights, of which one at least is above 0.
    fn weighted(&mut self, weights: impl Iterator<Item = f64> + Clone) -> usize {
        let total: f64 = weights.clone().sum();
        let mut rest = self.uniform() * total;
        let mut last = 0;
        for (place, weight) in weights.enumerate().filter(|(_, weight)| *weight > 0.0) {
            last = place;
            rest -= weight;
            if rest < 0.0 {
                break;
            }
        }
        last
    }
}

impl Tokenizer {
    /// # Errors
    /// `UnsupportedInput` for an alpha or size out of range; `UnsupportedModel` for a model that
    /// cannot be sampled from.
    pub fn check_sampling(&self, sampling: &Sampling) -> Result<()> {
        let Sampling { alpha, nbest_size, .. } = *sampling;
        let wrong = |text: String| Err(Error::UnsupportedInput(text));
        if !alpha.is_finite() || alpha < 0.0 {
            return wrong(format!("alpha must be a number from 0 on, not {alpha}"));
        }
        match self.engine() {
            Engine::Json(..) => Err(Error::UnsupportedModel(
                "sampling with the ids of \"hf\", as of a tokenizer.json, is not supported".to_owned(),
            )),
            Engine::Bpe(bpe) if bpe.has_unused => {
                Err(Error::UnsupportedModel("sampling from a BPE model with unused pieces is not supported".to_owned()))
            }
            Engine::Bpe(_) if alpha > 1.0 => {
                wrong(format!("alpha is a probability for BPE models: 0 to 1, not {alpha}"))
            }
            Engine::Bpe(_) => Ok(()),
            _ if nbest_size > MAX_NBEST => wrong(format!("nbest_size must be at most {MAX_NBEST}, not {nbest_size}")),
            _ => Ok(()),
        }
    }
}

impl Worker {
    /// Appends the ids of a segmentation of `text`, the `number`th of its batch, drawn as
    /// `sampling` says, which `check_sampling` has let pass.
    pub fn sample<'t>(&mut self, text: impl Into<Text<'t>>, sampling: &Sampling, number: u64, out: &mut Vec<u32>) {
        let model = &self.model;
        model.normalizer.normalize_text(text.into(), &mut self.normalized);
        let steps = draw(model, &self.normalized.text, sampling, number);
        Emitter::emit(&model.vocab, steps.into_iter(), out);
    }
}

/// The pieces of normalised text, the `number`th of its batch, last first.
pub(super) fn draw(model: &Inner, text: &str, sampling: &Sampling, number: u64) -> Vec<Step> {
    let mut random = Random::new(sampling.seed, number);
    match &model.engine {
        Engine::Current(automaton) => Lattice::new(automaton, text).draw(sampling, &mut random),
        Engine::Classic(automaton) => Lattice::new(automaton, text).draw(sampling, &mut random),
        Engine::HuggingFace(automaton) => Lattice::new(automaton, text).draw(sampling, &mut random),
        Engine::Bpe(bpe) => Dropout::new(bpe, &model.vocab, text).run(sampling.alpha, &mut random),
        Engine::Json(..) => Vec::new(),
    }
}

/// All pieces that can stand in a text.
struct Lattice {
    characters: Vec<char>,
    edges: Vec<Edge>,
    /// The edges that end behind character `i` are `edges[ends[i]..ends[i + 1]]`.
    ends: Vec<usize>,
}

struct Edge {
    start: usize,
    score: f64,
    packed: Packed,
}

impl Lattice {
    fn new<S: Score + Into<f64>>(automaton: &Automaton<S>, text: &str) -> Self {
        let mut lattice = Self { characters: text.chars().collect(), edges: Vec::new(), ends: vec![0] };
        let mut state = ROOT;
        for (at, character) in text.chars().enumerate() {
            let matches = automaton.step(&mut state, character);
            let edge = |found: &Match<S>| Edge {
                start: at + 1 - found.packed.length(),
                score: found.score.into(),
                packed: found.packed,
            };
            lattice.edges.extend(matches.map(edge));
            lattice.ends.push(lattice.edges.len());
        }
        lattice
    }

    /// The edges that end at place `end`, which is not 0.
    fn ending(&self, end: usize) -> &[Edge] {
        &self.edges[self.ends[end - 1]..self.ends[end]]
    }

    /// Steps, last first.
    fn draw(&self, sampling: &Sampling, random: &mut Random) -> Vec<Step> {
        match sampling.nbest_size {
            ..0 => self.sample(sampling.alpha, random),
            size => {
                let best = self.best(size.max(1) as usize);
                let Some(highest) = best.first().map(|(score, _)| *score) else { return Vec::new() };
                let weights = best.iter().map(|(score, _)| (sampling.alpha * (score - highest)).exp());
                let chosen = if size > 1 { random.weighted(weights) } else { 0 };
                best.into_iter().nth(chosen).map(|(_, steps)| steps).unwrap_or_default()
            }
        }
    }

    fn step(&self, end: usize, edge: &Edge) -> Step {
        if edge.packed.is_unknown() {
            Step::Unknown(self.characters[end - 1])
        } else {
            Step::Known { id: edge.packed.id() }
        }
    }

    /// Forward: the log of the summed weights of all ways to each place. Backward: the last piece
    /// by its share of them, then the one before it.
    fn sample(&self, alpha: f64, random: &mut Random) -> Vec<Step> {
        let mut sums = vec![0.0];
        for end in 1..self.ends.len() {
            let term = |edge: &Edge| sums[edge.start] + alpha * edge.score;
            let highest = self.ending(end).iter().map(term).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = self.ending(end).iter().map(|edge| (term(edge) - highest).exp()).sum();
            sums.push(highest + sum.ln());
        }
        let (mut end, mut steps) = (self.ends.len() - 1, Vec::new());
        while end > 0 {
            let edges = self.ending(end);
            let weights = edges.iter().map(|edge| (sums[edge.start] + alpha * edge.score - sums[end]).exp());
            let edge = &edges[random.weighted(weights)];
            steps.push(self.step(end, edge));
            end = edge.start;
        }
        steps
    }

    /// The `count` best segmentations, best first, with their scores: from the end of the text
    /// backwards, always the one whose best completion is best. Fewer where the limit is met, but
    /// always the best one.
    fn best(&self, count: usize) -> Vec<(f64, Vec<Step>)> {
        let mut ahead = vec![0.0];
        for end in 1..self.ends.len() {
            let candidates = self.ending(end).iter().map(|edge| ahead[edge.start] + edge.score);
            ahead.push(candidates.fold(f64::NEG_INFINITY, f64::max));
        }
        // Partial segmentations: what was reached, by which edge, from which other one.
        let mut partial: Vec<(usize, Option<(usize, usize)>)> = vec![(self.ends.len() - 1, None)];
        let mut queue =
            std::collections::BinaryHeap::from([Open { total: ahead[self.ends.len() - 1], behind: 0.0, at: 0 }]);
        let mut found = Vec::new();
        let most = MAX_PARTIAL + PARTIAL_AN_EDGE * self.edges.len();
        while let Some(Open { total, behind, at }) = queue.pop() {
            if partial.len() > most {
                break;
            }
            let end = partial[at].0;
            if end == 0 {
                found.push((total, self.steps_of(&partial, at)));
                if found.len() == count {
                    break;
                }
                continue;
            }
            for number in self.ends[end - 1]..self.ends[end] {
                let edge = &self.edges[number];
                let behind = behind + edge.score;
                queue.push(Open { total: ahead[edge.start] + behind, behind, at: partial.len() });
                partial.push((edge.start, Some((at, number))));
            }
        }
        if found.is_empty() {
            found.push((ahead[self.ends.len() - 1], self.best_one(&ahead)));
        }
        found
    }

    /// The best segmentation, last step first; `ahead`: of each place, the best score up to it.
    fn best_one(&self, ahead: &[f64]) -> Vec<Step> {
        let (mut end, mut steps) = (self.ends.len() - 1, Vec::new());
        while end > 0 {
            let total = |edge: &Edge| ahead[edge.start] + edge.score;
            let edges = self.ending(end);
            let Some(best) = edges.iter().max_by(|a, b| total(a).total_cmp(&total(b))) else { break };
            steps.push(self.step(end, best));
            end = best.start;
        }
        steps
    }

    /// Last first.
    fn steps_of(&self, partial: &[(usize, Option<(usize, usize)>)], mut at: usize) -> Vec<Step> {
        let mut steps = Vec::new();
        while let Some((from, edge)) = partial[at].1 {
            steps.push(self.step(partial[from].0, &self.edges[edge]));
            at = from;
        }
        steps.reverse();
        steps
    }
}

/// A partial segmentation that waits, by the score of its best completion.
struct Open {
    total: f64,
    behind: f64,
    at: usize,
}

impl Ord for Open {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // Of equals the newest, which is nearer to the beginning of the text: the others wait.
        self.total.total_cmp(&other.total).then(self.at.cmp(&other.at))
    }
}

impl PartialOrd for Open {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Open {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Open {}

#[cfg(test)]
mod tests {
    use super::super::automaton::Entry;
    use super::*;

    /// Segmentations of a run whose scores all tie: their number doubles with each character.
    #[test]
    fn ties_do_not_fill_the_memory() {
        let entries = [("a", -1.0), ("aa", -2.0), ("aaa", -3.0), ("b", -0.3), ("bb", -0.6)];
        let entries: Vec<_> = (0..).zip(entries).map(|(id, (text, score))| Entry { text, id, score }).collect();
        let automaton = Automaton::<f64>::new(&entries, -20.0).unwrap();
        for text in ["a".repeat(300), "ab".repeat(200), "b".repeat(300)] {
            let lattice = Lattice::new(&automaton, &text);
            let found = lattice.best(4);
            assert!((1..=4).contains(&found.len()));
            let mut ahead = vec![0.0; text.len() + 1];
            for end in 1..=text.len() {
                let total = |edge: &Edge| ahead[edge.start] + edge.score;
                ahead[end] = lattice.ending(end).iter().map(total).fold(f64::NEG_INFINITY, f64::max);
            }
            assert!((found[0].0 - ahead[text.len()]).abs() < 1e-9);
            assert!(lattice.best_one(&ahead).len() <= text.len());
        }
    }

    #[test]
    fn uniform_and_apart() {
        let mut random = Random::new(1, 2);
        let mean = (0..100_000).map(|_| random.uniform()).sum::<f64>() / 1e5;
        assert!((mean - 0.5).abs() < 0.005, "{mean}");
        assert_ne!(Random::new(1, 2).0, Random::new(2, 1).0);
        assert_ne!(Random::new(0, 0).0, Random::new(0, 1).0);
        let mut counts = [0; 3];
        for _ in 0..30_000 {
            counts[random.weighted([1.0, 0.0, 2.0].into_iter())] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((counts[2] as f64 / 30_000.0 - 2.0 / 3.0).abs() < 0.02, "{counts:?}");
    }
}
