//! Kernels for the CPU: slices in, slices out.
