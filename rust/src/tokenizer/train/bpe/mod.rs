//! Byte-pair encoding: the most frequent pair of neighbours becomes a symbol, again and again.
//!
//! The pieces, their order and scores are those of SentencePiece 0.2.3. What makes it cheap:
//!
//! * A pair gets all its places at the moment when its younger half is made, and only loses some
//!   later. So a count, once taken, is an upper bound: it is taken anew only when it reaches the top
//!   of the queue, and no table of all pairs is kept.
//! * For the same reason a pair below a floor can be forgotten until the queue comes down to the
//!   floor. Then the text is scanned once more with a lower floor.

mod coverage;
mod inventory;
mod line;
mod queue;
mod scan;

use std::collections::HashSet;

use inventory::Inventory;
use line::Line;
use queue::{Candidate, Queue};

use super::meta::Meta;
use super::options::Options;
use super::progress::{Progress, Stage};
use super::text::{FIRST, Text};
use super::{Trained, Valid};
use crate::error::Result;

/// A text up to this long (in characters) is done without a floor. Then a pair that has vanished
/// can still become a piece when nothing else is left, as in the reference.
const SMALL: usize = 1 << 22;
/// The first floor is the length of the text over this; each next one is lower by `STEP`.
const FIRST_FLOOR: u64 = 1 << 14;
const STEP: u64 = 16;
/// Between two questions whether to stop.
const PLACES_A_CHECK: usize = 1 << 16;

/// # Errors
/// `Interrupted`; `Tokenizer` for a text that is too long for 32-bit places.
pub(super) fn train(text: Text, options: &Options, progress: &Progress<'_>) -> Result<Trained> {
    let characters = FIRST..text.chars.len() as u32;
    let room = options.vocab_size.saturating_sub(Meta::new(options)?.len());
    let fixed = if options.auto_character_coverage { 0 } else { characters.len() };
    let (wanted, counts) = (room.saturating_sub(fixed), text.counts.clone());
    // The text is freed before the line is laid out beside its words.
    let words = if options.split_by_whitespace { { text }.split_words(options, progress)? } else { text };
    let mut trainer = Trainer::new(&words, options, wanted, progress)?;
    drop(words);
    let floor = first_floor(&trainer.line);
    let merged = trainer.run(floor, progress)?;
    if options.auto_character_coverage {
        let choice = coverage::choose(&trainer.inventory, &merged, &trainer.gains, &counts, room);
        return Ok(trainer.inventory.trained(&merged[..choice.merges], choice.characters.into_iter()));
    }
    Ok(trainer.inventory.trained(&merged, characters))
}

/// How the floor begins: `None` for no floor at all.
fn first_floor(line: &Line) -> Option<u64> {
    (line.len() > SMALL).then(|| (line.weight() / FIRST_FLOOR).max(1))
}

struct Trainer {
    valid: Valid,
    inventory: Inventory,
    line: Line,
    max_length: usize,
    /// The pieces made so far, by their codes: another pair of the same string is dropped.
    known: HashSet<Box<[u32]>>,
    /// Pairs that occur less often are not in the queue.
    floor: u64,
    queue: Queue,
    tally: Tally,
    wanted: usize,
    /// How often each pair that was merged occurred.
    gains: Vec<u64>,
}

impl Trainer {
    fn new(words: &Text, options: &Options, wanted: usize, progress: &Progress<'_>) -> Result<Self> {
        Ok(Self {
            valid: Valid::new(words, options),
            inventory: Inventory::new(words.chars.clone()),
            line: Line::new(words, progress)?,
            max_length: options.max_sentencepiece_length,
            known: HashSet::new(),
            floor: 0,
            queue: Queue::default(),
            tally: Tally::default(),
            wanted,
            gains: Vec::new(),
        })
    }

    /// The symbols made, in order.
    fn run(&mut self, floor: Option<u64>, progress: &Progress<'_>) -> Result<Vec<u32>> {
        let mut merged = Vec::new();
        self.floor = floor.unwrap_or(0);
        while merged.len() < self.wanted {
            self.queue = Queue::default();
            for (at, pair) in scan::pairs(self, progress)?.into_iter().enumerate() {
                if at % 4096 == 0 {
                    progress.check()?;
                }
                self.queue.push(pair, &self.inventory);
            }
            self.merge(&mut merged, progress)?;
            if self.floor <= 1 {
                break;
            }
            self.floor = (self.floor / STEP).max(1);
        }
        Ok(merged)
    }

    /// Merges what the queue has at or above the floor.
    fn merge(&mut self, merged: &mut Vec<u32>, progress: &Progress<'_>) -> Result<()> {
        while merged.len() < self.wanted {
            progress.step(Stage::Merge, merged.len() as u64, self.wanted as u64)?;
            let Some((mut pair, bound)) = self.queue.pop(&self.inventory) else { break };
            if self.is_known(pair.left, pair.right) {
                continue;
            }
            let count = self.recount(&mut pair);
            if count < bound {
                pair.count = count;
                if count >= self.floor {
                    self.queue.push(pair, &self.inventory);
                }
                continue;
            }
            self.gains.push(count);
            merged.push(self.accept(&pair, progress)?);
        }
        Ok(())
    }

    fn is_known(&self, left: u32, right: u32) -> bool {
        self.known.contains(self.inventory.joined(left, right).as_slice())
    }

    /// Whether a pair may become a piece at all.
    fn is_candidate(&self, left: u32, right: u32) -> bool {
        let codes = self.inventory.joined(left, right);
        self.valid.is_valid_piece(&codes) && !self.known.contains(codes.as_slice())
    }

    /// Forgets the places where the pair is no more.
    fn recount(&self, pair: &mut Candidate) -> u64 {
        let right = self.inventory.length(pair.left);
        let mut weights = self.line.weights();
        let mut count = 0;
        pair.places.retain(|place| {
            let there = self.line.is_pair(*place, right, pair.left, pair.right);
            count += if there { weights.at(*place) } else { 0 };
            there
        });
        count
    }

    /// Makes the pair a symbol wherever it stands, from left to right: of overlapping places the
    /// first wins.
    fn accept(&mut self, pair: &Candidate, progress: &Progress<'_>) -> Result<u32> {
        let (left, right) = (pair.left, pair.right);
        self.known.insert(self.inventory.joined(left, right).into_boxed_slice());
        let symbol = self.inventory.push(left, right);
        let (half, length) = (self.inventory.length(left), self.inventory.length(symbol));
        let fits = |inventory: &Inventory, neighbour: u32| {
            neighbour >= FIRST && inventory.length(neighbour) + length <= self.max_length
        };
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for places in pair.places.chunks(PLACES_A_CHECK) {
            progress.check()?;
            for &place in places {
                if !self.line.is_pair(place, half, left, right) {
                    continue; // an overlapping place came first
                }
                let previous = self.line.start_before(place);
                self.line.merge(place, half, length, symbol);
                let (prior, next) = (self.line.symbol(previous), self.line.symbol(place + length as u32));
                if fits(&self.inventory, prior) {
                    before.push((prior, previous));
                }
                if fits(&self.inventory, next) {
                    after.push((next, place));
                }
            }
        }
        self.offer(&before, |neighbour| (neighbour, symbol));
        self.offer(&after, |neighbour| (symbol, neighbour));
        Ok(symbol)
    }

    /// Queues the new pairs among `found`: neighbours and the places of the pairs.
    fn offer(&mut self, found: &[(u32, u32)], pair: impl Fn(u32) -> (u32, u32)) {
        let mut tally = std::mem::take(&mut self.tally);
        tally.resize(self.inventory.len());
        let mut weights = self.line.weights();
        for (neighbour, place) in found {
            tally.add(*neighbour, weights.at(*place));
        }
        let mut pairs = Vec::new();
        for &neighbour in &tally.seen {
            let (count, places) = tally.counts[neighbour as usize];
            let (left, right) = pair(neighbour);
            if count >= self.floor && self.is_candidate(left, right) {
                tally.slots[neighbour as usize] = pairs.len() as u32;
                pairs.push(Candidate { left, right, count, places: Vec::with_capacity(places) });
            }
        }
        for (neighbour, place) in found {
            if let Some(pair) = pairs.get_mut(tally.slots[*neighbour as usize] as usize) {
                pair.places.push(*place);
            }
        }
        tally.clear();
        self.tally = tally;
        pairs.into_iter().for_each(|pair| self.queue.push(pair, &self.inventory));
    }
}

/// Counts by neighbour, in arrays that are kept between merges.
#[derive(Default)]
struct Tally {
    counts: Vec<(u64, usize)>,
    slots: Vec<u32>,
    /// The neighbours with a count, in the order in which they came.
    seen: Vec<u32>,
}

impl Tally {
    const NONE: u32 = u32::MAX;

    fn resize(&mut self, symbols: usize) {
        self.counts.resize(symbols, (0, 0));
        self.slots.resize(symbols, Self::NONE);
    }

    fn add(&mut self, neighbour: u32, weight: u64) {
        let (count, places) = &mut self.counts[neighbour as usize];
        if *places == 0 {
            self.seen.push(neighbour);
        }
        *count += weight;
        *places += 1;
    }

    fn clear(&mut self) {
        for neighbour in self.seen.drain(..) {
            self.counts[neighbour as usize] = (0, 0);
            self.slots[neighbour as usize] = Self::NONE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of a few letters, the short ones often.
    fn words() -> Text {
        let mut text = Text { chars: "\u{1f}\u{2585}abcde".chars().collect(), ..Text::default() };
        text.counts = vec![0; text.chars.len()];
        let mut state = 1u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..3000 {
            let most = 1 + next(30);
            let length = 1 + next(most);
            for _ in 0..length {
                let letters = 1 + next(5);
                let outside = u32::from(next(50) == 0);
                text.codes.push(FIRST + next(letters) as u32 - outside);
            }
            text.ends.push(text.codes.len());
            let most = 1 + next(9);
            text.freqs.push(1 + next(most));
        }
        text
    }

    fn merged(floor: Option<u64>, wanted: usize) -> Vec<Vec<u32>> {
        let mut trainer = Trainer::new(&words(), &Options::default(), wanted, &Progress::SILENT).expect("a short text");
        let merged = trainer.run(floor, &Progress::SILENT).expect("not interrupted");
        merged.into_iter().map(|symbol| trainer.inventory.codes(symbol).to_vec()).collect()
    }

    #[test]
    fn floors_change_nothing() {
        let plain = merged(None, 1200);
        assert_eq!(plain.len(), 1200);
        for floor in [1, 2, 7, 40, 1000, 1_000_000] {
            assert_eq!(merged(Some(floor), 1200), plain, "{floor}");
        }
    }

    /// The definition, counted anew for each piece.
    fn by_definition(wanted: usize) -> Vec<Vec<u32>> {
        let text = words();
        let valid = Valid::new(&text, &Options::default());
        let start = |codes: &[u32]| codes.iter().map(|code| vec![*code]).collect::<Vec<_>>();
        let mut lines: Vec<(Vec<Vec<u32>>, u64)> = text.sentences().map(|(w, freq)| (start(w), freq)).collect();
        let (mut merged, mut dropped) = (Vec::new(), HashSet::new());
        while merged.len() < wanted {
            let mut counts = std::collections::HashMap::new();
            for (line, freq) in &lines {
                line.windows(2).for_each(|pair| *counts.entry((pair[0].clone(), pair[1].clone())).or_insert(0) += freq);
            }
            let candidates =
                counts.into_iter().map(|((left, right), count)| (count, [&left[..], &right[..]].concat(), left, right));
            let best = candidates
                .filter(|(_, piece, ..)| valid.is_valid_piece(piece))
                .filter(|(_, _, left, right)| !dropped.contains(&(left.clone(), right.clone())))
                .max_by(|a, b| a.0.cmp(&b.0).then(b.1.len().cmp(&a.1.len())).then(b.1.cmp(&a.1)));
            let Some((_, piece, left, right)) = best else { break };
            if merged.contains(&piece) {
                dropped.insert((left, right));
                continue;
            }
            for (line, _) in &mut lines {
                let mut at = 0;
                while at + 1 < line.len() {
                    if line[at] == left && line[at + 1] == right {
                        line[at] = piece.clone();
                        line.remove(at + 1);
                    }
                    at += 1;
                }
            }
            merged.push(piece);
        }
        merged
    }

    #[test]
    fn pieces_are_those_of_the_definition() {
        assert_eq!(merged(None, 150), by_definition(150));
    }
}
