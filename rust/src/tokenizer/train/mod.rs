//! Training of SentencePiece models: text in, a `.model` file out.
//!
//! [`Corpus`] makes a [`Text`] of sentences: normalised, as dense character codes. [`train_text`]
//! turns the text into pieces with scores ([`Trained`]); [`files`] writes them.

mod bpe;
mod charsmap;
mod corpus;
mod cut;
mod meta;
mod options;
mod progress;
mod reestimate;
mod text;
mod unigram;
mod valid;
mod write;

pub use charsmap::named_charsmap;
pub use corpus::{Corpus, Report};
pub use options::{Options, Value};
pub use progress::{Progress, Stage, Tell};
pub use reestimate::Reestimate;
pub use text::Text;
pub use valid::Valid;
pub use write::{Files, files};

use super::model_file::ModelType;
use crate::error::Result;

/// The pieces of a trained model that have scores, in the order of their ids. Control, user-defined
/// and byte pieces are not among them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trained {
    pub pieces: Vec<(String, f32)>,
}

/// Trains on a text. The text is consumed, so that a trainer may free it early. Work is spread over
/// the rayon pool that this is called in; its size changes no result.
///
/// # Errors
/// `Tokenizer` where the text cannot be trained on; `Interrupted`.
pub fn train_text(text: Text, options: &Options, progress: &Progress<'_>) -> Result<Trained> {
    match options.model_type {
        ModelType::Bpe => bpe::train(text, options, progress),
        ModelType::Unigram => unigram::train(text, options, progress),
    }
}
