//! Which characters and how many merges make the fewest tokens.
//!
//! A character outside the vocabulary costs a token for each of its bytes. So a character saves its
//! count times its bytes less one, a merge saves its count. The first k merges need their own
//! characters; the room that is left goes to the characters that save most. Of all k the best is
//! taken, of equals the largest.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::inventory::Inventory;
use crate::tokenizer::train::text::FIRST;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) merges: usize,
    /// Those of the merges by code point, then the others, the one that saves most first.
    pub(super) characters: Vec<u32>,
}

/// Characters of more than one byte, the one that saves most first, and which of them are taken
/// for themselves: those before `cut` that no merge needs.
struct Alone {
    order: Vec<u32>,
    /// By code: the place in `order`, and what the character saves.
    ranks: Vec<Option<usize>>,
    saved: Vec<u64>,
    needed: Vec<bool>,
    cut: usize,
    taken: usize,
    gain: u64,
}

impl Alone {
    fn new(chars: &[char], counts: &[u64]) -> Self {
        let saved: Vec<u64> = chars.iter().zip(counts).map(|(c, count)| count * (c.len_utf8() as u64 - 1)).collect();
        let mut order: Vec<u32> = (FIRST..chars.len() as u32).filter(|code| saved[*code as usize] > 0).collect();
        let key = |code: u32| (saved[code as usize], counts[code as usize], Reverse(chars[code as usize]));
        order.sort_unstable_by_key(|code| Reverse(key(*code)));
        let mut ranks = vec![None; chars.len()];
        order.iter().enumerate().for_each(|(rank, code)| ranks[*code as usize] = Some(rank));
        let (cut, gain) = (order.len(), order.iter().map(|code| saved[*code as usize]).sum());
        Self { taken: cut, needed: vec![false; chars.len()], order, ranks, saved, cut, gain }
    }

    /// A merge needs the character; gives what it saves.
    fn need(&mut self, code: u32) -> u64 {
        self.needed[code as usize] = true;
        match self.ranks[code as usize] {
            Some(rank) if rank < self.cut => {
                self.taken -= 1;
                self.gain -= self.saved[code as usize];
                self.saved[code as usize]
            }
            Some(_) => self.saved[code as usize],
            None => 0,
        }
    }

    /// Keeps the best ones only.
    fn shrink(&mut self, room: usize) {
        while self.taken > room {
            self.cut -= 1;
            let code = self.order[self.cut] as usize;
            if !self.needed[code] {
                self.taken -= 1;
                self.gain -= self.saved[code];
            }
        }
    }
}

/// `gains`: of the merges; `counts`: of the characters by code; `room`: of the vocabulary.
pub(super) fn choose(inventory: &Inventory, merged: &[u32], gains: &[u64], counts: &[u64], room: usize) -> Choice {
    let mut alone = Alone::new(inventory.chars(), counts);
    let (mut gain, mut needed) = (0, 0);
    let (mut best, mut best_gain) = (0, 0);
    // With each merge the room shrinks by more than the characters that go over to the merges, so
    // what was given up is never wanted again.
    for merges in 0..=merged.len() {
        let Some(rest) = room.checked_sub(merges + needed) else { break };
        alone.shrink(rest);
        let total = gain + alone.gain;
        if total >= best_gain {
            (best, best_gain) = (merges, total);
        }
        let Some(symbol) = merged.get(merges) else { break };
        gain += gains[merges];
        for &code in inventory.codes(*symbol) {
            if !alone.needed[code as usize] {
                needed += 1;
                gain += alone.need(code);
            }
        }
    }
    let chars = inventory.chars();
    let of_merges: BTreeSet<(char, u32)> = merged[..best]
        .iter()
        .flat_map(|symbol| inventory.codes(*symbol))
        .map(|code| (chars[*code as usize], *code))
        .collect();
    let rest = room - best - of_merges.len();
    let others = alone.order.iter().copied().filter(|code| !of_merges.contains(&(chars[*code as usize], *code)));
    let characters = of_merges.iter().map(|(_, code)| *code).chain(others.take(rest)).collect();
    Choice { merges: best, characters }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Characters `a` and あ, い, う with their counts; merges of あい (5 times), then aあ (3 times).
    fn chosen(room: usize) -> Choice {
        let mut inventory = Inventory::new("\u{1f}\u{2585}aあいう".chars().collect());
        let merged = [inventory.push(3, 4), inventory.push(2, 3)];
        choose(&inventory, &merged, &[5, 3], &[0, 0, 9, 8, 6, 7], room)
    }

    #[test]
    fn room_goes_where_it_saves_most() {
        let choice = |merges, characters: &[u32]| Choice { merges, characters: characters.to_vec() };
        // What is saved: あ 16, い 12, う 14.
        assert_eq!(chosen(0), choice(0, &[]));
        assert_eq!(chosen(1), choice(0, &[3]));
        assert_eq!(chosen(2), choice(0, &[3, 5]));
        assert_eq!(chosen(3), choice(0, &[3, 5, 4]));
        assert_eq!(chosen(4), choice(1, &[3, 4, 5]));
        assert_eq!(chosen(5), choice(1, &[3, 4, 5]));
        assert_eq!(chosen(6), choice(2, &[2, 3, 4, 5]));
        assert_eq!(chosen(9), choice(2, &[2, 3, 4, 5]));
    }
}
