//! UTF-8 as the reference reads it: a byte that starts no valid character is an error of its own.

/// The first character of `bytes` and its length; `None` where the first byte begins none.
#[inline]
pub(super) fn first_char(bytes: &[u8]) -> Option<(char, usize)> {
    let length = match *bytes.first()? {
        byte @ 0..0x80 => return Some((char::from(byte), 1)),
        0xc2..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0..0xf5 => 4,
        _ => return None,
    };
    let text = std::str::from_utf8(bytes.get(..length)?).ok()?;
    text.chars().next().map(|c| (c, length))
}

/// Appends `bytes`, each invalid byte as U+FFFD.
pub(super) fn push_lossy(out: &mut String, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match first_char(bytes) {
            Some((character, length)) => {
                out.push(character);
                bytes = &bytes[length..];
            }
            None => {
                out.push(char::REPLACEMENT_CHARACTER);
                bytes = &bytes[1..];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_invalid_byte_is_one_replacement() {
        let cases: [(&[u8], &str); 7] = [
            (b"\xe3\x81", "\u{fffd}\u{fffd}"),
            (b"\xe3\x81\x82", "あ"),
            (b"\xc0\x80", "\u{fffd}\u{fffd}"),
            (b"\xed\xa0\x80", "\u{fffd}\u{fffd}\u{fffd}"),
            (b"\xf4\x90\x80\x80", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
            (b"a\xffb", "a\u{fffd}b"),
            (b"\xef\xbf\xbd", "\u{fffd}"),
        ];
        for (bytes, want) in cases {
            let mut got = String::new();
            push_lossy(&mut got, bytes);
            assert_eq!(got, want, "{bytes:x?}");
        }
    }
}
