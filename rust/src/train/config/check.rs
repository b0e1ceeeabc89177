//! The key table applied to what is written: names, types, classes.

use serde_json::Value as Json;

use super::keys::{self, Class, Key, Kind};
use super::merge::Merged;
use super::scalar;
use super::types::{Value, default, json, read};
use super::values::Values;
use super::yaml::{Content, Entry, Node, Place};
use crate::error::{Error, Result};

/// Typed values of all keys; all problems are reported together.
///
/// # Errors
/// `Config` with one line for each problem.
pub(crate) fn check(merged: Merged) -> Result<Values> {
    let mut checker = Checker::default();
    for entry in merged.into_values() {
        checker.entry("", entry);
    }
    checker.finish()
}

#[derive(std::default::Default)]
struct Checker {
    values: Values,
    problems: Vec<String>,
    without_effect: Vec<&'static str>,
}

impl Checker {
    fn entry(&mut self, prefix: &str, entry: Entry) {
        let name = format!("{prefix}{}", entry.key);
        let Some(key) = keys::find(&name) else {
            self.problems.push(unknown(&name, &entry.place));
            return;
        };
        if entry.node.content == Content::Null {
            return;
        }
        if key.kind == Kind::Section {
            self.section(key, entry);
            return;
        }
        match read(key.kind, &entry.node) {
            Err(wanted) => {
                let got = entry.node.describe();
                self.problems.push(format!("{}: {name:?} must be {wanted}, got {got}", entry.node.place));
            }
            Ok(value) => self.value(key, value, &entry.node),
        }
    }

    fn section(&mut self, key: &'static Key, entry: Entry) {
        let Entry { node, .. } = entry;
        let Content::Dict(entries) = node.content else {
            let got = node.describe();
            self.problems.push(format!("{}: {:?} must be a mapping, got {got}", node.place, key.name));
            return;
        };
        self.values.insert(key.name, Value::Json(Json::Null), node.place);
        for entry in entries {
            self.entry(&format!("{}.", key.name), entry);
        }
    }

    fn value(&mut self, key: &'static Key, value: Value, node: &Node) {
        let same = default(key.default).is_some_and(|default| equal(&default, &value));
        let place = &node.place;
        let name = key.name;
        match key.class {
            Class::Rejected if !same && !switched_off(&value) => {
                self.problems.push(format!("{place}: {name:?} is refused: {} (got {})", key.note, node.describe()));
            }
            Class::Engine if matches!(value, Value::Int(count) if count > 1) => self.problems.push(format!(
                "{place}: {name:?} {}: several {} need a distributed engine, which this trainer is not; set it to 1",
                value.json(),
                key.note
            )),
            Class::NoEffect | Class::Rejected if !same => self.without_effect.push(name),
            _ => {}
        }
        if name == "deepspeed_extra_args" {
            self.extra_args(&value, place);
        }
        self.notice(name, node);
        self.values.insert(name, value, place.clone());
    }

    /// DeepSpeed would obey these keys, so only those without effect pass.
    fn extra_args(&mut self, value: &Value, place: &Place) {
        let Value::Json(Json::Object(map)) = value else { return };
        for inner in map.keys() {
            if keys::find(inner).is_none_or(|key| key.class != Class::NoEffect) {
                self.problems.push(format!(
                    "{place}: \"deepspeed_extra_args\" holds {inner:?}, which would change the run; write it as a key of its own"
                ));
            }
        }
    }

    /// Once-only messages about how a scalar was read.
    fn notice(&mut self, name: &str, node: &Node) {
        for (place, written, number) in texts_read_as_numbers(name, node) {
            self.values.warn(format!(
                "{place}: {name:?}: {written:?} is a text in YAML 1.1 (a number needs a dot and a signed exponent); read as {number:?}"
            ));
        }
        for item in items(node) {
            if let Some((written, base)) = &item.surprise {
                self.values.warn(format!(
                    "{}: {name:?}: `{written}` is read in {base}, as YAML 1.1 does: {}",
                    item.place,
                    json(&item.content)
                ));
            }
        }
    }

    fn finish(mut self) -> Result<Values> {
        if !self.problems.is_empty() {
            return Err(Error::Config(self.problems.join("\n")));
        }
        if !self.without_effect.is_empty() {
            let names = self.without_effect.join(", ");
            self.values.warn(format!("keys without effect here (llmjp-core config --keys says why): {names}"));
        }
        Ok(self.values)
    }
}

fn unknown(name: &str, place: &Place) -> String {
    match keys::nearest(name) {
        Some(near) => format!("{place}: unknown key {name:?}; did you mean {near:?}?"),
        None => format!("{place}: unknown key {name:?}; llmjp-core config --keys lists all"),
    }
}

/// A mapping that says of itself that it is off, or says nothing.
fn switched_off(value: &Value) -> bool {
    match value {
        Value::Json(Json::Object(map)) => map.is_empty() || map.get("enabled") == Some(&Json::Bool(false)),
        Value::Json(Json::Array(items)) => items.is_empty(),
        _ => false,
    }
}

fn equal(default: &Value, value: &Value) -> bool {
    match (default, value) {
        (Value::Int(a), Value::Float(b)) => *a as f64 == *b,
        (Value::Text(a), Value::Text(b)) => a.eq_ignore_ascii_case(b),
        (a, Value::Json(b)) => a.json() == *b,
        (a, b) => a == b,
    }
}

/// The items of a list, or the value itself.
fn items(node: &Node) -> Vec<&Node> {
    match &node.content {
        Content::List(items) => items.iter().collect(),
        _ => vec![node],
    }
}

/// Texts that a key of numbers took for numbers.
fn texts_read_as_numbers<'a>(name: &str, node: &'a Node) -> Vec<(&'a Place, &'a str, f64)> {
    let numeric = matches!(keys::find(name).map(|key| key.kind), Some(Kind::Float(_) | Kind::Floats | Kind::Number));
    let read = |node: &'a Node| match &node.content {
        Content::Text(text) => scalar::numeric_text(text).map(|number| (&node.place, text.as_str(), number)),
        _ => None,
    };
    if numeric { items(node).into_iter().filter_map(read).collect() } else { Vec::new() }
}
