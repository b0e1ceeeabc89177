//! Texts of a chunk that wait to be encoded.

use std::borrow::Cow;
use std::ops::Range;

/// Where a text lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place<'l> {
    /// As it stands in the line.
    Line(&'l str),
    /// In the store: its escapes were resolved.
    Stored(Range<usize>),
}

impl Place<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Line(text) => text.len(),
            Self::Stored(range) => range.len(),
        }
    }
}

/// Texts one after the other.
#[derive(Debug, Default)]
pub(super) struct Texts<'l> {
    store: String,
    places: Vec<Place<'l>>,
    /// Of all texts.
    bytes: usize,
}

impl<'l> Texts<'l> {
    /// With a store that was used before.
    pub(super) fn with_store(mut store: String) -> Self {
        store.clear();
        Self { store, ..Self::default() }
    }

    pub(super) fn into_store(self) -> String {
        self.store
    }

    pub(super) fn store(&mut self) -> &mut String {
        &mut self.store
    }

    pub(super) fn push(&mut self, text: Cow<'l, str>) {
        let place = match text {
            Cow::Borrowed(text) => Place::Line(text),
            Cow::Owned(text) => {
                self.store.push_str(&text);
                Place::Stored(self.store.len() - text.len()..self.store.len())
            }
        };
        self.extend(vec![place]);
    }

    /// Texts of which some may stand in the store already.
    pub(super) fn extend(&mut self, places: Vec<Place<'l>>) {
        self.bytes += places.iter().map(Place::len).sum::<usize>();
        self.places.extend(places);
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.from(0)
    }

    /// The texts from one on.
    pub(super) fn from(&self, first: usize) -> impl Iterator<Item = &str> {
        self.places[first..].iter().map(|place| match place {
            Place::Line(text) => text,
            Place::Stored(range) => &self.store[range.clone()],
        })
    }

    pub(super) fn clear(&mut self) {
        self.store.clear();
        self.places.clear();
        self.bytes = 0;
    }
}
