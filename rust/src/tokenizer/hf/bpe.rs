//! BPE models with a list of merges, over bytes or over characters with byte fallback.

use std::collections::HashMap;

use super::cover::{Cover, Walker};
use super::json::At;
use super::letters::Letters;
use super::merge::{Chain, Merges};
use super::names::Names;
use crate::error::Result;

const MAX_MERGES: usize = 1 << 24;
const NONE: u32 = u32::MAX;

pub(super) struct Bpe {
    units: Units,
    merges: Merges,
    /// `None` where merges take tokens that stand for what is in no token.
    cover: Option<Cover>,
    /// Words that are tokens as they are (`ignore_merges`).
    whole: Option<HashMap<Vec<u8>, u32>>,
    unknown: Option<u32>,
    fuse_unknown: bool,
    fallback: Option<Box<[Option<u32>; 256]>>,
}

/// The tokens that merging begins with.
enum Units {
    Bytes(Box<[u32; 256]>),
    /// The basic plane by code point, and the others.
    Characters(Vec<u32>, HashMap<char, u32>),
}

impl Bpe {
    /// # Errors
    /// `Tokenizer` naming the merge that takes or gives no token; `UnsupportedModel` naming an option.
    pub(super) fn read(at: &At<'_>, names: &Names, vocab: &[&str], byte_level: bool) -> Result<Self> {
        for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
            if at.opt_text(key)?.is_some() {
                return Err(at.refused(key));
            }
        }
        if at.get("dropout").is_some_and(|dropout| dropout.value().as_f64() != Some(0.0)) {
            return Err(at.refused("dropout"));
        }
        let named = |key: &str, token: &str| {
            let missing = || at.wrong(&format!("the {key} {token:?} is not in the vocabulary"));
            names.model_id(token).ok_or_else(missing)
        };
        let unknown = at.opt_text("unk_token")?.map(|token| named("unk_token", token)).transpose()?;
        let rules = rules(&at.need("merges")?, names)?;
        let tokens: Vec<Vec<u8>> = if byte_level {
            let letters = Letters::new();
            vocab.iter().map(|token| letters.bytes(token).unwrap_or_default()).collect()
        } else {
            vocab.iter().map(|token| token.as_bytes().to_vec()).collect()
        };
        let units = if byte_level { Units::bytes(&tokens) } else { Units::characters(vocab) };
        let fallback = at.flag("byte_fallback", false)?.then(|| names.bytes());
        if fallback.is_some() && byte_level && !units.is_complete() {
            return Err(at.refused("byte_fallback behind ByteLevel"));
        }
        let mut model = Self {
            units,
            merges: Merges::new(rules.iter().copied()),
            cover: None,
            whole: None,
            unknown,
            fuse_unknown: at.flag("fuse_unk", false)?,
            fallback,
        };
        if at.flag("ignore_merges", false)? {
            let words = tokens.iter().enumerate().filter(|(_, token)| !token.is_empty());
            model.whole = Some(words.map(|(id, token)| (token.clone(), id as u32)).collect());
        }
        if rules.iter().all(|(left, right, _)| !model.is_stand_in(*left) && !model.is_stand_in(*right)) {
            let cover = Cover::new(&tokens, &model.merges, |token, chain| model.units.push(token, chain));
            model.cover = Some(cover);
        }
        Ok(model)
    }

    /// Whether the token stands for characters that have none.
    fn is_stand_in(&self, id: u32) -> bool {
        self.unknown == Some(id) || self.fallback.as_ref().is_some_and(|bytes| bytes.contains(&Some(id)))
    }

    /// Whether all bytes of the character have tokens of their own.
    fn has_fallback(&self, character: char) -> bool {
        let mut buffer = [0; 4];
        let bytes = character.encode_utf8(&mut buffer).bytes();
        self.fallback.as_ref().is_some_and(|ids| bytes.into_iter().all(|byte| ids[usize::from(byte)].is_some()))
    }
}

/// `["a b", ...]` or `[["a", "b"], ...]` as ids: left, right, merged.
fn rules(at: &At<'_>, names: &Names) -> Result<Vec<(u32, u32, u32)>> {
    let Some(list) = at.value().as_array() else { return Err(at.wrong("expected a list")) };
    if list.len() > MAX_MERGES {
        return Err(at.wrong(&format!("more than {MAX_MERGES} merges are not supported")));
    }
    let mut rules = Vec::with_capacity(list.len());
    let mut merged = String::new();
    for (place, value) in list.iter().enumerate() {
        let (left, right) = match (value.as_str(), value.as_array().map(Vec::as_slice)) {
            (Some(line), _) if line.starts_with("#version") => continue,
            (Some(line), _) => line.split_once(' ').filter(|(_, right)| !right.contains(' ')),
            (_, Some([left, right])) => left.as_str().zip(right.as_str()),
            _ => None,
        }
        .ok_or_else(|| at.wrong(&format!("merge {place} must be \"left right\" or [\"left\", \"right\"]")))?;
        merged.clear();
        merged.push_str(left);
        merged.push_str(right);
        let id = |token: &str| {
            let missing = || at.wrong(&format!("merge {place} names {token:?}, which is not in the vocabulary"));
            names.model_id(token).ok_or_else(missing)
        };
        rules.push((id(left)?, id(right)?, id(&merged)?));
    }
    Ok(rules)
}

impl Units {
    fn bytes(tokens: &[Vec<u8>]) -> Self {
        let mut units = Box::new([NONE; 256]);
        for (id, token) in tokens.iter().enumerate() {
            if let [byte] = token[..] {
                units[usize::from(byte)] = id as u32;
            }
        }
        Self::Bytes(units)
    }

    fn characters(vocab: &[&str]) -> Self {
        let (mut plane, mut others) = (vec![NONE; 1 << 16], HashMap::new());
        for (id, token) in vocab.iter().enumerate() {
            let mut characters = token.chars();
            let (Some(only), None) = (characters.next(), characters.next()) else { continue };
            match plane.get_mut(only as usize) {
                Some(slot) => *slot = id as u32,
                None => _ = others.insert(only, id as u32),
            }
        }
        Self::Characters(plane, others)
    }

    fn is_complete(&self) -> bool {
        matches!(self, Self::Bytes(units) if !units.contains(&NONE))
    }

    /// `NONE` where there is no such token.
    #[inline]
    fn character(plane: &[u32], others: &HashMap<char, u32>, character: char) -> u32 {
        match plane.get(character as usize) {
            Some(id) => *id,
            None => others.get(&character).copied().unwrap_or(NONE),
        }
    }

    /// Puts the units of a token into a chain, `false` where one is missing.
    fn push(&self, token: &[u8], chain: &mut Chain) -> bool {
        let mut push = |id: u32, length: usize| {
            chain.push(id, length);
            id != NONE
        };
        match self {
            Self::Bytes(units) => token.iter().all(|byte| push(units[usize::from(*byte)], 1)),
            Self::Characters(plane, others) => std::str::from_utf8(token)
                .is_ok_and(|text| text.chars().all(|c| push(Self::character(plane, others, c), c.len_utf8()))),
        }
    }
}

/// The buffers of one thread.
#[derive(Default)]
pub(super) struct Merger {
    chain: Chain,
    walker: Walker,
}

impl Merger {
    /// Gives the tokens of `word` with their places in it.
    #[inline]
    pub(super) fn run(&mut self, model: &Bpe, word: &str, mut give: impl FnMut(u32, usize, usize)) {
        if let Some(id) = model.whole.as_ref().and_then(|whole| whole.get(word.as_bytes())) {
            return give(*id, 0, word.len());
        }
        let done = match (&model.cover, &model.units) {
            (Some(cover), Units::Bytes(_)) if self.walker.run(cover, &model.merges, word.as_bytes()) => {
                self.give_walked(0, cover, &mut give);
                true
            }
            (Some(cover), Units::Characters(plane, others)) => {
                self.run_characters(model, cover, (plane, others), word, &mut give)
            }
            _ => false,
        };
        if !done {
            self.merge(model, word, give);
        }
    }

    fn give_walked(&self, from: usize, cover: &Cover, give: &mut impl FnMut(u32, usize, usize)) {
        let mut at = from;
        for token in &self.walker.tokens {
            let end = at + cover.length(*token);
            give(*token, at, end);
            at = end;
        }
    }

    /// `false`, with nothing given, where a character has neither token nor byte tokens.
    fn run_characters(
        &mut self,
        model: &Bpe,
        cover: &Cover,
        (plane, others): (&[u32], &HashMap<char, u32>),
        word: &str,
        give: &mut impl FnMut(u32, usize, usize),
    ) -> bool {
        let is_known = |c: char| Units::character(plane, others, c) != NONE;
        if !word.chars().all(|c| is_known(c) || model.has_fallback(c)) {
            return false;
        }
        let mut from = 0;
        while from < word.len() {
            let rest = &word[from..];
            let known = rest.find(|c| !is_known(c)).unwrap_or(rest.len());
            if known > 0 {
                self.walker.run(cover, &model.merges, &rest.as_bytes()[..known]);
                self.give_walked(from, cover, give);
                from += known;
            }
            if let Some(character) = word[from..].chars().next() {
                model.give_bytes(character, from, give);
                from += character.len_utf8();
            }
        }
        true
    }

    /// Merging proper, with unknown characters as `tokenizers` has them.
    fn merge(&mut self, model: &Bpe, word: &str, mut give: impl FnMut(u32, usize, usize)) {
        self.chain.clear();
        match &model.units {
            Units::Bytes(units) => {
                let units = word.bytes().map(|byte| (units[usize::from(byte)], 1, None));
                model.push_units(units, &mut self.chain);
            }
            Units::Characters(plane, others) => {
                let unit = |c: char| (Units::character(plane, others, c), c.len_utf8(), Some(c));
                model.push_units(word.chars().map(unit), &mut self.chain);
            }
        }
        self.chain.run(&model.merges);
        let mut at = 0;
        for link in self.chain.symbols() {
            let end = at + link.length as usize;
            give(link.id, at, end);
            at = end;
        }
    }
}

impl Bpe {
    fn give_bytes(&self, character: char, from: usize, give: &mut impl FnMut(u32, usize, usize)) {
        let mut buffer = [0; 4];
        let bytes = character.encode_utf8(&mut buffer).bytes().enumerate();
        let ids = bytes.filter_map(|(place, byte)| Some((place, self.fallback.as_ref()?[usize::from(byte)]?)));
        ids.for_each(|(place, id)| give(id, from + place, from + place + 1));
    }

    /// An unknown unit becomes its bytes, else the unknown token, which waits for the next known
    /// unit so that more of them can join it; without an unknown token it is left out.
    fn push_units(&self, units: impl Iterator<Item = (u32, usize, Option<char>)>, chain: &mut Chain) {
        let mut waiting: Option<usize> = None;
        for (id, length, character) in units {
            if id != NONE {
                if let (Some(length), Some(unknown)) = (waiting.take(), self.unknown) {
                    chain.push(unknown, length);
                }
                chain.push(id, length);
            } else if let Some(character) = character.filter(|c| self.has_fallback(*c)) {
                self.give_bytes(character, 0, &mut |id, _, _| chain.push(id, 1));
            } else if let Some(unknown) = self.unknown {
                waiting = match waiting {
                    Some(before) if self.fuse_unknown => Some(before + length),
                    Some(before) => {
                        chain.push(unknown, before);
                        Some(length)
                    }
                    None => Some(length),
                };
            }
        }
        if let (Some(length), Some(unknown)) = (waiting, self.unknown) {
            chain.push(unknown, length);
        }
    }
}
