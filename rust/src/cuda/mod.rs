//! NVIDIA's GPUs: the driver, loaded when it is first asked for, memory, streams, products by cuBLASLt, the kernels; then a file an op with
//! its grid and arguments, nothing else. The maths is in kernels/*.cu, the checks in `ops`.

mod blas;
mod device;
mod driver;
mod images;
mod launch;
mod memory;
mod stream;

pub(crate) mod activation;
pub(crate) mod adamw;
pub(crate) mod add;
pub(crate) mod attention;
pub(crate) mod cast;
pub(crate) mod column_sums;
pub(crate) mod cross_entropy;
pub(crate) mod embedding;
pub(crate) mod gated_mlp;
pub(crate) mod grad_norm;
pub(crate) mod layer_norm;
pub(crate) mod matmul;
pub(crate) mod rms_norm;
pub(crate) mod rotary;

pub use blas::look_in;
pub use device::{Device, Properties, device, device_count, missing, properties};
pub use images::{compiler, kernels, ops, targets};
pub use memory::{Buffer, View, ViewMut};
pub use stream::Stream;
