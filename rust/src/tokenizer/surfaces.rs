//! What each piece is in decoded text, for pieces that are the same wherever they stand.

use super::model_file::Kind;
use super::normalizer::SPACE_SYMBOL;
use super::vocab::Vocab;

/// Bytes that are copied for a piece, however short it is.
pub(super) const WIDTH: usize = 15;

/// The text of a piece and its length, or `OTHER`.
#[derive(Debug, Clone, Copy)]
struct Surface {
    bytes: [u8; WIDTH],
    length: u8,
}

/// A piece that is long, or whose text depends on its neighbours, or that has none.
const OTHER: u8 = u8::MAX;

pub(super) struct Surfaces(Vec<Surface>);

impl Surfaces {
    pub(super) fn new(vocab: &Vocab) -> Self {
        let surface = |id: u32| {
            let text = vocab.piece(id).unwrap_or_default().replace(SPACE_SYMBOL, " ");
            let mut surface = Surface { bytes: [0; WIDTH], length: OTHER };
            let plain = matches!(vocab.kinds[id as usize], Kind::Normal | Kind::UserDefined | Kind::Unused);
            if plain && text.len() <= WIDTH {
                surface.bytes[..text.len()].copy_from_slice(text.as_bytes());
                surface.length = text.len() as u8;
            }
            surface
        };
        Self((0..vocab.len() as u32).map(surface).collect())
    }

    /// Appends the texts of as many `ids` as are here, one after the other; gives their number.
    pub(super) fn push(&self, ids: &[u32], out: &mut String) -> usize {
        let mut bytes = std::mem::take(out).into_bytes();
        let mut at = bytes.len();
        bytes.resize(at + ids.len() * WIDTH, 0);
        let mut done = 0;
        for id in ids {
            let Some(surface) = self.0.get(*id as usize).filter(|s| s.length != OTHER) else { break };
            bytes[at..at + WIDTH].copy_from_slice(&surface.bytes);
            at += usize::from(surface.length);
            done += 1;
        }
        bytes.truncate(at);
        // SAFETY: whole `str`s were put behind a `str`; what was copied beyond them is cut off.
        *out = unsafe { String::from_utf8_unchecked(bytes) };
        done
    }
}
