//! Characters as small numbers.

use crate::error::{Error, Result};

/// Characters to dense codes; frequent characters get small ones. 0: in no piece.
pub(super) struct Codes {
    /// The basic plane by character, the others in pages of 256 behind it.
    table: Vec<u16>,
    pages: Vec<u32>,
    count: usize,
}

const PLANE: usize = 1 << 16;

impl Codes {
    pub(super) fn new<'a>(pieces: impl Iterator<Item = &'a str>) -> Result<Self> {
        let mut counts = vec![0u32; char::MAX as usize + 1];
        pieces.flat_map(str::chars).for_each(|c| counts[c as usize] += 1);
        let used = ('\0'..=char::MAX).filter(|c| counts[*c as usize] > 0);
        let mut order: Vec<char> = used.collect();
        order.sort_by_key(|c| std::cmp::Reverse(counts[*c as usize]));
        // The last code is the label of free slots.
        if order.len() >= PLANE - 1 {
            let text = format!(
                "unigram models with {} different characters are not supported; up to {} are",
                order.len(),
                PLANE - 1
            );
            return Err(Error::UnsupportedModel(text));
        }
        // Page 0 behind the plane stays empty: characters of other planes that are in no piece.
        let mut codes = Self { table: vec![0; PLANE + 256], pages: vec![PLANE as u32; 0x1100], count: order.len() + 1 };
        for (rank, character) in order.iter().enumerate() {
            codes.set(*character, rank as u16 + 1);
        }
        Ok(codes)
    }

    fn set(&mut self, character: char, code: u16) {
        let at = character as usize;
        if at < PLANE {
            self.table[at] = code;
            return;
        }
        if self.pages[at >> 8] == PLANE as u32 {
            self.pages[at >> 8] = self.table.len() as u32;
            self.table.resize(self.table.len() + 256, 0);
        }
        self.table[self.pages[at >> 8] as usize + (at & 255)] = code;
    }

    #[inline(always)]
    pub(super) fn get(&self, character: char) -> u32 {
        let at = character as usize;
        if at < PLANE { u32::from(self.table[at]) } else { self.get_above(at) }
    }

    fn get_above(&self, at: usize) -> u32 {
        u32::from(self.table[self.pages[at >> 8] as usize + (at & 255)])
    }

    pub(super) fn of(&self, piece: &str) -> Box<[u16]> {
        piece.chars().map(|c| self.get(c) as u16).collect()
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }
}
