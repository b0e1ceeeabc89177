//! Which strings may be pieces.

use unicode_script::{Script, UnicodeScript};

use super::options::Options;
use super::text::{FIRST, Text};

/// What a character means for the pieces it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// In no piece.
    Never,
    Space,
    /// `script` is `None` where it takes that of the character before.
    Letter {
        script: Option<Script>,
        digit: bool,
    },
}

/// The rules for pieces, over the codes of a text.
pub struct Valid {
    classes: Vec<Class>,
    max_length: usize,
    by_script: bool,
    by_space: bool,
    by_number: bool,
    digits_alone: bool,
    suffix: bool,
    spaces_alone: bool,
}

impl Valid {
    pub fn new(text: &Text, options: &Options) -> Self {
        let classes = text.chars.iter().enumerate();
        Self {
            classes: classes.map(|(code, c)| if (code as u32) < FIRST { Class::Never } else { class(*c) }).collect(),
            max_length: options.max_sentencepiece_length,
            by_script: options.split_by_unicode_script,
            by_space: options.split_by_whitespace,
            by_number: options.split_by_number,
            digits_alone: options.split_digits,
            suffix: options.treat_whitespace_as_suffix,
            spaces_alone: options.allow_whitespace_only_pieces,
        }
    }

    /// Whether these codes may be a piece.
    pub fn is_valid_piece(&self, codes: &[u32]) -> bool {
        let class = |code: &u32| self.classes[*code as usize];
        if codes.is_empty() || codes.len() > self.max_length {
            return false;
        }
        let free_spaces = self.spaces_alone && codes.iter().all(|code| class(code) == Class::Space);
        let mut script = None;
        codes.iter().map(class).enumerate().all(|(at, class)| match class {
            Class::Never => false,
            Class::Space => free_spaces || self.allows_space(at, codes.len()),
            Class::Letter { digit: true, .. } if self.digits_alone && codes.len() > 1 => false,
            Class::Letter { script: own, digit } => {
                let own = if digit && !self.by_number { None } else { own.or(script) };
                let clash = own.is_some() && script.is_some() && own != script;
                script = own;
                !(self.by_script && clash)
            }
        })
    }

    /// A space symbol begins a piece (or ends it, in suffix mode); inside it only without
    /// `split_by_whitespace`.
    fn allows_space(&self, at: usize, length: usize) -> bool {
        let last = length - 1;
        match (self.suffix, self.by_space) {
            (false, true) => at == 0,
            (false, false) => at == 0 || at < last,
            (true, true) => at == last,
            (true, false) => at == last || at > 0,
        }
    }
}

fn class(c: char) -> Class {
    match c {
        '\0' | '\u{1f}' | ' ' | '\u{2585}' => Class::Never,
        '\u{2581}' => Class::Space,
        _ => Class::Letter { script: script(c), digit: c.is_ascii_digit() || ('０'..='９').contains(&c) },
    }
}

/// Kana count as Han: Japanese words mix them. What has no script is common.
fn script(c: char) -> Option<Script> {
    match c.script() {
        Script::Hiragana | Script::Katakana => Some(Script::Han),
        _ if c == 'ー' => Some(Script::Han),
        Script::Inherited => None,
        Script::Unknown => Some(Script::Common),
        script => Some(script),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid(piece: &str, change: impl FnOnce(&mut Options)) -> bool {
        let mut options = Options::default();
        change(&mut options);
        let mut chars = vec!['\u{1f}', '\u{2585}'];
        chars.extend(piece.chars().map(|c| if c == '_' { '\u{2581}' } else { c }));
        let codes: Vec<u32> = (FIRST..chars.len() as u32).collect();
        Valid::new(&Text { chars, ..Text::default() }, &options).is_valid_piece(&codes)
    }

    #[test]
    fn scripts_do_not_mix() {
        for piece in ["漢字かなカナー", "abc", "12", "_abc", "がか\u{3099}", "\u{301}a", "、。"] {
            assert!(valid(piece, |_| ()), "{piece}");
        }
        for piece in ["aあ", "a1", "日1", "aα", "あ。", "a\u{301}あ"] {
            assert!(!valid(piece, |_| ()), "{piece}");
            assert!(valid(piece, |o| o.split_by_unicode_script = false), "{piece}");
        }
        assert!(valid("a1あ", |o| o.split_by_number = false));
        assert!(!valid("12", |o| o.split_digits = true));
        assert!(valid("１", |o| o.split_digits = true));
    }

    #[test]
    fn spaces_stand_at_the_edge() {
        assert!(valid("_", |_| ()));
        for piece in ["a_", "a_b", "__", "_a_"] {
            assert!(!valid(piece, |_| ()), "{piece}");
        }
        assert!(valid("a_b", |o| o.split_by_whitespace = false));
        assert!(!valid("a_", |o| o.split_by_whitespace = false));
        assert!(valid("__", |o| o.allow_whitespace_only_pieces = true));
        assert!(!valid("__a", |o| o.allow_whitespace_only_pieces = true));
        let suffix = |o: &mut Options| o.treat_whitespace_as_suffix = true;
        assert!(valid("a_", suffix) && !valid("_a", suffix) && !valid("a_b", suffix));
    }

    #[test]
    fn length_and_reserved_characters() {
        assert!(valid(&"a".repeat(16), |_| ()));
        assert!(!valid(&"a".repeat(17), |_| ()));
        assert!(!valid("a\u{2585}", |_| ()));
        assert!(!valid("", |_| ()));
    }
}
