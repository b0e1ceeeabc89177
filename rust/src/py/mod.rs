//! The Python binding: converts, detaches, calls. No maths, no policy.

mod config;
mod cuda;
mod data;
mod error;
mod model;
mod ops;
mod preprocess;
mod signals;
mod tokenizer;
mod tokenizer_lists;
mod tokenizer_train;
mod torch;
mod trainer;

use pyo3::prelude::*;

#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    config::register(m)?;
    cuda::register(m)?;
    data::register(m)?;
    model::register(m)?;
    ops::register(m)?;
    preprocess::register(m)?;
    tokenizer::register(m)?;
    tokenizer_train::register(m)?;
    torch::register(m)?;
    trainer::register(m)?;
    Ok(())
}
