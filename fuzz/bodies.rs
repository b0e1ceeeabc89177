//! What the fuzz targets do with their bytes. `cargo test` replays the seeds through the same
//! functions (`rust/tests/fuzz_corpus.rs`).

#![allow(dead_code, reason = "each target has one of them")]

use std::sync::LazyLock;

use llmjp_core::error::Error;
use llmjp_core::interrupt::Interrupt;
use llmjp_core::tokenizer::{Compat, Placed, Sampling, Tokenizer, Unit};

/// What meets the branches of models: spaces, marks, symbols, unknown characters, broken bytes.
const TEXTS: [&[u8]; 6] = [
    b"",
    "吾輩は猫である。 A cat  and 2 dogs\n".as_bytes(),
    "  ａＡ１ｶﾞか\u{3099}㌀\u{200b}\u{3000}e\u{301} ".as_bytes(),
    "<s><a>b<a> x 猫猫<0x0A><unk>\u{2581}\u{2581}𠮷😀".as_bytes(),
    b"aaaaaaaaaaaaaaaaaaaaaaaaabababababcabc",
    b"\xff\xe3\x81a\xf0\x9f\x00",
];

/// A `.model` file is refused with an error that says what is wrong, or it works.
pub(crate) fn model_file(bytes: &[u8]) {
    for compat in [Compat::SentencePiece, Compat::SentencePieceClassic, Compat::HuggingFace] {
        read(bytes, compat);
    }
}

/// The same for a `tokenizer.json`.
pub(crate) fn tokenizer_json(bytes: &[u8]) {
    read(bytes, Compat::HuggingFace);
}

fn read(bytes: &[u8], compat: Compat) {
    match Tokenizer::from_bytes(bytes.to_vec(), compat) {
        Ok(tokenizer) => TEXTS.iter().for_each(|text| both_ways(&tokenizer, text)),
        Err(Error::Tokenizer(what) | Error::UnsupportedModel(what)) => assert!(!what.is_empty()),
        Err(other) => panic!("an error of another kind: {other}"),
    }
}

/// Any bytes as a text, on small models of every kind.
pub(crate) fn encode_decode(bytes: &[u8]) {
    for tokenizer in MODELS.iter() {
        both_ways(tokenizer, bytes);
    }
    for tokenizer in &MODELS[..LOSSLESS] {
        // A literal U+2581 is a space to the model.
        let text = replaced(bytes).replace('\u{2581}', " ");
        assert_eq!(decoded(tokenizer, &ids(tokenizer, bytes)), text);
    }
}

macro_rules! seeds {
    ($($name:literal),*) => { [$(include_bytes!(concat!("seeds/", $name)).as_slice()),*] };
}

/// Models that keep every byte of a text stand first. With the ids of Hugging Face `<unk>` in a
/// text may become the piece of this name.
const LOSSLESS: usize = 2;
static MODELS: LazyLock<Vec<Tokenizer>> = LazyLock::new(|| {
    let load = |bytes: &[u8], compat| Tokenizer::from_bytes(bytes.to_vec(), compat).expect("a seed that is a model");
    let lossless = seeds!["model_file/unigram_bytes"][0];
    let mut models: Vec<Tokenizer> = [Compat::SentencePiece, Compat::SentencePieceClassic, Compat::HuggingFace]
        .map(|compat| load(lossless, compat))
        .into();
    let others = seeds![
        "model_file/unigram_unk",
        "model_file/unigram_rules",
        "model_file/unigram_suffix",
        "model_file/unigram_symbols",
        "model_file/unigram_unused",
        "model_file/unigram_denormalizer",
        "model_file/bpe_bytes",
        "model_file/bpe_rules",
        "model_file/bpe_symbols",
        "model_file/bpe_unused",
        "tokenizer_json/bpe",
        "tokenizer_json/bpe_bytes",
        "tokenizer_json/unigram",
        "tokenizer_json/unigram_nfkc"
    ];
    models.extend(others.map(|bytes| load(bytes, Compat::SentencePiece)));
    models
});

fn ids(tokenizer: &Tokenizer, text: &[u8]) -> Vec<u32> {
    let mut ids = Vec::new();
    tokenizer.worker().encode(text, &mut ids);
    ids
}

fn decoded(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    tokenizer.decode(ids).expect("ids that came from encoding")
}

/// `text` with U+FFFD for each byte that is not UTF-8.
fn replaced(mut text: &[u8]) -> String {
    let mut out = String::new();
    while !text.is_empty() {
        let valid = match std::str::from_utf8(text) {
            Ok(valid) => valid,
            Err(error) => std::str::from_utf8(&text[..error.valid_up_to()]).expect("what was found valid"),
        };
        out.push_str(valid);
        text = &text[valid.len()..];
        if !text.is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
            text = &text[1..];
        }
    }
    out
}

fn both_ways(tokenizer: &Tokenizer, text: &[u8]) {
    let found = ids(tokenizer, text);
    let size = tokenizer.vocab_size() as u32;
    assert!(found.iter().all(|id| *id < size), "an id outside the vocabulary");
    if let Ok(text) = std::str::from_utf8(text) {
        let mut again = Vec::new();
        let mut worker = tokenizer.worker();
        // A worker's buffers hold what came before.
        worker.encode("吾輩 <a>  x", &mut again);
        again.clear();
        worker.encode(text, &mut again);
        assert_eq!(found, again, "str and bytes differ");
    }
    places(tokenizer, text, &found);
    decoded(tokenizer, &found);
    let every: Vec<u32> = (0..size.min(600)).collect();
    decoded(tokenizer, &every);
    assert!(tokenizer.decode(&[size]).is_err());
    sampled(tokenizer, text);
}

/// Ids with places are those of encoding; places lie in the text, on characters, one behind the other.
fn places(tokenizer: &Tokenizer, text: &[u8], ids: &[u32]) {
    let mut placed = Placed::default();
    tokenizer.worker().place(text, Unit::Bytes, Interrupt::NEVER, &mut placed);
    assert_eq!(ids, placed.ids, "ids and tokens differ");
    assert_eq!(ids.len(), placed.places.len());
    let valid = std::str::from_utf8(text).ok();
    let mut before = 0;
    for [begin, end] in placed.places.iter().map(|place| place.map(|at| usize::try_from(at).expect("from 0 on"))) {
        assert!(begin <= end && end <= text.len(), "a place outside the text");
        if let Some(text) = valid {
            assert!(text.is_char_boundary(begin) && text.is_char_boundary(end), "a place in a character");
        }
        if tokenizer.compat() != Compat::HuggingFace {
            assert!(begin >= before, "places go back");
            before = end;
        }
    }
}

fn sampled(tokenizer: &Tokenizer, text: &[u8]) {
    for (alpha, nbest_size) in [(0.1, -1), (0.5, 4)] {
        let sampling = Sampling { alpha, nbest_size, seed: 1 };
        if text.len() > 500 || tokenizer.check_sampling(&sampling).is_err() {
            continue;
        }
        let mut out = Vec::new();
        tokenizer.worker().sample(text, &sampling, 0, &mut out);
        decoded(tokenizer, &out);
    }
}
