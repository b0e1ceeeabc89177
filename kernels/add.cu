// y = a + b, where no norm follows that could take the sum with it.
//   a, b, y  (n), any dtype; y may be a or b
//   launch   any grid, any block
#include "common.cuh"

namespace add {
namespace {

template <typename T> __device__ void forward(T* y, const T* a, const T* b, size_t n) {
    for_grid<WIDE<T>>(n, fits(0, y, a, b), [&](auto width, size_t i) {
        constexpr int V = decltype(width)::value;
        Vec<T, V> u = load<V>(a + i), v = load<V>(b + i);
        for (int j = 0; j < V; j++) u.set(j, u[j] + v[j]);
        store<V>(y + i, u);
    });
}

}  // namespace
}  // namespace add

#define ADD(name, T) \
    extern "C" __global__ void add_fwd_##name(T* y, const T* a, const T* b, size_t n) { add::forward(y, a, b, n); }
FOR_EACH_DTYPE(ADD)
