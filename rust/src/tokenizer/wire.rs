//! The protobuf wire format, as far as `.model` files need it: a cursor over bytes whose every
//! read is checked against the end of its message.

use crate::error::{Error, Result};

/// One field: its number and its raw value.
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed32(u32),
    Fixed64,
    Bytes(&'a [u8]),
}

/// The fields of one message, in file order.
pub(super) struct Message<'a> {
    bytes: &'a [u8],
    at: usize,
    name: &'static str,
    /// Where the message starts in the file, so that errors can say the byte.
    start: usize,
}

impl<'a> Message<'a> {
    pub(super) fn new(bytes: &'a [u8], name: &'static str, start: usize) -> Self {
        Self { bytes, at: 0, name, start }
    }

    /// The byte of the file that is read next.
    pub(super) fn position(&self) -> usize {
        self.start + self.at
    }

    /// The next field, `None` at the end.
    pub(super) fn next_field(&mut self) -> Result<Option<(u32, Value<'a>)>> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok().filter(|n| *n != 0 && *n < 1 << 29);
        let number = number.ok_or_else(|| self.malformed(&format!("field number {} is out of range", key >> 3)))?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed64)?,
            2 => Value::Bytes(self.prefixed()?),
            5 => Value::Fixed32(self.fixed32()?),
            kind => return Err(self.malformed(&format!("wire type {kind} does not belong in a model"))),
        };
        Ok(Some((number, value)))
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.take(1)?[0];
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.malformed("a number is longer than 64 bits"))
    }

    fn fixed32(&mut self) -> Result<u32> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn prefixed(&mut self) -> Result<&'a [u8]> {
        let length = self.varint()?;
        match usize::try_from(length) {
            Ok(length) => self.take(length),
            Err(_) => Err(self.malformed("a length is larger than memory")),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        if count > rest.len() {
            let what = format!("{count} bytes are promised and {} are left", rest.len());
            return Err(self.malformed(&what));
        }
        self.at += count;
        Ok(&rest[..count])
    }

    pub(super) fn malformed(&self, what: &str) -> Error {
        let place = self.position();
        Error::Tokenizer(format!(
            "not a SentencePiece model, or a damaged one: {what} ({}, byte {place}); copy the file again",
            self.name
        ))
    }
}

impl<'a> Value<'a> {
    pub(super) fn bytes(self, message: &Message<'_>, field: &str) -> Result<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(message.malformed(&format!("`{field}` is not a byte string"))),
        }
    }

    pub(super) fn text(self, message: &Message<'_>, field: &str) -> Result<&'a str> {
        let bytes = self.bytes(message, field)?;
        std::str::from_utf8(bytes).map_err(|_| message.malformed(&format!("`{field}` is not UTF-8")))
    }

    pub(super) fn float(self, message: &Message<'_>, field: &str) -> Result<f32> {
        match self {
            Self::Fixed32(bits) => Ok(f32::from_bits(bits)),
            _ => Err(message.malformed(&format!("`{field}` is not a 32-bit number"))),
        }
    }

    pub(super) fn varint(self, message: &Message<'_>, field: &str) -> Result<u64> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err(message.malformed(&format!("`{field}` is not an integer"))),
        }
    }

    pub(super) fn flag(self, message: &Message<'_>, field: &str) -> Result<bool> {
        Ok(self.varint(message, field)? != 0)
    }
}
