//! SentencePiece's character map as `tokenizers` reads it.
//!
//! SentencePiece takes the longest rule at each place. Here the text is cut into grapheme clusters:
//! one of fewer than six bytes that begins with a rule is replaced whole, by the shortest such rule;
//! of any other each character is replaced by its own rule. So "¹\u{fe0f}" becomes "1", and a kana of three
//! bytes with a voicing mark of three stays two characters.

use unicode_segmentation::GraphemeCursor;

use super::super::base64;
use super::super::charsmap::{Charsmap, Role};
use super::json::At;
use super::text::Text;
use crate::error::{Error, Result};

/// Bytes of a cluster that is too long to be replaced as a whole.
const LONG: usize = 6;

/// Characters of the basic plane.
const PLANE: u32 = 1 << 16;

pub(super) struct Precompiled {
    map: Charsmap,
    /// Bits of the characters of the basic plane that no rule begins with.
    inert: Vec<u64>,
}

impl Precompiled {
    /// # Errors
    /// `Tokenizer` where the map is no base64 or damaged.
    pub(super) fn read(at: &At<'_>) -> Result<Self> {
        let at = at.need("precompiled_charsmap")?;
        let blob = base64::decode(at.text()?).ok_or_else(|| at.wrong("this is no base64"))?;
        let map = Charsmap::new(&blob).map_err(|error| match error {
            Error::Tokenizer(what) => at.wrong(&what),
            other => other,
        })?;
        let mut inert = vec![0; PLANE as usize / 64];
        for character in (0..PLANE).filter_map(char::from_u32).filter(|c| map.role(*c) == Role::Inert) {
            inert[character as usize / 64] |= 1 << (character as usize % 64);
        }
        Ok(Self { map, inert })
    }

    pub(super) fn run(&self, text: &Text, out: &mut Text) {
        let source = text.text.as_str();
        let mut writer = Writer { old: text, out, changes: Vec::new() };
        let mut at = 0;
        while at < source.len() {
            let rest = &source[at..];
            let kept = match self.quiet(rest) {
                0 => rest.chars().next().map_or(1, char::len_utf8),
                quiet => {
                    writer.keep(&rest[..quiet]);
                    at += quiet;
                    continue;
                }
            };
            at += match self.rule(source, at, kept) {
                Some((replacement, length)) => {
                    writer.replace(&rest[..length], replacement);
                    length
                }
                None => {
                    writer.keep(&rest[..kept]);
                    kept
                }
            };
        }
        writer.finish();
    }

    /// What takes the place of the cluster, or of the character of `length` bytes, at `at`, and how
    /// many bytes that is.
    fn rule(&self, text: &str, at: usize, length: usize) -> Option<(&str, usize)> {
        let (replacement, taken) = self.map.shortest_rule(&text.as_bytes()[at..])?;
        let whole = cluster(text, at).filter(|whole| *whole < LONG && taken <= *whole);
        let length = whole.or_else(|| (taken <= length).then_some(length))?;
        Some((replacement, length))
    }

    /// Bytes of the characters at the beginning that no rule begins with.
    fn quiet(&self, text: &str) -> usize {
        let is_inert = |c: char| self.inert.get(c as usize / 64).is_some_and(|bits| bits >> (c as usize % 64) & 1 == 1);
        let rule = text.char_indices().find(|(_, character)| !is_inert(*character));
        rule.map_or(text.len(), |(at, _)| at)
    }
}

/// Bytes of the grapheme cluster that begins at `at`, if one does.
fn cluster(text: &str, at: usize) -> Option<usize> {
    let mut cursor = GraphemeCursor::new(at, text.len(), true);
    if cursor.is_boundary(text, 0) != Ok(true) {
        return None;
    }
    cursor.next_boundary(text, 0).ok().flatten().map(|end| end - at)
}

/// Writes what becomes of `old`. Without places, at once; with them, when all changes are known:
/// what goes is counted to the character before it.
struct Writer<'t> {
    old: &'t Text,
    out: &'t mut Text,
    changes: Vec<Change>,
}

struct Change {
    character: char,
    /// 0 stands for one old character, -n for one and the n that follow it, 1 for none.
    by: isize,
}

impl Writer<'_> {
    /// Appends text that stays as it is.
    fn keep(&mut self, text: &str) {
        match self.old.spans {
            Some(_) => self.changes.extend(text.chars().map(|character| Change { character, by: 0 })),
            None => self.out.push_as(text, (0, 0)),
        }
    }

    /// Characters stand for those of the same number, further ones for none. Where the new text is
    /// shorter, what was written last takes the rest; at the beginning of the text nothing does, so
    /// that all that follows is placed too early, as in `tokenizers`.
    fn replace(&mut self, from: &str, to: &str) {
        self.keep(to);
        if self.old.spans.is_none() {
            return;
        }
        let (old, new) = (from.chars().count(), to.chars().count());
        self.changes.iter_mut().rev().take(new.saturating_sub(old)).for_each(|change| change.by = 1);
        if let Some(last) = self.changes.last_mut() {
            last.by -= old.saturating_sub(new) as isize;
        }
    }

    fn finish(self) {
        let Self { old, out, changes } = self;
        let mut at = 0;
        for Change { character, by } in changes {
            let span = if by > 0 { old.span_of_replacement(at, at) } else { old.span(at) };
            let used = if by > 0 { 0 } else { 1 + by.unsigned_abs() };
            at += old.text[at..].chars().take(used).map(char::len_utf8).sum::<usize>();
            out.push_as(character.encode_utf8(&mut [0; 4]), span);
        }
    }
}
