//! Which strings the named normalisers replace, and by what.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use unicode_normalization::UnicodeNormalization;

use super::folds::fold;

pub(super) type Rules = BTreeMap<String, String>;

/// What `nmt` maps to a space beyond NFKC.
const SPACES: [char; 15] = [
    '\t', '\n', '\u{0c}', '\r', '\u{061c}', '\u{1680}', '\u{200b}', '\u{200c}', '\u{200e}', '\u{200f}', '\u{2028}',
    '\u{2029}', '\u{2581}', '\u{feff}', '\u{fffd}',
];

/// NFKC as rules (with `nmt`: also for white space and control characters; with `cf`: then folded).
pub(super) fn rules(nmt: bool, cf: bool) -> Rules {
    let mut rules = without_redundant(&nfkc());
    if nmt {
        add_nmt(&mut rules);
        rules = without_redundant(&rules);
    }
    if cf {
        add_folds(&mut rules);
        rules = without_redundant(&rules);
    }
    rules
}

fn characters() -> impl Iterator<Item = char> {
    let is_assignable = |c: &char| !matches!(*c as u32, 0xfdd0..=0xfdef) && *c as u32 & 0xfffe != 0xfffe;
    (1..=0x10_ffff).filter_map(char::from_u32).filter(is_assignable)
}

/// Each character that NFKC changes, and each spelling out of single characters of a string that
/// NFKC composes.
fn nfkc() -> Rules {
    let mut rules = Rules::new();
    let mut spellings: HashMap<char, Vec<char>> = HashMap::new();
    let mut decomposed = BTreeSet::new();
    for c in characters() {
        let composed: String = c.nfkc().collect();
        if composed.chars().ne([c]) {
            rules.insert(c.to_string(), composed);
        }
        let parts: Vec<char> = c.nfkd().collect();
        match parts[..] {
            [part] => spellings.entry(part).or_default().push(c),
            _ => drop(decomposed.insert(parts)),
        }
    }
    for parts in decomposed {
        let composed: String = parts.iter().copied().nfkc().collect();
        if !composed.chars().eq(parts.iter().copied()) {
            for spelling in all_spellings(&parts, &spellings).into_iter().filter(|s| *s != composed) {
                rules.insert(spelling, composed.clone());
            }
        }
    }
    rules
}

fn all_spellings(parts: &[char], spellings: &HashMap<char, Vec<char>>) -> Vec<String> {
    parts.iter().fold(vec![String::new()], |begun, part| {
        let of_part = spellings.get(part).map_or(std::slice::from_ref(part), Vec::as_slice);
        begun.iter().flat_map(|start| of_part.iter().map(move |c| format!("{start}{c}"))).collect()
    })
}

fn add_nmt(rules: &mut Rules) {
    for c in SPACES {
        rules.insert(c.to_string(), " ".to_owned());
    }
    let controls = (1..=8).chain([0x0b]).chain(0x0e..=0x1f).chain([0x7f, 0x8f, 0x9f]);
    for c in controls.filter_map(char::from_u32) {
        rules.insert(c.to_string(), String::new());
    }
    // Japanese uses the full-width tilde differently from the ASCII one.
    rules.remove("\u{ff5e}");
}

fn add_folds(rules: &mut Rules) {
    for to in rules.values_mut() {
        *to = to.chars().map(fold).collect();
    }
    for c in characters().filter(|c| fold(*c) != *c) {
        rules.entry(c.to_string()).or_insert_with(|| fold(c).to_string());
    }
}

/// Without the rules for longer strings that shorter rules do as well.
fn without_redundant(rules: &Rules) -> Rules {
    let mut by_length: BTreeMap<usize, Vec<(&String, &String)>> = BTreeMap::new();
    for rule in rules {
        by_length.entry(rule.0.chars().count()).or_default().push(rule);
    }
    let mut kept: HashMap<&str, &str> = HashMap::new();
    for (length, rules) in by_length {
        let needed = |(from, to): &(&String, &String)| length == 1 || applied(&kept, from, length - 1) != **to;
        let rules: Vec<_> = rules.into_iter().filter(needed).collect();
        kept.extend(rules.into_iter().map(|(from, to)| (from.as_str(), to.as_str())));
    }
    kept.into_iter().map(|(from, to)| (from.to_owned(), to.to_owned())).collect()
}

/// `text` with the longest rules (of at most `longest` characters) applied from left to right.
fn applied(rules: &HashMap<&str, &str>, text: &str, longest: usize) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let ends = rest.char_indices().map(|(at, c)| at + c.len_utf8()).take(longest);
        let found = ends.filter_map(|end| Some((end, rules.get(&rest[..end])?))).last();
        let (end, to) = found.map_or((first.len_utf8(), &rest[..first.len_utf8()]), |(end, to)| (end, *to));
        out.push_str(to);
        rest = &rest[end..];
    }
    out
}
