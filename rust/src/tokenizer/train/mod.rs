//! Training of SentencePiece models: text in, a `.model` file out.
//!
//! The front end makes a [`Text`] of sentences: normalised, as dense character codes. A trainer turns
//! the text into pieces with scores ([`Trained`]).

mod options;
mod progress;
mod text;
mod valid;

pub use options::Options;
pub use progress::{Progress, Stage, Tell};
pub use text::Text;
pub use valid::Valid;

/// The pieces of a trained model that have scores, in the order of their ids. Control, user-defined
/// and byte pieces are not among them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trained {
    pub pieces: Vec<(String, f32)>,
}
