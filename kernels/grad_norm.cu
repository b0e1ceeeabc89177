// The global norm of a gradient, what it makes of the next step, and where it is not finite.
//   grad_norm_squares: partial[b] = Σ g² of block b's share, in f64: neither tiny nor huge gradients are lost
//   grad_norm_scale:   norm = √(Σ partial)·unscale;  grad_scale = unscale·clip,  clip = max/(norm + 1e-6) where max > 0
//                      and norm + 1e-6 > max, else 1.  A norm that is not finite gives a grad_scale of NaN: adamw skips.
//   grad_norm_first_non_finite: *first = the place of the first NaN or infinity, if below what it holds (start with n)
//   g (n) f32
//   launch   block: whole warps, at most 1024 threads.  squares: the grid must depend on n alone.  scale: one block.
//            first_non_finite: any grid
#include "common.cuh"

namespace grad_norm {
namespace {

constexpr int THREADS = 1024;

__device__ __forceinline__ double square(float x) { return double(x) * double(x); }

__device__ void squares(double* partial, const float* g, size_t n) {
    double sum[1] = {0};
    for_grid<4>(n, fits(0, g), [&](auto width, size_t i) {
        constexpr int V = decltype(width)::value;
        Vec<float, V> x = load<V>(g + i);
        for (int j = 0; j < V; j++) sum[0] += square(x[j]);
    });
    block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum[0];
}

__device__ void scale(float* norm, float* grad_scale, const double* partial, int parts, double unscale, double max) {
    double sum[1] = {0};
    for (int b = threadIdx.x; b < parts; b += blockDim.x) sum[0] += partial[b];
    block_sum(sum);
    if (threadIdx.x > 0) return;
    double length = sqrt(sum[0]) * unscale, longer = length + 1e-6;
    *norm = float(length);
    *grad_scale =
        isfinite(length) ? float(max > 0 && longer > max ? unscale * (max / longer) : unscale) : not_a_number();
}

__device__ void first_non_finite(unsigned long long* first, const float* g, size_t n) {
    for_grid<4>(n, fits(0, g), [&](auto width, size_t i) {
        constexpr int V = decltype(width)::value;
        Vec<float, V> x = load<V>(g + i);
        for (int j = 0; j < V; j++)
            if (!isfinite(x[j])) atomicMin(first, i + j);
    });
}

}  // namespace
}  // namespace grad_norm

extern "C" __global__ void __launch_bounds__(grad_norm::THREADS)
    grad_norm_squares(double* partial, const float* g, size_t n) {
    grad_norm::squares(partial, g, n);
}
extern "C" __global__ void __launch_bounds__(grad_norm::THREADS)
    grad_norm_scale(float* norm, float* grad_scale, const double* partial, int parts, double unscale, double max) {
    grad_norm::scale(norm, grad_scale, partial, parts, unscale, max);
}
extern "C" __global__ void grad_norm_first_non_finite(unsigned long long* first, const float* g, size_t n) {
    grad_norm::first_non_finite(first, g, n);
}
