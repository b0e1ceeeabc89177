//! Text on its way through the steps, with the places of the input that it came from, if asked for.

/// Bytes `begin..end` of the input.
pub(super) type Span = (usize, usize);

#[derive(Default)]
pub(super) struct Text {
    pub(super) text: String,
    /// For each byte of `text`, the character of the input that it stands for.
    pub(super) spans: Option<Vec<Span>>,
    /// Where in the input it begins.
    start: usize,
}

impl Text {
    pub(super) fn tracked() -> Self {
        Self { spans: Some(Vec::new()), ..Self::default() }
    }

    /// Empties it; what follows begins at byte `start` of the input.
    pub(super) fn clear(&mut self, start: usize) {
        self.text.clear();
        self.start = start;
        if let Some(spans) = &mut self.spans {
            spans.clear();
        }
    }

    pub(super) fn start(&self) -> usize {
        self.start
    }

    /// Becomes a piece of the input that begins at its byte `at`.
    pub(super) fn set_input(&mut self, text: &str, at: usize) {
        self.clear(at);
        self.text.push_str(text);
        if let Some(spans) = &mut self.spans {
            for (place, character) in text.char_indices() {
                let span = (at + place, at + place + character.len_utf8());
                spans.resize(spans.len() + character.len_utf8(), span);
            }
        }
    }

    /// Appends `from..to` of another text.
    pub(super) fn push_part(&mut self, other: &Self, from: usize, to: usize) {
        self.text.push_str(&other.text[from..to]);
        if let (Some(spans), Some(theirs)) = (&mut self.spans, &other.spans) {
            spans.extend_from_slice(&theirs[from..to]);
        }
    }

    /// Appends text that stands for `span` as a whole.
    pub(super) fn push_as(&mut self, text: &str, span: Span) {
        self.text.push_str(text);
        if let Some(spans) = &mut self.spans {
            spans.resize(self.text.len(), span);
        }
    }

    /// What byte `at` stands for; of text that is not tracked, nothing.
    pub(super) fn span(&self, at: usize) -> Span {
        self.spans.as_ref().and_then(|spans| spans.get(at)).copied().unwrap_or_default()
    }

    /// The input that bytes `from..to` (at least one) stand for.
    pub(super) fn span_of(&self, from: usize, to: usize) -> Span {
        let (first, last) = (self.span(from), self.span(to.saturating_sub(1).max(from)));
        (first.0, last.1)
    }

    /// What replaces bytes `from..to` stands for: the last of them, or what is before the place.
    pub(super) fn span_of_replacement(&self, from: usize, to: usize) -> Span {
        let at = if from < to { to } else { from };
        at.checked_sub(1).map_or((self.start, self.start), |before| self.span(before))
    }
}
