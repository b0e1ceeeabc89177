//! The tokens of a `tokenizer.json` by id and, those of the model, by name.

use std::collections::HashMap;

use super::added::AddedToken;
use super::json::At;
use crate::error::{Error, Result};

/// No real file comes near these; they bound the memory that a hostile file can claim.
pub(super) const MAX_TOKENS: usize = 1 << 22;
pub(super) const MAX_TOKEN_BYTES: usize = 8000;

pub(super) struct Names {
    texts: Vec<Box<str>>,
    model: HashMap<Box<str>, u32>,
    added: Vec<bool>,
    special: Vec<bool>,
    /// Tokens that decode to another text than their own: their normalised form.
    written: HashMap<u32, Box<str>>,
}

impl Names {
    /// `vocab`: the model's tokens in order of their ids.
    ///
    /// # Errors
    /// `Tokenizer` for a token that is there twice, or an added one whose id is not the model's
    /// and not the next free one.
    pub(super) fn new(at: &At<'_>, vocab: &[&str], added: &[AddedToken<'_>]) -> Result<Self> {
        let model = HashMap::with_capacity(vocab.len());
        let mut names =
            Self { texts: Vec::new(), model, added: Vec::new(), special: Vec::new(), written: HashMap::new() };
        for (id, text) in vocab.iter().enumerate() {
            names.check(at, text)?;
            if names.model.insert((*text).into(), id as u32).is_some() {
                return Err(at.wrong(&format!("the token {text:?} is there twice in the vocabulary")));
            }
            names.texts.push((*text).into());
        }
        let mut beyond: HashMap<&str, u32> = HashMap::new();
        for token in added {
            let known = names.model.get(token.content).or_else(|| beyond.get(token.content)).copied();
            let id = known.unwrap_or(names.texts.len() as u32);
            if id != token.id {
                return Err(at.wrong(&format!(
                    "the added token {:?} has id {}, but {} id {id}",
                    token.content,
                    token.id,
                    if known.is_some() { "the same token has" } else { "the next free one is" }
                )));
            }
            if known.is_none() {
                names.check(at, token.content)?;
                beyond.insert(token.content, id);
                names.texts.push(token.content.into());
            }
        }
        names.special = vec![false; names.texts.len()];
        names.added = names.special.clone();
        for token in added {
            names.added[token.id as usize] = true;
            names.special[token.id as usize] |= token.special;
        }
        Ok(names)
    }

    fn check(&self, at: &At<'_>, text: &str) -> Result<()> {
        if text.len() > MAX_TOKEN_BYTES {
            return Err(at.wrong(&format!("token {} is longer than {MAX_TOKEN_BYTES} bytes", self.texts.len())));
        }
        if self.texts.len() >= MAX_TOKENS {
            return Err(at.wrong(&format!("more than {MAX_TOKENS} tokens are not supported")));
        }
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    /// Every token with its id, in order.
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, &str)> {
        self.texts.iter().enumerate().map(|(id, text)| (id as u32, &**text))
    }

    pub(super) fn is_added(&self, id: u32) -> bool {
        self.added[id as usize]
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        self.special[id as usize]
    }

    /// Says what an added token decodes to.
    pub(super) fn set_written(&mut self, id: u32, text: &str) {
        self.written.insert(id, text.into());
    }

    pub(super) fn written(&self, id: u32) -> Option<&str> {
        self.written.get(&id).map(|text| &**text)
    }

    /// # Errors
    /// `UnsupportedInput` naming the place of an id outside the vocabulary.
    pub(super) fn text(&self, id: u32, place: usize) -> Result<&str> {
        self.texts.get(id as usize).map(|text| &**text).ok_or_else(|| {
            let text = format!("id {id} at place {place} is outside the vocabulary of {} pieces", self.len());
            Error::UnsupportedInput(text)
        })
    }

    /// In bytes, of a token that is there.
    pub(super) fn length(&self, id: u32) -> usize {
        self.texts[id as usize].len()
    }

    pub(super) fn model_id(&self, text: &str) -> Option<u32> {
        self.model.get(text).copied()
    }

    /// The ids of `<0x00>` to `<0xFF>`.
    pub(super) fn bytes(&self) -> Box<[Option<u32>; 256]> {
        let mut bytes = Box::new([None; 256]);
        for (byte, id) in bytes.iter_mut().enumerate() {
            *id = self.model_id(&format!("<0x{byte:02X}>"));
        }
        bytes
    }
}
