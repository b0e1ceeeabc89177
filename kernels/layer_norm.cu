// LayerNorm: y = (x − μ)·r·w + b,  r = 1/√(var + eps), biased variance in two passes, with an optional residual:
// sum = x + residual is normed and kept.
//   x, residual, sum, y, dy, dx, dresidual  (rows, d)    w, bias (d), no bias: null    mean, rstd (rows) f32
//   backward, with x̂ = (x − μ)·r and g = w·dy:  dx = r·(g − mean(g) − x̂·mean(g·x̂)) (+ dresidual)
//            dw = Σ dy·x̂,  dbias = Σ dy, one partial sum of each a block
//   launch   one block a row at a time, any grid; block: whole warps, at most 512 threads
//   backward writes partial (gridDim.x, 2, d), dw before dbias, which column_sums adds up: the grid must depend on the
//   shape alone
#include "common.cuh"

namespace layer_norm {
namespace {

constexpr int THREADS = 512;
// Vectors of a row that a thread keeps in registers, so that memory is read once; longer rows are read again.
// Backward keeps the sums of two instead, and takes x and dy of the row a second time from the cache: with both it
// would need more than the 128 registers that 512 threads can have.
constexpr int KEPT = 4, KEPT_SUMS = 2;

template <int V, typename T>
__device__ void forward_row(T* y, T* sum, float* mean, float* rstd, const T* x, const T* residual, const T* w,
                            const T* bias, float eps, size_t d) {
    Vec<T, V> kept[KEPT];
    float total[1] = {0}, squares[1] = {0};
    for_row<V, KEPT>(d, [&](int k, size_t i) {
        Vec<T, V> v = load<V>(x + i);
        if (residual) {
            Vec<T, V> other = load<V>(residual + i);
            for (int j = 0; j < V; j++) v.set(j, v[j] + other[j]);
            store<V>(sum + i, v);
        }
        if (k < KEPT) kept[k] = v;
        for (int j = 0; j < V; j++) total[0] += v[j];
    });
    block_sum(total);
    const T* again = residual ? sum : x;
    float mu = total[0] / d;
    for_row<V, KEPT>(d, [&](int k, size_t i) {
        Vec<T, V> v = k < KEPT ? kept[k] : load<V>(again + i);
        for (int j = 0; j < V; j++) squares[0] += (v[j] - mu) * (v[j] - mu);
    });
    block_sum(squares);
    float r = 1.0f / sqrtf(squares[0] / d + eps);
    if (threadIdx.x == 0) *mean = mu, *rstd = r;
    for_row<V, KEPT>(d, [&](int k, size_t i) {
        Vec<T, V> v = k < KEPT ? kept[k] : load<V>(again + i), scale = load<V>(w + i), shift = scale;
        if (bias) shift = load<V>(bias + i);
        for (int j = 0; j < V; j++) v.set(j, fmaf((v[j] - mu) * r, scale[j], bias ? shift[j] : 0.0f));
        store<V>(y + i, v);
    });
}

template <int V, typename T>
__device__ void forward_rows(T* y, T* sum, float* mean, float* rstd, const T* x, const T* residual, const T* w,
                             const T* bias, float eps, size_t rows, size_t d) {
    for (size_t n = blockIdx.x; n < rows; n += gridDim.x) {
        size_t at = n * d;
        forward_row<V>(y + at, residual ? sum + at : nullptr, mean + n, rstd + n, x + at,
                       residual ? residual + at : nullptr, w, bias, eps, d);
    }
}

// The sums over rows for the columns of this thread: the first vectors in registers, the others in `partial`.
template <int V, typename T>
__device__ void backward_rows(T* dx, float* partial, const T* dy, const T* x, const float* mean, const float* rstd,
                              const T* w, const T* dresidual, size_t rows, size_t d) {
    float dw[KEPT_SUMS][V] = {}, dbias[KEPT_SUMS][V] = {};
    float *partial_w = partial + blockIdx.x * 2 * d, *partial_b = partial_w + d;
    for (size_t n = blockIdx.x; n < rows; n += gridDim.x) {
        const T *g = dy + n * d, *u = x + n * d;
        float sums[2] = {0, 0}, mu = mean[n], r = rstd[n];
        for_row<V, KEPT_SUMS>(d, [&](int, size_t i) {
            Vec<T, V> gv = load<V>(g + i), uv = load<V>(u + i), scale = load<V>(w + i);
            for (int j = 0; j < V; j++) {
                float wg = gv[j] * scale[j];
                sums[0] += wg;
                sums[1] += wg * (uv[j] - mu);
            }
        });
        block_sum(sums);
        float mean_g = sums[0] / d, c = -sums[1] * r * r / d;
        for_row<V, KEPT_SUMS>(d, [&](int k, size_t i) {
            Vec<T, V> gv = load<V>(g + i), uv = load<V>(u + i), scale = load<V>(w + i), out, more = gv;
            if (dresidual) more = load<V>(dresidual + n * d + i);
            for (int j = 0; j < V; j++) {
                float centred = uv[j] - mu, grad = r * fmaf(centred, c, fmaf(scale[j], gv[j], -mean_g));
                float term = centred * r * gv[j];
                out.set(j, dresidual ? grad + more[j] : grad);
                if (k < KEPT_SUMS) {
                    dw[k][j] += term;
                    dbias[k][j] += gv[j];
                } else {
                    partial_w[i + j] = n == blockIdx.x ? term : partial_w[i + j] + term;
                    partial_b[i + j] = n == blockIdx.x ? gv[j] : partial_b[i + j] + gv[j];
                }
            }
            store<V>(dx + n * d + i, out);
        });
    }
    for_row<V, KEPT_SUMS>(d, [&](int k, size_t i) {
        if (k < KEPT_SUMS) store_floats(partial_w + i, dw[k]), store_floats(partial_b + i, dbias[k]);
    });
}

}  // namespace
}  // namespace layer_norm

#define LAYER_NORM(name, T)                                                                                         \
    extern "C" __global__ void __launch_bounds__(layer_norm::THREADS, 1)                                            \
        layer_norm_fwd_##name(T* y, T* sum, float* mean, float* rstd, const T* x, const T* residual, const T* w,    \
                              const T* bias, float eps, size_t rows, size_t d) {                                    \
        if (fits(d, y, sum, x, residual, w, bias))                                                                  \
            layer_norm::forward_rows<WIDE<T>>(y, sum, mean, rstd, x, residual, w, bias, eps, rows, d);              \
        else layer_norm::forward_rows<1>(y, sum, mean, rstd, x, residual, w, bias, eps, rows, d);                   \
    }                                                                                                               \
    extern "C" __global__ void __launch_bounds__(layer_norm::THREADS, 1)                                            \
        layer_norm_bwd_##name(T* dx, float* partial, const T* dy, const T* x, const float* mean, const float* rstd, \
                              const T* w, const T* dresidual, size_t rows, size_t d) {                              \
        if (fits(d, dx, partial, dy, x, w, dresidual))                                                              \
            layer_norm::backward_rows<WIDE<T>>(dx, partial, dy, x, mean, rstd, w, dresidual, rows, d);              \
        else layer_norm::backward_rows<1>(dx, partial, dy, x, mean, rstd, w, dresidual, rows, d);                   \
    }
FOR_EACH_DTYPE(LAYER_NORM)
