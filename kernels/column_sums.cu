// sums[c] += Σ_r x[r, c], in an order that rows alone decide: gradients of biases, and the last step of those of norms.
//   x (rows, cols), any dtype; sums (cols) f32
//   launch   block (32, 8): a warp takes 32 columns, 8 warps share the rows; grid (⌈cols/32⌉, parts)
//   With parts = 1 the total is added to `sums`. With more, part p takes every parts-th tile of 8 rows and writes its
//   own row of `sums` (parts, cols), and a second launch with f32, rows = parts and parts = 1 ends it.
#include "common.cuh"

namespace column_sums {
namespace {

constexpr int COLUMNS = 32, ROWS = 8;

template <typename T> __device__ void run(float* sums, const T* x, size_t rows, size_t cols) {
    SHARED(float, partial, [ROWS][COLUMNS]);
    size_t c = size_t(blockIdx.x) * COLUMNS + threadIdx.x, step = size_t(gridDim.y) * ROWS;
    float sum = 0;
    if (c < cols) {
#pragma unroll 4
        for (size_t r = size_t(blockIdx.y) * ROWS + threadIdx.y; r < rows; r += step) sum += to_f32(x[r * cols + c]);
    }
    partial[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || c >= cols) return;
    float total = 0;
    for (int w = 0; w < ROWS; w++) total += partial[w][threadIdx.x];
    if (gridDim.y == 1) sums[c] += total;
    else sums[blockIdx.y * cols + c] = total;
}

}  // namespace
}  // namespace column_sums

#define COLUMN_SUMS(name, T)                                                              \
    extern "C" __global__ void __launch_bounds__(column_sums::COLUMNS* column_sums::ROWS) \
        column_sums_##name(float* sums, const T* x, size_t rows, size_t cols) {           \
        column_sums::run(sums, x, rows, cols);                                            \
    }
FOR_EACH_DTYPE(COLUMN_SUMS)
