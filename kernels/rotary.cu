// Rotary position embedding, half rotation of the first 2·half elements of each head, in place:
//   y[j] = u[j]·cos − u[half + j]·sin,  y[half + j] = u[half + j]·cos + u[j]·sin
//   qkv (tokens, row), any dtype; head a of a token begins at offset + a·stride; cos, sin (positions, half) f32, rounded
//   to the dtype of qkv before use, as HF does
//   token n has position start + n % time; sign: 1 forward, −1 backward
//   launch   one block a token at a time, any grid, any block
#include "common.cuh"

namespace rotary {
namespace {

template <int V, typename T>
__device__ void turn(T* head, const float* cos, const float* sin, size_t half, float sign) {
    Vec<T, V> u = load<V>(head), v = load<V>(head + half);
    for (int j = 0; j < V; j++) {
        float c = to_f32(from_f32<T>(cos[j])), s = to_f32(from_f32<T>(sin[j])) * sign, a = u[j], b = v[j];
        u.set(j, fmaf(a, c, -(b * s)));
        v.set(j, fmaf(b, c, a * s));
    }
    store<V>(head, u);
    store<V>(head + half, v);
}

template <int V, typename T>
__device__ void rotate(T* qkv, const float* cos, const float* sin, size_t tokens, size_t row, size_t offset,
                       size_t stride, unsigned heads, unsigned half, size_t time, size_t start, float sign) {
    unsigned vectors = half / V;
    for (size_t n = blockIdx.x; n < tokens; n += gridDim.x) {
        size_t position = (start + n % time) * half;
        for (unsigned i = threadIdx.x; i < heads * vectors; i += blockDim.x) {
            unsigned a = i / vectors, j = i % vectors * V;
            turn<V>(qkv + n * row + offset + a * stride + j, cos + position + j, sin + position + j, half, sign);
        }
    }
}

}  // namespace
}  // namespace rotary

#define ROTARY(name, T)                                                                                                \
    extern "C" __global__ void rotary_##name(T* qkv, const float* cos, const float* sin, size_t tokens, size_t row,    \
                                             size_t offset, size_t stride, unsigned heads, unsigned half, size_t time, \
                                             size_t start, float sign) {                                               \
        if (fits(row, qkv) && fits<T>(offset) && fits<T>(stride) && fits<T>(half))                                     \
            rotary::rotate<WIDE<T>>(qkv, cos, sin, tokens, row, offset, stride, heads, half, time, start, sign);       \
        else rotary::rotate<1>(qkv, cos, sin, tokens, row, offset, stride, heads, half, time, start, sign);            \
    }
FOR_EACH_DTYPE(ROTARY)
