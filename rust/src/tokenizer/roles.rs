//! What each character may do to the text, so that text which stays as it is is copied in runs.

use super::charsmap::{Charsmap, Role};
use super::symbols::Symbols;

/// Changes by itself, or may begin a symbol: the normaliser must look.
pub(super) const CHANGES: u8 = 1;
/// Begins rules, but only together with what follows.
pub(super) const STARTS: u8 = 2;
/// May follow a `STARTS` in a rule.
pub(super) const SECOND: u8 = 4;
const PLANE: usize = 1 << 16;

/// Roles of the characters of the basic plane, and one for all others.
pub(super) struct Roles {
    /// Empty where only spaces change.
    table: Vec<u8>,
    others: u8,
}

impl Roles {
    pub(super) fn new(charsmap: Option<&Charsmap>, symbols: &Symbols) -> Self {
        if charsmap.is_none() && symbols.first_characters().next().is_none() {
            return Self { table: Vec::new(), others: 0 };
        }
        let (mut table, mut others) = (vec![0; PLANE], 0);
        if let Some(map) = charsmap {
            others = CHANGES | SECOND;
            let mut seconds = Vec::new();
            for character in (0..PLANE as u32).filter_map(char::from_u32) {
                match map.role(character) {
                    Role::Inert => {}
                    Role::Changes => table[character as usize] |= CHANGES,
                    Role::Starts => {
                        table[character as usize] |= STARTS;
                        map.seconds(character, &mut |second| seconds.push(second));
                    }
                }
            }
            for second in seconds {
                // Those of other planes have it below.
                if let Some(role) = table.get_mut(second as usize) {
                    *role |= SECOND;
                }
            }
        }
        for first in symbols.first_characters() {
            match table.get_mut(first as usize) {
                Some(role) => *role |= CHANGES,
                None => others |= CHANGES,
            }
        }
        Self { table, others }
    }

    #[inline(always)]
    pub(super) fn get(&self, character: char) -> u8 {
        match self.table.get(character as usize) {
            Some(role) => *role,
            None => self.others,
        }
    }

    /// The roles of every character beyond the basic plane.
    pub(super) fn others(&self) -> u8 {
        self.others
    }

    /// Whether a space by itself is nothing but a space.
    pub(super) fn space_is_plain(&self) -> bool {
        self.table.get(usize::from(b' ')).is_none_or(|role| *role & (CHANGES | STARTS) == 0)
    }

    /// Bytes of the longest beginning of `text` without a space whose characters stay as they are.
    #[inline]
    pub(super) fn still(&self, text: &str) -> usize {
        if self.table.is_empty() {
            return memchr::memchr(b' ', text.as_bytes()).unwrap_or(text.len());
        }
        let (mut asks, mut before) = (CHANGES, 0);
        for (at, character) in text.char_indices() {
            let role = self.get(character);
            if role & asks != 0 || character == ' ' {
                // The start of a rule that goes on, or may, is looked at as a whole.
                return if role & asks & SECOND != 0 { before } else { at };
            }
            // A start of rules asks of the next character whether it goes on.
            asks = CHANGES | (role & STARTS) << 1;
            before = at;
        }
        text.len()
    }
}
