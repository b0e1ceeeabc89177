//! Text to the codes of its normalised characters in one pass.
//!
//! Most characters of most texts stay as they are. A table says for each which ones do not, or
//! might not with the character that follows; only these are handed to the normaliser.

use super::codes::Codes;
use super::normalizer::Normalizer;
use super::roles;
use super::unigram::{Block, Source};

/// Bits of a table entry above the code: what `roles` knows of the character.
const ROLE: u32 = 16;
const CHANGES: u32 = (roles::CHANGES as u32) << ROLE;
const STARTS: u32 = (roles::STARTS as u32) << ROLE;
const SECOND: u32 = (roles::SECOND as u32) << ROLE;
const PLANE: u32 = 1 << 16;

/// Code and role of each character of the basic plane.
#[derive(Default)]
pub(super) struct Alphabet {
    table: Vec<u32>,
    /// The roles of all others.
    others: u32,
}

impl Alphabet {
    pub(super) fn new(codes: &Codes, normalizer: &Normalizer) -> Self {
        let roles = &normalizer.roles;
        let entry = |c: char| codes.get(c) | u32::from(roles.get(c)) << ROLE;
        let mut table: Vec<u32> = (0..PLANE).map(|c| char::from_u32(c).map_or(0, entry)).collect();
        // A space that only turns into its symbol, or not even that, is like any other character.
        let space = codes.get(normalizer.space_symbol());
        let entry = &mut table[usize::from(b' ')];
        let lone = *entry >> 16 == 0 && !normalizer.removes_extra_whitespaces();
        *entry = if lone { space } else { space | *entry >> 16 << 16 | CHANGES };
        Self { table, others: u32::from(roles.others()) << ROLE }
    }

    #[inline(always)]
    fn get(&self, codes: &Codes, character: char) -> u32 {
        match self.table.get(character as usize) {
            Some(entry) => *entry,
            None => codes.get(character) | self.others,
        }
    }
}

/// A text that is being read.
pub(super) struct Reader<'t> {
    alphabet: &'t Alphabet,
    normalizer: &'t Normalizer,
    text: &'t str,
    at: usize,
    /// The space in front is still to come.
    prefix: bool,
    /// Whether spaces are left out here.
    after_space: bool,
}

impl<'t> Reader<'t> {
    pub(super) fn new(alphabet: &'t Alphabet, normalizer: &'t Normalizer, text: &'t str) -> Self {
        let at = normalizer.leading_spaces(text.as_bytes());
        let prefix = at < text.len() && normalizer.adds_dummy_prefix() && !normalizer.whitespace_as_suffix;
        Self { alphabet, normalizer, text, at, prefix, after_space: normalizer.removes_extra_whitespaces() }
    }

    /// Reads characters that stay as they are, up to `full` in the block or to one that asks for
    /// the normaliser; gives whether there is one at `at`.
    #[inline(always)]
    fn run(&mut self, codes: &Codes, block: &mut Block, full: usize) -> bool {
        let rest = &self.text[self.at..];
        let room = full.saturating_sub(block.len()).min(rest.len());
        let (space, mut asks, mut halts) = (self.normalizer.space_symbol(), CHANGES, false);
        let mut read = 0;
        let mut characters = rest.chars();
        let mut before = characters.clone();
        let (slots, others) = block.room(room);
        for (code, slot) in slots.iter_mut().zip(others) {
            let here = characters.clone();
            let Some(character) = characters.next() else { break };
            let entry = self.alphabet.get(codes, character);
            if entry & asks != 0 {
                halts = true;
                let with_last = entry & asks & SECOND != 0;
                characters = if with_last { before.clone() } else { here };
                read -= usize::from(with_last);
                break;
            }
            before = here;
            // A start of rules asks of the next character whether it goes on.
            asks = CHANGES | (entry & STARTS) << 1;
            *code = entry as u16;
            *slot = if character == ' ' { space } else { character };
            read += 1;
        }
        if !halts && asks & SECOND != 0 {
            let next = characters.clone().next();
            if next.is_some_and(|next| self.alphabet.get(codes, next) & SECOND != 0) {
                (characters, halts) = (before, true);
                read -= 1;
            }
        }
        block.take(read);
        self.at = self.text.len() - characters.as_str().len();
        if read > 0 {
            self.after_space = false;
        }
        halts
    }

    /// Reads one rule, symbol or character by way of the normaliser.
    fn normalize(&mut self, codes: &Codes, block: &mut Block) {
        let normalizer = self.normalizer;
        let (mut text, length) = normalizer.prefix(&self.text.as_bytes()[self.at..]);
        self.at += length;
        if self.after_space {
            text = text.trim_start_matches(' ');
        }
        for character in text.chars() {
            push(codes, block, if character == ' ' { normalizer.space_symbol() } else { character });
        }
        if !text.is_empty() {
            self.after_space = normalizer.removes_extra_whitespaces() && text.ends_with(' ');
        }
    }
}

fn push(codes: &Codes, block: &mut Block, character: char) {
    block.push(codes.get(character) as u16, character);
}

impl Source for Reader<'_> {
    #[inline(always)]
    fn read(&mut self, codes: &Codes, block: &mut Block, full: usize) -> bool {
        let (start, normalizer) = (block.len(), self.normalizer);
        let space = normalizer.space_symbol();
        if self.at == self.text.len() {
            return true;
        }
        if std::mem::take(&mut self.prefix) {
            push(codes, block, space);
        }
        loop {
            // Spaces at the end may have to go again, so a block does not end with one.
            let ends = normalizer.removes_extra_whitespaces() && block.last() == Some(space);
            let full = if ends { full.max(block.len() + 1) } else { full };
            if self.at == self.text.len() {
                break;
            }
            if block.len() >= full {
                return false;
            }
            if self.run(codes, block, full) {
                self.normalize(codes, block);
            }
        }
        while normalizer.removes_extra_whitespaces() && block.len() > start && block.last() == Some(space) {
            block.pop();
        }
        if normalizer.adds_dummy_prefix() && normalizer.whitespace_as_suffix {
            push(codes, block, space);
        }
        true
    }
}
