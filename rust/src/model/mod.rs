//! The decoder: GPT-NeoX and Llama families as switches of one model.

mod backward;
mod config;
mod decoder;
mod generate;
pub mod hf;
mod init;
mod language_model;
mod layout;
mod pass;
mod random;
mod sampling;
mod workspace;

pub use config::{Activation, Bias, Init, InitMethod, ModelConfig, Norm, Position};
pub use decoder::{Decoder, LossSum};
pub use generate::{GenerateOptions, Likelihood};
pub use language_model::LanguageModel;
pub use layout::Param;
pub use sampling::Sampling;
pub use workspace::Workspace;
