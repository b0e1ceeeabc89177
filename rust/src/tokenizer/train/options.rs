//! The options of training, under SentencePiece's own names and with its defaults.

use std::fmt;

use crate::error::{Error, Result};
use crate::tokenizer::model_file::ModelType;

/// Fields are named and meant as SentencePiece's flags.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Pieces of all kinds.
    pub vocab_size: usize,
    pub model_type: ModelType,
    /// The share of all characters that the alphabet must cover.
    pub character_coverage: f32,
    /// BPE: the alphabet is chosen together with the merges, for the fewest tokens.
    pub auto_character_coverage: bool,
    /// Whether a line is a sentence, a tab and how often the sentence occurs.
    pub tsv: bool,
    /// 0: all sentences; else a sample of so many (`shuffle_input_sentence`), or the first.
    pub input_sentence_size: usize,
    pub shuffle_input_sentence: bool,
    /// Unigram: candidates to start from.
    pub seed_sentencepiece_size: usize,
    /// Unigram: the share of pieces that a round of pruning keeps.
    pub shrinking_factor: f32,
    /// 0: as many as `LLMJP_NUM_THREADS` or the machine allows. Changes no result.
    pub num_threads: usize,
    /// Unigram: rounds of expectation and maximisation before each pruning.
    pub num_sub_iterations: usize,
    /// Bytes; longer sentences are cut, where the reference drops them.
    pub max_sentence_length: usize,
    /// Characters.
    pub max_sentencepiece_length: usize,
    pub split_by_unicode_script: bool,
    pub split_by_whitespace: bool,
    pub split_by_number: bool,
    pub split_digits: bool,
    /// No piece crosses this string in normalised text, or holds it.
    pub pretokenization_delimiter: String,
    pub treat_whitespace_as_suffix: bool,
    pub allow_whitespace_only_pieces: bool,
    pub control_symbols: Vec<String>,
    pub user_defined_symbols: Vec<String>,
    /// Characters that belong to the alphabet whatever the coverage.
    pub required_chars: String,
    pub byte_fallback: bool,
    /// Whether fewer pieces than `vocab_size` are an error.
    pub hard_vocab_limit: bool,
    /// Ids of the special pieces; negative: there is none.
    pub unk_id: i32,
    pub bos_id: i32,
    pub eos_id: i32,
    pub pad_id: i32,
    pub unk_piece: String,
    pub bos_piece: String,
    pub eos_piece: String,
    pub pad_piece: String,
    /// What an unknown piece decodes to.
    pub unk_surface: String,
    pub normalization_rule_name: String,
    pub add_dummy_prefix: bool,
    pub remove_extra_whitespaces: bool,
    /// Whether `.vocab` has a column of scores.
    pub vocabulary_output_piece_score: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            vocab_size: 8000,
            model_type: ModelType::Unigram,
            character_coverage: 0.9995,
            auto_character_coverage: false,
            tsv: false,
            input_sentence_size: 0,
            shuffle_input_sentence: true,
            seed_sentencepiece_size: 1_000_000,
            shrinking_factor: 0.75,
            num_threads: 0,
            num_sub_iterations: 2,
            max_sentence_length: 4192,
            max_sentencepiece_length: 16,
            split_by_unicode_script: true,
            split_by_whitespace: true,
            split_by_number: true,
            split_digits: false,
            pretokenization_delimiter: String::new(),
            treat_whitespace_as_suffix: false,
            allow_whitespace_only_pieces: false,
            control_symbols: Vec::new(),
            user_defined_symbols: Vec::new(),
            required_chars: String::new(),
            byte_fallback: false,
            hard_vocab_limit: true,
            unk_id: 0,
            bos_id: 1,
            eos_id: 2,
            pad_id: -1,
            unk_piece: "<unk>".to_owned(),
            bos_piece: "<s>".to_owned(),
            eos_piece: "</s>".to_owned(),
            pad_piece: "<pad>".to_owned(),
            unk_surface: " \u{2047} ".to_owned(),
            normalization_rule_name: "nmt_nfkc".to_owned(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            vocabulary_output_piece_score: true,
        }
    }
}

/// A value as it comes from Python or from the command line.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Flag(bool),
    Integer(i64),
    Float(f64),
    /// Also a number, a flag or a comma-separated list in words.
    Text(String),
    List(Vec<String>),
}

/// Where a value of an option goes.
enum Slot<'a> {
    Flag(&'a mut bool),
    Size(&'a mut usize),
    Id(&'a mut i32),
    Share(&'a mut f32),
    Text(&'a mut String),
    List(&'a mut Vec<String>),
    Type(&'a mut ModelType),
    Tsv(&'a mut bool),
}

impl Options {
    /// All names, in SentencePiece's spelling, but `input_format`, which tells of files too.
    pub const NAMES: [&'static str; 38] = [
        "vocab_size",
        "model_type",
        "character_coverage",
        "auto_character_coverage",
        "input_sentence_size",
        "shuffle_input_sentence",
        "seed_sentencepiece_size",
        "shrinking_factor",
        "num_threads",
        "num_sub_iterations",
        "max_sentence_length",
        "max_sentencepiece_length",
        "split_by_unicode_script",
        "split_by_whitespace",
        "split_by_number",
        "split_digits",
        "pretokenization_delimiter",
        "treat_whitespace_as_suffix",
        "allow_whitespace_only_pieces",
        "control_symbols",
        "user_defined_symbols",
        "required_chars",
        "byte_fallback",
        "hard_vocab_limit",
        "unk_id",
        "bos_id",
        "eos_id",
        "pad_id",
        "unk_piece",
        "bos_piece",
        "eos_piece",
        "pad_piece",
        "unk_surface",
        "normalization_rule_name",
        "add_dummy_prefix",
        "remove_extra_whitespaces",
        "vocabulary_output_piece_score",
        "use_all_vocab",
    ];

    /// Sets an option by name.
    ///
    /// # Errors
    /// `Config` for an unknown name (with the nearest known one) and for a value of another kind.
    pub fn set(&mut self, name: &str, value: &Value) -> Result<()> {
        if name == "use_all_vocab" {
            return refuse_all_vocab(value);
        }
        let slot = self.slot(name).ok_or_else(|| unknown(name))?;
        slot.fill(value).map_err(|wanted| {
            let value = value.to_string();
            Error::Config(format!("{name} must be {wanted}, not {value}"))
        })
    }

    fn slot(&mut self, name: &str) -> Option<Slot<'_>> {
        Some(match name {
            "vocab_size" => Slot::Size(&mut self.vocab_size),
            "model_type" => Slot::Type(&mut self.model_type),
            "character_coverage" => Slot::Share(&mut self.character_coverage),
            "auto_character_coverage" => Slot::Flag(&mut self.auto_character_coverage),
            "input_format" => Slot::Tsv(&mut self.tsv),
            "input_sentence_size" => Slot::Size(&mut self.input_sentence_size),
            "shuffle_input_sentence" => Slot::Flag(&mut self.shuffle_input_sentence),
            "seed_sentencepiece_size" => Slot::Size(&mut self.seed_sentencepiece_size),
            "shrinking_factor" => Slot::Share(&mut self.shrinking_factor),
            "num_threads" => Slot::Size(&mut self.num_threads),
            "num_sub_iterations" => Slot::Size(&mut self.num_sub_iterations),
            "max_sentence_length" => Slot::Size(&mut self.max_sentence_length),
            "max_sentencepiece_length" => Slot::Size(&mut self.max_sentencepiece_length),
            "split_by_unicode_script" => Slot::Flag(&mut self.split_by_unicode_script),
            "split_by_whitespace" => Slot::Flag(&mut self.split_by_whitespace),
            "split_by_number" => Slot::Flag(&mut self.split_by_number),
            "split_digits" => Slot::Flag(&mut self.split_digits),
            "pretokenization_delimiter" => Slot::Text(&mut self.pretokenization_delimiter),
            "treat_whitespace_as_suffix" => Slot::Flag(&mut self.treat_whitespace_as_suffix),
            "allow_whitespace_only_pieces" => Slot::Flag(&mut self.allow_whitespace_only_pieces),
            "control_symbols" => Slot::List(&mut self.control_symbols),
            "user_defined_symbols" => Slot::List(&mut self.user_defined_symbols),
            "required_chars" => Slot::Text(&mut self.required_chars),
            "byte_fallback" => Slot::Flag(&mut self.byte_fallback),
            "hard_vocab_limit" => Slot::Flag(&mut self.hard_vocab_limit),
            "unk_id" => Slot::Id(&mut self.unk_id),
            "bos_id" => Slot::Id(&mut self.bos_id),
            "eos_id" => Slot::Id(&mut self.eos_id),
            "pad_id" => Slot::Id(&mut self.pad_id),
            "unk_piece" => Slot::Text(&mut self.unk_piece),
            "bos_piece" => Slot::Text(&mut self.bos_piece),
            "eos_piece" => Slot::Text(&mut self.eos_piece),
            "pad_piece" => Slot::Text(&mut self.pad_piece),
            "unk_surface" => Slot::Text(&mut self.unk_surface),
            "normalization_rule_name" => Slot::Text(&mut self.normalization_rule_name),
            "add_dummy_prefix" => Slot::Flag(&mut self.add_dummy_prefix),
            "remove_extra_whitespaces" => Slot::Flag(&mut self.remove_extra_whitespaces),
            "vocabulary_output_piece_score" => Slot::Flag(&mut self.vocabulary_output_piece_score),
            _ => return None,
        })
    }
}

fn refuse_all_vocab(value: &Value) -> Result<()> {
    match flag(value) {
        Some(false) => Ok(()),
        _ => Err(Error::Config("use_all_vocab is for models of type word and char, which are not supported".into())),
    }
}

fn unknown(name: &str) -> Error {
    let nearest = Options::NAMES.iter().max_by(|a, b| {
        let likeness = |known: &str| strsim::normalized_damerau_levenshtein(name, known);
        likeness(a).total_cmp(&likeness(b))
    });
    let nearest = nearest.copied().unwrap_or_default();
    Error::Config(format!("unknown training option `{name}`; did you mean `{nearest}`?"))
}

impl Slot<'_> {
    /// The error says what was wanted.
    fn fill(self, value: &Value) -> Result<(), &'static str> {
        match self {
            Self::Flag(slot) => *slot = flag(value).ok_or("true or false")?,
            Self::Size(slot) => {
                let size = integer(value).and_then(|v| usize::try_from(v).ok());
                *slot = size.ok_or("a whole number from 0 up")?;
            }
            Self::Id(slot) => {
                *slot = integer(value).and_then(|v| i32::try_from(v).ok()).ok_or("a whole number")?;
            }
            Self::Share(slot) => *slot = float(value).ok_or("a number")? as f32,
            Self::Text(slot) => match value {
                Value::Text(text) => slot.clone_from(text),
                _ => return Err("a string"),
            },
            Self::List(slot) => *slot = list(value).ok_or("a list of strings, or one with commas")?,
            Self::Type(slot) => {
                *slot = match value {
                    Value::Text(text) if text == "unigram" => ModelType::Unigram,
                    Value::Text(text) if text == "bpe" => ModelType::Bpe,
                    _ => return Err("unigram or bpe"),
                }
            }
            Self::Tsv(slot) => {
                *slot = match value {
                    Value::Text(text) if text == "tsv" => true,
                    Value::Text(text) if text.is_empty() || text == "text" => false,
                    _ => return Err("text or tsv"),
                }
            }
        }
        Ok(())
    }
}

fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Flag(flag) => Some(*flag),
        Value::Integer(n @ (0 | 1)) => Some(*n == 1),
        Value::Text(text) => match text.to_ascii_lowercase().as_str() {
            // A bare flag on a command line means yes.
            "" | "1" | "t" | "true" | "y" | "yes" => Some(true),
            "0" | "f" | "false" | "n" | "no" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(n) => Some(*n),
        Value::Float(x) if x.fract() == 0.0 && x.abs() < 9e15 => Some(*x as i64),
        Value::Text(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(n) => Some(*n as f64),
        Value::Float(x) => Some(*x),
        Value::Text(text) => text.trim().parse().ok(),
        _ => None,
    }
    .filter(|x| x.is_finite())
}

/// A comma inside a symbol is written in quotes, a quote is doubled, as in CSV.
fn list(value: &Value) -> Option<Vec<String>> {
    let text = match value {
        Value::List(list) => return Some(list.clone()),
        Value::Text(text) => text,
        _ => return None,
    };
    let (mut items, mut quoted) = (vec![String::new()], false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let item = items.last_mut()?;
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                item.push('"');
            }
            '"' if quoted || item.is_empty() => quoted = !quoted,
            ',' if !quoted => items.push(String::new()),
            _ => item.push(c),
        }
    }
    items.retain(|item| !item.is_empty());
    (!quoted).then_some(items)
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Integer(n) => write!(f, "{n}"),
            Self::Float(x) => write!(f, "{x}"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::List(list) => write!(f, "{list:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_slot() {
        let mut options = Options::default();
        for name in Options::NAMES.iter().filter(|name| **name != "use_all_vocab") {
            assert!(options.slot(name).is_some(), "{name}");
        }
    }

    #[test]
    fn values_come_in_several_forms() {
        let mut options = Options::default();
        let mut set = |name: &str, value: Value| options.set(name, &value).map_err(|e| e.to_string());
        set("byte_fallback", Value::Text("true".into())).expect("a flag in words");
        set("vocab_size", Value::Text("32000".into())).expect("a number in words");
        set("pad_id", Value::Integer(3)).expect("an id");
        set("user_defined_symbols", Value::Text("<a>,\"x,\"\"y\",".into())).expect("a list in words");
        assert!(set("vocab_size", Value::Integer(-1)).is_err());
        assert!(set("model_type", Value::Text("word".into())).is_err());
        assert!(set("use_all_vocab", Value::Flag(true)).is_err());
        let error = set("charcter_coverage", Value::Float(1.0)).expect_err("a misspelt name");
        assert!(error.contains("character_coverage"), "{error}");
        assert!(options.byte_fallback);
        assert_eq!((options.vocab_size, options.pad_id), (32_000, 3));
        assert_eq!(options.user_defined_symbols, ["<a>", "x,\"y"]);
    }
}
