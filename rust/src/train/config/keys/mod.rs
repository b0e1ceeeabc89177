//! Every configuration key: type, default, class and why. One table, read by the checks, by the
//! resolved dump and by `docs/config.md`.
//!
//! A key of a nested mapping stands here with its dotted name (`optimizer.params.lr`).

mod data;
mod distributed;
mod logging;
mod model;
mod optimizer;
mod other;
mod training;

use std::fmt;

/// What happens to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Has its meaning here.
    Essential,
    /// Exists only here, not in GPT-NeoX.
    Ours,
    /// Asks for several processes: 1 (or less) is accepted, more needs a distributed engine.
    Engine,
    /// Accepted; a value other than the default is named once in the log.
    NoEffect,
    /// Would change results and is not supported: refused unless it has its default.
    Rejected,
    /// Follows from other keys; may only repeat what they give.
    Derived,
}

/// What values a key takes. `null` always means "as if the key were not written".
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Bool,
    /// At least this.
    Int(i64),
    Float(Range),
    /// A number of either sort, above 0.
    Number,
    Text,
    /// The first values are supported, the second known to GPT-NeoX only. Case does not matter.
    Choice(&'static [&'static str], &'static [&'static str]),
    /// Whole numbers, 0 or more.
    Ints,
    /// Numbers, 0 or more.
    Floats,
    Texts,
    List,
    /// A mapping that nobody looks into.
    Dict,
    /// A mapping whose keys are in this table.
    Section,
    Any,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    NotNegative,
    Positive,
    /// 0 to 1.
    Share,
    Finite,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Default {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'static str),
    Floats(&'static [f64]),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    pub default: Default,
    pub class: Class,
    /// The meaning; for the other classes the reason.
    pub note: &'static str,
}

const fn key(name: &'static str, kind: Kind, default: Default, class: Class, note: &'static str) -> Key {
    Key { name, kind, default, class, note }
}

/// An essential key.
const fn e(name: &'static str, kind: Kind, default: Default, note: &'static str) -> Key {
    key(name, kind, default, Class::Essential, note)
}

/// One of ours.
const fn o(name: &'static str, kind: Kind, default: Default, note: &'static str) -> Key {
    key(name, kind, default, Class::Ours, note)
}

/// For the distributed engine.
const fn m(name: &'static str, kind: Kind, default: Default, note: &'static str) -> Key {
    key(name, kind, default, Class::Engine, note)
}

/// Without effect.
const fn w(name: &'static str, kind: Kind, default: Default, note: &'static str) -> Key {
    key(name, kind, default, Class::NoEffect, note)
}

/// Refused.
const fn r(name: &'static str, kind: Kind, default: Default, note: &'static str) -> Key {
    key(name, kind, default, Class::Rejected, note)
}

/// Derived.
const fn d(name: &'static str, kind: Kind, note: &'static str) -> Key {
    key(name, kind, Default::Null, Class::Derived, note)
}

impl Class {
    /// The word of the reference page.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Essential => "supported",
            Self::Ours => "ours",
            Self::Engine => "engine",
            Self::NoEffect => "no effect",
            Self::Rejected => "refused",
            Self::Derived => "derived",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("bool"),
            Self::Int(least) => write!(f, "int >= {least}"),
            Self::Float(Range::Finite) => f.write_str("float"),
            Self::Float(Range::NotNegative) => f.write_str("float >= 0"),
            Self::Float(Range::Positive) => f.write_str("float > 0"),
            Self::Float(Range::Share) => f.write_str("float 0..1"),
            Self::Number => f.write_str("int or float > 0"),
            Self::Text => f.write_str("text"),
            Self::Choice(supported, _) => f.write_str(&supported.join(", ")),
            Self::Ints => f.write_str("list of int"),
            Self::Floats => f.write_str("list of float"),
            Self::Texts => f.write_str("list of text"),
            Self::List => f.write_str("list"),
            Self::Dict | Self::Section => f.write_str("mapping"),
            Self::Any => f.write_str("any"),
        }
    }
}

impl Default {
    /// As JSON.
    pub fn json(self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(value) => value.into(),
            Self::Int(value) => value.into(),
            Self::Float(value) => value.into(),
            Self::Text(value) => value.into(),
            Self::Floats(values) => values.into(),
        }
    }
}

/// The table by section, in the order of the reference page.
pub const SECTIONS: &[(&str, &[Key])] = &[
    ("Model", model::KEYS),
    ("Kernels and numerics", model::KERNELS),
    ("Optimizer and schedule", optimizer::KEYS),
    ("Batch and precision", training::BATCH),
    ("Checkpoints and control", training::CONTROL),
    ("Data and tokenizer", data::KEYS),
    ("Logging", logging::LOGGING),
    ("Generation and evaluation", logging::GENERATION),
    ("Processes and launch", distributed::KEYS),
    ("Preference and reinforcement learning", other::PREFERENCE),
    ("Other architectures", other::ARCHITECTURES),
    ("Derived", other::DERIVED),
];

/// All keys in table order.
pub fn all() -> impl Iterator<Item = &'static Key> {
    SECTIONS.iter().flat_map(|(_, keys)| keys.iter())
}

/// The key of this (dotted) name.
pub fn find(name: &str) -> Option<&'static Key> {
    all().find(|key| key.name == name)
}

/// What other tools call one of our keys; spelling alone would not find it.
const FOREIGN: &[(&str, &str)] = &[
    ("adam_beta1", "optimizer.params.betas"),
    ("adam_beta2", "optimizer.params.betas"),
    ("adam_eps", "optimizer.params.eps"),
    ("global_batch_size", "train_batch_size"),
    ("learning_rate", "optimizer.params.lr"),
    ("lr_warmup_fraction", "warmup"),
    ("max_steps", "train_iters"),
    ("max_seq_len", "seq_length"),
    ("micro_batch_size", "train_micro_batch_size_per_gpu"),
    ("n_embd", "hidden_size"),
    ("n_head", "num_attention_heads"),
    ("n_layer", "num_layers"),
    ("num_key_value_heads", "num_kv_heads"),
    ("num_query_groups", "num_kv_heads"),
    ("rope_theta", "rotary_emb_base"),
    ("rotary_base", "rotary_emb_base"),
    ("save_interval", "checkpoint_factor"),
    ("tokenizer_model", "vocab_file"),
    ("untie_embeddings_and_output_weights", "no_weight_tying"),
];

/// The known key that a wrong one most likely means: its foreign name, else the nearest spelling
/// in the same mapping, else a nested key of that last name.
pub(crate) fn nearest(name: &str) -> Option<&'static str> {
    const LIKENESS: f64 = 0.75;
    let lower = name.to_ascii_lowercase();
    let last = lower.rsplit('.').next().unwrap_or_default();
    if let Some((_, known)) = FOREIGN.iter().find(|(foreign, _)| *foreign == last) {
        return Some(known);
    }
    if let Some(key) = all().find(|key| key.name.rsplit_once('.').is_some_and(|(_, own)| own == lower)) {
        return Some(key.name);
    }
    let parent = |name: &str| name.rsplit_once('.').map_or(String::new(), |(parent, _)| parent.to_owned());
    let family = parent(&lower);
    all()
        .filter(|key| parent(key.name) == family)
        .map(|key| (strsim::normalized_damerau_levenshtein(&lower, key.name), key.name))
        .filter(|(likeness, _)| *likeness >= LIKENESS)
        .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(a.1)))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_sections_exist() {
        let mut names: Vec<_> = all().map(|key| key.name).collect();
        names.sort_unstable();
        for pair in names.windows(2) {
            assert_ne!(pair[0], pair[1]);
        }
        for name in &names {
            if let Some((parent, _)) = name.rsplit_once('.') {
                assert_eq!(find(parent).map(|key| key.kind), Some(Kind::Section), "{name}");
            }
        }
        for (foreign, known) in FOREIGN {
            assert!(find(known).is_some(), "{foreign} -> {known}");
            assert!(find(foreign).is_none(), "{foreign} is a key itself");
        }
    }

    #[test]
    fn typos_find_their_key() {
        for (wrong, want) in [
            ("num_layer", Some("num_layers")),
            ("hiden_size", Some("hidden_size")),
            ("Train_Iters", Some("train_iters")),
            ("optimizer.params.beta", Some("optimizer.params.betas")),
            ("learning_rate", Some("optimizer.params.lr")),
            ("betas", Some("optimizer.params.betas")),
            ("zzzzzz", None),
        ] {
            assert_eq!(nearest(wrong), want, "{wrong}");
        }
    }
}
