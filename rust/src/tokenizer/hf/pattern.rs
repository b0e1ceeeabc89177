//! Regular expressions of `tokenizer.json`, which were written for Oniguruma.
//!
//! What both engines read alike passes; the rest is refused by name. Two idioms that need
//! look-around are rewritten: `(?<!\n)^`, the beginning of the text, and the ending
//! `|\s+(?!\S)|\s+`, white space without its last character where something follows.

use regex_automata::meta::Regex;
use regex_automata::{Anchored, Input};

use super::json::At;
use crate::error::Result;

const START: &str = r"(?<!\n)^";
const SPACES: &str = r"|\s+(?!\S)|\s+";
/// Of patterns; a compiled one may be far larger than its text.
const MAX_BYTES: usize = 1 << 14;
const MAX_COMPILED: usize = 1 << 26;

pub(super) struct Pattern {
    regex: Regex,
    /// Whether the second of the patterns is the white space of `SPACES`.
    gives_back: bool,
}

impl Pattern {
    /// # Errors
    /// `UnsupportedModel` naming what the engines read differently or this one not at all.
    pub(super) fn new(at: &At<'_>, source: &str) -> Result<Self> {
        if source.len() > MAX_BYTES {
            return Err(at.refused(&format!("a regular expression of more than {MAX_BYTES} bytes")));
        }
        let (head, gives_back) = match source.strip_suffix(SPACES) {
            Some(head) => (head, true),
            None => (source, false),
        };
        let head = head.replace(START, r"\A");
        if let Some(what) = differs(&head) {
            return Err(at.refused(&format!("{what} in the regular expression {source:?}")));
        }
        let patterns: &[&str] = if gives_back { &[&head, r"\s+"] } else { &[&head] };
        let config = Regex::config().nfa_size_limit(Some(MAX_COMPILED));
        let regex = Regex::builder().configure(config).build_many(patterns);
        let regex = regex.map_err(|error| {
            let reason = error.syntax_error().map_or_else(|| error.to_string(), |syntax| syntax.to_string());
            let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            at.refused(&format!("the regular expression {source:?} ({reason})"))
        })?;
        Ok(Self { regex, gives_back })
    }

    /// A string that is found as it is.
    pub(super) fn literal(at: &At<'_>, text: &str) -> Result<Self> {
        let regex = Regex::new(&regex_syntax::escape(text)).map_err(|error| at.wrong(&error.to_string()))?;
        Ok(Self { regex, gives_back: false })
    }

    /// The matches in `text[from..to]`, which counts as a text of its own.
    pub(super) fn each_match(&self, text: &str, mut each: impl FnMut(usize, usize)) {
        let (mut at, mut last_end) = (0, None);
        while at <= text.len() {
            let input = Input::new(text).span(at..text.len()).anchored(Anchored::No);
            let Some(found) = self.regex.search(&input) else { return };
            let (start, mut end) = (found.start(), found.end());
            if self.gives_back && found.pattern().as_usize() == 1 && end < text.len() {
                let last = text[start..end].chars().next_back().map_or(0, char::len_utf8);
                if last < end - start {
                    end -= last;
                }
            }
            if start == end && last_end == Some(end) {
                // An empty match right after another is none.
                at = end + text[end..].chars().next().map_or(1, char::len_utf8);
                continue;
            }
            each(start, end);
            last_end = Some(end);
            at = if start == end { end + text[end..].chars().next().map_or(1, char::len_utf8) } else { end };
        }
    }
}

/// A class such as `\p{L}`, as sorted ranges of code points.
pub(super) fn class(name: &str) -> Vec<(u32, u32)> {
    use regex_syntax::hir::{Class, HirKind};
    match regex_syntax::parse(name).map(|hir| hir.into_kind()) {
        Ok(HirKind::Class(Class::Unicode(class))) => {
            class.ranges().iter().map(|range| (range.start() as u32, range.end() as u32)).collect()
        }
        // Only names of classes are asked for; the tests ask for each.
        _ => Vec::new(),
    }
}

/// `\w`: letters, marks, decimal digits, connectors.
pub(super) fn is_word(character: char) -> bool {
    static WORDS: std::sync::LazyLock<Vec<(u32, u32)>> = std::sync::LazyLock::new(|| class(r"\w"));
    let at = WORDS.partition_point(|(_, last)| *last < character as u32);
    WORDS.get(at).is_some_and(|(first, _)| *first <= character as u32)
}

/// What Oniguruma reads in its own way.
fn differs(pattern: &str) -> Option<String> {
    let (mut in_class, mut quantified) = (false, false);
    let mut rest = pattern;
    while let Some(character) = rest.chars().next() {
        let after = &rest[character.len_utf8()..];
        let was_quantified = std::mem::take(&mut quantified);
        let mut next = after;
        match character {
            '\\' => match after.chars().next() {
                Some('p' | 'P' | 'u' | 'x') => next = braced(&after[1..]).unwrap_or(&after[1..]),
                Some('s' | 'S' | 'd' | 'D' | 'r' | 'n' | 't' | 'f' | 'A' | 'z') => next = &after[1..],
                Some(other) if !other.is_alphanumeric() => next = &after[other.len_utf8()..],
                Some(other) => return Some(format!(r"\{other}")),
                None => return Some("a backslash at the end".to_owned()),
            },
            '[' if in_class => return Some("a class within a class".to_owned()),
            '[' => {
                in_class = true;
                next = after.strip_prefix('^').unwrap_or(after);
            }
            ']' => in_class = false,
            '&' | '-' | '~' if in_class && after.starts_with(character) => {
                return Some(format!("{character}{character} in a class"));
            }
            _ if in_class => {}
            '^' | '$' => return Some(format!("`{character}`")),
            '+' if was_quantified => return Some("a possessive quantifier".to_owned()),
            '?' if was_quantified => {}
            '+' | '*' | '?' => quantified = true,
            '{' => {
                quantified = true;
                next = braced(rest).unwrap_or(after);
            }
            '(' if after.starts_with('?') && !after.starts_with("?:") && !after.starts_with("?i:") => {
                return Some(format!("a group {:?}", rest.chars().take(3).collect::<String>()));
            }
            _ => {}
        }
        rest = next;
    }
    None
}

/// What follows a `{...}`.
fn braced(text: &str) -> Option<&str> {
    text.strip_prefix('{')?.split_once('}').map(|(_, after)| after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn matches(pattern: &str, text: &str) -> Result<Vec<String>> {
        let pattern = Pattern::new(&At::root(&Value::Null), pattern)?;
        let mut found = Vec::new();
        pattern.each_match(text, |start, end| found.push(text[start..end].to_owned()));
        Ok(found)
    }

    #[test]
    fn white_space_gives_its_last_character_back() {
        let words = matches(r" ?\p{L}+|\s+(?!\S)|\s+", "a  b   c \u{3000}").unwrap();
        assert_eq!(words, ["a", " ", " b", "  ", " c", " \u{3000}"]);
        assert_eq!(matches(r"\p{L}+|\s+(?!\S)|\s+", "a b").unwrap(), ["a", " ", "b"]);
        assert_eq!(matches(r"(?<!\n)^", "a\nb").unwrap(), [""]);
    }

    #[test]
    fn what_engines_read_differently_is_refused() {
        for pattern in [
            r"^a",
            r"a$",
            r"\w",
            r"(?<=a)b",
            r"a++",
            r"[[:alpha:]]",
            r"(?m:a)",
            r"[a&&b]",
            r"a{1,2}+",
            r"\h",
            r"(",
            r"\",
        ] {
            assert!(matches(pattern, "a").is_err(), "{pattern}");
        }
        for pattern in [r"[^a]+", r"\++", r"[+]+", r"a\^", r"(?i:'s|'t)", r"\p{N}{1,3}", r"\p{L}+?", r"[^\s\p{L}]+"] {
            assert!(matches(pattern, "a").is_ok(), "{pattern}");
        }
    }
}
