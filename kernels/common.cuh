// What kernels share: dtypes, vectors of 16 bytes, sums over warps and blocks, loops over a grid.
//
// Every sum has an order that shapes and launch alone decide. Elements are counted in size_t.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "device_ops.cuh"

// The storage types. Arithmetic is in f32.
#define FOR_EACH_DTYPE(ENTRY) ENTRY(f32, float) ENTRY(f16, __half) ENTRY(bf16, __nv_bfloat16)

namespace {

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_f32(__nv_bfloat16 x) { return __bfloat162float(x); }

// To nearest, ties to even.
template <typename T> __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32<float>(float x) { return x; }
template <> __device__ __forceinline__ __half from_f32<__half>(float x) { return __float2half_rn(x); }
template <> __device__ __forceinline__ __nv_bfloat16 from_f32<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }
__device__ __forceinline__ float not_a_number() { return __int_as_float(0x7fc00000); }

// V neighbours, moved by one instruction.
template <typename T, int V> struct alignas(V * sizeof(T)) Vec {
    T at[V];

    __device__ __forceinline__ float operator[](int j) const { return to_f32(at[j]); }
    __device__ __forceinline__ void set(int j, float x) { at[j] = from_f32<T>(x); }
};

template <int V, typename T> __device__ __forceinline__ Vec<T, V> load(const T* at) {
    return load_whole<Vec<T, V>>(at);
}
template <int V, typename T> __device__ __forceinline__ void store(T* at, const Vec<T, V>& value) {
    store_whole(at, value);
}

// V floats, 16 bytes at a time where V allows it.
template <int V> __device__ __forceinline__ void store_floats(float* at, const float (&x)[V]) {
    constexpr int W = V % 4 == 0 ? 4 : 1;
#pragma unroll
    for (int k = 0; k < V; k += W) {
        Vec<float, W> piece;
        for (int j = 0; j < W; j++) piece.at[j] = x[k + j];
        store<W>(at + k, piece);
    }
}

template <int V> __device__ __forceinline__ void add_floats(float* at, float (&x)[V]) {
    constexpr int W = V % 4 == 0 ? 4 : 1;
#pragma unroll
    for (int k = 0; k < V; k += W) {
        Vec<float, W> piece = load<W>(at + k);
        for (int j = 0; j < W; j++) x[k + j] += piece.at[j];
    }
    store_floats(at, x);
}

// Elements in 16 bytes.
template <typename T> constexpr int WIDE = 16 / sizeof(T);

// Whether vectors of 16 bytes fit: the addresses and the distance of rows (in elements) are multiples of one. A null
// pointer fits.
template <typename T> __device__ __forceinline__ bool fits(size_t row) { return row % WIDE<T> == 0; }
template <typename T, typename... P>
__device__ __forceinline__ bool fits(size_t row, const T* first, const P*... others) {
    return reinterpret_cast<size_t>(first) % 16 == 0 &&
           (fits<T>(row) && ... && (reinterpret_cast<size_t>(others) % 16 == 0));
}

// A number of elements as a type, so that a lambda can be compiled for each.
template <int V> struct Width {
    static constexpr int value = V;
};

// f(Width, i) for the elements i .. i + Width of 0..n, over the x dimension of the grid: vectors where `wide`, the
// rest one by one.
template <int V, typename F> __device__ __forceinline__ void for_grid(size_t n, bool wide, F f) {
    size_t first = size_t(blockIdx.x) * blockDim.x + threadIdx.x, step = size_t(gridDim.x) * blockDim.x;
    size_t vectors = wide ? n / V : 0;
    for (size_t i = first; i < vectors; i += step) f(Width<V>{}, i * V);
    for (size_t i = vectors * V + first; i < n; i += step) f(Width<1>{}, i);
}

// f(k, i) for the vectors of a row of d elements, over the threads of a block; k counts a thread's vectors up to K,
// and is K for all further ones. Indexed by k < K, arrays stay in registers.
template <int V, int K, typename F> __device__ __forceinline__ void for_row(size_t d, F f) {
    size_t i = size_t(threadIdx.x) * V, step = size_t(blockDim.x) * V;
#pragma unroll
    for (int k = 0; k < K; k++, i += step)
        if (i < d) f(k, i);
    for (; i < d; i += step) f(K, i);
}

// The same sum in every lane.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int bits = 16; bits > 0; bits /= 2) x += __shfl_xor_sync(0xffffffffu, x, bits);
    return x;
}

__device__ __forceinline__ double warp_sum(double x) {
#pragma unroll
    for (int bits = 16; bits > 0; bits /= 2) x += __shfl_xor_sync(0xffffffffu, x, bits);
    return x;
}

// x[0..N] summed over the block, the same in every thread. Warps are added in their order.
template <int N, typename T> __device__ __forceinline__ void block_sum(T (&x)[N]) {
    SHARED(T, partial, [N][32]);
#pragma unroll
    for (int k = 0; k < N; k++) x[k] = warp_sum(x[k]);
    unsigned warps = blockDim.x / 32;
    if (warps == 1) return;
    __syncthreads();  // the sums of an earlier call have been read
#pragma unroll
    for (int k = 0; k < N; k++)
        if (threadIdx.x % 32 == 0) partial[k][threadIdx.x / 32] = x[k];
    __syncthreads();
#pragma unroll
    for (int k = 0; k < N; k++) {
        x[k] = 0;
        for (unsigned w = 0; w < warps; w++) x[k] += partial[k][w];
    }
}

}  // namespace
