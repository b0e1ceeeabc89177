//! `lc.config`: mappings cross the border as JSON text.

use pyo3::prelude::*;

use super::error::Result;
use crate::error::Error;
use crate::train::config::{self, Loaded, Source, keys};

type Json = serde_json::Value;

/// Files (`(None, path)`) and mappings (`(Some(name), json)`), overrides as a JSON list of pairs.
pub(super) fn load(sources: Vec<(Option<String>, String)>, overrides: &str) -> std::result::Result<Loaded, Error> {
    let source = |(name, text): (Option<String>, String)| match name {
        None => Ok(Source::File(text.into())),
        Some(name) => json(&text).map(|value| Source::Mapping { name, value }),
    };
    let sources = sources.into_iter().map(source).collect::<std::result::Result<Vec<_>, _>>()?;
    let overrides: Vec<(String, Json)> = serde_json::from_str(overrides).map_err(not_json)?;
    config::load_sources(&sources, &overrides)
}

fn json(text: &str) -> std::result::Result<Json, Error> {
    serde_json::from_str(text).map_err(not_json)
}

fn not_json(error: serde_json::Error) -> Error {
    Error::Config(format!("a value that JSON cannot hold: {error}"))
}

/// The resolved mapping as JSON and the warnings.
#[pyfunction]
fn config_load(
    py: Python<'_>,
    sources: Vec<(Option<String>, String)>,
    overrides: String,
) -> Result<(String, Vec<String>)> {
    let loaded = py.detach(|| load(sources, &overrides))?;
    Ok((loaded.resolved.to_string(), loaded.run.warnings))
}

/// The plan as JSON.
#[pyfunction]
fn config_plan(py: Python<'_>, sources: Vec<(Option<String>, String)>, overrides: String) -> Result<String> {
    let plan = py.detach(|| load(sources, &overrides).and_then(|loaded| config::plan(&loaded.run)))?;
    Ok(plan.to_json().to_string())
}

/// A mapping (JSON) as YAML text.
#[pyfunction]
fn config_to_yaml(mapping: &str) -> Result<String> {
    Ok(config::to_yaml(&json(mapping)?))
}

/// `key=value` as the key and its value in JSON.
#[pyfunction]
fn config_parse_override(text: &str) -> Result<(String, String)> {
    let (key, value) = config::parse_override(text)?;
    Ok((key, value.to_string()))
}

/// The key table: section, name, type, default (as YAML), class, note.
#[pyfunction]
fn config_keys() -> Vec<(&'static str, &'static str, String, String, &'static str, &'static str)> {
    let row = |section: &'static str, key: &'static keys::Key| {
        (section, key.name, key.kind.to_string(), config::to_yaml(&key.default.json()), key.class.name(), key.note)
    };
    keys::SECTIONS.iter().flat_map(|(section, keys)| keys.iter().map(|key| row(section, key))).collect()
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(config_load, m)?)?;
    m.add_function(wrap_pyfunction!(config_plan, m)?)?;
    m.add_function(wrap_pyfunction!(config_to_yaml, m)?)?;
    m.add_function(wrap_pyfunction!(config_parse_override, m)?)?;
    m.add_function(wrap_pyfunction!(config_keys, m)?)
}
