//! Train Japanese language models: kernels, tokenizer, data and trainer.
//!
//! Imports point down only: `{cpu, cuda} -> ops -> model -> train -> py`. `tokenizer` and `data` know no
//! model, `train` knows no Python, `py` knows no maths. `tests/test_layout.py` holds it.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod data;
pub mod dtype;
pub mod error;
pub mod files;
pub mod interrupt;
mod memory;
pub mod model;
pub mod ops;
mod philox;
#[cfg(feature = "python")]
mod py;
pub mod tensor;
pub mod tokenizer;
pub mod train;
