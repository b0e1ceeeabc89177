//! A value's type: what a key of each kind takes, and what the message says when it does not.

use serde_json::Value as Json;

use super::keys::{Default, Kind, Range};
use super::scalar;
use super::yaml::{Content, Node};

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

/// The typed value, or what was wanted.
pub(crate) fn read(kind: Kind, node: &Node) -> Result<Value, String> {
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
