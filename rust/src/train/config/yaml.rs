//! Configuration text to a tree of values, each with the place it was written at.
//!
//! The parser finds shapes and places; scalars are then read from their source text by the rules
//! of YAML 1.1 (`scalar`), because that is what GPT-NeoX files are written for.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned, Tagged};

use super::scalar::{self, Scalar};
use crate::error::{Error, Result};

/// `configs/a.yml:12:3`, or the name of a source without lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) source: Arc<str>,
    /// From 1; 0 in a source without lines (an override, a mapping).
    pub(crate) line: u64,
    pub(crate) column: u64,
}

impl Place {
    pub(crate) fn whole(source: &str) -> Self {
        Self { source: source.into(), line: 0, column: 0 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.source),
            line => write!(f, "{}:{line}:{}", self.source, self.column),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Content {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Dict(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) content: Content,
    pub(crate) place: Place,
    /// The scalar as written, where YAML 1.1 reads it in an unexpected base.
    pub(crate) surprise: Option<(String, &'static str)>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) node: Node,
}

impl Node {
    pub(crate) fn new(content: Content, place: Place) -> Self {
        Self { content, place, surprise: None }
    }

    /// What an error message calls it: "the text \"ten\"", "the whole number 3".
    pub(crate) fn describe(&self) -> String {
        match &self.content {
            Content::Null => "null".into(),
            Content::Bool(value) => format!("the truth value {value}"),
            Content::Int(value) => format!("the whole number {value}"),
            Content::Float(value) => format!("the number {value:?}"),
            Content::Text(text) => format!("the text {:?}", shortened(text)),
            Content::List(items) => format!("a list of {}", items.len()),
            Content::Dict(entries) => format!("a mapping of {}", entries.len()),
        }
    }

    /// Values that come from Python, the command line or a manifest.
    pub(crate) fn from_json(value: &serde_json::Value, place: &Place) -> Self {
        use serde_json::Value;
        let content = match value {
            Value::Null => Content::Null,
            Value::Bool(value) => Content::Bool(*value),
            Value::Number(number) => match number.as_i128() {
                Some(value) => Content::Int(value),
                None => Content::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => Content::Text(text.clone()),
            Value::Array(items) => Content::List(items.iter().map(|item| Self::from_json(item, place)).collect()),
            Value::Object(map) => Content::Dict(
                map.iter()
                    .map(|(key, value)| Entry {
                        key: key.clone(),
                        place: place.clone(),
                        node: Self::from_json(value, place),
                    })
                    .collect(),
            ),
        };
        Self::new(content, place.clone())
    }
}

fn shortened(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Parses one document whose top is a mapping.
///
/// # Errors
/// `Config` with line and column: broken syntax, a key written twice, an explicit tag, a top
/// level that is no mapping.
pub(crate) fn parse_mapping(source: &str, text: &str) -> Result<Vec<Entry>> {
    let node = parse(source, text)?;
    match node.content {
        Content::Dict(entries) => Ok(entries),
        Content::Null => Err(Error::Config(format!("{source}: holds no keys; a configuration is a mapping"))),
        _ => Err(Error::Config(format!(
            "{}: a configuration is a mapping of keys to values, got {}",
            node.place,
            node.describe()
        ))),
    }
}

/// Parses one document of any shape.
///
/// # Errors
/// As `parse_mapping`, but for the shape.
pub(crate) fn parse(source: &str, text: &str) -> Result<Node> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::AsString,
    };
    let raw: Raw = serde_saphyr::from_str_with_options(text, options).map_err(|error| syntax(source, &error))?;
    Builder { source: source.into(), text }.node(raw)
}

fn syntax(source: &str, error: &serde_saphyr::Error) -> Error {
    let place = match error.location() {
        Some(location) => Place { source: source.into(), line: location.line(), column: location.column() }.to_string(),
        None => source.to_owned(),
    };
    let message = error.to_string();
    // The message repeats the place in words; ours stands first and is enough.
    let message = message.split(" at line ").next().unwrap_or(&message);
    Error::Config(format!("{place}: cannot read this YAML: {message}"))
}

/// What the parser hands over: a shape with its place and tag, scalars still unread.
type Raw = Spanned<Tagged<Shape>>;

enum Shape {
    Scalar(String),
    List(Vec<Raw>),
    Dict(Vec<(Spanned<String>, Raw)>),
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

/// Scalars that the parser recognises are read again from their source, so their value is dropped.
macro_rules! scalar {
    ($($name:ident($type:ty)),*) => {
        $(fn $name<E>(self, value: $type) -> Result<Shape, E> {
            Ok(Shape::Scalar(value.to_string()))
        })*
    };
}

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    scalar!(
        visit_bool(bool),
        visit_i64(i64),
        visit_u64(u64),
        visit_i128(i128),
        visit_u128(u128),
        visit_f64(f64),
        visit_str(&str)
    );

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Scalar(String::new()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Shape::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Shape::Dict(entries))
    }
}

struct Builder<'a> {
    source: Arc<str>,
    text: &'a str,
}

impl Builder<'_> {
    fn place(&self, location: &Location) -> Place {
        Place { source: self.source.clone(), line: location.line(), column: location.column() }
    }

    fn node(&self, raw: Raw) -> Result<Node> {
        let place = self.place(&raw.referenced);
        let Tagged(shape, tag) = raw.value;
        if let Some(tag) = tag {
            return Err(Error::Config(format!("{place}: the tag {tag:?} has no use in a configuration; remove it")));
        }
        match shape {
            Shape::Scalar(value) => Ok(self.scalar(value, &raw.defined, place)),
            Shape::List(items) => {
                let items = items.into_iter().map(|item| self.node(item)).collect::<Result<_>>()?;
                Ok(Node::new(Content::List(items), place))
            }
            Shape::Dict(entries) => {
                let entries = entries.into_iter().map(|(key, value)| self.entry(key, value)).collect::<Result<_>>()?;
                Ok(Node::new(Content::Dict(entries), place))
            }
        }
    }

    fn entry(&self, key: Spanned<String>, value: Raw) -> Result<Entry> {
        Ok(Entry { place: self.place(&key.referenced), key: key.value, node: self.node(value)? })
    }

    /// A quoted or block scalar is a text; a plain one is what YAML 1.1 makes of it.
    fn scalar(&self, value: String, defined: &Location, place: Place) -> Node {
        let written = self.written(defined);
        if written.starts_with(['"', '\'']) || self.is_block(defined) {
            return Node::new(Content::Text(value), place);
        }
        let content = match scalar::resolve(written) {
            Scalar::Null => Content::Null,
            Scalar::Bool(value) => Content::Bool(value),
            Scalar::Int(value) => Content::Int(value),
            Scalar::Float(value) => Content::Float(value),
            // Over several lines, the parser has folded them; on one line both are the same.
            Scalar::Text if written.contains('\n') => Content::Text(value),
            Scalar::Text => Content::Text(written.to_owned()),
        };
        let surprise = match content {
            Content::Int(_) => scalar::surprise(written).map(|base| (written.to_owned(), base)),
            _ => None,
        };
        Node { content, place, surprise }
    }

    /// Whether the scalar's lines follow a header such as `|`, `>-` or `|2`.
    fn is_block(&self, location: &Location) -> bool {
        let start = location.span().byte_offset().unwrap_or(0) as usize;
        let before = self.text.get(..start).unwrap_or_default().trim_end_matches([' ', '\t']);
        let Some(lines) = before.strip_suffix('\n') else { return false };
        let header = lines.trim_ascii_end().rsplit('\n').next().unwrap_or_default();
        let header = header.split(" #").next().unwrap_or_default().trim_ascii_end();
        header.rsplit([' ', '\t']).next().is_some_and(|last| last.starts_with(['|', '>']))
    }

    /// The scalar's source text, quotes included.
    fn written(&self, location: &Location) -> &str {
        let span = location.span();
        let (Some(start), Some(len)) = (span.byte_offset(), span.byte_len()) else { return "" };
        let end = start.saturating_add(len);
        self.text.get(start as usize..end as usize).unwrap_or_default().trim_ascii()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(entries: &[Entry]) -> String {
        entries.iter().map(|entry| format!("{}={} @{};", entry.key, show(&entry.node), entry.place)).collect()
    }

    fn show(node: &Node) -> String {
        match &node.content {
            Content::List(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(",")),
            Content::Dict(entries) => format!("{{{}}}", text(entries)),
            _ => node.describe(),
        }
    }

    #[test]
    fn a_flow_mapping_of_the_usual_kind() {
        let file = "# head\n{\n  \"a\": 1, # one\n  \"b-c\": True,\n  \"d\": {\"lr\": 1e-5, \"eps\": 1.0e-8,},\n  \"e\": [[[\"flash\"], 2]],\n}\n";
        let got = text(&parse_mapping("f.yml", file).unwrap());
        assert_eq!(
            got,
            "a=the whole number 1 @f.yml:3:3;b-c=the truth value true @f.yml:4:3;\
             d={lr=the text \"1e-5\" @f.yml:5:9;eps=the number 1e-8 @f.yml:5:21;} @f.yml:5:3;\
             e=[[[the text \"flash\"],the whole number 2]] @f.yml:6:3;"
        );
    }

    #[test]
    fn styles_of_text() {
        let file = "a: \"1\"\nb: '010'\nc: 010\nd: two\n  lines\ne: | # note\n\n  5\nm: >-\n  yes\nn:\n  # note\n  yes\nf:\ng: 日本語 # x\nh: \"\\n\"\ni: &x 7\nj: *x\nk: '日本'\nl: 12\n";
        let got = text(&parse_mapping("f", file).unwrap());
        for want in [
            "a=the text \"1\"",
            "b=the text \"010\"",
            "c=the whole number 8",
            "d=the text \"two lines\"",
            "e=the text \"\\n5\\n\"",
            "m=the text \"yes\"",
            "n=the truth value true",
            "f=null",
            "g=the text \"日本語\"",
            "h=the text \"\\n\"",
            "i=the whole number 7",
            "j=the whole number 7",
            "k=the text \"日本\"",
            "l=the whole number 12",
        ] {
            assert!(got.contains(want), "{want} in {got}");
        }
    }

    #[test]
    fn errors_name_line_and_column() {
        for (file, want) in [
            ("a: 1\nb: [1\n", "f.yml:"),
            ("a: 1\na: 2\n", "f.yml:2:1"),
            ("a: 1\nb: !!str 3\n", "f.yml:2:"),
            ("- 1\n", "f.yml:1:1"),
            ("", "f.yml: holds no keys"),
        ] {
            let message = parse_mapping("f.yml", file).unwrap_err().to_string();
            assert!(message.starts_with(want), "{file:?}: {message}");
        }
    }
}
