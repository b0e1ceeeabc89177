//! Text before it is cut into pieces: character map, white space, the dummy prefix.

use super::charsmap::Charsmap;
use super::model_file::NormalizerSpec;
use super::symbols::Symbols;
use super::utf8::first_char;
use crate::error::Result;

/// U+2581, which stands for a space.
pub(super) const SPACE_SYMBOL: &str = "\u{2581}";

pub(super) struct Normalizer {
    pub(super) charsmap: Option<Charsmap>,
    pub(super) symbols: Symbols,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    pub(super) whitespace_as_suffix: bool,
    pub(super) space: &'static str,
}

/// Normalised text, with the byte of the input that each of its bytes comes from, if asked for.
#[derive(Default)]
pub(super) struct Normalized {
    pub(super) text: String,
    /// One more than bytes of `text`: the last is where the input was used up.
    pub(super) origin: Option<Vec<usize>>,
}

impl Normalized {
    fn clear(&mut self) {
        self.text.clear();
        if let Some(origin) = &mut self.origin {
            origin.clear();
        }
    }

    fn push(&mut self, text: &str, from: usize) {
        self.text.push_str(text);
        if let Some(origin) = &mut self.origin {
            origin.resize(self.text.len(), from);
        }
    }
}

impl Normalizer {
    pub(super) fn new(spec: &NormalizerSpec<'_>, symbols: Symbols, whitespace_as_suffix: bool) -> Result<Self> {
        Ok(Self {
            charsmap: (!spec.charsmap.is_empty()).then(|| Charsmap::new(spec.charsmap)).transpose()?,
            symbols,
            add_dummy_prefix: spec.add_dummy_prefix,
            remove_extra_whitespaces: spec.remove_extra_whitespaces,
            whitespace_as_suffix,
            space: if spec.escape_whitespaces { SPACE_SYMBOL } else { " " },
        })
    }

    /// What a space becomes.
    #[inline(always)]
    pub(super) fn space_symbol(&self) -> char {
        if self.space == SPACE_SYMBOL { '\u{2581}' } else { ' ' }
    }

    pub(super) fn adds_dummy_prefix(&self) -> bool {
        self.add_dummy_prefix
    }

    pub(super) fn removes_extra_whitespaces(&self) -> bool {
        self.remove_extra_whitespaces
    }

    /// What the input begins with, normalised, and how many bytes of it that takes.
    pub(super) fn prefix<'a>(&'a self, input: &'a [u8]) -> (&'a str, usize) {
        if let Some(length) = self.symbols.longest(input)
            && let Ok(symbol) = std::str::from_utf8(&input[..length])
        {
            return (symbol, length);
        }
        if let Some(rule) = self.charsmap.as_ref().and_then(|map| map.longest_rule(input)) {
            return rule;
        }
        match first_char(input) {
            Some((_, length)) => (std::str::from_utf8(&input[..length]).unwrap_or_default(), length),
            None => ("\u{fffd}", 1),
        }
    }

    pub(super) fn normalize(&self, input: &[u8], out: &mut Normalized) {
        out.clear();
        let mut at = self.leading_spaces(input);
        if at == input.len() {
            return;
        }
        if self.add_dummy_prefix && !self.whitespace_as_suffix {
            out.push(self.space, at);
        }
        let mut after_space = self.remove_extra_whitespaces;
        let valid = if out.origin.is_none() { std::str::from_utf8(input).ok() } else { None };
        while at < input.len() {
            if let Some(run) = valid.map(|text| self.inert_run(&text[at..])).filter(|run| !run.is_empty()) {
                out.text.push_str(run);
                at += run.len();
                after_space = false;
                continue;
            }
            let (mut text, length) = self.prefix(&input[at..]);
            if after_space {
                text = text.trim_start_matches(' ');
            }
            if !text.is_empty() {
                self.push_escaped(text, at, out);
                after_space = self.remove_extra_whitespaces && text.ends_with(' ');
            }
            at += length;
        }
        self.finish(out, at);
    }

    /// The longest beginning of `text` whose characters stay as they are, each by itself.
    #[inline]
    fn inert_run<'t>(&self, text: &'t str) -> &'t str {
        let is_inert = |c: char| match &self.charsmap {
            Some(map) => c != ' ' && map.is_inert(c),
            None => c != ' ',
        };
        let moves = |(at, c): (usize, char)| !is_inert(c) || self.symbols.may_start(text.as_bytes()[at]);
        let end = text.char_indices().find(|place| moves(*place)).map_or(text.len(), |(at, _)| at);
        &text[..end]
    }

    /// Bytes of the input's beginning that normalise to spaces one by one.
    pub(super) fn leading_spaces(&self, input: &[u8]) -> usize {
        let mut at = 0;
        while self.remove_extra_whitespaces && at < input.len() {
            let (text, length) = self.prefix(&input[at..]);
            if text != " " {
                break;
            }
            at += length;
        }
        at
    }

    fn push_escaped(&self, text: &str, from: usize, out: &mut Normalized) {
        let mut parts = text.split(' ');
        out.push(parts.next().unwrap_or_default(), from);
        for part in parts {
            out.push(self.space, from);
            out.push(part, from);
        }
    }

    fn finish(&self, out: &mut Normalized, mut used: usize) {
        while self.remove_extra_whitespaces && out.text.ends_with(self.space) {
            out.text.truncate(out.text.len() - self.space.len());
            if let Some(origin) = &mut out.origin {
                used = origin[out.text.len()];
                origin.truncate(out.text.len());
            }
        }
        if self.add_dummy_prefix && self.whitespace_as_suffix {
            out.push(self.space, used);
        }
        if let Some(origin) = &mut out.origin {
            origin.push(used);
        }
    }
}
