//! The front end: sentences in, normalised text as codes out.

use rayon::prelude::*;

use super::cut;
use super::meta::Meta;
use super::options::Options;
use super::progress::{Progress, Stage};
use super::text::{BOUNDARY, FIRST, OUTSIDE, Text};
use crate::error::{Error, Result};
use crate::tokenizer::model_file::NormalizerSpec;
use crate::tokenizer::normalizer::{Normalized, Normalizer};
use crate::tokenizer::symbols::Symbols;

/// Stands where a control, user-defined or byte symbol stood; no piece has it.
const BOUNDARY_CHAR: char = '\u{1f}';
/// Stands for the characters outside the alphabet.
const OUTSIDE_CHAR: char = '\u{2585}';
const CODE_POINTS: usize = 0x11_0000;
/// Sentences that a task normalises at a time.
const RUN: usize = 256;
/// How often a sentence may occur: with the characters of a text it stays within 64 bits.
const MAX_FREQ: u64 = u32::MAX as u64;

/// What became of the input.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Sentences as they were given, the empty ones left out.
    pub sentences: u64,
    pub bytes: u64,
    /// Sentences longer than `max_sentence_length`, and the parts they were cut into.
    pub long_sentences: u64,
    pub long_parts: u64,
    /// Sentences with U+2585, which counts as a character outside the alphabet.
    pub reserved_sentences: u64,
    /// Sentences that were trained on: fewer with `input_sentence_size`, more where some were cut.
    pub used_sentences: u64,
    /// Characters after normalisation, and how many different ones.
    pub characters: u64,
    pub distinct_characters: u64,
    /// Characters in the alphabet, and the share of all that they are.
    pub alphabet: u64,
    pub coverage: f64,
}

/// Takes sentences, one batch after the other.
pub struct Corpus {
    options: Options,
    normalizer: Normalizer,
    symbols: Symbols,
    meta: usize,
    /// Code points of all sentences, where each ends and how often it occurs.
    points: Vec<u32>,
    ends: Vec<usize>,
    freqs: Vec<u64>,
    /// Weighted by the frequencies.
    counts: Vec<u64>,
    sample: Option<Sample>,
    report: Report,
}

impl Corpus {
    /// `charsmap`: the precompiled character map of the normaliser, empty for `identity`.
    ///
    /// # Errors
    /// `Tokenizer` for options that cannot be met.
    pub fn new(options: &Options, charsmap: &[u8]) -> Result<Self> {
        super::meta::check(options)?;
        let meta = Meta::new(options)?;
        if options.required_chars.contains([' ', OUTSIDE_CHAR]) {
            return Err(Error::Tokenizer("required_chars must hold neither a space nor U+2585".to_owned()));
        }
        let spec = NormalizerSpec {
            charsmap,
            add_dummy_prefix: options.add_dummy_prefix,
            remove_extra_whitespaces: options.remove_extra_whitespaces,
            ..NormalizerSpec::default()
        };
        Ok(Self {
            // As in the reference, symbols are not protected while training text is normalised.
            normalizer: Normalizer::new(&spec, Symbols::default(), options.treat_whitespace_as_suffix)?,
            symbols: Symbols::new(meta.strings()),
            meta: meta.len(),
            points: Vec::new(),
            ends: Vec::new(),
            freqs: Vec::new(),
            counts: vec![0; CODE_POINTS],
            sample: Sample::new(options),
            report: Report::default(),
            options: options.clone(),
        })
    }

    /// Whether more sentences would change nothing.
    pub fn is_full(&self) -> bool {
        self.sample.as_ref().is_some_and(|sample| !sample.shuffle && sample.kept.len() == sample.size)
    }

    /// # Errors
    /// `Tokenizer` for a line that is not what `tsv` promises; `Interrupted`.
    pub fn add(&mut self, sentences: &[&str], progress: &Progress<'_>) -> Result<()> {
        let mut parts = Vec::with_capacity(sentences.len());
        for line in sentences.iter().filter(|s| !s.is_empty()) {
            let (sentence, freq) = if self.options.tsv { self.with_freq(line)? } else { (*line, 1) };
            if sentence.is_empty() {
                continue;
            }
            self.report.sentences += 1;
            self.report.bytes += sentence.len() as u64;
            self.report.reserved_sentences += u64::from(sentence.contains(OUTSIDE_CHAR));
            if sentence.len() <= self.options.max_sentence_length {
                parts.push((sentence, freq));
                continue;
            }
            let cut = cut::parts(sentence, self.options.max_sentence_length);
            self.report.long_sentences += 1;
            self.report.long_parts += cut.len() as u64;
            parts.extend(cut.into_iter().map(|part| (part, freq)));
        }
        match &mut self.sample {
            Some(sample) => parts.iter().for_each(|(part, freq)| sample.offer(part, *freq)),
            None => self.take(&parts, progress)?,
        }
        progress.check()
    }

    /// A sentence, a tab, a count.
    fn with_freq<'t>(&self, line: &'t str) -> Result<(&'t str, u64)> {
        let read = || {
            let (sentence, freq) = line.split_once('\t')?;
            let freq: u64 = freq.trim_ascii().parse().ok()?;
            (1..=MAX_FREQ).contains(&freq).then_some((sentence, freq))
        };
        read().ok_or_else(|| {
            let (number, start) = (self.report.sentences + 1, line.chars().take(40).collect::<String>());
            Error::Tokenizer(format!(
                "with input_format \"tsv\" a line is a sentence, a tab and a count from 1 to {MAX_FREQ}; line {number} \
                 (without empty ones) is not: {start:?}"
            ))
        })
    }

    /// Normalises and stores.
    fn take(&mut self, parts: &[(&str, u64)], progress: &Progress<'_>) -> Result<()> {
        let run = |run: &[(&str, u64)]| {
            progress.check()?;
            let (mut out, mut points, mut ends) = (Normalized::default(), Vec::new(), Vec::new());
            for (part, _) in run {
                self.normalizer.normalize(part.as_bytes(), &mut out);
                self.push_points(&out.text, &mut points);
                ends.push(points.len());
            }
            Ok((points, ends))
        };
        let runs: Vec<Result<(Vec<u32>, Vec<usize>)>> = parts.par_chunks(RUN).map(run).collect();
        for (run, parts) in runs.into_iter().zip(parts.chunks(RUN)) {
            let (points, ends) = run?;
            let (start, mut last) = (self.points.len(), 0);
            self.points.extend_from_slice(&points);
            for (end, (_, freq)) in ends.into_iter().zip(parts).filter(|(end, _)| *end > 0) {
                if end > last {
                    points[last..end].iter().for_each(|point| self.counts[*point as usize] += freq);
                    self.ends.push(start + end);
                    self.freqs.push(*freq);
                    last = end;
                }
            }
        }
        Ok(())
    }

    /// The code points of `text`, a boundary for each reserved string and each delimiter.
    fn push_points(&self, text: &str, points: &mut Vec<u32>) {
        let delimiter = &self.options.pretokenization_delimiter;
        if delimiter.is_empty() {
            return self.push_cut(text, points);
        }
        let mut marked = Vec::new();
        self.push_cut(text, &mut marked);
        let marked: String = marked.into_iter().filter_map(char::from_u32).collect();
        let cut = marked.replace(delimiter.as_str(), BOUNDARY_CHAR.encode_utf8(&mut [0; 4]));
        points.extend(cut.chars().map(u32::from));
    }

    /// With a boundary for each reserved string.
    fn push_cut(&self, text: &str, points: &mut Vec<u32>) {
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let symbol = self.symbols.longest(rest.as_bytes());
            points.push(if symbol.is_some() { BOUNDARY_CHAR } else { c } as u32);
            rest = &rest[symbol.unwrap_or(c.len_utf8())..];
        }
    }

    /// # Errors
    /// `Tokenizer` where there is no text, or where the alphabet alone is larger than the
    /// vocabulary; `Interrupted`.
    pub fn finish(mut self, progress: &Progress<'_>) -> Result<(Text, Report)> {
        if let Some(sample) = self.sample.take() {
            for batch in sample.kept.chunks(1 << 12) {
                self.take(&batch.iter().map(|(text, freq)| (text.as_str(), *freq)).collect::<Vec<_>>(), progress)?;
            }
        }
        if self.points.is_empty() {
            return Err(Error::Tokenizer("there is no text to train on".to_owned()));
        }
        let alphabet = self.alphabet();
        // Characters that are chosen later may be left out.
        let needed = self.meta + if self.options.auto_character_coverage { 0 } else { alphabet.len() };
        if needed > self.options.vocab_size {
            return Err(Error::Tokenizer(format!(
                "vocab_size {} is too small: {} characters and {} special pieces must be in it; raise it to {needed} \
                 or more, or lower character_coverage",
                self.options.vocab_size,
                alphabet.len(),
                self.meta
            )));
        }
        self.encode(&alphabet, progress)
    }

    /// The required characters, by falling count, equal ones by code point.
    fn alphabet(&mut self) -> Vec<(u32, u64)> {
        self.counts[0] = 0;
        self.counts[OUTSIDE_CHAR as usize] = 0;
        let mut wanted = vec![false; CODE_POINTS];
        self.options.required_chars.chars().filter(|c| *c != '\0').for_each(|c| wanted[c as usize] = true);
        let mut found: Vec<(u32, u64)> = (0..CODE_POINTS as u32)
            .map(|point| (point, self.counts[point as usize]))
            .filter(|(point, count)| *count > 0 || wanted[*point as usize])
            .collect();
        found.sort_by_key(|(point, count)| (!wanted[*point as usize], std::cmp::Reverse(*count), *point));
        let all: u64 = found.iter().map(|(_, count)| count).sum();
        let mut covered = 0;
        let mut alphabet = Vec::new();
        for (point, count) in &found {
            // In f32, as the reference compares: the last bit decides on a character.
            let coverage = (covered as f64 / all as f64) as f32;
            if coverage >= self.options.character_coverage && !self.options.auto_character_coverage {
                break;
            }
            covered += count;
            if *point != BOUNDARY_CHAR as u32 {
                alphabet.push((*point, *count));
            }
        }
        self.report.characters = all;
        self.report.distinct_characters = found.iter().filter(|(_, count)| *count > 0).count() as u64;
        self.report.alphabet = alphabet.len() as u64;
        self.report.coverage = covered as f64 / all.max(1) as f64;
        self.report.used_sentences = self.ends.len() as u64;
        alphabet.sort_by_key(|(point, count)| (std::cmp::Reverse(*count), *point));
        alphabet
    }

    fn encode(self, alphabet: &[(u32, u64)], progress: &Progress<'_>) -> Result<(Text, Report)> {
        let mut codes = vec![OUTSIDE; CODE_POINTS];
        codes[BOUNDARY_CHAR as usize] = BOUNDARY;
        for (code, (point, _)) in (FIRST..).zip(alphabet) {
            codes[*point as usize] = code;
        }
        let Self { mut points, ends, freqs, counts, report, .. } = self;
        let mut start = 0;
        let weigh = |(end, freq): (&usize, &u64)| (*end - std::mem::replace(&mut start, *end)) as u64 * freq;
        let total: u64 = ends.iter().zip(&freqs).map(weigh).sum();
        points.par_chunks_mut(1 << 20).try_for_each(|run| {
            run.iter_mut().for_each(|point| *point = codes[*point as usize]);
            progress.check()
        })?;
        progress.step(Stage::Read, report.bytes, report.bytes)?;
        let boundaries = counts[BOUNDARY_CHAR as usize];
        let known: u64 = alphabet.iter().map(|(_, count)| count).sum();
        let first = [(BOUNDARY_CHAR, boundaries), (OUTSIDE_CHAR, total - known - boundaries)];
        let rest = alphabet.iter().map(|(point, count)| (char::from_u32(*point).unwrap_or(OUTSIDE_CHAR), *count));
        let (chars, counts) = first.into_iter().chain(rest).unzip();
        Ok((Text { chars, counts, codes: points, ends, freqs }, report))
    }
}

/// So many sentences, each with the same chance, or the first ones.
struct Sample {
    size: usize,
    shuffle: bool,
    seen: u64,
    kept: Vec<(String, u64)>,
}

impl Sample {
    fn new(options: &Options) -> Option<Self> {
        let size = options.input_sentence_size;
        (size > 0).then(|| Self { size, shuffle: options.shuffle_input_sentence, seen: 0, kept: Vec::new() })
    }

    fn offer(&mut self, sentence: &str, freq: u64) {
        self.seen += 1;
        if self.kept.len() < self.size {
            self.kept.push((sentence.to_owned(), freq));
        } else if self.shuffle {
            let place = (u128::from(scramble(self.seen)) * u128::from(self.seen)) >> 64;
            if let Some(kept) = self.kept.get_mut(place as usize) {
                *kept = (sentence.to_owned(), freq);
            }
        }
    }
}

/// A fixed hash of a number (the finaliser of SplitMix64), uniform over 64 bits.
fn scramble(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus(sentences: &[&str], change: impl FnOnce(&mut Options)) -> Result<(Text, Report)> {
        let mut options = Options { character_coverage: 1.0, ..Options::default() };
        change(&mut options);
        let mut corpus = Corpus::new(&options, &[])?;
        corpus.add(sentences, &Progress::SILENT)?;
        corpus.finish(&Progress::SILENT)
    }

    fn strings(text: &Text) -> Vec<String> {
        text.sentences().map(|(codes, _)| text.string(codes)).collect()
    }

    #[test]
    fn characters_are_ranked_and_rare_ones_replaced() {
        let (text, report) = corpus(&["aab ", "", "aac"], |o| o.character_coverage = 0.98).expect("text");
        assert_eq!(text.chars, ['\u{1f}', '\u{2585}', 'a', '\u{2581}', 'b', 'c']);
        assert_eq!(text.counts, [0, 0, 4, 2, 1, 1]);
        assert_eq!(strings(&text), ["▁aab", "▁aac"]);
        assert_eq!((report.sentences, report.characters, report.alphabet), (2, 8, 4));
        let many = "a".repeat(99);
        let (text, report) = corpus(&[&many, "b\u{2585}c"], |o| o.character_coverage = 0.98).expect("text");
        assert_eq!(strings(&text)[1], "▁▅▅▅");
        assert_eq!((text.counts[1], report.reserved_sentences), (3, 1));
        let (text, _) = corpus(&[&many, "bcd"], |o| {
            (o.character_coverage, o.required_chars) = (0.98, "cz".into());
        })
        .expect("text");
        assert_eq!(strings(&text)[1], "▁▅c▅");
        assert!(text.chars.contains(&'z'));
    }

    #[test]
    fn reserved_strings_become_boundaries() {
        let (text, _) = corpus(&["x<s>y<u>z", "<0x0A>"], |o| {
            (o.user_defined_symbols, o.byte_fallback) = (vec!["<u>".into()], true);
        })
        .expect("text");
        assert_eq!(strings(&text), ["▁x\u{1f}y\u{1f}z", "▁\u{1f}"]);
    }

    #[test]
    fn long_sentences_are_cut_and_counted() {
        let (text, report) = corpus(&["あいう。えお", "か"], |o| o.max_sentence_length = 12).expect("text");
        assert_eq!(strings(&text), ["▁あいう。", "▁えお", "▁か"]);
        assert_eq!((report.long_sentences, report.long_parts, report.used_sentences), (1, 2, 3));
    }

    #[test]
    fn a_sample_has_its_size_and_is_fair() {
        let all: Vec<String> = (0..1000).map(|i| format!("s{i}")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let (text, _) = corpus(&all, |o| o.input_sentence_size = 200).expect("text");
        assert_eq!(text.ends.len(), 200);
        let late = strings(&text).iter().filter(|s| s[4..].parse::<u32>().is_ok_and(|n| n >= 500)).count();
        assert!((70..130).contains(&late), "{late} of 200 come from the second half");
        let (text, _) = corpus(&all, |o| (o.input_sentence_size, o.shuffle_input_sentence) = (3, false)).expect("text");
        assert_eq!(strings(&text), ["▁s0", "▁s1", "▁s2"]);
    }

    #[test]
    fn what_cannot_be_met_is_refused() {
        assert!(corpus(&[""], |_| ()).is_err());
        assert!(corpus(&["abc"], |o| o.vocab_size = 6).is_err());
        assert!(corpus(&["abc"], |o| o.vocab_size = 7).is_ok());
        assert!(corpus(&["abc"], |o| o.character_coverage = 0.5).is_err());
    }
}
