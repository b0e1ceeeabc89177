//! Columns of texts, as Arrow keeps them, to JSON Lines.

use super::scan::plain;

/// The texts of a column one after the other, and where in them each begins, and the last one ends: 8 bytes
/// each, little endian, counted from where the first one begins or anywhere before it.
pub struct Column<B> {
    pub offsets: B,
    pub texts: B,
}

/// Appends a line for each row: an object with the texts under `keys`. A text may be any bytes; those that
/// are no UTF-8 are found when the line is read.
///
/// # Errors
/// A sentence for columns that are not of the same length, or whose offsets point outside.
pub fn push_rows<B: AsRef<[u8]>>(out: &mut Vec<u8>, keys: &[String], columns: &[Column<B>]) -> Result<(), String> {
    let rows = columns.first().map_or(0, Column::len);
    if keys.len() != columns.len() || columns.iter().any(|column| column.len() != rows) {
        let lengths: Vec<usize> = columns.iter().map(Column::len).collect();
        return Err(format!("columns of {lengths:?} texts for the {} keys", keys.len()));
    }
    let heads = keys.iter().enumerate().map(|(at, key)| {
        let before = if at == 0 { "{" } else { "\"," };
        format!("{before}{}:\"", serde_json::Value::from(key.as_str()))
    });
    let heads: Vec<String> = heads.collect();
    for row in 0..rows {
        for (head, column) in heads.iter().zip(columns) {
            out.extend_from_slice(head.as_bytes());
            let text = column.text(row).ok_or_else(|| format!("the offsets of row {row} point outside the texts"))?;
            escape(out, text);
        }
        out.extend_from_slice(b"\"}\n");
    }
    Ok(())
}

impl<B: AsRef<[u8]>> Column<B> {
    fn len(&self) -> usize {
        (self.offsets.as_ref().len() / 8).saturating_sub(1)
    }

    fn text(&self, row: usize) -> Option<&[u8]> {
        let offsets = self.offsets.as_ref().as_chunks::<8>().0;
        let first = i64::from_le_bytes(offsets[0]);
        let at = |row: usize| i64::from_le_bytes(offsets[row]).checked_sub(first)?.try_into().ok();
        self.texts.as_ref().get(at(row)?..at(row + 1)?)
    }
}

/// Appends the inside of a JSON string.
fn escape(out: &mut Vec<u8>, mut text: &[u8]) {
    loop {
        let (run, rest) = text.split_at(plain(text));
        out.extend_from_slice(run);
        let Some((special, after)) = rest.split_first() else { return };
        match special {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *special]),
            _ => out.extend_from_slice(format!("\\u{special:04x}").as_bytes()),
        }
        text = after;
    }
}

#[cfg(test)]
mod tests {
    use super::{Column, push_rows};

    fn column(offsets: &[i64], texts: &[u8]) -> Column<Vec<u8>> {
        Column { offsets: offsets.iter().flat_map(|at| at.to_le_bytes()).collect(), texts: texts.to_vec() }
    }

    fn lines(columns: &[Column<Vec<u8>>]) -> Result<String, String> {
        let mut out = Vec::new();
        push_rows(&mut out, &["a".to_owned(), "\"b".to_owned()][..columns.len()], columns)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn rows_become_objects() {
        let columns = [column(&[5, 7, 7, 11], b"x\n\"\\\x01."), column(&[0, 0, 3, 4], "猫y".as_bytes())];
        let want = [r#"{"a":"x\n","\"b":""}"#, r#"{"a":"","\"b":"猫"}"#, r#"{"a":"\"\\\u0001.","\"b":"y"}"#];
        assert_eq!(lines(&columns).unwrap(), want.map(|line| format!("{line}\n")).concat());
        assert_eq!(lines(&[column(&[0], b"")]).unwrap(), "");
        assert_eq!(lines(&[column(&[], b"")]).unwrap(), "");
    }

    #[test]
    fn damaged_columns_are_refused() {
        for offsets in [&[0, 5][..], &[0, 3, 2], &[3, 2], &[i64::MIN, i64::MAX], &[0, -1]] {
            assert!(lines(&[column(offsets, b"text")]).is_err(), "{offsets:?}");
        }
        assert!(lines(&[column(&[0, 1], b"a"), column(&[0, 1, 1], b"a")]).unwrap_err().contains("[1, 2] texts"));
    }
}
