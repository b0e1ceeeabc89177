//! The Python binding: converts, detaches, calls. No maths, no policy.

mod error;
mod ops;

use pyo3::prelude::*;

#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    ops::register(m)?;
    Ok(())
}
