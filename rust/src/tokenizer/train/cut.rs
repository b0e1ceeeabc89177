//! Long sentences are cut, never dropped.

/// Where a sentence ends, in Japanese and elsewhere.
const ENDS: [char; 6] = ['。', '！', '？', '.', '!', '?'];

/// Cuts `text` into parts of at most `max` bytes: after the last sentence end that fits, else after
/// the last space, else between two characters. A character longer than `max` is a part of its own.
pub(super) fn parts(mut text: &str, max: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    while text.len() > max {
        let (part, rest) = text.split_at(end(text, max));
        parts.push(part);
        text = rest;
    }
    if !text.is_empty() {
        parts.push(text);
    }
    parts
}

fn end(text: &str, max: usize) -> usize {
    let window = &text[..floor(text, max)];
    let after = |c: char| window.rfind(c).map(|at| at + c.len_utf8());
    let sentence = ENDS.into_iter().filter_map(after).max();
    sentence.or_else(|| after(' ')).unwrap_or(window.len())
}

/// The last character boundary up to `max`, but at least one character.
fn floor(text: &str, max: usize) -> usize {
    let first = text.chars().next().map_or(0, char::len_utf8);
    let boundary = (0..=max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    boundary.max(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_sentence_ends_then_spaces_then_anywhere() {
        assert_eq!(parts("短い。", 100), ["短い。"]);
        assert_eq!(parts("あ。い。うえお", 12), ["あ。い。", "うえお"]);
        assert_eq!(parts("abc def ghi", 9), ["abc def ", "ghi"]);
        assert_eq!(parts("あいう", 4), ["あ", "い", "う"]);
        assert_eq!(parts("あいう", 1), ["あ", "い", "う"]);
    }

    #[test]
    fn nothing_is_lost() {
        let text = "吾輩は猫である。名前はまだ無い! Is it? どこで生れたか とんと見当がつかぬ".repeat(9);
        for max in 1..80 {
            let parts = parts(&text, max);
            assert_eq!(parts.concat(), text);
            assert!(parts.iter().all(|part| part.len() <= max.max(3)));
        }
    }
}
