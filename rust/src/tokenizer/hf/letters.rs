//! The letters that stand for bytes in byte-level vocabularies: printable Latin-1 for itself, the
//! other bytes in order from U+0100.

/// U+0100 and later, for the bytes in order that are not printable.
const FIRST_REST: u32 = 0x100;

fn is_own_letter(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

pub(super) struct Letters {
    /// By code point; the highest is U+0143.
    bytes: Vec<Option<u8>>,
}

impl Letters {
    pub(super) fn new() -> Self {
        let mut bytes = vec![None; 0x144];
        let mut rest = FIRST_REST;
        for byte in 0..=u8::MAX {
            let letter = if is_own_letter(byte) {
                u32::from(byte)
            } else {
                rest += 1;
                rest - 1
            };
            bytes[letter as usize] = Some(byte);
        }
        Self { bytes }
    }

    pub(super) fn byte(&self, letter: char) -> Option<u8> {
        self.bytes.get(letter as usize).copied().flatten()
    }

    /// The bytes of a token; `None` where one of its characters stands for none.
    pub(super) fn bytes(&self, token: &str) -> Option<Vec<u8>> {
        token.chars().map(|letter| self.byte(letter)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_letter() {
        let letters = Letters::new();
        let mut bytes: Vec<u8> = letters.bytes.iter().copied().flatten().collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=u8::MAX).collect::<Vec<_>>());
        assert_eq!(letters.bytes("Ġa"), Some(b" a".to_vec()));
        assert_eq!(letters.byte('あ'), None);
    }
}
