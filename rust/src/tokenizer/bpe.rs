//! Byte-pair encoding as SentencePiece has it: two neighbours may merge when their concatenation
//! is a piece; the highest score goes first, the leftmost of equals.

use std::collections::HashMap;

use super::model_file::{Kind, ModelFile};
use super::symbols::Symbols;
use super::vocab::Vocab;

/// What a text is made of: a piece by its id, or (from `pieces` up) a character that is no piece
/// but part of some, or nothing that can merge.
pub(super) type Symbol = u32;

/// A character in no piece, or a user-defined symbol, which stays as it is.
pub(super) const FROZEN: Symbol = u32::MAX;

pub(super) struct Bpe {
    /// Characters of the basic plane by number; the others in `astral`.
    plane: Vec<Symbol>,
    astral: HashMap<char, Symbol>,
    pub(super) symbols: Symbols,
    merges: Merges,
    bigrams: Bigrams,
    /// Ids below it are pieces.
    pieces: u32,
    /// Whether any piece must be taken apart again; merges then depend on the whole text.
    pub(super) has_unused: bool,
    unused: Vec<bool>,
}

/// What a pair becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Merge {
    /// Pieces by falling score; equal scores share a rank.
    pub(super) rank: u32,
    pub(super) id: Symbol,
}

impl Bpe {
    pub(super) fn new(file: &ModelFile<'_>, vocab: &Vocab) -> Self {
        let of_user = file.pieces.iter().filter(|p| p.kind == Kind::UserDefined).map(|p| p.text);
        let mut model = Self {
            plane: vec![FROZEN; 1 << 16],
            astral: HashMap::new(),
            symbols: Symbols::new(of_user),
            merges: Merges::default(),
            bigrams: Bigrams::default(),
            pieces: vocab.len() as u32,
            has_unused: file.pieces.iter().any(|p| p.kind == Kind::Unused),
            unused: file.pieces.iter().map(|p| p.kind == Kind::Unused).collect(),
        };
        model.number_characters(file, vocab);
        model.find_merges(file, vocab);
        model
    }

    fn number_characters(&mut self, file: &ModelFile<'_>, vocab: &Vocab) {
        let mut next = self.pieces;
        for character in texts(file).flat_map(|(_, text)| text.chars()) {
            if self.character(character) != FROZEN {
                continue;
            }
            let mut buffer = [0; 4];
            let piece = vocab.id(character.encode_utf8(&mut buffer));
            let symbol = piece.filter(|id| vocab.kinds[*id as usize].is_text()).unwrap_or_else(|| {
                next += 1;
                next - 1
            });
            match self.plane.get_mut(character as usize) {
                Some(slot) => *slot = symbol,
                None => _ = self.astral.insert(character, symbol),
            }
        }
    }

    fn find_merges(&mut self, file: &ModelFile<'_>, vocab: &Vocab) {
        let ranks = ranks(file);
        let mut merges = Vec::new();
        for (id, text) in texts(file) {
            let mut before = None;
            for (at, character) in text.char_indices() {
                if let Some(before) = before.replace(character) {
                    self.bigrams.insert(before, character);
                    let (left, right) = text.split_at(at);
                    if let (Some(left), Some(right)) = (self.symbol(left, vocab), self.symbol(right, vocab)) {
                        merges.push(((left, right), Merge { rank: ranks[id as usize], id }));
                    }
                }
            }
        }
        self.merges = Merges::new(&merges);
    }

    /// The symbol of a string, if it is one.
    fn symbol(&self, text: &str, vocab: &Vocab) -> Option<Symbol> {
        let mut characters = text.chars();
        match (characters.next(), characters.next()) {
            (Some(only), None) => Some(self.character(only)).filter(|s| *s != FROZEN),
            _ => vocab.id(text).filter(|id| vocab.kinds[*id as usize].is_text()),
        }
    }

    #[inline]
    pub(super) fn character(&self, character: char) -> Symbol {
        match self.plane.get(character as usize) {
            Some(symbol) => *symbol,
            None => self.astral.get(&character).copied().unwrap_or(FROZEN),
        }
    }

    #[inline]
    pub(super) fn merge(&self, left: Symbol, right: Symbol) -> Option<Merge> {
        self.merges.get(left, right)
    }

    /// Whether some piece has these two characters side by side; if not, no merge ever joins them.
    #[inline]
    pub(super) fn may_join(&self, left: char, right: char) -> bool {
        self.bigrams.contains(left, right)
    }

    /// The id of a symbol that is a piece.
    #[inline]
    pub(super) fn piece(&self, symbol: Symbol) -> Option<u32> {
        (symbol < self.pieces).then_some(symbol)
    }

    pub(super) fn is_unused(&self, id: u32) -> bool {
        self.unused[id as usize]
    }
}

fn texts<'f>(file: &'f ModelFile<'_>) -> impl Iterator<Item = (u32, &'f str)> {
    let pieces = file.pieces.iter().enumerate().filter(|(_, p)| p.kind.is_text() && p.text != "\0");
    pieces.map(|(id, piece)| (id as u32, piece.text))
}

fn ranks(file: &ModelFile<'_>) -> Vec<u32> {
    let mut scores: Vec<f32> = file.pieces.iter().map(|p| p.score).collect();
    scores.sort_unstable_by(|a, b| b.total_cmp(a));
    scores.dedup_by(|a, b| a.total_cmp(b).is_eq());
    let rank = |score: &f32| scores.partition_point(|s| s.total_cmp(score).is_gt()) as u32;
    file.pieces.iter().map(|p| rank(&p.score)).collect()
}

/// Pairs to merges, by open addressing.
#[derive(Default)]
struct Merges {
    slots: Vec<(u64, Merge)>,
    shift: u32,
}

const NO_PAIR: u64 = u64::MAX;

/// Multiplicative hashing: the high bits of the product depend on all bits of the key.
#[inline]
fn spread(key: u64) -> u64 {
    (key ^ key >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Merges {
    fn new(merges: &[((Symbol, Symbol), Merge)]) -> Self {
        let slots = (merges.len() * 2).next_power_of_two().max(16);
        let empty = (NO_PAIR, Merge { rank: 0, id: 0 });
        let mut table = Self { slots: vec![empty; slots], shift: 64 - slots.trailing_zeros() };
        for ((left, right), merge) in merges {
            let key = u64::from(*left) << 32 | u64::from(*right);
            let mut at = (spread(key) >> table.shift) as usize;
            while table.slots[at].0 != NO_PAIR {
                at = (at + 1) & (slots - 1);
            }
            table.slots[at] = (key, *merge);
        }
        table
    }

    #[inline]
    fn get(&self, left: Symbol, right: Symbol) -> Option<Merge> {
        let key = u64::from(left) << 32 | u64::from(right);
        let mut at = (spread(key) >> self.shift) as usize;
        loop {
            let (found, merge) = self.slots[at];
            if found == key {
                // Two frozen neighbours have the key of an empty slot.
                return (key != NO_PAIR).then_some(merge);
            }
            if found == NO_PAIR {
                return None;
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }
}

/// A set of character pairs that may answer yes for a few others: a filter, never wrong with no.
#[derive(Default)]
struct Bigrams {
    bits: Vec<u64>,
}

impl Bigrams {
    const LOG_BITS: u32 = 21;

    fn place(left: char, right: char) -> (usize, u64) {
        let bit = spread(u64::from(left as u32) << 32 | u64::from(right as u32)) >> (64 - Self::LOG_BITS);
        ((bit >> 6) as usize, 1 << (bit & 63))
    }

    fn insert(&mut self, left: char, right: char) {
        self.bits.resize(1 << (Self::LOG_BITS - 6), 0);
        let (word, bit) = Self::place(left, right);
        self.bits[word] |= bit;
    }

    #[inline]
    fn contains(&self, left: char, right: char) -> bool {
        let (word, bit) = Self::place(left, right);
        self.bits.get(word).is_some_and(|w| w & bit != 0)
    }
}
