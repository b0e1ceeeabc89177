//! The texts of one JSON line: only the wanted keys are decoded, the rest is checked and passed over.
//!
//! serde_json decides what is JSON; `scan` is a shortcut to the same result.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::scan;
use super::texts::Texts;

/// Appends the strings under `keys` of the object in `line` to `texts`, in the order of `keys`. Of a key
/// that stands there twice the last counts, as in Python.
///
/// # Errors
/// A sentence on what is wrong, with the column. `texts` is as before then.
pub(super) fn texts<'l>(line: &'l str, keys: &[String], texts: &mut Texts<'l>) -> Result<(), String> {
    let before = texts.store().len();
    match scan::texts(line, keys, texts.store()) {
        Some(found) => texts.extend(found),
        None => {
            texts.store().truncate(before);
            by_serde(line, keys)?.into_iter().for_each(|text| texts.push(text));
        }
    }
    Ok(())
}

/// As `texts`, in serde_json's own time.
pub(super) fn by_serde<'l>(line: &'l str, keys: &[String]) -> Result<Vec<Cow<'l, str>>, String> {
    let mut json = serde_json::Deserializer::from_str(line);
    let found = Wanted(keys).deserialize(&mut json).and_then(|found| json.end().map(|()| found));
    let found = found.map_err(|e| message(&e, line))?;
    let texts = found.into_iter().zip(keys);
    texts.map(|(text, key)| text.ok_or_else(|| format!("the object has no key `{key}`"))).collect()
}

/// serde_json's message; its line number is always 1 here.
fn message(error: &serde_json::Error, line: &str) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    let hint = if line.trim_start().starts_with('[') { "; JSON Lines is wanted: one object a line" } else { "" };
    format!("bad JSON, column {}: {what}{hint}", error.column())
}

struct Wanted<'k>(&'k [String]);

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Vec<Option<Cow<'de, str>>>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Vec<Option<Cow<'de, str>>>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "an object with the key `{}`", self.0.join("`, `"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = vec![None; self.0.len()];
        while let Some(key) = map.next_key_seed(Text("a key"))? {
            match self.0.iter().position(|wanted| *wanted == key) {
                Some(at) => found[at] = Some(map.next_value_seed(Text(&self.0[at]))?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

/// A string, borrowed where it holds no escape.
struct Text<'k>(&'k str);

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text<'_> {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a string under the key `{}`", self.0)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        self.visit_string(text.to_owned())
    }

    fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text))
    }
}

#[cfg(test)]
mod tests {
    use super::super::texts::Texts;

    fn one(line: &str) -> Result<String, String> {
        all(line, &["text"]).map(|texts| texts.concat())
    }

    fn all(line: &str, keys: &[&str]) -> Result<Vec<String>, String> {
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        let mut texts = Texts::default();
        let read = super::texts(line, &keys, &mut texts);
        assert!(read.is_ok() || texts.len() == 0 && texts.store().is_empty());
        read.map(|()| texts.iter().map(str::to_owned).collect())
    }

    #[test]
    fn texts_are_what_python_reads() {
        assert_eq!(one(r#"{"id": [1, {"text": 2}], "text": "東京\n\u6771\ud83d\ude00"}"#).unwrap(), "東京\n東😀");
        assert_eq!(one("{\"text\": \"a\", \"text\": \"b\"}\r").unwrap(), "b");
        assert_eq!(one(r#"{"te\u0078t": ""}"#).unwrap(), "");
        assert_eq!(all(r#"{"a": "1", "b": "2"}"#, &["b", "a"]).unwrap(), ["2", "1"]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, part) in [
            (r#"{"txt": "a"}"#, "no key `text`"),
            (r#"{"text": null}"#, "null, expected a string under the key `text`"),
            (r#"{"text": 5}"#, "string under the key `text`"),
            (r#"{"text": ["a"]}"#, "string under the key `text`"),
            (r#"{"text": "a"} x"#, "trailing"),
            (r#"{"text": "a""#, "column 12"),
            (r#"{"text": "\ud800"}"#, "hex escape"),
            (r#"[{"text": "a"}]"#, "one object a line"),
            ("5", "an object with the key `text`"),
        ] {
            let error = one(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
