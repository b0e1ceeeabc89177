//! The options of training, under SentencePiece's own names and with its defaults.

use crate::tokenizer::model_file::ModelType;

/// Fields are named and meant as SentencePiece's flags.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Pieces of all kinds.
    pub vocab_size: usize,
    pub model_type: ModelType,
    /// The share of all characters that the alphabet must cover.
    pub character_coverage: f32,
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
