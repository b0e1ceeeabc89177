//! Datasets and tokenizer.

use super::Default::{Bool, Float, Int, Null, Text as T};
use super::Kind::{Bool as B, Choice, Float as F, Floats, Int as I, Text, Texts};
use super::Range::{Finite, Positive};
use super::{Key, e, o, r, w};

#[rustfmt::skip] // a table: one key a line
pub(super) const KEYS: &[Key] = &[
    e("data_path", Text, Null, "prefix of one dataset (without .bin and .idx), cut by split"),
    e("split", Text, T("969, 30, 1"), "shares of the documents for train, valid and test"),
    e("train_data_paths", Texts, Null, "prefixes of the training sets; all three lists or none"),
    e("valid_data_paths", Texts, Null, "prefixes of the validation sets"),
    e("test_data_paths", Texts, Null, "prefixes of the test sets"),
    e("train_data_weights", Floats, Null, "weights in the blend; null: all 1"),
    e("valid_data_weights", Floats, Null, "weights in the blend; null: all 1"),
    e("test_data_weights", Floats, Null, "weights in the blend; null: all 1"),
    e(
        "train_label_data_paths",
        Texts,
        Null,
        "datasets of targets, one beside each training set; a negative target has no loss",
    ),
    e("valid_label_data_paths", Texts, Null, "as train_label_data_paths"),
    e("test_label_data_paths", Texts, Null, "as train_label_data_paths"),
    e("weight_by_num_documents", B, Bool(false), "weights from the numbers of documents instead of the given ones"),
    e("weighted_sampler_alpha", F(Positive), Float(1.0), "below 1 it favours small sets (weight_by_num_documents)"),
    e("data_impl", Choice(&["infer", "mmap"], &["cached"]), T("infer"), "datasets are always memory-mapped"),
    e(
        "pack_impl",
        Choice(&["packed", "pack_until_overflow", "unpacked"], &[]),
        T("packed"),
        "how documents become samples",
    ),
    e("allow_chopped", B, Bool(true), "false: leave out documents longer than a sample (not with packed)"),
    e("eod_mask_loss", B, Bool(false), "no loss where the input is the end-of-document token"),
    o(
        "index_flavor",
        Choice(&["neox", "megatron"], &[]),
        T("neox"),
        "whose sample index: they differ in the last epoch and in the split's rounding",
    ),
    e(
        "tokenizer_type",
        Choice(
            &["GPT2BPETokenizer", "HFTokenizer", "SPMTokenizer", "CharLevelTokenizer"],
            &["HFGPT2Tokenizer", "TiktokenTokenizer"],
        ),
        T("GPT2BPETokenizer"),
        "what vocab_file holds",
    ),
    e("vocab_file", Text, Null, "SPMTokenizer: a .model; HFTokenizer: tokenizer.json; GPT2BPETokenizer: vocab.json"),
    e("merge_file", Text, Null, "GPT2BPETokenizer: merges.txt"),
    o("eod_token", Text, Null, "the end-of-document piece; null: <|endoftext|>"),
    w("mmap_warmup", B, Bool(false), "the system's cache decides"),
    w("use_shared_fs", B, Bool(true), "one process builds the index"),
    w("num_workers", I(0), Int(2), "batches are read by the training process"),
    w("short_seq_prob", F(Finite), Float(0.1), "of other model types"),
    r("dataset_impl", Text, T("gpt2"), "only gpt2 is supported: next-token prediction on datasets"),
    r("train_impl", Text, T("normal"), "only normal is supported: no preference or reinforcement learning"),
];
