//! What the core runs on.

use pyo3::prelude::*;

use crate::cpu::{isa, parallel};

/// The instruction set whose kernels run: "avx2", "baseline".
#[pyfunction]
fn isa_name() -> String {
    format!("{:?}", *isa::ISA).to_lowercase()
}

/// Threads that kernels use.
#[pyfunction]
fn num_threads() -> usize {
    parallel::num_threads()
}

/// From now on kernels use `count` threads; results do not change.
#[pyfunction]
fn set_num_threads(count: usize) {
    parallel::set_num_threads(count);
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(isa_name, m)?)?;
    m.add_function(wrap_pyfunction!(num_threads, m)?)?;
    m.add_function(wrap_pyfunction!(set_num_threads, m)?)
}
