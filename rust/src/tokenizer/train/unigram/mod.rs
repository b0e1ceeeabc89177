//! Unigram models: a vocabulary under which the text is likely.
//!
//! From many candidates (`seeds`), rounds of expectation maximisation (`em`) and pruning (`prune`)
//! lead to about the size asked for; `finish` picks the vocabulary.

mod corpus;
mod em;
mod finish;
mod jobs;
mod pieces;
mod prune;
mod rescore;
mod seeds;
mod suffixes;

pub(super) use self::rescore::rescore;

use self::corpus::Corpus;
use self::jobs::Jobs;
use self::pieces::{Matcher, Pieces};
use self::seeds::{Rules, Seeds};
use super::meta::Meta;
use super::{Options, Progress, Stage, Text, Trained, Valid};
use crate::error::Result;

/// Pruning stops at so many times the pieces wanted; the last choice is by score.
const SPARE: f64 = 1.1;

/// # Errors
/// `UnsupportedInput` for too much text, `Interrupted`.
pub(super) fn train(text: Text, options: &Options, progress: &Progress<'_>) -> Result<Trained> {
    let size = options.vocab_size.saturating_sub(Meta::new(options)?.len());
    let jobs = Jobs { threads: rayon::current_num_threads(), progress: *progress };
    let chars = text.chars.clone();
    let (mut pieces, corpus) = start(text, &chars, size, options, &jobs)?;
    let mut rounds = Rounds { corpus, jobs, done: 0, left: 0 };
    rounds.shrink(&mut pieces, (size as f64 * SPARE) as usize, options)?;
    let vocabulary = finish::vocabulary(&pieces, &chars, size);
    let string = |codes: &[u32]| codes.iter().map(|code| chars[*code as usize]).collect();
    Ok(Trained { pieces: vocabulary.iter().map(|(codes, score)| (string(codes), *score as f32)).collect() })
}

/// The seeds with their first scores, and the text matched with them.
fn start(text: Text, chars: &[char], size: usize, options: &Options, jobs: &Jobs<'_>) -> Result<(Pieces, Corpus)> {
    let (pieces, matcher) = {
        let rules = PieceRules::new(&text, options);
        let seeds = seeds::seeds(&text, size, options, &rules, jobs)?;
        first_pieces(seeds, chars)?
    };
    // The text is freed before the words are matched.
    let words = if options.split_by_whitespace { { text }.split_words(options, &jobs.progress)? } else { text };
    let corpus = Corpus::new(&words.codes, &words.ends, &words.freqs, &matcher, jobs)?;
    Ok((pieces, corpus))
}

/// Frequent pieces get small numbers, so that what is often needed lies together.
fn first_pieces(seeds: Seeds, chars: &[char]) -> Result<(Pieces, Matcher<'_>)> {
    let total: f64 = seeds.weights.iter().map(|w| *w as f64).sum();
    let mut order: Vec<usize> = (0..seeds.weights.len()).collect();
    order.sort_by_key(|seed| std::cmp::Reverse(seeds.weights[*seed]));
    let (mut codes, mut ends) = (Vec::with_capacity(seeds.codes.len()), Vec::with_capacity(order.len()));
    for seed in &order {
        codes.extend_from_slice(seeds.text(*seed));
        ends.push(codes.len());
    }
    let scores: Vec<f64> = order.iter().map(|seed| (seeds.weights[*seed] as f64 / total).ln()).collect();
    Pieces::new(codes, &ends, &scores, chars)
}

/// Expectation maximisation and pruning, over and over.
struct Rounds<'a> {
    corpus: Corpus,
    jobs: Jobs<'a>,
    done: u64,
    /// An estimate.
    left: u64,
}

impl Rounds<'_> {
    /// Until there are at most `target` pieces.
    fn shrink(&mut self, pieces: &mut Pieces, target: usize, options: &Options) -> Result<()> {
        let factor = f64::from(options.shrinking_factor);
        loop {
            let ratio = (target.max(1) as f64 / pieces.count().max(1) as f64).ln() / factor.ln();
            self.left = ratio.ceil().max(0.0) as u64 + 1;
            for _ in 0..options.num_sub_iterations {
                self.estimate(pieces)?;
            }
            let before = pieces.count();
            if before <= target {
                return Ok(());
            }
            self.prune(pieces, target.max((before as f64 * factor) as usize))?;
            self.done += 1;
            // What is left has no alternative.
            if pieces.count() == before {
                return Ok(());
            }
        }
    }

    fn tell(&self) -> Result<()> {
        self.jobs.progress.step(Stage::Estimate, self.done, self.done + self.left)
    }

    fn estimate(&mut self, pieces: &mut Pieces) -> Result<f64> {
        let expected = em::expect(&self.corpus, pieces, &self.jobs, || self.tell())?;
        let keep = em::maximise(pieces, &expected);
        self.retain(pieces, &keep)?;
        Ok(expected.log_likelihood)
    }

    fn prune(&mut self, pieces: &mut Pieces, size: usize) -> Result<()> {
        let lists = pieces.lists(|score| score);
        let counts = prune::best_paths(&self.corpus, pieces, &lists, &self.jobs, || self.tell())?;
        let keep = prune::keep(pieces, &lists, &counts, size);
        self.retain(pieces, &keep)
    }

    fn retain(&mut self, pieces: &mut Pieces, keep: &[bool]) -> Result<()> {
        if keep[1..].iter().all(|keep| *keep) {
            return Ok(());
        }
        self.corpus.renumber(&pieces.retain(keep), &self.jobs)
    }
}

/// The rules of the text's characters.
struct PieceRules {
    valid: Valid,
    /// A piece may not end with it although a longer one may go on after it.
    inner_only: Option<u32>,
}

impl PieceRules {
    fn new(text: &Text, options: &Options) -> Self {
        let inner_only = text.space().filter(|_| !options.split_by_whitespace);
        Self { valid: Valid::new(text, options), inner_only }
    }
}

impl Rules for PieceRules {
    fn is_piece(&self, codes: &[u32]) -> bool {
        self.valid.is_valid_piece(codes)
    }

    fn starts_none(&self, prefix: &[u32]) -> bool {
        prefix.last().copied() != self.inner_only && !self.valid.is_valid_piece(prefix)
    }
}
