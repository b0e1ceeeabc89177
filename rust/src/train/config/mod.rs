//! A GPT-NeoX run: YAML files in, one resolved `RunConfig` out.
//!
//! `merge` unites files and overrides, `check` holds each key against the table in `keys`,
//! `resolve` derives and checks combinations, `dump` shows the result.

mod check;
mod count;
mod dump;
pub mod keys;
mod merge;
pub mod plan;
mod resolve;
mod run;
mod scalar;
mod types;
mod values;
mod vocabulary;
mod yaml;

use std::path::PathBuf;

use serde_json::Value;

pub use count::Parameters;
pub use dump::to_yaml;
pub use merge::{Source, parse_override};
pub use plan::{Plan, plan};
pub use run::*;

use crate::error::Result;

/// A run and the mapping that says the same, every essential key with its final value.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub run: RunConfig,
    /// Loading it again gives the same run.
    pub resolved: Value,
}

/// Loads files and mappings; a key of `overrides` wins and may be dotted (`optimizer.params.lr`).
///
/// # Errors
/// `Config` naming file, line and key of every wrong value; `Io`; `Tokenizer` from `vocab_file`.
pub fn load_sources(sources: &[Source], overrides: &[(String, Value)]) -> Result<Loaded> {
    let mut values = check::check(merge::merge(sources, overrides)?)?;
    let run = resolve::run_config(&mut values)?;
    let resolved = dump::resolved(&values);
    Ok(Loaded { run, resolved })
}

fn files(paths: &[PathBuf]) -> Vec<Source> {
    paths.iter().cloned().map(Source::File).collect()
}

/// The run that these files describe.
///
/// # Errors
/// As `load_sources`.
pub fn load(paths: &[PathBuf], overrides: &[(String, Value)]) -> Result<RunConfig> {
    load_sources(&files(paths), overrides).map(|loaded| loaded.run)
}

/// Every essential key with its final value.
///
/// # Errors
/// As `load_sources`.
pub fn resolved(paths: &[PathBuf], overrides: &[(String, Value)]) -> Result<Value> {
    load_sources(&files(paths), overrides).map(|loaded| loaded.resolved)
}

/// Loads a mapping in memory: a resolved configuration or a checkpoint's manifest.
///
/// # Errors
/// As `load_sources`.
pub fn from_mapping(name: &str, value: &Value, overrides: &[(String, Value)]) -> Result<Loaded> {
    load_sources(&[Source::Mapping { name: name.into(), value: value.clone() }], overrides)
}

#[cfg(test)]
mod tests;
