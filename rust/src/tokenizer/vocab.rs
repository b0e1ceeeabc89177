//! The pieces of a model by id and by name.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use super::checks::byte_of;
use super::model_file::{Kind, ModelFile, ModelType};
use crate::error::{Error, Result};

/// Names that mean "end of document" in the models in use, in the order they are looked for.
const EOD_NAMES: [&str; 3] = ["<|endoftext|>", "<EOD|LLM-jp>", "<EOD>"];

const EMPTY: u32 = u32::MAX;
const LONG: u8 = u8::MAX;

pub(super) struct Vocab {
    text: String,
    ends: Vec<u32>,
    /// Bytes of each piece, or `LONG`: small, so that it stays near.
    lengths: Vec<u8>,
    pub(super) scores: Vec<f32>,
    pub(super) kinds: Vec<Kind>,
    /// For byte pieces, the byte.
    byte_values: Vec<Option<u8>>,
    /// The ids of the 256 byte pieces, when the model has byte fallback.
    pub(super) bytes: Option<Box<[u32; 256]>>,
    /// The piece of type UNKNOWN.
    pub(super) unknown: Option<u32>,
    table: Table,
    /// unk, bos, eos, pad by the names the trainer gave them.
    specials: [Option<u32>; 4],
}

/// Open addressing from name to id; keys are compared in the vocabulary's own text.
struct Table {
    slots: Vec<u32>,
    hasher: RandomState,
}

impl Vocab {
    pub(super) fn new(file: &ModelFile<'_>) -> Result<Self> {
        let size: usize = file.pieces.iter().map(|p| p.text.len()).sum();
        let mut vocab = Self {
            text: String::with_capacity(size),
            ends: Vec::with_capacity(file.pieces.len()),
            lengths: file.pieces.iter().map(|p| u8::try_from(p.text.len()).unwrap_or(LONG)).collect(),
            scores: file.pieces.iter().map(|p| p.score).collect(),
            kinds: file.pieces.iter().map(|p| p.kind).collect(),
            byte_values: file
                .pieces
                .iter()
                .map(|p| (p.kind == Kind::Byte).then(|| byte_of(p.text)).flatten())
                .collect(),
            bytes: None,
            unknown: file.pieces.iter().position(|p| p.kind == Kind::Unknown).map(|id| id as u32),
            table: Table::new(file.pieces.len()),
            specials: [None; 4],
        };
        for piece in &file.pieces {
            vocab.text.push_str(piece.text);
            let end = u32::try_from(vocab.text.len());
            vocab.ends.push(end.map_err(|_| Error::Tokenizer("the pieces are longer than 4 GiB".to_owned()))?);
        }
        vocab.index(file.model_type)?;
        vocab.find_specials(file);
        vocab.bytes = file.byte_fallback.then(|| vocab.byte_ids());
        Ok(vocab)
    }

    /// Reserved names first: a unigram model keeps them apart from text, so that `<s>` may stand
    /// as both, and SentencePiece finds the reserved one. A BPE model keeps one table.
    fn index(&mut self, model_type: ModelType) -> Result<()> {
        let mut table = Table::new(self.len());
        let mut shadowed = HashSet::new();
        for text in [false, true] {
            for id in (0..self.len() as u32).filter(|id| self.kinds[*id as usize].is_text() == text) {
                let Some(other) = table.insert(self, id) else { continue };
                let reserved = !self.kinds[other as usize].is_text();
                let apart = model_type == ModelType::Unigram && text && reserved;
                let piece = self.piece(id).unwrap_or_default();
                // Unused NUL pieces are in no table of the reference.
                if piece != "\0" && !(apart && shadowed.insert(piece)) {
                    return Err(Error::Tokenizer(format!("piece {id} ({piece:?}) is there twice")));
                }
            }
        }
        self.table = table;
        Ok(())
    }

    fn find_specials(&mut self, file: &ModelFile<'_>) {
        for (special, name) in file.special_names.iter().enumerate() {
            let wanted = if special == 0 { Kind::Unknown } else { Kind::Control };
            self.specials[special] = self.id(name).filter(|id| self.kinds[*id as usize] == wanted);
        }
    }

    fn byte_ids(&self) -> Box<[u32; 256]> {
        let mut ids = Box::new([0; 256]);
        for (id, byte) in self.byte_values.iter().enumerate() {
            if let Some(byte) = byte {
                ids[usize::from(*byte)] = id as u32;
            }
        }
        ids
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn piece(&self, id: u32) -> Option<&str> {
        let end = *self.ends.get(id as usize)? as usize;
        let start = if id == 0 { 0 } else { self.ends[id as usize - 1] as usize };
        Some(&self.text[start..end])
    }

    /// Bytes of a piece.
    #[inline(always)]
    pub(super) fn length(&self, id: u32) -> usize {
        match self.lengths[id as usize] {
            LONG => self.piece(id).map_or(0, str::len),
            length => usize::from(length),
        }
    }

    pub(super) fn id(&self, piece: &str) -> Option<u32> {
        self.table.find(self, piece)
    }

    pub(super) fn byte(&self, id: u32) -> Option<u8> {
        self.byte_values.get(id as usize).copied().flatten()
    }

    /// Says which pieces have a meaning: unk, bos, eos, pad.
    pub(super) fn set_specials(&mut self, specials: [Option<u32>; 4]) {
        self.specials = specials;
    }

    /// 0: unk, 1: bos, 2: eos, 3: pad.
    pub(super) fn special(&self, which: usize) -> Option<u32> {
        self.specials[which]
    }

    /// The end-of-document id: the piece asked for, or the first of the usual names.
    ///
    /// # Errors
    /// `Tokenizer` naming what was looked for and which control pieces the model has.
    pub(super) fn eod(&self, asked: Option<&str>) -> Result<u32> {
        let found = match asked {
            Some(name) => self.id(name),
            None => EOD_NAMES.iter().find_map(|name| self.id(name)),
        };
        found.ok_or_else(|| self.no_eod(asked))
    }

    fn no_eod(&self, asked: Option<&str>) -> Error {
        let wanted = asked.map_or_else(|| EOD_NAMES.join(", "), str::to_owned);
        let is_candidate = |id: &u32| matches!(self.kinds[*id as usize], Kind::Control | Kind::UserDefined);
        let ids = (0..self.len() as u32).filter(is_candidate).take(16);
        let candidates: Vec<&str> = ids.filter_map(|id| self.piece(id)).collect();
        Error::Tokenizer(format!(
            "the model has no end-of-document piece {wanted}; name one of its own: {}",
            candidates.join(", ")
        ))
    }
}

impl Table {
    fn new(pieces: usize) -> Self {
        let slots = (pieces * 2).next_power_of_two().max(16);
        Self { slots: vec![EMPTY; slots], hasher: RandomState::new() }
    }

    fn probe(&self, piece: &str) -> impl Iterator<Item = usize> + use<> {
        let mask = self.slots.len() - 1;
        let start = self.hasher.hash_one(piece) as usize;
        (0..self.slots.len()).map(move |step| start.wrapping_add(step) & mask)
    }

    fn find(&self, vocab: &Vocab, piece: &str) -> Option<u32> {
        for slot in self.probe(piece) {
            match self.slots[slot] {
                EMPTY => return None,
                id if vocab.piece(id) == Some(piece) => return Some(id),
                _ => {}
            }
        }
        None
    }

    /// Keeps the first id of a name; gives it where there is one already.
    fn insert(&mut self, vocab: &Vocab, id: u32) -> Option<u32> {
        let piece = vocab.piece(id)?;
        for slot in self.probe(piece) {
            match self.slots[slot] {
                EMPTY => {
                    self.slots[slot] = id;
                    return None;
                }
                other if vocab.piece(other) == Some(piece) => return Some(other),
                _ => {}
            }
        }
        None
    }
}
