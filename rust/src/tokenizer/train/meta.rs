//! The pieces that are not trained: special, control, user-defined and byte pieces, with their ids.

use std::collections::{BTreeMap, HashSet};

use super::options::Options;
use crate::error::{Error, Result};
use crate::tokenizer::model_file::{Kind, ModelType};

/// By id.
#[derive(Debug)]
pub(super) struct Meta {
    pieces: BTreeMap<usize, (String, Kind)>,
}

impl Meta {
    /// # Errors
    /// `Tokenizer` for ids that clash or lie outside the vocabulary and for symbols that are named twice.
    pub(super) fn new(options: &Options) -> Result<Self> {
        let mut meta = Self { pieces: BTreeMap::new() };
        meta.specials(options)?;
        let control = options.control_symbols.iter().map(|s| (s.clone(), Kind::Control));
        let of_user = options.user_defined_symbols.iter().map(|s| (s.clone(), Kind::UserDefined));
        let bytes = (0..=255).map(|byte| (format!("<0x{byte:02X}>"), Kind::Byte));
        let mut named = HashSet::new();
        let mut next = 0;
        for (symbol, kind) in control.chain(of_user).chain(bytes.filter(|_| options.byte_fallback)) {
            if symbol.is_empty() {
                return Err(Error::Tokenizer("a control or user-defined symbol is empty".to_owned()));
            }
            if symbol == options.unk_piece || !named.insert(symbol.clone()) {
                return Err(Error::Tokenizer(format!("the symbol {symbol:?} is defined twice")));
            }
            meta.symbol(options, symbol, kind, &mut next);
        }
        Ok(meta)
    }

    fn specials(&mut self, options: &Options) -> Result<()> {
        let specials = [
            ("unk", options.unk_id, &options.unk_piece),
            ("bos", options.bos_id, &options.bos_piece),
            ("eos", options.eos_id, &options.eos_piece),
            ("pad", options.pad_id, &options.pad_piece),
        ];
        for (name, id, piece) in specials {
            let Ok(id) = usize::try_from(id) else { continue };
            if piece.is_empty() {
                return Err(Error::Tokenizer(format!("{name}_piece is empty")));
            }
            if id >= options.vocab_size {
                let size = options.vocab_size;
                return Err(Error::Tokenizer(format!("{name}_id is {id} and vocab_size only {size}")));
            }
            let kind = if *piece == options.unk_piece { Kind::Unknown } else { Kind::Control };
            let twin = self.pieces.values().any(|(known, _)| known == piece);
            if twin || self.pieces.insert(id, (piece.clone(), kind)).is_some() {
                return Err(Error::Tokenizer(format!("{name}_id {id} or {name}_piece {piece:?} is taken already")));
            }
        }
        if options.unk_id < 0 && !options.byte_fallback {
            return Err(Error::Tokenizer("unk_id is negative, which needs byte_fallback".to_owned()));
        }
        Ok(())
    }

    /// A symbol that is a special piece already only changes its kind; others take the lowest free id.
    fn symbol(&mut self, options: &Options, symbol: String, kind: Kind, next: &mut usize) {
        let specials = [
            (options.bos_id, &options.bos_piece),
            (options.eos_id, &options.eos_piece),
            (options.pad_id, &options.pad_piece),
        ];
        let special = specials.iter().find(|(id, piece)| *id >= 0 && **piece == symbol);
        let id = special.map_or_else(
            || {
                while self.pieces.contains_key(next) {
                    *next += 1;
                }
                *next
            },
            |(id, _)| *id as usize,
        );
        self.pieces.insert(id, (symbol, kind));
    }

    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    pub(super) fn get(&self, id: usize) -> Option<&(String, Kind)> {
        self.pieces.get(&id)
    }

    /// The strings that are cut out of the training text.
    pub(super) fn strings(&self) -> impl Iterator<Item = &str> {
        self.pieces.values().map(|(piece, _)| piece.as_str())
    }
}

/// # Errors
/// `Tokenizer` naming the option that is out of range.
pub(super) fn check(options: &Options) -> Result<()> {
    let range = |name: &str, value: f64, low: f64, high: f64| {
        if (low..=high).contains(&value) {
            return Ok(());
        }
        Err(Error::Tokenizer(format!("{name} must lie between {low} and {high}, not at {value}")))
    };
    range("vocab_size", options.vocab_size as f64, 1.0, f64::from(1 << 22))?;
    range("character_coverage", f64::from((options.character_coverage * 1e6).round() / 1e6), 0.98, 1.0)?;
    range("max_sentencepiece_length", options.max_sentencepiece_length as f64, 1.0, 512.0)?;
    range("max_sentence_length", options.max_sentence_length as f64, 10.0, f64::from(1 << 30))?;
    range("num_threads", options.num_threads as f64, 0.0, 1024.0)?;
    if options.auto_character_coverage {
        let needs = [
            (options.model_type == ModelType::Bpe, "model_type bpe"),
            (options.byte_fallback, "byte_fallback"),
            (options.required_chars.is_empty(), "required_chars to be empty"),
        ];
        if let Some((_, what)) = needs.iter().find(|(met, _)| !met) {
            return Err(Error::Tokenizer(format!("auto_character_coverage needs {what}")));
        }
    }
    if options.model_type == ModelType::Unigram {
        range("num_sub_iterations", options.num_sub_iterations as f64, 1.0, 10.0)?;
        range("shrinking_factor", f64::from((options.shrinking_factor * 1e6).round() / 1e6), 0.5, 0.95)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(change: impl FnOnce(&mut Options)) -> Result<Vec<(usize, String, Kind)>> {
        let mut options = Options::default();
        change(&mut options);
        let meta = Meta::new(&options)?;
        Ok(meta.pieces.into_iter().map(|(id, (piece, kind))| (id, piece, kind)).collect())
    }

    #[test]
    fn symbols_take_the_lowest_free_ids() {
        let found = ids(|o| {
            (o.pad_id, o.eos_id) = (4, -1);
            o.control_symbols = vec!["<c>".into(), "<pad>".into()];
            o.user_defined_symbols = vec!["<u>".into()];
        });
        let wanted = [
            (0, "<unk>", Kind::Unknown),
            (1, "<s>", Kind::Control),
            (2, "<c>", Kind::Control),
            (3, "<u>", Kind::UserDefined),
            (4, "<pad>", Kind::Control),
        ];
        assert_eq!(found.expect("sound options"), wanted.map(|(id, piece, kind)| (id, piece.to_owned(), kind)));
    }

    #[test]
    fn clashes_are_refused() {
        assert!(ids(|o| o.bos_id = 0).is_err());
        assert!(ids(|o| o.bos_id = 9000).is_err());
        assert!(ids(|o| o.unk_id = -1).is_err());
        assert!(ids(|o| o.control_symbols = vec!["a".into(), "a".into()]).is_err());
        assert!(ids(|o| o.user_defined_symbols = vec!["<unk>".into()]).is_err());
        assert_eq!(ids(|o| (o.unk_id, o.byte_fallback) = (-1, true)).expect("byte fallback").len(), 258);
    }
}
