//! Finding all pairs of the line that occur often enough.

use rayon::prelude::*;

use super::Trainer;
use super::queue::Candidate;
use crate::error::Result;
use crate::tokenizer::train::progress::Progress;
use crate::tokenizer::train::text::FIRST;

/// Between two questions whether to stop.
const CELLS_A_CHECK: usize = 1 << 16;
/// No pair: its halves would be cells inside a symbol.
const EMPTY: u64 = u64::MAX;

/// All pairs that may become pieces and occur at least `floor` times (and once), by their halves.
/// Each thread goes over the whole line and keeps the pairs of its share.
pub(super) fn pairs(trainer: &Trainer, progress: &Progress<'_>) -> Result<Vec<Candidate>> {
    let shares = rayon::current_num_threads().max(1);
    let found: Vec<Vec<Candidate>> =
        (0..shares).into_par_iter().map(|share| of_share(trainer, share, shares, progress)).collect::<Result<_>>()?;
    let mut found: Vec<Candidate> = found.into_iter().flatten().collect();
    found.par_sort_unstable_by_key(|pair| (pair.left, pair.right));
    Ok(found)
}

fn of_share(trainer: &Trainer, share: usize, shares: usize, progress: &Progress<'_>) -> Result<Vec<Candidate>> {
    let mut counts = Table::new();
    let mut weights = trainer.line.weights();
    walk(trainer, share, shares, progress, |key, hash, place| *counts.entry(key, hash) += weights.at(place))?;
    let mut pairs: Vec<Candidate> = counts
        .entries()
        .map(|(key, count)| Candidate { left: (key >> 32) as u32, right: key as u32, count, places: Vec::new() })
        .filter(|pair| pair.count >= trainer.floor && trainer.is_candidate(pair.left, pair.right))
        .collect();
    drop(counts);
    let mut index = Table::new();
    for (at, pair) in pairs.iter().enumerate() {
        let key = key(pair.left, pair.right);
        *index.entry(key, hash(key)) = at as u64;
    }
    walk(trainer, share, shares, progress, |key, hash, place| {
        if let Some(at) = index.get(key, hash) {
            pairs[at as usize].places.push(place);
        }
    })?;
    pairs.iter_mut().for_each(|pair| pair.places.shrink_to_fit());
    Ok(pairs)
}

/// Hands on the pairs of a share: key, hash, place.
fn walk(
    trainer: &Trainer,
    share: usize,
    shares: usize,
    progress: &Progress<'_>,
    mut take: impl FnMut(u64, u64, u32),
) -> Result<()> {
    let (line, inventory) = (&trainer.line, &trainer.inventory);
    let (mut place, mut next_check) = (0, 0);
    let mut left = line.symbol(0);
    loop {
        if place >= next_check {
            progress.check()?;
            next_check = place + CELLS_A_CHECK;
        }
        let next = place + inventory.length(left);
        if next >= line.len() {
            return Ok(());
        }
        let right = line.symbol(next as u32);
        if left >= FIRST && right >= FIRST {
            let key = key(left, right);
            let hash = hash(key);
            if (u128::from(hash) * shares as u128) >> 64 == share as u128 {
                take(key, hash, place as u32);
            }
        }
        (place, left) = (next, right);
    }
}

fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// The high half chooses the share, the low half the slot.
fn hash(key: u64) -> u64 {
    let mixed = (key ^ (key >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 32)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// Open addressing from key to number.
struct Table {
    keys: Vec<u64>,
    values: Vec<u64>,
    used: usize,
}

impl Table {
    fn new() -> Self {
        Self { keys: vec![EMPTY; 1 << 10], values: vec![0; 1 << 10], used: 0 }
    }

    /// The slot of a key, or the free one where it belongs.
    #[inline]
    fn slot(&self, key: u64, hash: u64) -> usize {
        let mask = self.keys.len() - 1;
        let mut slot = (hash ^ (hash >> 32)) as usize & mask;
        while self.keys[slot] != key && self.keys[slot] != EMPTY {
            slot = (slot + 1) & mask;
        }
        slot
    }

    fn entry(&mut self, key: u64, hash: u64) -> &mut u64 {
        let mut slot = self.slot(key, hash);
        if self.keys[slot] == EMPTY {
            if self.used * 4 >= self.keys.len() * 3 {
                self.grow();
                slot = self.slot(key, hash);
            }
            self.keys[slot] = key;
            self.used += 1;
        }
        &mut self.values[slot]
    }

    fn grow(&mut self) {
        let size = 2 * self.keys.len();
        let old = std::mem::replace(self, Self { keys: vec![EMPTY; size], values: vec![0; size], used: self.used });
        for (key, value) in old.entries() {
            let slot = self.slot(key, hash(key));
            self.keys[slot] = key;
            self.values[slot] = value;
        }
    }

    fn get(&self, key: u64, hash: u64) -> Option<u64> {
        let slot = self.slot(key, hash);
        (self.keys[slot] == key).then(|| self.values[slot])
    }

    fn entries(&self) -> impl Iterator<Item = (u64, u64)> {
        self.keys.iter().copied().zip(self.values.iter().copied()).filter(|(key, _)| *key != EMPTY)
    }
}
