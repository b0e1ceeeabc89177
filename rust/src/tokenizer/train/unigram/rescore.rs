//! Expectation maximisation of a given vocabulary: new scores for a new kind of text.

use std::collections::HashMap;

use super::corpus::Corpus;
use super::em;
use super::jobs::Jobs;
use super::pieces::Pieces;
use crate::error::{Error, Result};
use crate::tokenizer::train::text::FIRST;
use crate::tokenizer::train::{Progress, Stage, Text};

/// No piece starts below: some models give pieces that are never to match a score far from all others.
const LOWEST_START: f64 = -60.0;

/// The scores of `vocabulary` (pieces and the scores to start from) after so many iterations on `text`.
///
/// # Errors
/// `Tokenizer` where no piece is in the text; `Interrupted`.
pub(in crate::tokenizer::train) fn rescore(
    text: &Text,
    vocabulary: &[(&str, f32)],
    iterations: usize,
    progress: &Progress<'_>,
) -> Result<Vec<f32>> {
    let codes: HashMap<char, u32> = (FIRST..text.chars.len() as u32).map(|c| (text.chars[c as usize], c)).collect();
    let coded = |at: usize| vocabulary[at].0.chars().map(|c| codes.get(&c).copied()).collect::<Option<Vec<u32>>>();
    let mut present: Vec<(usize, Vec<u32>)> =
        (0..vocabulary.len()).filter_map(|at| coded(at).map(|codes| (at, codes))).collect();
    if present.is_empty() {
        return Err(Error::Tokenizer("no piece of the model can be in this text".to_owned()));
    }
    present.sort_by(|a, b| vocabulary[b.0].1.total_cmp(&vocabulary[a.0].1));
    let ends = present.iter().scan(0, |end, (_, codes)| {
        *end += codes.len();
        Some(*end)
    });
    let (ends, scores): (Vec<usize>, Vec<f64>) =
        ends.zip(present.iter().map(|(at, _)| f64::from(vocabulary[*at].1).max(LOWEST_START))).unzip();
    let all = present.iter().flat_map(|(_, codes)| codes).copied().collect();
    let (mut pieces, matcher) = Pieces::new(all, &ends, &scores, &text.chars)?;
    let jobs = Jobs { threads: rayon::current_num_threads(), progress: *progress };
    let corpus = Corpus::new(&text.codes, &text.ends, &text.freqs, &matcher, &jobs)?;
    let mut of_absent = LOWEST_START;
    for iteration in 0..iterations {
        let tell = || progress.step(Stage::Estimate, iteration as u64, iterations as u64);
        let expected = em::expect(&corpus, &pieces, &jobs, tell)?;
        of_absent = em::rescore(&mut pieces, &expected, vocabulary.len() - present.len());
    }
    let mut scores = vec![of_absent as f32; vocabulary.len()];
    present.iter().zip(&pieces.scores[1..]).for_each(|((at, _), score)| scores[*at] = *score as f32);
    Ok(scores)
}
