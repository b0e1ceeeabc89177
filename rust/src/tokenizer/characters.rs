//! Places in bytes to places in characters.

use super::places::Place;
use super::utf8::first_char;
use super::worker::Text;

/// Turns places in bytes of `text` into places in characters. A byte that is not UTF-8 is one.
pub(super) fn to_characters(places: &mut [Place], text: Text<'_>) {
    match text.valid() {
        Some(text) if text.is_ascii() => {}
        Some(text) => {
            let mut counter = Counter { text: text.as_bytes(), at: 0, number: 0 };
            for place in places {
                *place = place.map(|at| counter.number(at as usize));
            }
        }
        None => {
            let numbers = numbers(text.bytes());
            for place in places {
                *place = place.map(|at| numbers[at as usize]);
            }
        }
    }
}

/// Counts characters from one place to the next, which is near.
struct Counter<'t> {
    text: &'t [u8],
    at: usize,
    number: i64,
}

impl Counter<'_> {
    #[inline]
    fn number(&mut self, at: usize) -> i64 {
        if at > self.at {
            self.number += count(self.text, self.at, at);
        } else if at < self.at {
            self.number -= count(self.text, at, self.at);
        }
        self.at = at;
        self.number
    }
}

/// A bit in each byte.
const ONES: u64 = 0x0101_0101_0101_0101;

/// The characters that begin in `from..to`, eight bytes at a time: places are near, but a loop over
/// single bytes shows.
#[inline]
fn count(text: &[u8], mut from: usize, to: usize) -> i64 {
    let mut found = 0;
    while from < to {
        let Some(bytes) = text[from..].first_chunk::<8>() else {
            return found + text[from..to].iter().filter(|byte| **byte & 0xc0 != 0x80).count() as i64;
        };
        let word = u64::from_le_bytes(*bytes);
        let begins = (!(word >> 7) | word >> 6) & ONES;
        let asked = u64::MAX >> (64 - 8 * (to - from).min(8));
        found += ((begins & asked).wrapping_mul(ONES) >> 56) as i64;
        from += 8;
    }
    found
}

/// Of each byte, and the end, the number of its character.
fn numbers(text: &[u8]) -> Vec<i64> {
    let mut numbers = Vec::with_capacity(text.len() + 1);
    let (mut at, mut number) = (0, 0);
    while at < text.len() {
        let length = first_char(&text[at..]).map_or(1, |(_, length)| length);
        numbers.resize(at + length, number);
        at += length;
        number += 1;
    }
    numbers.push(number);
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_may_go_back() {
        let mut places = [[0, 3], [3, 4], [0, 4], [4, 8], [3, 8]];
        to_characters(&mut places, Text::Str("猫a𠮷"));
        assert_eq!(places, [[0, 1], [1, 2], [0, 2], [2, 3], [1, 3]]);
    }

    #[test]
    fn any_stretch_is_counted() {
        let text = "a猫𠮷é".repeat(6);
        let numbers = numbers(text.as_bytes());
        for from in (0..=text.len()).filter(|at| text.is_char_boundary(*at)) {
            for to in (from..=text.len()).filter(|at| text.is_char_boundary(*at)) {
                assert_eq!(count(text.as_bytes(), from, to), numbers[to] - numbers[from], "{from}..{to}");
            }
        }
    }

    #[test]
    fn a_broken_byte_is_a_character() {
        let mut places = [[0, 1], [1, 4], [4, 5], [5, 6], [6, 6]];
        to_characters(&mut places, Text::Bytes(b"\xff\xe7\x8c\xab\xe3\x81"));
        assert_eq!(places, [[0, 1], [1, 2], [2, 3], [3, 4], [4, 4]]);
    }
}
