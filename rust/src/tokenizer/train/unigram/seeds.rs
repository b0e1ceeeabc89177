//! The pieces that training starts from: every character, and the repeated substrings that cover most text.

use std::cmp::{Ordering, Reverse};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use super::jobs::Jobs;
use super::suffixes::{Sorter, Substring, Suffixes, Wanted};
use crate::error::Result;
use crate::tokenizer::train::text::FIRST;
use crate::tokenizer::train::{Options, Stage, Text};

/// Frequent candidates wanted for each piece of the vocabulary.
const ENOUGH: usize = 4;
/// Candidates that occur less often are only taken where there are fewer than `JUST_ENOUGH` others
/// for each piece of the vocabulary: estimation drops about half of all candidates.
const RARE: u64 = 3;
const JUST_ENOUGH: usize = 2;

/// Sequences of character codes with a number each.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Seeds {
    pub(super) codes: Vec<u32>,
    pub(super) ends: Vec<usize>,
    /// Occurrences times length.
    pub(super) weights: Vec<u64>,
}

impl Seeds {
    pub(super) fn text(&self, seed: usize) -> &[u32] {
        &self.codes[if seed == 0 { 0 } else { self.ends[seed - 1] }..self.ends[seed]]
    }

    fn push(&mut self, codes: &[u32], weight: u64) {
        self.codes.extend_from_slice(codes);
        self.ends.push(self.codes.len());
        self.weights.push(weight);
    }
}

/// Which substrings can be pieces.
pub(super) trait Rules: Sync {
    fn is_piece(&self, codes: &[u32]) -> bool;
    /// Whether no piece starts so.
    fn starts_none(&self, prefix: &[u32]) -> bool;
}

/// All characters, then the repeated substrings with the highest occurrences times length,
/// `seed_sentencepiece_size` pieces in all (of equals the shorter, then the smaller string); of
/// these only the frequent ones, if they are enough for a vocabulary of the size given.
///
/// # Errors
/// `Interrupted`; `UnsupportedInput` where the text is too long.
pub(super) fn seeds(
    text: &Text,
    vocabulary: usize,
    options: &Options,
    rules: &impl Rules,
    jobs: &Jobs<'_>,
) -> Result<Seeds> {
    let mut seeds = Seeds::default();
    // A character may be required without being there.
    for code in (FIRST..text.chars.len() as u32).filter(|code| text.counts[*code as usize] > 0) {
        seeds.push(&[code], text.counts[code as usize]);
    }
    let suffixes = Suffixes::new(text, options.max_sentencepiece_length, || jobs.progress.check())?;
    let order = |a: &Substring, b: &Substring| {
        let string = |s| suffixes.text(s).iter().map(|c| text.chars[*c as usize]);
        let by_weight = weight(b).cmp(&weight(a)).then(a.length.cmp(&b.length));
        by_weight.then_with(|| string(a).cmp(string(b)))
    };
    let mut best = Best::new(options.seed_sentencepiece_size.saturating_sub(seeds.ends.len()), order);
    let wanted = Heavy { rules, least: AtomicU64::new(0) };
    collect(&suffixes, &wanted, &mut best, jobs)?;
    best.cut();
    let least = least_count(&best.found, vocabulary);
    best.found.retain(|found| found.count >= least);
    jobs.progress.check()?;
    best.found.sort_unstable_by(&best.order);
    for found in &best.found {
        seeds.push(suffixes.text(found), weight(found));
    }
    Ok(seeds)
}

/// Candidates below this number of occurrences are left out. Fewer candidates give fewer tokens, more of them a higher
/// likelihood of other text. With `ENOUGH`, vocabularies of 8,000 to 50,000 pieces from 10 to 100 MB of text had both
/// fewer tokens and a higher likelihood than those of the reference, which takes all; with 3 the likelihood from 30 MB
/// on was lower, by half a percent.
fn least_count(found: &[Substring], vocabulary: usize) -> u64 {
    let mut counts: Vec<u64> = found.iter().map(|f| f.count).collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let of_most_frequent = |n: usize| counts.get(n.saturating_sub(1)).copied().unwrap_or(0);
    let least = of_most_frequent(vocabulary.saturating_mul(ENOUGH));
    if least < RARE && of_most_frequent(vocabulary.saturating_mul(JUST_ENOUGH)) >= RARE { RARE } else { least }
}

fn weight(found: &Substring) -> u64 {
    found.count.saturating_mul(u64::from(found.length))
}

fn collect<R: Rules>(
    suffixes: &Suffixes,
    wanted: &Heavy<'_, R>,
    best: &mut Best<impl Fn(&Substring, &Substring) -> Ordering>,
    jobs: &Jobs<'_>,
) -> Result<()> {
    let (mut positions, bounds) = suffixes.buckets(|| jobs.progress.check())?;
    let (total, mut rest, mut buckets) = (positions.len() as u64, positions.as_mut_slice(), Vec::new());
    for pair in bounds.windows(2).filter(|pair| pair[0] < pair[1]) {
        let (bucket, others) = rest.split_at_mut(pair[1] - pair[0]);
        buckets.push(bucket);
        rest = others;
    }
    // The largest first: no thread is left alone with one, and their substrings are the heaviest.
    buckets.sort_by_key(|bucket| Reverse(bucket.len()));
    let buckets: Vec<Mutex<&mut [u32]>> = buckets.into_iter().map(Mutex::new).collect();
    let mut done = 0;
    jobs.in_order(
        buckets.len(),
        || Sorter::new(suffixes, wanted),
        |sorter, number, stop| {
            let mut bucket = buckets[number].lock().unwrap_or_else(PoisonError::into_inner);
            sorter.split(&mut bucket, 1, stop)?;
            Ok((bucket.len() as u64, std::mem::take(&mut sorter.found)))
        },
        |_, (sorted, found)| {
            best.add(found);
            wanted.least.store(best.least, Relaxed);
            done += sorted;
            jobs.progress.step(Stage::Seeds, done, total)
        },
    )
}

/// Wants valid substrings that can still be among the best.
struct Heavy<'a, R> {
    rules: &'a R,
    /// Below this there are enough better ones. It only grows, so that reading an old value changes no result.
    least: AtomicU64,
}

impl<R: Rules> Wanted for Heavy<'_, R> {
    fn wants(&self, codes: &[u32], count: u64) -> bool {
        count.saturating_mul(codes.len() as u64) >= self.least.load(Relaxed) && self.rules.is_piece(codes)
    }

    fn excludes_all(&self, prefix: &[u32]) -> bool {
        prefix.len() > 1 && self.rules.starts_none(prefix)
    }
}

/// The first `size` substrings in `order` of those added.
struct Best<F> {
    size: usize,
    found: Vec<Substring>,
    order: F,
    /// What a substring must weigh to be among the best, as far as that is known.
    least: u64,
}

impl<F: Fn(&Substring, &Substring) -> Ordering> Best<F> {
    fn new(size: usize, order: F) -> Self {
        Self { size, found: Vec::new(), order, least: if size == 0 { u64::MAX } else { 0 } }
    }

    fn add(&mut self, mut found: Vec<Substring>) {
        self.found.append(&mut found);
        // Rarely enough that selecting costs little a substring.
        if self.found.len() >= 2 * self.size.max(1 << 10) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.found.len() > self.size {
            if let Some(last) = self.size.checked_sub(1) {
                let (_, last, _) = self.found.select_nth_unstable_by(last, &self.order);
                self.least = weight(last);
            }
            self.found.truncate(self.size);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::tokenizer::train::Progress;

    /// No piece may contain a 5; a 3 must come first.
    struct Toy;

    impl Rules for Toy {
        fn is_piece(&self, codes: &[u32]) -> bool {
            !codes.contains(&5) && !codes[1..].contains(&3)
        }

        fn starts_none(&self, prefix: &[u32]) -> bool {
            !self.is_piece(prefix)
        }
    }

    const LONGEST: usize = 6;

    /// Counts every substring of every sentence, written out as often as it counts.
    fn naive(sentences: &[(Vec<u32>, u64)], size: usize) -> Vec<(u64, Vec<u32>)> {
        let mut counts: BTreeMap<&[u32], (u64, BTreeSet<u32>, u64)> = BTreeMap::new();
        for (sentence, freq) in sentences {
            for start in 0..sentence.len() {
                for end in start + 1..=sentence.len().min(start + LONGEST) {
                    let (count, followers, ends) = counts.entry(&sentence[start..end]).or_default();
                    *count += freq;
                    match sentence.get(end) {
                        Some(code) if *code > 1 => drop(followers.insert(*code)),
                        _ => *ends += freq,
                    }
                }
            }
        }
        let inner = counts.into_iter().filter(|(text, (_, followers, ends))| {
            text.len() > 1 && followers.len() as u64 + ends > 1 && !text.iter().any(|c| *c < 2) && Toy.is_piece(text)
        });
        let mut all: Vec<_> = inner.map(|(text, (count, ..))| (count * text.len() as u64, text.to_vec())).collect();
        all.sort_by_key(|(weight, text)| (Reverse(*weight), text.len(), text.clone()));
        all.truncate(size);
        all
    }

    fn ours(sentences: &[(Vec<u32>, u64)], size: usize, threads: usize) -> Vec<(u64, Vec<u32>)> {
        let chars: Vec<char> = "\t▅abcdef".chars().collect();
        let codes: Vec<u32> = sentences.iter().flat_map(|(s, _)| s.clone()).collect();
        let ends: Vec<usize> = sentences
            .iter()
            .scan(0, |end, (s, _)| {
                *end += s.len();
                Some(*end)
            })
            .collect();
        let freqs: Vec<u64> = sentences.iter().map(|s| s.1).collect();
        let counts = vec![1; chars.len()];
        let jobs = Jobs { threads, progress: Progress::SILENT };
        let singles = chars.len() - 2;
        let options = Options {
            max_sentencepiece_length: LONGEST,
            seed_sentencepiece_size: size + singles,
            ..Options::default()
        };
        let text = Text { chars, counts, codes, ends, freqs };
        let seeds = seeds(&text, usize::MAX, &options, &Toy, &jobs).expect("not interrupted");
        (singles..seeds.ends.len()).map(|i| (seeds.weights[i], seeds.text(i).to_vec())).collect()
    }

    proptest! {
        #[test]
        fn seeds_are_those_of_naive_counting(
            sentences in prop::collection::vec((prop::collection::vec(0u32..7, 0..40), 1u64..3), 0..12),
            size in 1usize..60,
            threads in 1usize..4,
        ) {
            prop_assert_eq!(ours(&sentences, size, threads), naive(&sentences, size));
        }

        #[test]
        fn all_seeds_of_unweighted_text(
            sentences in prop::collection::vec((prop::collection::vec(2u32..5, 0..60), Just(1u64)), 0..20),
        ) {
            prop_assert_eq!(ours(&sentences, 100_000, 2), naive(&sentences, 100_000));
        }
    }

    #[test]
    fn rare_candidates_go_where_there_are_enough() {
        let counts = |counts: &[u64]| -> Vec<Substring> {
            counts.iter().map(|count| Substring { start: 0, length: 2, count: *count }).collect()
        };
        let many = counts(&[9, 9, 8, 7, 7, 7, 6, 5, 4, 3, 2, 2]);
        assert_eq!(least_count(&many, 2), 5);
        // Fewer than four for a piece, but two that are not rare.
        assert_eq!(least_count(&many, 5), 3);
        // All of them.
        assert!(least_count(&many, 8) <= 2);
        assert_eq!(least_count(&[], 8), 0);
    }

    #[test]
    fn large_buckets_are_split_by_counting() {
        let mut state = 1u32;
        let mut next = |n: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % n
        };
        let sentences: Vec<(Vec<u32>, u64)> = (0..3000)
            .map(|_| ((0..next(60)).map(|_| if next(3) > 0 { 2 } else { next(5) + 2 }).collect(), 1))
            .collect();
        let long = sentences.iter().map(|s| s.0.iter().filter(|c| **c == 2).count()).sum::<usize>();
        assert!(long > 2 * (1 << 14), "the first bucket is a large one: {long}");
        for size in [10, 1000, 1_000_000] {
            assert_eq!(ours(&sentences, size, 2), naive(&sentences, size));
        }
    }
}
