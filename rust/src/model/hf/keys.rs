//! `config.json`, asked key by key: each answer is typed, each refusal names the key.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The object of a `config.json`, or one nested in it.
pub(super) struct Keys {
    path: PathBuf,
    prefix: String,
    map: Map<String, Value>,
}

impl Keys {
    /// # Errors
    /// `Error::Io`; `Error::UnsupportedModel` when the file is not a JSON object.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(Error::io(path, "read"))?;
        let refuse = |what: String| Error::UnsupportedModel(format!("{}: {what}", path.display()));
        match serde_json::from_slice(&text).map_err(|e| refuse(format!("not JSON: {e}")))? {
            Value::Object(map) => Ok(Self { path: path.to_owned(), prefix: String::new(), map }),
            _ => Err(refuse("must hold a JSON object".into())),
        }
    }

    pub(super) fn refuse(&self, key: &str, what: impl std::fmt::Display) -> Error {
        Error::UnsupportedModel(format!("{}: `{}{key}` {what}", self.path.display(), self.prefix))
    }

    /// The value of `key`; null is absent.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether the file names `key`, be it as null.
    pub(super) fn names(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    fn typed<V>(&self, key: &str, want: &str, read: impl FnOnce(&Value) -> Option<V>) -> Result<Option<V>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.refuse(key, format!("must be {want}, got {value}")))
    }

    pub(super) fn usize(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a whole number >= 0", |value| value.as_u64().and_then(|n| usize::try_from(n).ok()))
    }

    pub(super) fn require(&self, key: &str) -> Result<usize> {
        self.usize(key)?.ok_or_else(|| self.refuse(key, "is missing"))
    }

    pub(super) fn f64(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(super) fn str(&self, key: &str) -> Result<Option<&str>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.refuse(key, format!("must be a string, got {value}")))
    }

    /// One token id, or a list of them.
    pub(super) fn ids(&self, key: &str) -> Result<Vec<i32>> {
        let id = |value: &Value| value.as_i64().and_then(|id| i32::try_from(id).ok());
        let ids = self.typed(key, "a token id or a list of them", |value| match value {
            Value::Array(items) => items.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }

    pub(super) fn object(&self, key: &str) -> Result<Option<Self>> {
        let map = self.typed(key, "an object", |value| value.as_object().cloned())?;
        let prefix = format!("{}{key}.", self.prefix);
        Ok(map.map(|map| Self { path: self.path.clone(), prefix, map }))
    }
}
