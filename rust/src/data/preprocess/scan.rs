//! A quick reading of one JSON line, for the lines that nearly all files consist of.
//!
//! It gives what serde_json gives, or nothing: whatever it is not sure of, mistakes included, is left
//! to serde_json, which then also finds the words for what is wrong.

use super::texts::Place;

/// Of values within values; deeper ones are left to serde_json.
const DEPTH: usize = 64;

/// The strings under `keys` of the object in `line`, in the order of `keys`; of a key that stands there
/// twice the last one. Strings with escapes are appended to `store`.
pub(super) fn texts<'l>(line: &'l str, keys: &[String], store: &mut String) -> Option<Vec<Place<'l>>> {
    let mut found = vec![None; keys.len()];
    let mut scanner = Scanner { line, at: 0 };
    scanner.object(|scanner, key| {
        match keys.iter().position(|wanted| wanted == key) {
            Some(slot) => found[slot] = Some(scanner.text(store)?),
            None => scanner.skip(DEPTH)?,
        }
        Some(())
    })?;
    scanner.end()?;
    found.into_iter().collect()
}

struct Scanner<'l> {
    line: &'l str,
    at: usize,
}

impl<'l> Scanner<'l> {
    fn rest(&self) -> &'l [u8] {
        &self.line.as_bytes()[self.at..]
    }

    /// The next byte that is no white space, without taking it.
    #[inline]
    fn peek(&mut self) -> Option<u8> {
        let rest = self.rest();
        let at = rest.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))?;
        self.at += at;
        Some(rest[at])
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    fn end(&mut self) -> Option<()> {
        self.peek().is_none().then_some(())
    }

    /// An object; `value` reads what stands under each key.
    fn object(&mut self, mut value: impl FnMut(&mut Self, &str) -> Option<()>) -> Option<()> {
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            let key = self.key()?;
            self.expect(b':')?;
            value(self, key)?;
            match self.next()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        self.expect(b'[')?;
        if self.peek()? == b']' {
            self.at += 1;
            return Some(());
        }
        loop {
            self.skip(depth)?;
            match self.next()? {
                b',' => {}
                b']' => return Some(()),
                _ => return None,
            }
        }
    }

    /// A key without escapes.
    fn key(&mut self) -> Option<&'l str> {
        self.expect(b'"')?;
        let start = self.at;
        self.plain();
        let key = &self.line[start..self.at];
        self.expect_here(b'"')?;
        Some(key)
    }

    fn text(&mut self, store: &mut String) -> Option<Place<'l>> {
        self.expect(b'"')?;
        let start = self.at;
        self.plain();
        if self.rest().first() == Some(&b'"') {
            self.at += 1;
            return Some(Place::Line(&self.line[start..self.at - 1]));
        }
        let stored = store.len();
        store.push_str(&self.line[start..self.at]);
        loop {
            match self.rest().first()? {
                b'"' => break,
                b'\\' => store.push(self.escape()?),
                byte if *byte < b' ' => return None,
                _ => {
                    let start = self.at;
                    self.plain();
                    store.push_str(&self.line[start..self.at]);
                }
            }
        }
        self.at += 1;
        Some(Place::Stored(stored..store.len()))
    }

    /// The character that an escape stands for.
    #[inline]
    fn escape(&mut self) -> Option<char> {
        let kind = *self.rest().get(1)?;
        self.at += 2;
        Some(match kind {
            b'n' => '\n',
            b'u' => return self.hex_escape(),
            b'"' | b'\\' | b'/' => char::from(kind),
            b't' => '\t',
            b'r' => '\r',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            _ => return None,
        })
    }

    #[inline]
    fn hex_escape(&mut self) -> Option<char> {
        let high = self.hex()?;
        if !(0xd800..0xdc00).contains(&high) {
            // A low half alone is no character.
            return char::from_u32(high);
        }
        self.rest().starts_with(b"\\u").then_some(())?;
        self.at += 2;
        let low = self.hex()?;
        let low = (0xdc00..0xe000).contains(&low).then(|| low - 0xdc00)?;
        char::from_u32(0x10000 + ((high - 0xd800) << 10 | low))
    }

    #[inline]
    fn hex(&mut self) -> Option<u32> {
        let digits = self.rest().first_chunk::<4>()?.map(|digit| HEX[usize::from(digit)]);
        self.at += 4;
        let valid = digits.iter().fold(0, |all, digit| all | digit) < 16;
        valid.then(|| digits.iter().fold(0, |value, digit| value << 4 | u32::from(*digit)))
    }

    fn skip_string(&mut self) -> Option<()> {
        self.expect(b'"')?;
        loop {
            self.plain();
            let rest = self.rest();
            match (rest.first()?, rest.get(1)?) {
                (b'"', _) => break,
                (b'\\', b'u') => {
                    self.at += 2;
                    self.hex()?; // halves of pairs too: nobody reads it
                }
                (b'\\', b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
                _ => return None,
            }
        }
        self.at += 1;
        Some(())
    }

    /// Any value, with `depth` levels below it.
    fn skip(&mut self, depth: usize) -> Option<()> {
        match self.peek()? {
            b'"' => self.skip_string(),
            b'{' => self.object(|scanner, _| scanner.skip(depth.checked_sub(1)?)),
            b'[' => self.array(depth.checked_sub(1)?),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            _ => self.number(),
        }
    }

    fn word(&mut self, word: &str) -> Option<()> {
        self.rest().starts_with(word.as_bytes()).then(|| self.at += word.len())
    }

    fn number(&mut self) -> Option<()> {
        let _ = self.expect_here(b'-');
        if self.expect_here(b'0').is_none() {
            self.digits()?;
        }
        if self.expect_here(b'.').is_some() {
            self.digits()?;
        }
        if self.expect_here(b'e').or_else(|| self.expect_here(b'E')).is_some() {
            let _ = self.expect_here(b'+').or_else(|| self.expect_here(b'-'));
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let digits = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += digits;
        (digits > 0).then_some(())
    }

    fn expect_here(&mut self, byte: u8) -> Option<()> {
        (self.rest().first() == Some(&byte)).then(|| self.at += 1)
    }

    /// Passes over what stands for itself within a string.
    #[inline]
    fn plain(&mut self) {
        self.at += plain(self.rest());
    }
}

/// The value of a hexadecimal digit; 255 for any other byte.
const HEX: [u8; 256] = {
    let mut table = [255; 256];
    let mut digit = 0;
    while digit < 16 {
        let byte = b"0123456789abcdef"[digit as usize];
        table[byte as usize] = digit;
        table[byte.to_ascii_uppercase() as usize] = digit;
        digit += 1;
    }
    table
};

const BLOCK: usize = 32;

/// The number of bytes before the first quote, backslash or control character.
#[inline]
pub(super) fn plain(bytes: &[u8]) -> usize {
    // Most strings with escapes have many: the next one is near.
    let Some(first) = bytes.first_chunk::<8>() else { return plain_bytes(bytes) };
    if let Some(at) = special_in(*first) {
        return at;
    }
    let is_plain = |block: &&[u8; BLOCK]| !block.iter().fold(false, |any, byte| any | is_special(*byte));
    let blocks = bytes[8..].as_chunks::<BLOCK>().0.iter().take_while(is_plain).count();
    let mut at = 8 + blocks * BLOCK;
    while let Some(word) = bytes[at..].first_chunk::<8>() {
        if let Some(special) = special_in(*word) {
            return at + special;
        }
        at += 8;
    }
    at + plain_bytes(&bytes[at..])
}

fn plain_bytes(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| !is_special(**byte)).count()
}

#[inline(always)]
fn is_special(byte: u8) -> bool {
    (byte == b'"') | (byte == b'\\') | (byte < b' ')
}

/// The place of the first special byte among eight, all looked at in one word: subtracting one (or 32)
/// from each byte borrows into its top bit where it was smaller. Borrows reach only later bytes.
#[inline(always)]
fn special_in(bytes: [u8; 8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    let word = u64::from_le_bytes(bytes);
    let below = |word: u64, bound: u8| word.wrapping_sub(ONES * u64::from(bound)) & !word;
    let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let special = (below(word, b' ') | equal(b'"') | equal(b'\\')) & (ONES << 7);
    (special != 0).then(|| special.trailing_zeros() as usize / 8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::json;
    use super::super::texts::Texts;
    use super::{is_special, plain, texts};

    /// What the scanner reads, serde_json reads too.
    fn agree(line: &str, keys: &[String]) -> Result<bool, TestCaseError> {
        let mut all = Texts::default();
        let Some(quick) = texts(line, keys, all.store()) else { return Ok(false) };
        all.extend(quick);
        let theirs = json::by_serde(line, keys);
        prop_assert_eq!(Ok(all.iter().map(Into::into).collect::<Vec<_>>()), theirs, "{}", line);
        Ok(true)
    }

    fn keys() -> Vec<String> {
        ["text", "k"].map(str::to_owned).to_vec()
    }

    #[test]
    fn common_lines_are_read() {
        for line in [
            r#"{"text": "東京\n\u6771\ud83d\ude00", "k": ""}"#,
            " {\"k\":\"\u{7f}\\/\\\"\\\\\\b\\f\\r\\t\",\"a\":[1,-0.5e+3,{}],\"text\":\"a\",\"text\":\"b\"} \r",
            r#"{"k": "", "x": {"a": [true, false, null, []], "b": "\ud800\n"}, "text": "a", "z": 1e999}"#,
        ] {
            assert!(agree(line, &keys()).unwrap(), "{line}");
        }
        let deep = |depth| format!(r#"{{"text": "", "k": "", "x": {}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert!(agree(&deep(60), &keys()).unwrap());
        assert!(!agree(&deep(70), &keys()).unwrap());
    }

    /// A line in the grammar of JSON, or nearly.
    fn line() -> impl Strategy<Value = String> {
        let space = prop_oneof![4 => Just(""), 1 => Just(" "), 1 => Just("\t\r")];
        let inside = prop_oneof![
            8 => "[a-z東é😀 ]{0,12}",
            2 => r#"\\[nrtbf"/\\]"#,
            2 => r"\\u[0-9a-fA-F]{4}",
            1 => r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}",
            1 => "[\\x00-\\x7f]{0,2}",
        ];
        let string = prop::collection::vec(inside, 0..6).prop_map(|parts| format!("\"{}\"", parts.concat()));
        let other = prop_oneof!["-?[0-9]{1,3}(\\.[0-9]{0,2})?([eE][+-]?[0-9]{0,2})?", "true|false|null|nul|NaN|-"];
        let value = prop_oneof![4 => string.clone(), 1 => other.clone()];
        let leaf = prop_oneof![string.clone(), other];
        let nested = leaf.prop_recursive(3, 12, 3, move |inner| {
            let pair = (string.clone(), inner.clone()).prop_map(|(key, value)| format!("{key}:{value}"));
            prop_oneof![
                prop::collection::vec(inner, 0..3).prop_map(|parts| format!("[{}]", parts.join(","))),
                prop::collection::vec(pair, 0..3).prop_map(|parts| format!("{{{}}}", parts.join(", "))),
            ]
        });
        let key =
            prop_oneof![3 => Just("\"text\""), 3 => Just("\"k\""), 1 => Just("\"x\""), 1 => Just("\"te\\u0078t\"")];
        let member = (space.clone(), key, space.clone(), prop_oneof![3 => value, 1 => nested], space)
            .prop_map(|(a, key, b, value, c)| format!("{a}{key}{b}:{c}{value}{a}"));
        let end = prop_oneof![8 => Just("}"), 1 => Just("} \r"), 1 => Just("},"), 1 => Just("}}"), 1 => Just("")];
        (prop::collection::vec(member, 0..5), end).prop_map(|(parts, end)| format!("{{{}{end}", parts.join(",")))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn what_is_read_is_what_serde_reads(line in line()) {
            agree(&line, &keys())?;
        }

        /// Every byte of a good line, changed to any other.
        #[test]
        fn one_wrong_character(at in 0usize..60, other in any::<char>()) {
            let line = "{\"text\": \"a\\u6771\\n東\", \"k\": \"\", \"n\": [1.5e3, null, {\"a\": \"\\\\\"}]}";
            let changed = line.chars().enumerate().map(|(i, c)| if i == at { other } else { c }).collect::<String>();
            agree(&changed, &keys())?;
        }

        #[test]
        fn plain_bytes_are_counted(bytes in prop::collection::vec(prop_oneof![40 => 33u8..=91, 20 => 93u8..=255, 1 => 0u8..=255], 0..200)) {
            prop_assert_eq!(plain(&bytes), bytes.iter().take_while(|byte| !is_special(**byte)).count());
        }
    }
}
