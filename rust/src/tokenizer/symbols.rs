//! Strings that are found whole in the text before anything else: user-defined symbols.

/// Sorted by bytes, so that a prefix narrows to a range.
#[derive(Default)]
pub(super) struct Symbols {
    sorted: Vec<Box<[u8]>>,
    first_bytes: Vec<bool>,
}

impl Symbols {
    pub(super) fn new<'a>(symbols: impl Iterator<Item = &'a str>) -> Self {
        let mut sorted: Vec<Box<[u8]>> = symbols.map(|s| s.as_bytes().into()).collect();
        sorted.sort_unstable();
        let mut first_bytes = vec![false; 256];
        sorted.iter().for_each(|s| first_bytes[usize::from(s[0])] = true);
        Self { sorted, first_bytes }
    }

    #[inline]
    pub(super) fn may_start(&self, byte: u8) -> bool {
        self.first_bytes.get(usize::from(byte)) == Some(&true)
    }

    /// The first character of each symbol.
    pub(super) fn first_characters(&self) -> impl Iterator<Item = char> {
        self.sorted.iter().filter_map(|symbol| super::utf8::first_char(symbol).map(|(character, _)| character))
    }

    /// Bytes of the longest symbol that `input` begins with.
    pub(super) fn longest(&self, input: &[u8]) -> Option<usize> {
        if !self.may_start(*input.first()?) {
            return None;
        }
        let (mut range, mut found) = (&self.sorted[..], None);
        for (at, byte) in input.iter().enumerate() {
            let low = range.partition_point(|s| s.get(at).is_none_or(|b| b < byte));
            let high = range.partition_point(|s| s.get(at).is_none_or(|b| b <= byte));
            range = &range[low..high];
            match range.first() {
                None => break,
                Some(symbol) if symbol.len() == at + 1 => found = Some(at + 1),
                Some(_) => {}
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_prefix_wins() {
        let symbols = Symbols::new(["<a>", "<a>b", "x", "<"].into_iter());
        assert_eq!(symbols.longest(b"<a>bc"), Some(4));
        assert_eq!(symbols.longest(b"<a>c"), Some(3));
        assert_eq!(symbols.longest(b"<b"), Some(1));
        assert_eq!(symbols.longest(b"y"), None);
        assert_eq!(symbols.longest(b""), None);
    }
}
