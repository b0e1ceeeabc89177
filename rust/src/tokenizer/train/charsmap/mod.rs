//! The character maps of SentencePiece's named normalisers, made from Unicode data (version 17).

mod compile;
mod folds;
mod rules;

use std::sync::OnceLock;

use crate::error::{Error, Result};

const NAMES: [&str; 4] = ["nfkc", "nmt_nfkc", "nfkc_cf", "nmt_nfkc_cf"];

/// The precompiled map of a normaliser; empty for `identity`. Made at the first call (a fraction of
/// a second), then kept.
///
/// # Errors
/// `Config` for a name that is not known.
pub fn named_charsmap(name: &str) -> Result<&'static [u8]> {
    static MAPS: [OnceLock<Vec<u8>>; 4] = [const { OnceLock::new() }; 4];
    if name == "identity" {
        return Ok(&[]);
    }
    let at = NAMES.iter().position(|known| *known == name);
    let at = at.ok_or_else(|| {
        let known = NAMES.join(", ");
        Error::Config(format!("normalization_rule_name must be identity, {known}, not {name:?}"))
    })?;
    if let Some(map) = MAPS[at].get() {
        return Ok(map);
    }
    let map = compile::compile(&rules::rules(name.starts_with("nmt"), name.ends_with("_cf")))?;
    Ok(MAPS[at].get_or_init(|| map))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::charsmap::Charsmap;

    #[test]
    fn every_rule_is_found_and_nothing_else() {
        for (name, nmt, fold) in [("nfkc", false, false), ("nmt_nfkc_cf", true, true)] {
            let blob = named_charsmap(name).expect("a known name");
            let map = Charsmap::new(blob).expect("a sound map");
            let rules = rules::rules(nmt, fold);
            assert!(rules.len() > 200_000, "{name} has {} rules", rules.len());
            assert!(blob.len() < 300_000, "{name} takes {} bytes", blob.len());
            for (from, to) in &rules {
                assert_eq!(map.longest_rule(from.as_bytes()), Some((to.as_str(), from.len())), "{from:?}");
            }
            for c in (1..0x11_0000).filter_map(char::from_u32).filter(|c| !rules.contains_key(&c.to_string())) {
                assert_eq!(map.longest_rule(c.to_string().as_bytes()), None, "{c:?}");
            }
        }
    }

    #[test]
    fn names() {
        assert!(named_charsmap("identity").expect("known").is_empty());
        assert!(named_charsmap("nfd").is_err());
    }
}
