//! Ids back to text, as the reference writes it.

use super::model_file::Kind;
use super::normalizer::SPACE_SYMBOL;
use super::surfaces::Surfaces;
use super::tokenizer::Inner;
use super::utf8::push_lossy;
use crate::error::{Error, Result};

/// Ids that are looked at together.
const RUN: usize = 256;

/// Text under construction, with the byte pieces that wait for their character's other bytes.
struct Writer<'a> {
    model: &'a Inner,
    text: String,
    bytes: Vec<u8>,
    /// Whether a space at the beginning of the next piece is the one that encoding put there.
    at_start: bool,
}

/// # Errors
/// `UnsupportedInput` naming the place of an id outside the vocabulary.
pub(super) fn decode(model: &Inner, ids: &[u32]) -> Result<String> {
    let mut writer = Writer { model, text: String::with_capacity(ids.len() * 5), bytes: Vec::new(), at_start: true };
    let surfaces = model.surfaces.get_or_init(|| Surfaces::new(&model.vocab));
    let mut place = 0;
    while let Some(&id) = ids.get(place) {
        if writer.bytes.is_empty() && !writer.text.is_empty() {
            let done = surfaces.push(&ids[place..ids.len().min(place + RUN)], &mut writer.text);
            if done > 0 {
                place += done;
                continue;
            }
        }
        match model.vocab.byte(id) {
            Some(byte) => writer.bytes.push(byte),
            None => writer.piece(id, place)?,
        }
        place += 1;
    }
    writer.flush();
    Ok(model.denormalize(writer.text))
}

impl Writer<'_> {
    fn flush(&mut self) {
        push_lossy(&mut self.text, &self.bytes);
        self.bytes.clear();
    }

    fn piece(&mut self, id: u32, place: usize) -> Result<()> {
        self.flush();
        let vocab = &self.model.vocab;
        let piece = vocab.piece(id).ok_or_else(|| {
            let text = format!("id {id} at place {place} is outside the vocabulary of {} pieces", vocab.len());
            Error::UnsupportedInput(text)
        })?;
        self.at_start &= self.text.is_empty();
        match vocab.kinds[id as usize] {
            Kind::Control => return Ok(()),
            Kind::Unknown => {
                let dropped = self.drop_space(piece).1;
                self.text.push_str(&self.model.unk_surface);
                self.at_start &= !dropped && self.text.is_empty();
            }
            _ => {
                let (rest, dropped) = self.drop_space(piece);
                self.push_unescaped(rest);
                self.at_start &= !dropped && self.text.is_empty();
            }
        }
        Ok(())
    }

    /// The piece without the space that encoding put first, and whether no further one goes.
    fn drop_space<'p>(&self, piece: &'p str) -> (&'p str, bool) {
        let normalizer = &self.model.normalizer;
        if !self.at_start || !(normalizer.adds_dummy_prefix() || normalizer.removes_extra_whitespaces()) {
            return (piece, false);
        }
        match piece.strip_prefix(SPACE_SYMBOL) {
            Some(rest) => (rest, !normalizer.removes_extra_whitespaces()),
            None => (piece, false),
        }
    }

    fn push_unescaped(&mut self, piece: &str) {
        let mut parts = piece.split(SPACE_SYMBOL);
        self.text.push_str(parts.next().unwrap_or_default());
        for part in parts {
            self.text.push(' ');
            self.text.push_str(part);
        }
    }
}
