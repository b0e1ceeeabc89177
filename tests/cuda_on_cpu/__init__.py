"""The CUDA kernels, compiled for the host and run thread by thread: docs/cuda.md."""
