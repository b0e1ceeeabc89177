//! Training text as dense character codes.

use std::collections::HashMap;
use std::ops::Range;

use super::options::Options;
use super::progress::{Progress, Stage};
use crate::error::Result;

/// A place that no piece crosses: a control, user-defined or byte symbol stood there.
pub(super) const BOUNDARY: u32 = 0;
/// A character outside the alphabet.
pub(super) const OUTSIDE: u32 = 1;
/// The first code of the alphabet.
pub(super) const FIRST: u32 = 2;

/// The space symbol.
const SPACE: char = '\u{2581}';

/// The training text after normalisation, as dense character codes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    /// code -> character. 0: U+001F, a boundary; 1: U+2585, any character outside the alphabet;
    /// then the alphabet (the required characters), by falling count, equal ones by code point.
    pub chars: Vec<char>,
    /// Occurrences of each code, weighted by the frequency of the sentence.
    pub counts: Vec<u64>,
    /// All sentences, one after the other.
    pub codes: Vec<u32>,
    /// Where each sentence ends in `codes`.
    pub ends: Vec<usize>,
    /// How often each sentence occurs.
    pub freqs: Vec<u64>,
}

impl Text {
    /// The sentences with their frequencies.
    pub fn sentences(&self) -> impl Iterator<Item = (&[u32], u64)> {
        (0..self.ends.len()).map(|i| (&self.codes[self.range(i)], self.freqs[i]))
    }

    /// Where a sentence lies in `codes`.
    pub fn range(&self, sentence: usize) -> Range<usize> {
        let start = if sentence == 0 { 0 } else { self.ends[sentence - 1] };
        start..self.ends[sentence]
    }

    /// The code of the space symbol, if the alphabet has it.
    pub fn space(&self) -> Option<u32> {
        self.chars.iter().position(|c| *c == SPACE).map(|code| code as u32)
    }

    /// The text of codes.
    pub fn string(&self, codes: &[u32]) -> String {
        codes.iter().map(|code| self.chars[*code as usize]).collect()
    }

    /// Cuts sentences before each space symbol (after it with `treat_whitespace_as_suffix`; a run of
    /// them stays together with `allow_whitespace_only_pieces`) and merges equal words. The most
    /// frequent word comes first, equal ones in the order in which the text has them.
    ///
    /// # Errors
    /// `Interrupted`.
    pub fn split_words(&self, options: &Options, progress: &Progress<'_>) -> Result<Text> {
        let (words, freqs) = self.distinct_words(options, progress)?;
        let mut order: Vec<u32> = (0..words.len() as u32).collect();
        order.sort_by_key(|word| std::cmp::Reverse(freqs[*word as usize]));
        let mut text = Self { chars: self.chars.clone(), counts: self.counts.clone(), ..Self::default() };
        text.codes.reserve_exact(words.iter().map(|w| w.len()).sum());
        for word in order {
            text.codes.extend_from_slice(words[word as usize]);
            text.ends.push(text.codes.len());
            text.freqs.push(freqs[word as usize]);
        }
        Ok(text)
    }

    /// In the order of their first occurrence.
    fn distinct_words(&self, options: &Options, progress: &Progress<'_>) -> Result<(Vec<&[u32]>, Vec<u64>)> {
        let (mut words, mut freqs): (Vec<&[u32]>, Vec<u64>) = (Vec::new(), Vec::new());
        let mut known: HashMap<&[u32], u32> = HashMap::new();
        let cut = Cut::new(self.space(), options);
        for (at, (sentence, freq)) in self.sentences().enumerate() {
            if at % 4096 == 0 {
                progress.step(Stage::Words, at as u64, self.ends.len() as u64)?;
            }
            cut.words(sentence, |word| {
                let index = *known.entry(word).or_insert(words.len() as u32) as usize;
                if index == words.len() {
                    words.push(word);
                    freqs.push(0);
                }
                freqs[index] += freq;
            });
        }
        Ok((words, freqs))
    }
}

/// Where words begin.
struct Cut {
    space: Option<u32>,
    as_suffix: bool,
    keep_runs: bool,
}

impl Cut {
    fn new(space: Option<u32>, options: &Options) -> Self {
        Self { space, as_suffix: options.treat_whitespace_as_suffix, keep_runs: options.allow_whitespace_only_pieces }
    }

    /// Whether a word begins between two neighbours.
    fn between(&self, left: u32, right: u32) -> bool {
        let (left, right) = (Some(left) == self.space, Some(right) == self.space);
        match (self.as_suffix, self.keep_runs) {
            (false, false) => right,
            (false, true) => right && !left,
            (true, false) => left,
            (true, true) => left && !right,
        }
    }

    fn words<'t>(&self, sentence: &'t [u32], mut take: impl FnMut(&'t [u32])) {
        let mut start = 0;
        for at in 1..sentence.len() {
            if self.between(sentence[at - 1], sentence[at]) {
                take(&sentence[start..at]);
                start = at;
            }
        }
        if start < sentence.len() {
            take(&sentence[start..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `_` is the space symbol.
    fn text(sentences: &[(&str, u64)]) -> Text {
        let chars: Vec<char> = "\u{1f}\u{2585}\u{2581}abc".chars().collect();
        let mut text = Text { counts: vec![0; chars.len()], chars, ..Text::default() };
        for (sentence, freq) in sentences {
            let code = |c: char| {
                let c = if c == '_' { SPACE } else { c };
                text.chars.iter().position(|known| *known == c).expect("a known character") as u32
            };
            let codes: Vec<u32> = sentence.chars().map(code).collect();
            text.codes.extend(codes);
            text.ends.push(text.codes.len());
            text.freqs.push(*freq);
        }
        text
    }

    fn words(sentence: &str, suffix: bool, keep_runs: bool) -> Vec<(String, u64)> {
        let options = Options {
            treat_whitespace_as_suffix: suffix,
            allow_whitespace_only_pieces: keep_runs,
            ..Options::default()
        };
        let split = text(&[(sentence, 2)]).split_words(&options, &Progress::SILENT).expect("not interrupted");
        split.sentences().map(|(w, f)| (split.string(w).replace(SPACE, "_"), f)).collect()
    }

    fn expect(words: Vec<(String, u64)>, wanted: &[(&str, u64)]) {
        let wanted: Vec<_> = wanted.iter().map(|(w, f)| ((*w).to_owned(), *f)).collect();
        assert_eq!(words, wanted);
    }

    #[test]
    fn words_begin_at_spaces() {
        expect(words("_a_b_a", false, false), &[("_a", 4), ("_b", 2)]);
        expect(words("a__b_", false, false), &[("_", 4), ("a", 2), ("_b", 2)]);
        expect(words("a__b_", false, true), &[("a", 2), ("__b", 2), ("_", 2)]);
    }

    #[test]
    fn or_end_at_them() {
        expect(words("a_b_a_", true, false), &[("a_", 4), ("b_", 2)]);
        expect(words("_a__b", true, false), &[("_", 4), ("a_", 2), ("b", 2)]);
        expect(words("_a__b", true, true), &[("_", 2), ("a__", 2), ("b", 2)]);
    }
}
