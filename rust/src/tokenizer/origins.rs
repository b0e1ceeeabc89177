//! Where normalised text comes from: runs instead of an entry for each byte, so that text which
//! stays as it is costs nothing.

/// A stretch of normalised text that begins at its byte `at` and at byte `from` of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    at: usize,
    from: usize,
    /// Whether each byte moves both on; if not, the whole run stands for what begins at `from`.
    moves: bool,
}

impl Run {
    fn origin(self, at: usize) -> usize {
        if self.moves { self.from + (at - self.at) } else { self.from }
    }
}

/// For each character of normalised text the byte of the input that it comes from.
#[derive(Debug, Default)]
pub(super) struct Origins {
    runs: Vec<Run>,
    /// Where the input was used up.
    end: usize,
}

impl Origins {
    pub(super) fn clear(&mut self) {
        self.runs.clear();
        self.end = 0;
    }

    /// `text` follows at byte `at` of the normalised text and begins at byte `from` of the input;
    /// `copied`: each of its characters, otherwise it stands for that place as a whole.
    #[inline]
    pub(super) fn push(&mut self, at: usize, text: &str, from: usize, copied: bool) {
        if text.is_empty() {
            return;
        }
        // Nobody asks for the inside of a character.
        let moves = copied || text.chars().nth(1).is_none();
        if !self.runs.last().is_some_and(|run| moves && run.moves && run.origin(at) == from) {
            self.runs.push(Run { at, from, moves });
        }
    }

    /// The normalised text ends at byte `at` and used the input up to `end`.
    pub(super) fn finish(&mut self, end: usize) {
        self.end = end;
    }

    /// Forgets what stands for the text from byte `at` on; gives where that began.
    pub(super) fn truncate(&mut self, at: usize) -> usize {
        let from = self.backwards().origin(at);
        while self.runs.last().is_some_and(|run| run.at >= at) {
            self.runs.pop();
        }
        from
    }

    pub(super) fn end(&self) -> usize {
        self.end
    }

    pub(super) fn backwards(&self) -> Backwards<'_> {
        Backwards { runs: &self.runs }
    }
}

/// Answers for places that come one before the other.
pub(super) struct Backwards<'o> {
    runs: &'o [Run],
}

impl Backwards<'_> {
    /// The origin of the character at byte `at`.
    #[inline]
    pub(super) fn origin(&mut self, at: usize) -> usize {
        loop {
            match self.runs {
                [.., last] if last.at <= at => return last.origin(at),
                [rest @ .., _] => self.runs = rest,
                [] => return 0,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_grow_only_where_places_shift() {
        let mut origins = Origins::default();
        // "▁" in front, "猫" copied, a space that became "▁", "㌀" that became "アパート", "で" copied.
        origins.push(0, "▁", 0, false);
        origins.push(3, "猫", 0, true);
        origins.push(6, "▁", 3, false);
        origins.push(9, "アパート", 4, false);
        origins.push(21, "で", 7, true);
        origins.push(24, "す", 10, true);
        origins.finish(13);
        assert_eq!(origins.runs.len(), 4);
        let mut back = origins.backwards();
        let places = [(24, 10), (21, 7), (18, 4), (15, 4), (9, 4), (6, 3), (3, 0), (0, 0)];
        for (at, from) in places {
            assert_eq!(back.origin(at), from, "{at}");
        }
        assert_eq!(origins.end(), 13);
        assert_eq!(origins.truncate(6), 3);
        assert_eq!(origins.runs.len(), 2);
    }
}
