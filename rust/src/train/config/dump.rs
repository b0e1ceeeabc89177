//! The resolved configuration as a mapping and as YAML text.

use serde_json::{Map, Value as Json};

use super::keys::{self, Class, Key, Kind};
use super::values::Values;

/// Keys with a meaning get their final value; the others appear where they were written.
pub(crate) fn resolved(values: &Values) -> Json {
    let mut map = Map::new();
    for key in sorted() {
        if let Some(value) = shown(key, values) {
            insert(&mut map, key.name, value);
        }
    }
    Json::Object(map)
}

fn sorted() -> Vec<&'static Key> {
    let mut keys: Vec<_> = keys::all().filter(|key| key.kind != Kind::Section).collect();
    keys.sort_by_key(|key| key.name);
    keys
}

fn shown(key: &Key, values: &Values) -> Option<Json> {
    let always = matches!(key.class, Class::Essential | Class::Ours | Class::Engine);
    if !always && !values.given(key.name) {
        return None;
    }
    let value = values.json(key.name);
    let nested = key.name.contains('.');
    if nested { value } else { Some(value.unwrap_or(Json::Null)) }
}

fn insert(map: &mut Map<String, Json>, name: &str, value: Json) {
    match name.split_once('.') {
        None => {
            map.insert(name.into(), value);
        }
        Some((section, rest)) => {
            let inner = map.entry(section).or_insert_with(|| Json::Object(Map::new()));
            if let Json::Object(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

/// One key a line, nested values in flow style. YAML 1.1 and 1.2 read it alike: texts are quoted,
/// floats have a dot and a signed exponent.
pub fn to_yaml(resolved: &Json) -> String {
    let Json::Object(map) = resolved else { return format!("{}\n", flow(resolved)) };
    let mut keys: Vec<_> = map.keys().collect();
    keys.sort_unstable();
    keys.into_iter().map(|key| format!("{key}: {}\n", flow(&map[key]))).collect()
}

fn flow(value: &Json) -> String {
    match value {
        Json::Number(number) if number.is_f64() => float(number.as_f64().unwrap_or(f64::NAN)),
        Json::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Json::Object(map) => {
            let mut keys: Vec<_> = map.keys().collect();
            keys.sort_unstable();
            let entries = keys.into_iter().map(|key| format!("{}: {}", Json::from(key.as_str()), flow(&map[key])));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// The shortest digits that give the number back, with the dot and the signs YAML 1.1 asks for.
fn float(value: f64) -> String {
    let text = format!("{value:?}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let dot = if mantissa.contains('.') { "" } else { ".0" };
    let sign = if exponent.starts_with('-') { "" } else { "+" };
    format!("{mantissa}{dot}e{sign}{exponent}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::config::scalar::{Scalar, resolve};

    #[test]
    fn floats_are_floats_in_yaml_1_1() {
        for value in [1e-8, 6e-4, 1e300, 0.5, 3.0, -2.5e-20, f64::MIN_POSITIVE, f64::MAX] {
            assert_eq!(resolve(&float(value)), Scalar::Float(value), "{}", float(value));
        }
    }

    #[test]
    fn yaml_text() {
        let value = serde_json::json!({"b": [1, 2.0, "x: y"], "a": {"z": null, "c": true}});
        assert_eq!(to_yaml(&value), "a: {\"c\": true, \"z\": null}\nb: [1, 2.0, \"x: y\"]\n");
    }
}
