//! Added tokens: strings that are found in the text before the model sees it.

use std::collections::HashMap;

use super::super::symbols::Symbols;
use super::json::At;
use super::pattern::is_word;
use crate::error::Result;

pub(super) struct AddedToken<'j> {
    pub(super) id: u32,
    pub(super) content: &'j str,
    pub(super) special: bool,
    pub(super) normalized: bool,
    rule: Rule,
}

#[derive(Clone, Copy)]
struct Rule {
    id: u32,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
}

impl<'j> AddedToken<'j> {
    /// # Errors
    /// `Tokenizer` naming the key that is missing or of another type.
    pub(super) fn read(at: &At<'j>) -> Result<Self> {
        let id = at.number("id")?;
        let id = u32::try_from(id).map_err(|_| at.wrong(&format!("id {id} is too large")))?;
        let special = at.flag("special", false)?;
        let rule = Rule {
            id,
            single_word: at.flag("single_word", false)?,
            lstrip: at.flag("lstrip", false)?,
            rstrip: at.flag("rstrip", false)?,
        };
        Ok(Self { id, content: at.need_text("content")?, special, normalized: at.flag("normalized", !special)?, rule })
    }
}

/// Tokens that are looked for together: the leftmost, of those the longest.
#[derive(Default)]
pub(super) struct Matcher {
    symbols: Symbols,
    rules: HashMap<Box<str>, Rule>,
    /// The bytes that tokens begin with, where they are few.
    starts: Vec<u8>,
}

pub(super) enum Part {
    Token { id: u32, from: usize, to: usize },
    Text { from: usize, to: usize },
}

impl Matcher {
    /// # Errors
    /// `Tokenizer` where two tokens are one string.
    pub(super) fn new<'t>(at: &At<'_>, tokens: impl Iterator<Item = (String, &'t AddedToken<'t>)>) -> Result<Self> {
        let mut rules: HashMap<Box<str>, Rule> = HashMap::new();
        for (pattern, token) in tokens.filter(|(pattern, _)| !pattern.is_empty()) {
            if rules.insert(pattern.as_str().into(), token.rule).is_some() {
                return Err(at.wrong(&format!("two tokens are found as {pattern:?}")));
            }
        }
        let mut starts: Vec<u8> = rules.keys().map(|key| key.as_bytes()[0]).collect();
        starts.sort_unstable();
        starts.dedup();
        Ok(Self { symbols: Symbols::new(rules.keys().map(|key| &**key)), rules, starts })
    }

    /// Cuts `text` into tokens and what is between them.
    pub(super) fn split(&self, text: &str, mut each: impl FnMut(Part)) {
        // Where the next search begins, and the end of what has been given out.
        let (mut at, mut done) = (0, 0);
        while let Some((mut from, mut to)) = self.next(text, at) {
            at = to;
            let Some(rule) = self.rules.get(&text[from..to]) else { continue };
            if rule.single_word && !stands_alone(text, from, to) {
                continue;
            }
            if rule.lstrip {
                from = text[..from].trim_end().len().max(done);
            }
            if rule.rstrip {
                to = text.len() - text[to..].trim_start().len();
            }
            if done < from {
                each(Part::Text { from: done, to: from });
            }
            each(Part::Token { id: rule.id, from, to });
            done = to;
        }
        if done != text.len() {
            each(Part::Text { from: done, to: text.len() });
        }
    }

    fn next(&self, text: &str, mut at: usize) -> Option<(usize, usize)> {
        loop {
            at += self.next_start(&text.as_bytes()[at..])?;
            if let Some(length) = self.symbols.longest(&text.as_bytes()[at..]) {
                return Some((at, at + length));
            }
            at += 1;
        }
    }

    #[inline]
    fn next_start(&self, bytes: &[u8]) -> Option<usize> {
        match *self.starts {
            [] => None,
            [a] => memchr::memchr(a, bytes),
            [a, b] => memchr::memchr2(a, b, bytes),
            [a, b, c] => memchr::memchr3(a, b, c, bytes),
            _ => bytes.iter().position(|byte| self.symbols.may_start(*byte)),
        }
    }
}

fn stands_alone(text: &str, from: usize, to: usize) -> bool {
    !text[..from].chars().next_back().is_some_and(is_word) && !text[to..].chars().next().is_some_and(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn split(tokens: &[serde_json::Value], text: &str) -> Vec<(Option<u32>, String)> {
        let tokens: Vec<_> = tokens.iter().map(|t| AddedToken::read(&At::root(t)).unwrap()).collect();
        let pairs = tokens.iter().map(|t| (t.content.to_owned(), t));
        let matcher = Matcher::new(&At::root(&serde_json::Value::Null), pairs).unwrap();
        let mut parts = Vec::new();
        matcher.split(text, |part| match part {
            Part::Token { id, from, to } => parts.push((Some(id), text[from..to].to_owned())),
            Part::Text { from, to } => parts.push((None, text[from..to].to_owned())),
        });
        parts
    }

    #[test]
    fn longest_words_and_spaces() {
        let tokens = [
            json!({"id": 1, "content": "<a>"}),
            json!({"id": 2, "content": "<a>b", "lstrip": true, "rstrip": true}),
            json!({"id": 3, "content": "猫", "single_word": true}),
        ];
        let own = |text: &str| (None, text.to_owned());
        assert_eq!(split(&tokens, "x  <a>b y"), [own("x"), (Some(2), "  <a>b ".to_owned()), own("y")]);
        assert_eq!(split(&tokens, "<a>猫"), [(Some(1), "<a>".to_owned()), (Some(3), "猫".to_owned())]);
        assert_eq!(split(&tokens, "猫だ"), [own("猫だ")]);
        assert_eq!(split(&tokens, ""), []);
    }
}
