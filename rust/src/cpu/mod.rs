//! Kernels for the CPU: slices in, slices out.

pub mod activation;
pub mod adamw;
pub mod add;
pub mod attention;
pub mod cast;
pub mod cross_entropy;
#[cfg(test)]
mod determinism;
pub mod embedding;
pub mod gated_mlp;
pub mod grad_norm;
pub mod heads;
pub mod isa;
pub mod layer_norm;
pub mod linear;
pub mod linear_cross_entropy;
pub mod math;
pub mod matmul;
pub mod micro;
pub mod parallel;
pub mod peak;
pub mod rms_norm;
pub mod rotary;
pub mod scratch;
mod team;
#[cfg(test)]
mod testing;
