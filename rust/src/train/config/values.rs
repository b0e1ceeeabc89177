//! Merged text against the key table: every value gets its type, every key its class.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::keys::{self, Class, Default, Key, Kind, Range};
use super::merge::Merged;
use super::scalar;
use super::yaml::{Content, Entry, Node, Place};
use crate::error::{Error, Result};

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Ints(Vec<i64>),
    Floats(Vec<f64>),
    Texts(Vec<String>),
    /// Lists and mappings that are taken as they are.
    Json(Json),
}

/// Typed values by (dotted) key, with the place each was written at.
#[derive(Debug, std::default::Default)]
pub(crate) struct Values {
    set: BTreeMap<&'static str, (Value, Place)>,
    /// Keys whose default another key has put out of force.
    unset: BTreeSet<&'static str>,
    pub(crate) warnings: Vec<String>,
}

impl Values {
    /// Checks names, types and classes; all problems are reported together.
    ///
    /// # Errors
    /// `Config` with one line for each problem.
    pub(crate) fn check(merged: Merged) -> Result<Self> {
        let mut checker = Checker::default();
        for entry in merged.into_values() {
            checker.entry("", entry);
        }
        checker.finish()
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
            Some((_, place)) => format!("{place}: {name:?}"),
            None => format!("{name:?} (default)"),
        }
    }

    /// Writes a value that follows from others, so that the resolved dump shows it.
    pub(crate) fn derive(&mut self, name: &'static str, value: Value) {
        let place = self.set.get(name).map_or_else(|| Place::whole("derived"), |(_, place)| place.clone());
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

impl Value {
    pub(crate) fn json(&self) -> Json {
        match self {
            Value::Bool(value) => (*value).into(),
            Value::Int(value) => (*value).into(),
            Value::Float(value) => (*value).into(),
            Value::Text(value) => value.as_str().into(),
            Value::Ints(values) => values.clone().into(),
            Value::Floats(values) => values.clone().into(),
            Value::Texts(values) => values.clone().into(),
            Value::Json(value) => value.clone(),
        }
    }
}

pub(crate) fn default(default: Default) -> Option<Value> {
    match default {
        Default::Null => None,
        Default::Bool(value) => Some(Value::Bool(value)),
        Default::Int(value) => Some(Value::Int(value)),
        Default::Float(value) => Some(Value::Float(value)),
        Default::Text(value) => Some(Value::Text(value.into())),
        Default::Floats(values) => Some(Value::Floats(values.into())),
    }
}

/// A tree as it is; numbers JSON cannot hold become texts.
pub(crate) fn json(content: &Content) -> Json {
    match content {
        Content::Null => Json::Null,
        Content::Bool(value) => (*value).into(),
        Content::Int(value) => i64::try_from(*value).map_or_else(|_| value.to_string().into(), Json::from),
        Content::Float(value) => serde_json::Number::from_f64(*value).map_or(value.to_string().into(), Json::Number),
        Content::Text(value) => value.as_str().into(),
        Content::List(items) => items.iter().map(|item| json(&item.content)).collect(),
        Content::Dict(entries) => {
            let mut entries: Vec<_> =
                entries.iter().map(|entry| (entry.key.clone(), json(&entry.node.content))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Json::Object(entries.into_iter().collect())
        }
    }
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
        self.values.set.insert(key.name, (Value::Json(Json::Null), node.place));
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
                "{place}: {name:?} {}: several {} need a distributed engine, and none is part of this trainer; set it to 1",
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
        self.values.set.insert(name, (value, place.clone()));
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
            self.values.warnings.push(format!(
                "{place}: {name:?}: {written:?} is a text in YAML 1.1 (a number needs a dot and a signed exponent); read as {number:?}"
            ));
        }
        for item in items(node) {
            if let Some((written, base)) = &item.surprise {
                self.values.warnings.push(format!(
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
            self.values.warnings.push(format!("keys without effect here (llmjp-core config --keys says why): {names}"));
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

/// The typed value, or what was wanted.
fn read(kind: Kind, node: &Node) -> Result<Value, String> {
    let content = &node.content;
    match kind {
        Kind::Bool => match content {
            Content::Bool(value) => Ok(Value::Bool(*value)),
            _ => Err("true or false".into()),
        },
        Kind::Int(least) => int(content, least).map(Value::Int).ok_or_else(|| whole_number(least, content)),
        Kind::Float(range) => float(content, range).map(Value::Float).ok_or_else(|| range_name(range).into()),
        Kind::Number => match int(content, 1) {
            Some(value) => Ok(Value::Int(value)),
            None => float(content, Range::Positive).map(Value::Float).ok_or_else(|| "a number above 0".into()),
        },
        Kind::Text => text(content).map(Value::Text).ok_or_else(|| quoted("a text", content)),
        Kind::Choice(supported, known) => choice(content, supported, known),
        Kind::Ints => list(content, |item| int(item, 0))
            .map(Value::Ints)
            .ok_or_else(|| "a list of whole numbers, 0 or more".into()),
        Kind::Floats => {
            let values = list(content, |item| float(item, Range::NotNegative));
            values.map(Value::Floats).ok_or_else(|| "a list of numbers, 0 or more".into())
        }
        Kind::Texts => list(content, text).map(Value::Texts).ok_or_else(|| "a list of texts".into()),
        Kind::List => match content {
            Content::List(_) => Ok(Value::Json(json(content))),
            _ => Err("a list".into()),
        },
        Kind::Dict | Kind::Section => match content {
            Content::Dict(_) => Ok(Value::Json(json(content))),
            _ => Err("a mapping".into()),
        },
        Kind::Any => Ok(Value::Json(json(content))),
    }
}

fn int(content: &Content, least: i64) -> Option<i64> {
    match content {
        Content::Int(value) => i64::try_from(*value).ok().filter(|value| *value >= least),
        _ => None,
    }
}

fn whole_number(least: i64, content: &Content) -> String {
    let written = match content {
        Content::Float(value) => Some(*value),
        Content::Text(text) => scalar::numeric_text(text),
        _ => None,
    };
    // Beyond 2^53 a float no longer tells which whole number was meant.
    let hint = match written.filter(|value| value.fract() == 0.0 && value.abs() < 9e15) {
        Some(value) => format!(" (write {value:.0})"),
        None => String::new(),
    };
    format!("a whole number, {least} or more{hint}")
}

fn float(content: &Content, range: Range) -> Option<f64> {
    let value = match content {
        Content::Float(value) => *value,
        Content::Int(value) => *value as f64,
        Content::Text(text) => scalar::numeric_text(text)?,
        _ => return None,
    };
    let inside = match range {
        Range::Finite => true,
        Range::NotNegative => value >= 0.0,
        Range::Positive => value > 0.0,
        Range::Share => (0.0..=1.0).contains(&value),
    };
    (inside && value.is_finite()).then_some(value)
}

fn range_name(range: Range) -> &'static str {
    match range {
        Range::Finite => "a number",
        Range::NotNegative => "a number, 0 or more",
        Range::Positive => "a number above 0",
        Range::Share => "a number from 0 to 1",
    }
}

fn text(content: &Content) -> Option<String> {
    match content {
        Content::Text(value) => Some(value.clone()),
        _ => None,
    }
}

fn quoted(wanted: &str, content: &Content) -> String {
    match content {
        Content::Bool(_) | Content::Int(_) | Content::Float(_) => format!("{wanted} (put it in quotes)"),
        _ => wanted.into(),
    }
}

fn choice(content: &Content, supported: &[&str], known: &[&str]) -> Result<Value, String> {
    let same = |given: &str, name: &&&str| given.eq_ignore_ascii_case(name);
    let list = supported.join(", ");
    let Content::Text(given) = content else { return Err(format!("one of {list}")) };
    match supported.iter().find(|name| same(given, name)) {
        Some(name) => Ok(Value::Text((*name).into())),
        None if known.iter().any(|name| same(given, &name)) => {
            Err(format!("one of {list} (GPT-NeoX knows this one, but it is not supported here)"))
        }
        None => Err(format!("one of {list}")),
    }
}

fn list<T>(content: &Content, item: impl Fn(&Content) -> Option<T>) -> Option<Vec<T>> {
    match content {
        Content::List(items) => items.iter().map(|node| item(&node.content)).collect(),
        _ => None,
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
