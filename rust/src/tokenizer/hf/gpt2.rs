//! GPT-2's cut of text into words, by hand:
//! `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.

use super::pattern::class;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Class {
    Other,
    Letter,
    Number,
    Space,
}

/// Classes of characters: one byte each in the basic plane, ranges beyond.
pub(super) struct Words {
    plane: Box<[Class]>,
    astral: Vec<(u32, u32, Class)>,
}

const PLANE: u32 = 1 << 16;

impl Words {
    pub(super) fn new() -> Self {
        let mut words = Self { plane: vec![Class::Other; PLANE as usize].into(), astral: Vec::new() };
        for (name, kind) in [(r"\p{L}", Class::Letter), (r"\p{N}", Class::Number), (r"\s", Class::Space)] {
            for (first, last) in class(name) {
                for code in first..=last.min(PLANE - 1) {
                    words.plane[code as usize] = kind;
                }
                if last >= PLANE {
                    words.astral.push((first.max(PLANE), last, kind));
                }
            }
        }
        words.astral.sort_unstable_by_key(|(first, _, _)| *first);
        words
    }

    #[inline]
    fn class(&self, character: char) -> Class {
        match self.plane.get(character as usize) {
            Some(class) => *class,
            None => self.class_beyond(character as u32),
        }
    }

    #[cold]
    fn class_beyond(&self, code: u32) -> Class {
        let at = self.astral.partition_point(|(_, last, _)| *last < code);
        self.astral.get(at).filter(|(first, _, _)| *first <= code).map_or(Class::Other, |(_, _, class)| *class)
    }

    /// Where the first word of `text` (not empty) ends.
    #[inline]
    pub(super) fn first(&self, text: &str) -> usize {
        let mut characters = text.chars();
        let Some(first) = characters.next() else { return 0 };
        if first == '\''
            && let Some(length) = contraction(text.as_bytes())
        {
            return length;
        }
        let class = self.class(first);
        if class != Class::Space {
            return first.len_utf8() + self.run(characters.as_str(), class);
        }
        if first == ' '
            && let Some(second) = characters.next()
        {
            let class = self.class(second);
            if class != Class::Space {
                return 1 + second.len_utf8() + self.run(characters.as_str(), class);
            }
        }
        let spaces = self.run(text, Class::Space);
        if spaces == text.len() {
            return spaces;
        }
        // Something follows: the last of several stays with it.
        let last = text[..spaces].chars().next_back().map_or(0, char::len_utf8);
        if last == spaces { spaces } else { spaces - last }
    }

    /// Bytes of the characters of `class` that `text` begins with.
    #[inline]
    fn run(&self, text: &str, class: Class) -> usize {
        text.char_indices().find(|(_, c)| self.class(*c) != class).map_or(text.len(), |(at, _)| at)
    }
}

fn contraction(bytes: &[u8]) -> Option<usize> {
    match (bytes.get(1)?, bytes.get(2)) {
        (b's' | b't' | b'm' | b'd', _) => Some(2),
        (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::json::At;
    use super::super::pattern::Pattern;
    use super::*;

    const PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    fn words(text: &str) -> Vec<usize> {
        let (words, mut at, mut ends) = (Words::new(), 0, Vec::new());
        while at < text.len() {
            at += words.first(&text[at..]);
            ends.push(at);
        }
        ends
    }

    #[test]
    fn as_the_regular_expression() {
        let pattern = Pattern::new(&At::root(&serde_json::Value::Null), PATTERN).unwrap();
        let texts = [
            "I'll don't we've 'sup ''s 're'x' \u{2009}'s",
            "a  b \n\n c\t\td   ",
            "吾輩は猫である。名前はまだ無い。 １２３abc Ⅳ½",
            " \u{3000}\u{3000}a\u{a0} \u{85}x 𠮷野家 𝟘𝟙 😀😀 e\u{301} क्षि",
            " ",
            "  ",
            "",
            " '",
            "' s",
            "\u{1f1ef}\u{1f1f5} !? ...",
        ];
        for text in texts {
            let mut want = Vec::new();
            pattern.each_match(text, |_, end| want.push(end));
            assert_eq!(words(text), want, "{text:?}");
        }
    }
}
