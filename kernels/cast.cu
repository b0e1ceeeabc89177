// out = x rounded to the storage type, to nearest, ties to even; f32 itself is a copy.
//   x (n) f32, out (n)
//   launch   any grid, any block
#include "common.cuh"

namespace cast {
namespace {

template <typename T> __device__ void from(T* out, const float* x, size_t n) {
    for_grid<4>(n, fits(0, out, x), [&](auto width, size_t i) {
        constexpr int V = decltype(width)::value;
        Vec<float, V> u = load<V>(x + i);
        Vec<T, V> v;
        for (int j = 0; j < V; j++) v.set(j, u[j]);
        store<V>(out + i, v);
    });
}

}  // namespace
}  // namespace cast

#define CAST(name, T) \
    extern "C" __global__ void cast_from_f32_##name(T* out, const float* x, size_t n) { cast::from(out, x, n); }
FOR_EACH_DTYPE(CAST)
