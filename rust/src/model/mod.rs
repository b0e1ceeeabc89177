//! The decoder: GPT-NeoX and Llama families as switches of one model.

mod config;

pub use config::{Activation, Bias, Init, InitMethod, ModelConfig, Norm, Position};
