// RMSNorm: y = x·r·w,  r = 1/√(mean(x²) + eps), with an optional residual: sum = x + residual is normed and kept.
//   x, residual, sum, y, dy, dx, dresidual  (rows, d)    w (d)    rstd (rows) f32    dw (d) f32
//   backward: dx = r·(w·dy − x·r²·mean(dy·w·x)) (+ dresidual);  dw = Σ dy·x·r, one partial sum a block
//   launch   one block a row at a time, any grid; block: whole warps, at most 512 threads
//   backward writes partial (gridDim.x, d), which column_sums adds to dw: the grid must depend on the shape alone
#include "common.cuh"

namespace rms_norm {
namespace {

constexpr int THREADS = 512;
// Vectors of a row that a thread keeps in registers, so that memory is read once; longer rows are read again.
// Backward keeps x, dy and the sums for dw: with more vectors it would need more than the 128 registers that 512
// threads can have.
constexpr int KEPT = 4, KEPT_BACKWARD = 2;

template <int V, typename T>
__device__ void forward_row(T* y, T* sum, float* rstd, const T* x, const T* residual, const T* w, float eps, size_t d) {
    Vec<T, V> kept[KEPT];
    float squares[1] = {0};
    for_row<V, KEPT>(d, [&](int k, size_t i) {
        Vec<T, V> v = load<V>(x + i);
        if (residual) {
            Vec<T, V> other = load<V>(residual + i);
            for (int j = 0; j < V; j++) v.set(j, v[j] + other[j]);
            store<V>(sum + i, v);
        }
        if (k < KEPT) kept[k] = v;
        for (int j = 0; j < V; j++) squares[0] += v[j] * v[j];
    });
    block_sum(squares);
    float r = 1.0f / sqrtf(squares[0] / d + eps);
    if (threadIdx.x == 0) *rstd = r;
    const T* again = residual ? sum : x;
    for_row<V, KEPT>(d, [&](int k, size_t i) {
        Vec<T, V> v = k < KEPT ? kept[k] : load<V>(again + i), scale = load<V>(w + i);
        for (int j = 0; j < V; j++) v.set(j, v[j] * r * scale[j]);
        store<V>(y + i, v);
    });
}

template <int V, typename T>
__device__ void forward_rows(T* y, T* sum, float* rstd, const T* x, const T* residual, const T* w, float eps,
                             size_t rows, size_t d) {
    for (size_t n = blockIdx.x; n < rows; n += gridDim.x) {
        size_t at = n * d;
        forward_row<V>(y + at, residual ? sum + at : nullptr, rstd + n, x + at, residual ? residual + at : nullptr, w,
                       eps, d);
    }
}

// The sums over rows for the columns of this thread: the first vectors in registers, the others in `partial`.
template <int V, typename T>
__device__ void backward_rows(T* dx, float* partial, const T* dy, const T* x, const float* rstd, const T* w,
                              const T* dresidual, size_t rows, size_t d) {
    float dw[KEPT_BACKWARD][V] = {};
    partial += blockIdx.x * d;
    for (size_t n = blockIdx.x; n < rows; n += gridDim.x) {
        const T *g = dy + n * d, *u = x + n * d;
        Vec<T, V> kept_g[KEPT_BACKWARD], kept_u[KEPT_BACKWARD];
        float dot[1] = {0}, r = rstd[n];
        for_row<V, KEPT_BACKWARD>(d, [&](int k, size_t i) {
            Vec<T, V> gv = load<V>(g + i), uv = load<V>(u + i), scale = load<V>(w + i);
            if (k < KEPT_BACKWARD) kept_g[k] = gv, kept_u[k] = uv;
            for (int j = 0; j < V; j++) dot[0] += gv[j] * scale[j] * uv[j];
        });
        block_sum(dot);
        float c = -dot[0] * r * r / d;
        for_row<V, KEPT_BACKWARD>(d, [&](int k, size_t i) {
            Vec<T, V> gv = k < KEPT_BACKWARD ? kept_g[k] : load<V>(g + i),
                      uv = k < KEPT_BACKWARD ? kept_u[k] : load<V>(u + i);
            Vec<T, V> scale = load<V>(w + i), out, more = gv;
            if (dresidual) more = load<V>(dresidual + n * d + i);
            for (int j = 0; j < V; j++) {
                float grad = r * fmaf(uv[j], c, scale[j] * gv[j]), term = gv[j] * r * uv[j];
                out.set(j, dresidual ? grad + more[j] : grad);
                if (k < KEPT_BACKWARD) dw[k][j] += term;
                else partial[i + j] = n == blockIdx.x ? term : partial[i + j] + term;
            }
            store<V>(dx + n * d + i, out);
        });
    }
    for_row<V, KEPT_BACKWARD>(d, [&](int k, size_t i) {
        if (k < KEPT_BACKWARD) store_floats(partial + i, dw[k]);
    });
}

}  // namespace
}  // namespace rms_norm

#define RMS_NORM(name, T)                                                                                         \
    extern "C" __global__ void __launch_bounds__(rms_norm::THREADS, 2) rms_norm_fwd_##name(                       \
        T* y, T* sum, float* rstd, const T* x, const T* residual, const T* w, float eps, size_t rows, size_t d) { \
        if (fits(d, y, sum, x, residual, w))                                                                      \
            rms_norm::forward_rows<WIDE<T>>(y, sum, rstd, x, residual, w, eps, rows, d);                          \
        else rms_norm::forward_rows<1>(y, sum, rstd, x, residual, w, eps, rows, d);                               \
    }                                                                                                             \
    extern "C" __global__ void __launch_bounds__(rms_norm::THREADS, 1)                                            \
        rms_norm_bwd_##name(T* dx, float* partial, const T* dy, const T* x, const float* rstd, const T* w,        \
                            const T* dresidual, size_t rows, size_t d) {                                          \
        if (fits(d, dx, partial, dy, x, w, dresidual))                                                            \
            rms_norm::backward_rows<WIDE<T>>(dx, partial, dy, x, rstd, w, dresidual, rows, d);                    \
        else rms_norm::backward_rows<1>(dx, partial, dy, x, rstd, w, dresidual, rows, d);                         \
    }
FOR_EACH_DTYPE(RMS_NORM)
