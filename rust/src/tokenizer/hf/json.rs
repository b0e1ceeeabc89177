//! A value of `tokenizer.json` that knows its place, for messages.

use serde_json::Value;

use crate::error::{Error, Result};

#[derive(Clone)]
pub(super) struct At<'j> {
    value: &'j Value,
    place: String,
}

impl<'j> At<'j> {
    pub(super) fn root(value: &'j Value) -> Self {
        Self { value, place: String::new() }
    }

    pub(super) fn value(&self) -> &'j Value {
        self.value
    }

    pub(super) fn place(&self) -> &str {
        if self.place.is_empty() { "the file" } else { &self.place }
    }

    /// `None` where the key is missing or null.
    pub(super) fn get(&self, key: &str) -> Option<Self> {
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        let place = if self.place.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place) };
        Some(Self { value, place })
    }

    pub(super) fn need(&self, key: &str) -> Result<Self> {
        self.get(key).ok_or_else(|| self.wrong(&format!("{key:?} is missing")))
    }

    pub(super) fn items(&self) -> Result<Vec<Self>> {
        let Value::Array(items) = self.value else { return Err(self.expected("a list")) };
        let item = |(at, value)| Self { value, place: format!("{}[{at}]", self.place) };
        Ok(items.iter().enumerate().map(item).collect())
    }

    pub(super) fn text(&self) -> Result<&'j str> {
        self.value.as_str().ok_or_else(|| self.expected("a string"))
    }

    pub(super) fn need_text(&self, key: &str) -> Result<&'j str> {
        self.need(key)?.text()
    }

    /// A string that is one character.
    pub(super) fn need_character(&self, key: &str) -> Result<char> {
        let at = self.need(key)?;
        let mut characters = at.text()?.chars();
        match (characters.next(), characters.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(at.expected("one character")),
        }
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        let Some(at) = self.get(key) else { return Ok(default) };
        at.value.as_bool().ok_or_else(|| at.expected("true or false"))
    }

    pub(super) fn number(&self, key: &str) -> Result<u64> {
        let at = self.need(key)?;
        at.value.as_u64().ok_or_else(|| at.expected("a whole number that is not negative"))
    }

    /// The name of a component.
    pub(super) fn kind(&self) -> Result<&'j str> {
        self.need_text("type")
    }

    /// A string or null, as `tokenizers` writes options that are not there; an empty one is null.
    pub(super) fn opt_text(&self, key: &str) -> Result<Option<&'j str>> {
        let text = self.get(key).map(|at| at.text()).transpose()?;
        Ok(text.filter(|text| !text.is_empty()))
    }

    fn expected(&self, what: &str) -> Error {
        self.wrong(&format!("expected {what}"))
    }

    pub(super) fn wrong(&self, what: &str) -> Error {
        Error::Tokenizer(format!("tokenizer.json: {}: {what}", self.place()))
    }

    /// The component or option is known to `tokenizers` and not here.
    pub(super) fn refused(&self, what: &str) -> Error {
        Error::UnsupportedModel(format!("tokenizer.json: {}: {what} is not supported", self.place()))
    }
}
