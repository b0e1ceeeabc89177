//! A GPT-NeoX run: YAML files in, one resolved `RunConfig` out.

mod run;

pub use run::*;
