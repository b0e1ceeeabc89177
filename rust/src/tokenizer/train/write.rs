//! The `.model` file (protobuf wire format) and the `.vocab` list of a trained model.

use super::Trained;
use super::meta::Meta;
use super::options::Options;
use crate::error::{Error, Result};
use crate::tokenizer::model_file::{Kind, ModelType};

/// A trained model as files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    pub model: Vec<u8>,
    /// A line a piece, with its score.
    pub vocab: String,
}

/// One piece of the model.
struct Entry<'a> {
    text: &'a str,
    score: f32,
    kind: Kind,
}

/// # Errors
/// `Tokenizer` where there are fewer pieces than `vocab_size` and that is a hard limit, or where an
/// id asked for lies beyond the last piece.
pub fn files(trained: &Trained, options: &Options, charsmap: &[u8]) -> Result<Files> {
    let meta = Meta::new(options)?;
    let entries = entries(trained, &meta, options)?;
    let mut model = Message::default();
    for entry in &entries {
        model.bytes(1, &piece(entry));
    }
    model.bytes(2, &trainer_spec(options, entries.len()));
    model.bytes(3, &normalizer_spec(options, charsmap));
    Ok(Files { model: model.0, vocab: vocab(&entries, options) })
}

fn entries<'a>(trained: &'a Trained, meta: &'a Meta, options: &Options) -> Result<Vec<Entry<'a>>> {
    let mut pieces = trained.pieces.iter();
    let mut entries = Vec::with_capacity(options.vocab_size);
    for id in 0..options.vocab_size {
        if let Some((text, kind)) = meta.get(id) {
            if entries.len() != id {
                let count = entries.len();
                return Err(Error::Tokenizer(format!(
                    "the piece {text:?} should have id {id}, but there are only {count} pieces before it"
                )));
            }
            entries.push(Entry { text, score: 0.0, kind: *kind });
        } else if let Some((text, score)) = pieces.next() {
            entries.push(Entry { text, score: *score, kind: Kind::Normal });
        }
    }
    if pieces.next().is_some() {
        return Err(Error::Internal("the trainer made more pieces than were asked for".to_owned()));
    }
    if options.hard_vocab_limit && entries.len() < options.vocab_size {
        return Err(Error::Tokenizer(format!(
            "vocab_size {} is too high for this text: it has {} pieces; lower vocab_size, set hard_vocab_limit=false, or \
             give more text",
            options.vocab_size,
            entries.len()
        )));
    }
    Ok(entries)
}

fn piece(entry: &Entry<'_>) -> Vec<u8> {
    let mut message = Message::default();
    message.text(1, entry.text);
    message.float(2, entry.score);
    if entry.kind != Kind::Normal {
        message.integer(3, kind_number(entry.kind));
    }
    message.0
}

fn kind_number(kind: Kind) -> i64 {
    match kind {
        Kind::Normal => 1,
        Kind::Unknown => 2,
        Kind::Control => 3,
        Kind::UserDefined => 4,
        Kind::Unused => 5,
        Kind::Byte => 6,
    }
}

/// As the reference does, only what differs from the defaults of the format is written, apart from
/// the type and the size, which readers look for.
fn trainer_spec(options: &Options, size: usize) -> Vec<u8> {
    let plain = Options::default();
    let mut spec = Message::default();
    let kind = match options.model_type {
        ModelType::Unigram => 1,
        ModelType::Bpe => 2,
    };
    spec.integer(3, kind);
    spec.integer(4, size as i64);
    if options.tsv {
        spec.text(7, "tsv");
    }
    if options.character_coverage != plain.character_coverage {
        spec.float(10, options.character_coverage);
    }
    let mut number = |field, value: usize, default: usize| {
        if value != default {
            spec.integer(field, value as i64);
        }
    };
    number(11, options.input_sentence_size, plain.input_sentence_size);
    number(14, options.seed_sentencepiece_size, plain.seed_sentencepiece_size);
    if options.shrinking_factor != plain.shrinking_factor {
        spec.float(15, options.shrinking_factor);
    }
    let mut number = |field, value: usize, default: usize| {
        if value != default {
            spec.integer(field, value as i64);
        }
    };
    // Not num_threads (16): the file would depend on the machine.
    number(17, options.num_sub_iterations, plain.num_sub_iterations);
    number(18, options.max_sentence_length, plain.max_sentence_length);
    number(20, options.max_sentencepiece_length, plain.max_sentencepiece_length);
    flags(&mut spec, options, &plain);
    specials(&mut spec, options, &plain);
    spec.0
}

fn flags(spec: &mut Message, options: &Options, plain: &Options) {
    let flags = |o: &Options| {
        [
            (19, o.shuffle_input_sentence),
            (21, o.split_by_unicode_script),
            (22, o.split_by_whitespace),
            (23, o.split_by_number),
            (24, o.treat_whitespace_as_suffix),
            (25, o.split_digits),
            (26, o.allow_whitespace_only_pieces),
            (32, o.vocabulary_output_piece_score),
            (33, o.hard_vocab_limit),
            (35, o.byte_fallback),
            (55, o.auto_character_coverage),
        ]
    };
    for ((field, value), (_, default)) in flags(options).into_iter().zip(flags(plain)) {
        if value != default {
            spec.integer(field, i64::from(value));
        }
    }
}

fn specials(spec: &mut Message, options: &Options, plain: &Options) {
    options.control_symbols.iter().for_each(|symbol| spec.text(30, symbol));
    options.user_defined_symbols.iter().for_each(|symbol| spec.text(31, symbol));
    if !options.required_chars.is_empty() {
        spec.text(36, &options.required_chars);
    }
    if !options.pretokenization_delimiter.is_empty() {
        spec.text(53, &options.pretokenization_delimiter);
    }
    let ids = |o: &Options| [(40, o.unk_id), (41, o.bos_id), (42, o.eos_id), (43, o.pad_id)];
    for ((field, id), (_, default)) in ids(options).into_iter().zip(ids(plain)) {
        if id != default {
            spec.integer(field, i64::from(id));
        }
    }
    let names = |o: &Options| {
        let Options { unk_surface, unk_piece, bos_piece, eos_piece, pad_piece, .. } = o.clone();
        [(44, unk_surface), (45, unk_piece), (46, bos_piece), (47, eos_piece), (48, pad_piece)]
    };
    for ((field, name), (_, default)) in names(options).into_iter().zip(names(plain)) {
        if name != default {
            spec.text(field, &name);
        }
    }
}

fn normalizer_spec(options: &Options, charsmap: &[u8]) -> Vec<u8> {
    let mut spec = Message::default();
    spec.text(1, &options.normalization_rule_name);
    spec.bytes(2, charsmap);
    if !options.add_dummy_prefix {
        spec.integer(3, 0);
    }
    if !options.remove_extra_whitespaces {
        spec.integer(4, 0);
    }
    spec.0
}

fn vocab(entries: &[Entry<'_>], options: &Options) -> String {
    let mut list = String::new();
    for entry in entries {
        list.push_str(entry.text);
        if options.vocabulary_output_piece_score {
            list.push('\t');
            list.push_str(&six_digits(f64::from(entry.score)));
        }
        list.push('\n');
    }
    list
}

/// As `%g` of C prints: six digits, without zeros at the end.
fn six_digits(value: f64) -> String {
    if value == 0.0 {
        return if value.is_sign_negative() { "-0" } else { "0" }.to_owned();
    }
    let scientific = format!("{value:.5e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let short = |digits: &str| match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => digits.to_owned(),
    };
    if (-4..6).contains(&exponent) {
        return short(&format!("{value:.*}", (5 - exponent) as usize));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", short(digits), exponent.abs())
}

/// A protobuf message in the making.
#[derive(Default)]
pub(super) struct Message(pub(super) Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// A negative number takes ten bytes, as the format wants it.
    pub(super) fn integer(&mut self, field: u64, value: i64) {
        self.varint(field << 3);
        self.varint(value as u64);
    }

    pub(super) fn float(&mut self, field: u64, value: f32) {
        self.varint(field << 3 | 5);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    pub(super) fn text(&mut self, field: u64, value: &str) {
        self.bytes(field, value.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_printed_as_c_prints_them() {
        let cases = [
            (-0.0, "-0"),
            (-1.0, "-1"),
            (-12345.0, "-12345"),
            (-123_456.0, "-123456"),
            (-1_234_567.0, "-1.23457e+06"),
            (-3.456_789_1, "-3.45679"),
            (-10.25, "-10.25"),
            (0.000_012_345_67, "1.23457e-05"),
            (-999_999.5, "-1e+06"),
            (-0.0001, "-0.0001"),
        ];
        for (value, text) in cases {
            assert_eq!(six_digits(value), text);
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let trained = Trained { pieces: vec![("▁a".into(), -0.0), ("a".into(), -1.0), ("▁".into(), -2.0)] };
        let options = Options { vocab_size: 6, ..Options::default() };
        let files = files(&trained, &options, &[]).expect("six pieces");
        let file = crate::tokenizer::model_file::ModelFile::parse(&files.model).expect("a sound model");
        assert_eq!(file.pieces.iter().map(|p| p.text).collect::<Vec<_>>(), ["<unk>", "<s>", "</s>", "▁a", "a", "▁"]);
        assert!(file.pieces[3].score.is_sign_negative());
        assert_eq!(files.vocab, "<unk>\t0\n<s>\t0\n</s>\t0\n▁a\t-0\na\t-1\n▁\t-2\n");
    }

    #[test]
    fn a_hard_limit_is_hard() {
        let trained = Trained { pieces: vec![("a".into(), -0.0)] };
        let mut options = Options { vocab_size: 5, ..Options::default() };
        let error = files(&trained, &options, &[]).expect_err("four pieces");
        assert!(error.to_string().contains("it has 4 pieces"), "{error}");
        options.hard_vocab_limit = false;
        assert!(files(&trained, &options, &[]).is_ok());
        options.pad_id = 4;
        assert!(files(&trained, &options, &[]).is_ok());
        (options.vocab_size, options.pad_id) = (9, 8);
        assert!(files(&trained, &options, &[]).is_err());
    }
}
