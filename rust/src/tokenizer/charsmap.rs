//! A precompiled character map: a Darts double array of source strings and their replacements.
//!
//! Layout: u32 byte size of the array; units (u32, little endian, a multiple of 256 of them);
//! replacements, each ended by NUL. A unit: bits 0-7 label, 8 has a leaf, 9 and 10-30 offset,
//! 31 marks a value. The child by `byte` is `node ^ offset ^ byte`.

use crate::error::{Error, Result};

/// The reference looks at this many nested rules.
const MAX_RULES: usize = 32;

pub(super) struct Charsmap {
    units: Vec<u32>,
    replacements: String,
}

/// What a character may do to the text, by the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// No rule begins with it.
    Inert,
    /// Rules begin with it, but only together with what follows.
    Starts,
    /// It is a rule by itself.
    Changes,
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize
}

fn label(unit: u32) -> u32 {
    unit & (1 << 31 | 0xff)
}

fn has_leaf(unit: u32) -> bool {
    unit & 1 << 8 != 0
}

fn broken(what: &str) -> Error {
    Error::Tokenizer(format!("the model's character map is damaged: {what}"))
}

impl Charsmap {
    /// # Errors
    /// `Tokenizer` where sizes, offsets or replacements do not fit together.
    pub(super) fn new(blob: &[u8]) -> Result<Self> {
        let (head, rest) = blob.split_first_chunk::<4>().ok_or_else(|| broken("it has no header"))?;
        let size = u32::from_le_bytes(*head) as usize;
        if size < 1024 || !size.is_multiple_of(1024) || size >= rest.len() {
            return Err(broken(&format!("an array of {size} bytes in a blob of {}", blob.len())));
        }
        let (array, replacements) = rest.split_at(size);
        let units: Vec<u32> = array.chunks_exact(4).map(|u| u32::from_le_bytes([u[0], u[1], u[2], u[3]])).collect();
        let replacements = std::str::from_utf8(replacements).map_err(|_| broken("a replacement is not UTF-8"))?;
        if !replacements.ends_with('\0') {
            return Err(broken("the last replacement has no end"));
        }
        let map = Self { units, replacements: replacements.to_owned() };
        map.check()?;
        Ok(map)
    }

    pub(super) fn role(&self, character: char) -> Role {
        let mut node = offset(self.units[0]);
        for byte in character.encode_utf8(&mut [0; 4]).bytes() {
            let Some(next) = self.child(node, byte) else { return Role::Inert };
            if has_leaf(self.units[node ^ usize::from(byte)]) {
                return Role::Changes;
            }
            node = next;
        }
        Role::Starts
    }

    /// Where the children of the child by `byte` are; `None` without such a child.
    fn child(&self, node: usize, byte: u8) -> Option<usize> {
        let at = node ^ usize::from(byte);
        let unit = self.units[at];
        (label(unit) == u32::from(byte)).then(|| at ^ offset(unit))
    }

    /// Calls `each` with the characters that may follow `character`, which starts rules, in one.
    pub(super) fn seconds(&self, character: char, each: &mut impl FnMut(char)) {
        let mut node = offset(self.units[0]);
        for byte in character.encode_utf8(&mut [0; 4]).bytes() {
            let Some(next) = self.child(node, byte) else { return };
            node = next;
        }
        self.first_characters(node, &mut Vec::with_capacity(4), each);
    }

    fn first_characters(&self, node: usize, bytes: &mut Vec<u8>, each: &mut impl FnMut(char)) {
        // No label is 0: that byte ends a rule. Continuation bytes follow a lead byte.
        let range = if bytes.is_empty() { 1..=0xf4 } else { 0x80..=0xbf };
        for byte in range {
            let Some(next) = self.child(node, byte) else { continue };
            bytes.push(byte);
            match super::utf8::first_char(bytes) {
                Some((character, _)) => each(character),
                None if bytes.len() < 4 => self.first_characters(next, bytes, each),
                None => {}
            }
            bytes.pop();
        }
    }

    /// Every offset stays inside the array and every value is the start of a replacement.
    fn check(&self) -> Result<()> {
        let root = self.units[0];
        if label(root) != 0 || has_leaf(root) || offset(root) == 0 || offset(root) | 0xff >= self.units.len() {
            return Err(broken("its root is wrong"));
        }
        for (at, &unit) in self.units.iter().enumerate().skip(1) {
            if label(unit) > 0xff {
                let value = (unit & !(1 << 31)) as usize;
                if value >= self.replacements.len() || !self.replacements.is_char_boundary(value) {
                    return Err(broken(&format!("unit {at} points outside the replacements")));
                }
            } else {
                let next = at ^ offset(unit);
                if next | 0xff >= self.units.len() || has_leaf(unit) && label(self.units[next]) <= 0xff {
                    return Err(broken(&format!("unit {at} points outside the array")));
                }
            }
        }
        Ok(())
    }

    /// The longest rule that `input` begins with: its replacement and how many bytes it takes.
    pub(super) fn longest_rule(&self, input: &[u8]) -> Option<(&str, usize)> {
        let mut found = None;
        let mut rules = 0;
        let mut node = offset(self.units[0]);
        for (at, &byte) in input.iter().enumerate() {
            node ^= usize::from(byte);
            let unit = self.units[node];
            if label(unit) != u32::from(byte) || rules == MAX_RULES {
                break;
            }
            node ^= offset(unit);
            if has_leaf(unit) {
                found = Some((node, at + 1));
                rules += 1;
            }
        }
        found.map(|(leaf, length)| (self.replacement(leaf), length))
    }

    /// The shortest rule that `input` begins with: its replacement and how many bytes it takes.
    pub(super) fn shortest_rule(&self, input: &[u8]) -> Option<(&str, usize)> {
        let mut node = offset(self.units[0]);
        for (at, &byte) in input.iter().enumerate() {
            let leaf = has_leaf(self.units[node ^ usize::from(byte)]);
            node = self.child(node, byte).filter(|_| byte != 0)?;
            if leaf {
                return Some((self.replacement(node), at + 1));
            }
        }
        None
    }

    /// What the leaf at a place of the array stands for.
    fn replacement(&self, leaf: usize) -> &str {
        let text = &self.replacements[(self.units[leaf] & !(1 << 31)) as usize..];
        text.split('\0').next().unwrap_or_default()
    }
}
