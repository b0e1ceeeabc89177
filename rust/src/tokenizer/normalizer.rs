//! Text before it is cut into pieces: character map, white space, the dummy prefix.

use super::charsmap::Charsmap;
use super::model_file::NormalizerSpec;
use super::origins::Origins;
use super::roles::Roles;
use super::symbols::Symbols;
use super::utf8::first_char;
use super::worker::Text;
use crate::error::Result;

/// U+2581, which stands for a space.
pub(super) const SPACE_SYMBOL: &str = "\u{2581}";

pub(super) struct Normalizer {
    pub(super) charsmap: Option<Charsmap>,
    pub(super) symbols: Symbols,
    pub(super) roles: Roles,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    pub(super) whitespace_as_suffix: bool,
    pub(super) space: &'static str,
}

/// Normalised text and, if asked for, where in the input it comes from.
#[derive(Default)]
pub(super) struct Normalized {
    pub(super) text: String,
    pub(super) origins: Option<Origins>,
}

impl Normalized {
    /// With the origins of the text.
    pub(super) fn tracked() -> Self {
        Self { text: String::new(), origins: Some(Origins::default()) }
    }

    fn clear(&mut self) {
        self.text.clear();
        if let Some(origins) = &mut self.origins {
            origins.clear();
        }
    }

    /// Appends what stands for the input at `from` as a whole.
    #[inline]
    fn push(&mut self, text: &str, from: usize) {
        if let Some(origins) = &mut self.origins {
            origins.push(self.text.len(), text, from, false);
        }
        self.text.push_str(text);
    }

    /// Appends a part of the input.
    #[inline]
    fn copy(&mut self, text: &str, from: usize) {
        if let Some(origins) = &mut self.origins {
            origins.push(self.text.len(), text, from, true);
        }
        self.text.push_str(text);
    }
}

impl Normalizer {
    pub(super) fn new(spec: &NormalizerSpec<'_>, symbols: Symbols, whitespace_as_suffix: bool) -> Result<Self> {
        let charsmap = (!spec.charsmap.is_empty()).then(|| Charsmap::new(spec.charsmap)).transpose()?;
        Ok(Self {
            roles: Roles::new(charsmap.as_ref(), &symbols),
            charsmap,
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
        self.normalize_text(Text::Bytes(input), out);
    }

    pub(super) fn normalize_text(&self, text: Text<'_>, out: &mut Normalized) {
        out.clear();
        let (input, valid) = (text.bytes(), text.valid());
        let mut at = self.leading_spaces(input);
        if at == input.len() {
            return;
        }
        if self.add_dummy_prefix && !self.whitespace_as_suffix {
            out.push(self.space, at);
        }
        let mut after_space = self.remove_extra_whitespaces;
        let plain_space = self.roles.space_is_plain();
        while at < input.len() {
            if let Some(text) = valid {
                let still = self.roles.still(&text[at..]);
                if still > 0 {
                    out.copy(&text[at..at + still], at);
                    at += still;
                    after_space = false;
                    continue;
                }
            }
            if plain_space && input[at] == b' ' {
                if !after_space {
                    out.push(self.space, at);
                }
                after_space = self.remove_extra_whitespaces;
                at += 1;
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
            if let Some(origins) = &mut out.origins {
                used = origins.truncate(out.text.len());
            }
        }
        if self.add_dummy_prefix && self.whitespace_as_suffix {
            out.push(self.space, used);
        }
        if let Some(origins) = &mut out.origins {
            origins.finish(used);
        }
    }
}
