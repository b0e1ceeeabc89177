//! The character maps of SentencePiece's named normalisers, made from Unicode data (version 17).
//!
//! Making one takes longer than many a training, so they stand here made; a test makes them anew from `rules` and
//! compares.

#[cfg(test)]
mod compile;
#[cfg(test)]
mod folds;
#[cfg(test)]
mod rules;

use crate::error::{Error, Result};

/// Name and map, compressed.
const MAPS: [(&str, &[u8]); 4] = [
    ("nfkc", include_bytes!("nfkc.zst")),
    ("nmt_nfkc", include_bytes!("nmt_nfkc.zst")),
    ("nfkc_cf", include_bytes!("nfkc_cf.zst")),
    ("nmt_nfkc_cf", include_bytes!("nmt_nfkc_cf.zst")),
];

/// The precompiled map of a normaliser; empty for `identity`.
///
/// # Errors
/// `Config` for a name that is not known.
pub fn named_charsmap(name: &str) -> Result<Vec<u8>> {
    if name == "identity" {
        return Ok(Vec::new());
    }
    let Some((_, packed)) = MAPS.iter().find(|(known, _)| *known == name) else {
        let known = MAPS.map(|(name, _)| name).join(", ");
        return Err(Error::Config(format!("normalization_rule_name must be identity, {known}, not {name:?}")));
    };
    zstd::decode_all(*packed).map_err(|e| Error::Internal(format!("the character map of {name}: {e}")))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::tokenizer::charsmap::Charsmap;

    #[test]
    fn every_rule_is_found_and_nothing_else() {
        for (name, _) in MAPS {
            let rules = rules::rules(name.starts_with("nmt"), name.ends_with("_cf"));
            let blob = compile::compile(&rules).expect("few rules");
            if std::env::var_os("LLMJP_WRITE_CHARSMAPS").is_some() {
                let place = Path::new(file!()).with_file_name(format!("{name}.zst"));
                let packed = zstd::encode_all(blob.as_slice(), 22).expect("memory");
                std::fs::write(place, packed).expect("a checkout that can be written");
                continue;
            }
            assert!(
                named_charsmap(name).expect("a known name") == blob,
                "the rules of {name} have changed: run this test with LLMJP_WRITE_CHARSMAPS=1"
            );
            let map = Charsmap::new(&blob).expect("a sound map");
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
