//! Several sources to one mapping of top-level keys: files in order, then overrides.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::yaml::{self, Content, Entry, Node, Place};
use crate::error::{Error, Result};

/// Where keys come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A YAML or JSON file; a name without `.yml`, `.yaml` or `.json` gets `.yml`.
    File(PathBuf),
    /// A mapping in memory (a resolved configuration, a manifest) and what messages call it.
    Mapping { name: String, value: Value },
}

/// Top-level keys, dashes turned into underscores.
pub(crate) type Merged = BTreeMap<String, Entry>;

/// The union of all sources' keys; overrides win.
///
/// # Errors
/// `Config`: two files of one name, a key in two sources (or with dash and underscore), text that
/// is no YAML. `Io`: an unreadable file.
pub(crate) fn merge(sources: &[Source], overrides: &[(String, Value)]) -> Result<Merged> {
    let mut merged = Merged::new();
    let mut names: Vec<(String, PathBuf)> = Vec::new();
    for source in sources {
        let entries = match source {
            Source::File(path) => {
                let path = with_extension(path);
                check_name(&mut names, &path)?;
                read(&path)?
            }
            Source::Mapping { name, value } => mapping(name, value)?,
        };
        for entry in entries {
            insert(&mut merged, entry)?;
        }
    }
    apply(&mut merged, overrides)?;
    Ok(merged)
}

/// `a` -> `a.yml`, as GPT-NeoX has it.
fn with_extension(path: &Path) -> PathBuf {
    let known = path.extension().is_some_and(|ext| ext == "yml" || ext == "yaml" || ext == "json");
    match path.file_name() {
        Some(name) if !known => {
            let mut name = name.to_owned();
            name.push(".yml");
            path.with_file_name(name)
        }
        _ => path.to_owned(),
    }
}

fn check_name(names: &mut Vec<(String, PathBuf)>, path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Some((_, first)) = names.iter().find(|(known, _)| *known == name) {
        return Err(Error::Config(format!(
            "{} and {} have the same name; a checkpoint keeps a run's files under their names, so rename one",
            first.display(),
            path.display()
        )));
    }
    names.push((name, path.to_owned()));
    Ok(())
}

fn read(path: &Path) -> Result<Vec<Entry>> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::Config(format!("{}: not UTF-8 text (byte {at}); save it as UTF-8", path.display()))
    })?;
    yaml::parse_mapping(&path.display().to_string(), &text)
}

fn mapping(name: &str, value: &Value) -> Result<Vec<Entry>> {
    let node = Node::from_json(value, &Place::whole(name));
    match node.content {
        Content::Dict(entries) => Ok(entries),
        _ => Err(Error::Config(format!("{name}: expected a mapping of keys to values, got {}", node.describe()))),
    }
}

fn insert(merged: &mut Merged, mut entry: Entry) -> Result<()> {
    let written = entry.key.clone();
    entry.key = written.replace('-', "_");
    if let Some(first) = merged.get(&entry.key) {
        let dashes = if written == entry.key { String::new() } else { format!(" (written {written:?})") };
        return Err(Error::Config(format!(
            "{}: key {:?}{dashes} stands already at {}; remove one",
            entry.place, entry.key, first.place
        )));
    }
    merged.insert(entry.key.clone(), entry);
    Ok(())
}

/// A dotted key replaces one value inside a nested mapping, a plain one the whole value.
fn apply(merged: &mut Merged, overrides: &[(String, Value)]) -> Result<()> {
    let mut seen = Vec::new();
    for (written, value) in overrides {
        let (top, rest) = written.split_once('.').map_or((written.as_str(), None), |(top, rest)| (top, Some(rest)));
        let top = top.replace('-', "_");
        let path = rest.map_or(top.clone(), |rest| format!("{top}.{rest}"));
        if seen.contains(&path) {
            return Err(Error::Config(format!("override {path:?} is given twice; remove one")));
        }
        let place = Place::whole(&format!("override {path:?}"));
        let node = Node::from_json(value, &place);
        let empty = || Entry { key: top.clone(), place: place.clone(), node: Node::new(Content::Null, place.clone()) };
        let entry = merged.entry(top.clone()).or_insert_with(empty);
        match rest {
            Some(rest) => set_nested(&mut entry.node, rest, node)?,
            None => *entry = Entry { key: top.clone(), place, node },
        }
        seen.push(path);
    }
    Ok(())
}

fn set_nested(target: &mut Node, path: &str, value: Node) -> Result<()> {
    if target.content == Content::Null {
        target.content = Content::Dict(Vec::new());
    }
    let Content::Dict(entries) = &mut target.content else {
        return Err(Error::Config(format!("{}: {} holds no keys", value.place, target.describe())));
    };
    let (key, rest) = path.split_once('.').map_or((path, None), |(key, rest)| (key, Some(rest)));
    let at = entries.iter().position(|entry| entry.key == key).unwrap_or_else(|| {
        let place = value.place.clone();
        entries.push(Entry { key: key.into(), place: place.clone(), node: Node::new(Content::Null, place) });
        entries.len() - 1
    });
    let entry = &mut entries[at];
    match rest {
        Some(rest) => set_nested(&mut entry.node, rest, value),
        None => {
            *entry = Entry { key: key.into(), place: value.place.clone(), node: value };
            Ok(())
        }
    }
}

/// `key=value` of a command line; the value is YAML, and `1e-5` is the number.
///
/// # Errors
/// `Config`: no `=`, or a value that is no YAML.
pub fn parse_override(text: &str) -> Result<(String, Value)> {
    let Some((key, value)) = text.split_once('=').filter(|(key, _)| !key.trim().is_empty()) else {
        return Err(Error::Config(format!("override {text:?}: expected key=value")));
    };
    if let Some(number) = super::scalar::numeric_text(value).and_then(serde_json::Number::from_f64) {
        if value.trim().parse::<i64>().is_err() {
            return Ok((key.trim().into(), Value::Number(number)));
        }
    }
    let node = yaml::parse(&format!("override {:?}", key.trim()), value)?;
    Ok((key.trim().into(), super::values::json(&node.content)))
}
