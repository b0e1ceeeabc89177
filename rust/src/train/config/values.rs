//! Typed values by key, for the code that derives a run from them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::keys;
use super::types::{Value, default};
use super::yaml::Place;
use crate::error::{Error, Result};

/// The place of values that no file holds.
const DERIVED: &str = "derived";

/// Typed values by (dotted) key, with the place each was written at.
#[derive(Debug, std::default::Default)]
pub(crate) struct Values {
    set: BTreeMap<&'static str, (Value, Place)>,
    /// Keys whose default another key has put out of force.
    unset: BTreeSet<&'static str>,
    pub(crate) warnings: Vec<String>,
}

impl Values {
    pub(crate) fn insert(&mut self, name: &'static str, value: Value, place: Place) {
        self.set.insert(name, (value, place));
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.set.get(name).map(|(value, _)| value)
    }

    /// Whether the key is written (and not null).
    pub(crate) fn given(&self, name: &str) -> bool {
        self.set.contains_key(name)
    }

    /// `a.yml:3:5: "warmup"`, for the start of a message; the default has no place.
    pub(crate) fn at(&self, name: &str) -> String {
        match self.set.get(name) {
            Some((_, place)) if &*place.source == DERIVED => format!("{name:?} (derived)"),
            Some((_, place)) => format!("{place}: {name:?}"),
            None => format!("{name:?} (default)"),
        }
    }

    /// Writes a value that follows from others, so that the resolved dump shows it.
    pub(crate) fn derive(&mut self, name: &'static str, value: Value) {
        let place = self.set.get(name).map_or_else(|| Place::whole(DERIVED), |(_, place)| place.clone());
        self.set.insert(name, (value, place));
    }

    /// Turns a key to null, default included: another key says it now.
    pub(crate) fn forget(&mut self, name: &'static str) {
        self.set.remove(name);
        self.unset.insert(name);
    }

    pub(crate) fn warn(&mut self, message: String) {
        self.warnings.push(message);
    }

    /// The value or the default; `None` is null.
    pub(crate) fn value(&self, name: &str) -> Option<Value> {
        if self.unset.contains(name) {
            return None;
        }
        self.get(name).cloned().or_else(|| keys::find(name).and_then(|key| default(key.default)))
    }

    pub(crate) fn opt_usize(&self, name: &str) -> Result<Option<usize>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Int(value)) => match usize::try_from(value) {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(Error::Config(format!("{}: {value} is not 0 or more", self.at(name)))),
            },
            Some(other) => Err(mismatch(name, &other)),
        }
    }

    pub(crate) fn usize(&self, name: &str) -> Result<usize> {
        self.opt_usize(name)?.ok_or_else(|| missing(name))
    }

    pub(crate) fn opt_float(&self, name: &str) -> Result<Option<f64>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Float(value)) => Ok(Some(value)),
            Some(Value::Int(value)) => Ok(Some(value as f64)),
            Some(other) => Err(mismatch(name, &other)),
        }
    }

    pub(crate) fn float(&self, name: &str) -> Result<f64> {
        self.opt_float(name)?.ok_or_else(|| missing(name))
    }

    pub(crate) fn opt_bool(&self, name: &str) -> Result<Option<bool>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(mismatch(name, &other)),
        }
    }

    pub(crate) fn bool(&self, name: &str) -> Result<bool> {
        self.opt_bool(name)?.ok_or_else(|| missing(name))
    }

    pub(crate) fn opt_text(&self, name: &str) -> Result<Option<String>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Text(value)) => Ok(Some(value)),
            Some(other) => Err(mismatch(name, &other)),
        }
    }

    pub(crate) fn text(&self, name: &str) -> Result<String> {
        self.opt_text(name)?.ok_or_else(|| missing(name))
    }

    pub(crate) fn ints(&self, name: &str) -> Result<Option<Vec<usize>>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Ints(values)) => Ok(Some(values.into_iter().map(|value| value as usize).collect())),
            Some(other) => Err(mismatch(name, &other)),
        }
    }

    pub(crate) fn floats(&self, name: &str) -> Result<Option<Vec<f64>>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Floats(values)) => Ok(Some(values)),
            Some(other) => Err(mismatch(name, &other)),
        }
    }

    pub(crate) fn texts(&self, name: &str) -> Result<Option<Vec<String>>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Texts(values)) => Ok(Some(values)),
            Some(other) => Err(mismatch(name, &other)),
        }
    }

    pub(crate) fn json(&self, name: &str) -> Option<Json> {
        self.value(name).map(|value| value.json())
    }
}

fn missing(name: &str) -> Error {
    let note = keys::find(name).map_or("", |key| key.note);
    Error::Config(format!("{name:?} is missing: {note}"))
}

fn mismatch(name: &str, value: &Value) -> Error {
    Error::Internal(format!("configuration key {name:?} was checked as another type than it is read: {value:?}"))
}
