// Rotary position embedding of the first 2·half elements of each head, in place; a and b of pair j are the elements j and
// half + j, or 2j and 2j + 1 when interleaved:
//   y[a] = u[a]·cos − u[b]·sin,  y[b] = u[b]·cos + u[a]·sin
//   qkv (tokens, row), any dtype; head a of a token begins at offset + a·stride; cos, sin (positions, half) f32, rounded
//   to the dtype of qkv before use, as HF does
//   token n has position start + n % time; sign: 1 forward, −1 backward
//   launch   one block a token at a time, any grid, any block
#include "common.cuh"

namespace rotary {
namespace {

template <typename T, int V> __device__ void turn(Vec<T, V>& p, int a, Vec<T, V>& q, int b, float cos, float sin) {
    float c = to_f32(from_f32<T>(cos)), s = to_f32(from_f32<T>(sin)), x = p[a], y = q[b];
    p.set(a, fmaf(x, c, -(y * s)));
    q.set(b, fmaf(y, c, x * s));
}

// V pairs from pair j on.
template <int V, bool INTERLEAVED, typename T>
__device__ void pairs(T* head, const float* cos, const float* sin, size_t j, size_t half, float sign) {
    T *low = head + (INTERLEAVED ? 2 * j : j), *high = low + (INTERLEAVED ? V : half);
    Vec<T, V> u = load<V>(low), v = load<V>(high);
#pragma unroll
    for (int k = 0; k < V; k++) {
        if (INTERLEAVED) turn(2 * k < V ? u : v, 2 * k % V, 2 * k + 1 < V ? u : v, (2 * k + 1) % V, cos[k], sign * sin[k]);
        else turn(u, k, v, k, cos[k], sign * sin[k]);
    }
    store<V>(low, u);
    store<V>(high, v);
}

template <int V, typename T>
__device__ void rotate(T* qkv, const float* cos, const float* sin, size_t tokens, size_t row, size_t offset,
                       size_t stride, unsigned heads, unsigned half, unsigned interleaved, size_t time, size_t start,
                       float sign) {
    unsigned vectors = half / V;
    for (size_t n = blockIdx.x; n < tokens; n += gridDim.x) {
        size_t position = (start + n % time) * half;
        for (unsigned i = threadIdx.x; i < heads * vectors; i += blockDim.x) {
            unsigned a = i / vectors, j = i % vectors * V;
            T* head = qkv + n * row + offset + a * stride;
            if (interleaved) pairs<V, true>(head, cos + position + j, sin + position + j, j, half, sign);
            else pairs<V, false>(head, cos + position + j, sin + position + j, j, half, sign);
        }
    }
}

}  // namespace
}  // namespace rotary

#define ROTARY(name, T)                                                                                                \
    extern "C" __global__ void rotary_##name(T* qkv, const float* cos, const float* sin, size_t tokens, size_t row,    \
                                             size_t offset, size_t stride, unsigned heads, unsigned half,              \
                                             unsigned interleaved, size_t time, size_t start, float sign) {            \
        if (fits(row, qkv) && fits<T>(offset) && fits<T>(stride) && fits<T>(half))                                     \
            rotary::rotate<WIDE<T>>(qkv, cos, sin, tokens, row, offset, stride, heads, half, interleaved, time, start, \
                                    sign);                                                                             \
        else                                                                                                           \
            rotary::rotate<1>(qkv, cos, sin, tokens, row, offset, stride, heads, half, interleaved, time, start, sign); \
    }
FOR_EACH_DTYPE(ROTARY)
