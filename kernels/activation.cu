// y = act(x);  dx = dy·act′(x).  kind: 0 gelu, 1 gelu_tanh, 2 silu, 3 relu.
//   x, y, dy, dx  (n), any dtype; dx may be dy
//   launch   any grid, any block
#include "activation.cuh"

namespace activations {
namespace {

template <typename T> __device__ void forward(T* y, const T* x, int kind, size_t n) {
    for_kind(kind, [&](auto k) {
        for_grid<WIDE<T>>(n, fits(0, y, x), [&](auto width, size_t i) {
            constexpr int V = decltype(width)::value, KIND = decltype(k)::value;
            Vec<T, V> v = load<V>(x + i);
            for (int j = 0; j < V; j++) v.set(j, activation<KIND>(v[j]).value);
            store<V>(y + i, v);
        });
    });
}

template <typename T> __device__ void backward(T* dx, const T* dy, const T* x, int kind, size_t n) {
    for_kind(kind, [&](auto k) {
        for_grid<WIDE<T>>(n, fits(0, dx, dy, x), [&](auto width, size_t i) {
            constexpr int V = decltype(width)::value, KIND = decltype(k)::value;
            Vec<T, V> v = load<V>(x + i), g = load<V>(dy + i);
            for (int j = 0; j < V; j++) v.set(j, g[j] * activation<KIND>(v[j]).slope);
            store<V>(dx + i, v);
        });
    });
}

}  // namespace
}  // namespace activations

#define ACTIVATION(name, T)                                                                                \
    extern "C" __global__ void activation_fwd_##name(T* y, const T* x, int kind, size_t n) {               \
        activations::forward(y, x, kind, n);                                                               \
    }                                                                                                      \
    extern "C" __global__ void activation_bwd_##name(T* dx, const T* dy, const T* x, int kind, size_t n) { \
        activations::backward(dx, dy, x, kind, n);                                                         \
    }
FOR_EACH_DTYPE(ACTIVATION)
