//! The result of merging, found from left to right without merging.
//!
//! Tokens t1 ... tn are what merging leaves of their text if and only if merging leaves each pair
//! of neighbours alone (and each token whole). Proof: take only the merges of one pair's text from
//! the run over the whole. Each was the first of all pairs, so the first of those in the pair's
//! text: they are the run over the pair alone. Hence neighbours of a result pass the test; and
//! where all pass, no merge across a boundary is ever the first. So the longest token goes first,
//! then shorter ones, going back where none passes; each prefix of the text has one result, so a
//! place that was given up once is never tried again.
//!
//! Whether a pair passes is told by going back in time: the tokens that meet at the boundary, the
//! later one taken apart, and so on down to single symbols. A merge of two that met is done if its
//! rank comes before either was merged into something larger.

use super::merge::{Chain, Merges};
use super::trie::Trie;

/// Of a token that merging leaves whole: its last merge.
#[derive(Debug, Clone, Copy)]
struct Origin {
    left: u32,
    right: u32,
    /// One more than the rank; 0 for a symbol that no merge made.
    time: u32,
}

const NONE: u32 = u32::MAX;

pub(super) struct Cover {
    trie: Trie,
    lengths: Vec<u32>,
    /// The longest token that is a beginning of this one; `NONE` without.
    shorter: Vec<u32>,
    origins: Vec<Origin>,
    /// Tokens whose merges did not happen in the order of their ranks: pairs with them are merged.
    crooked: Vec<bool>,
}

impl Cover {
    /// `units` puts the symbols that a token is merged from into a chain; `false` where it cannot.
    pub(super) fn new(tokens: &[Vec<u8>], merges: &Merges, units: impl Fn(&[u8], &mut Chain) -> bool) -> Self {
        let mut cover = Self {
            trie: Trie::default(),
            lengths: tokens.iter().map(|token| token.len() as u32).collect(),
            shorter: vec![NONE; tokens.len()],
            origins: vec![Origin { left: 0, right: 0, time: 0 }; tokens.len()],
            crooked: vec![false; tokens.len()],
        };
        let mut chain = Chain::default();
        let mut whole = Vec::new();
        for (id, token) in tokens.iter().enumerate().filter(|(_, token)| !token.is_empty()) {
            chain.clear();
            if !units(token, &mut chain) {
                continue;
            }
            chain.run(merges);
            if !chain.symbols().map(|link| link.id).eq([id as u32]) {
                continue;
            }
            if let Some((left, right, rank)) = chain.last {
                cover.origins[id] = Origin { left, right, time: rank + 1 };
            }
            cover.crooked[id] = !chain.rising;
            whole.push((token.as_slice(), id as u32));
        }
        whole.sort_unstable();
        cover.trie = Trie::new(&whole);
        for (token, id) in whole {
            cover.shorter[id as usize] = cover.trie.longest(&token[..token.len() - 1]).unwrap_or(NONE);
        }
        cover
    }

    /// In bytes.
    #[inline]
    pub(super) fn length(&self, token: u32) -> usize {
        self.lengths[token as usize] as usize
    }

    /// Whether merging leaves two tokens as they are, side by side.
    #[inline]
    fn stays_apart(&self, merges: &Merges, chain: &mut Chain, mut left: u32, mut right: u32) -> bool {
        if self.crooked[left as usize] || self.crooked[right as usize] {
            return self.is_apart_after_merging(merges, chain, left, right);
        }
        let mut limit = u32::MAX;
        loop {
            if merges.get(left, right).is_some_and(|merge| merge.rank < limit) {
                return false;
            }
            let (before, after) = (self.origins[left as usize], self.origins[right as usize]);
            if before.time > after.time {
                // Of equal ranks the merge further left, this one, goes first.
                (limit, left) = (before.time - 1, before.right);
            } else if after.time > 0 {
                (limit, right) = (after.time, after.left);
            } else {
                return true;
            }
        }
    }

    #[cold]
    fn is_apart_after_merging(&self, merges: &Merges, chain: &mut Chain, left: u32, right: u32) -> bool {
        chain.clear();
        let mut tokens = vec![right, left];
        while let Some(token) = tokens.pop() {
            let origin = self.origins[token as usize];
            if origin.time == 0 {
                chain.push(token, self.lengths[token as usize] as usize);
            } else {
                tokens.extend([origin.right, origin.left]);
            }
        }
        chain.run(merges);
        chain.symbols().map(|link| link.id).eq([left, right])
    }
}

/// The buffers of one thread.
#[derive(Default)]
pub(super) struct Walker {
    pub(super) tokens: Vec<u32>,
    /// Bits of the places that were given up.
    dead: Vec<u64>,
    chain: Chain,
    /// What was found out about pairs: left, right and the answer, at a place told by the pair.
    known: Vec<u64>,
}

/// Pairs that are remembered.
const PAIRS: usize = 1 << 14;

impl Walker {
    /// Leaves the tokens of `text` in `tokens`; `false` where it has a symbol without token.
    #[inline]
    pub(super) fn run(&mut self, cover: &Cover, merges: &Merges, text: &[u8]) -> bool {
        self.tokens.clear();
        self.dead.clear();
        self.dead.resize(text.len() / 64 + 1, 0);
        let mut at = 0;
        while at < text.len() {
            let Some(mut token) = cover.trie.longest(&text[at..]) else { return false };
            while !self.fits(cover, merges, at, token) {
                // A shorter one; without any, the last token was wrong.
                loop {
                    let shorter = cover.shorter[token as usize];
                    if shorter != NONE {
                        token = shorter;
                        break;
                    }
                    self.dead[at / 64] |= 1 << (at % 64);
                    let Some(last) = self.tokens.pop() else { return false };
                    at -= cover.lengths[last as usize] as usize;
                    token = last;
                }
            }
            self.tokens.push(token);
            at += cover.lengths[token as usize] as usize;
        }
        true
    }

    #[inline]
    fn fits(&mut self, cover: &Cover, merges: &Merges, at: usize, token: u32) -> bool {
        let end = at + cover.lengths[token as usize] as usize;
        if self.dead[end / 64] >> (end % 64) & 1 == 1 {
            return false;
        }
        match self.tokens.last() {
            Some(last) => self.stays_apart(cover, merges, *last, token),
            None => true,
        }
    }

    /// As `Cover::stays_apart`: text repeats its pairs.
    #[inline]
    fn stays_apart(&mut self, cover: &Cover, merges: &Merges, left: u32, right: u32) -> bool {
        // Ids have at most 24 bits; 0 is no pair.
        let pair = (u64::from(left) << 32 | u64::from(right)) + 1;
        let slot = (pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - PAIRS.trailing_zeros())) as usize;
        let Some(known) = self.known.get_mut(slot) else {
            self.known.resize(PAIRS, 0);
            return cover.stays_apart(merges, &mut self.chain, left, right);
        };
        if *known >> 1 != pair {
            let apart = cover.stays_apart(merges, &mut self.chain, left, right);
            *known = pair << 1 | u64::from(apart);
        }
        *known & 1 == 1
    }
}
