// SwiGLU, GeGLU: h = act(gate)·up;  dgate = dh·up·act′(gate), dup = dh·act(gate).  Backward makes act again, nothing is
// kept.  kind: 0 gelu, 1 gelu_tanh, 2 silu, 3 relu.
//   h, dh (rows, f); gate, up, dgate, dup: rows of f, `row` elements from one to the next (2f in a fused [gate | up],
//   f apart), any dtype
//   launch   grid (any, any): x over the columns, y over the rows; any block
#include "activation.cuh"

namespace gated_mlp {
namespace {

template <typename T>
__device__ void forward(T* h, const T* gate, const T* up, int kind, size_t rows, size_t f, size_t row) {
    bool wide = fits(row, h, gate, up) && fits<T>(f);
    for_kind(kind, [&](auto k) {
        for (size_t n = blockIdx.y; n < rows; n += gridDim.y) {
            for_grid<WIDE<T>>(f, wide, [&](auto width, size_t i) {
                constexpr int V = decltype(width)::value, KIND = decltype(k)::value;
                Vec<T, V> g = load<V>(gate + n * row + i), u = load<V>(up + n * row + i);
                for (int j = 0; j < V; j++) g.set(j, activation<KIND>(g[j]).value * u[j]);
                store<V>(h + n * f + i, g);
            });
        }
    });
}

template <typename T>
__device__ void backward(T* dgate, T* dup, const T* dh, const T* gate, const T* up, int kind, size_t rows, size_t f,
                         size_t row) {
    bool wide = fits(row, dgate, dup, dh, gate, up) && fits<T>(f);
    for_kind(kind, [&](auto k) {
        for (size_t n = blockIdx.y; n < rows; n += gridDim.y) {
            for_grid<WIDE<T>>(f, wide, [&](auto width, size_t i) {
                constexpr int V = decltype(width)::value, KIND = decltype(k)::value;
                Vec<T, V> g = load<V>(gate + n * row + i), u = load<V>(up + n * row + i), d = load<V>(dh + n * f + i);
                for (int j = 0; j < V; j++) {
                    ValueAndSlope act = activation<KIND>(g[j]);
                    g.set(j, d[j] * u[j] * act.slope);
                    u.set(j, d[j] * act.value);
                }
                store<V>(dgate + n * row + i, g);
                store<V>(dup + n * row + i, u);
            });
        }
    });
}

}  // namespace
}  // namespace gated_mlp

#define GATED_MLP(name, T)                                                                                             \
    extern "C" __global__ void gated_mlp_fwd_##name(T* h, const T* gate, const T* up, int kind, size_t rows, size_t f, \
                                                    size_t row) {                                                      \
        gated_mlp::forward(h, gate, up, kind, rows, f, row);                                                           \
    }                                                                                                                  \
    extern "C" __global__ void gated_mlp_bwd_##name(T* dgate, T* dup, const T* dh, const T* gate, const T* up,         \
                                                    int kind, size_t rows, size_t f, size_t row) {                     \
        gated_mlp::backward(dgate, dup, dh, gate, up, kind, rows, f, row);                                             \
    }
FOR_EACH_DTYPE(GATED_MLP)
