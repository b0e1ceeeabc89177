// CUDA C++ for the host compiler: what a kernel may name. One fiber runs one CUDA thread; see docs/cuda.md.
//
// Only what the kernels use is here. A name that is missing is a compile error, which is the place to add it.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define CUDA_ON_CPU 1
#define __global__ __attribute__((visibility("default")))
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

using std::isfinite;
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

struct uint3 {
    unsigned x, y, z;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
extern uint3 threadIdx, blockIdx, blockDim, gridDim;

struct __half {
    uint16_t bits;
};
struct __nv_bfloat16 {
    uint16_t bits;
};

namespace cuda_on_cpu {

enum Collective { SHUFFLE, BALLOT, SYNCWARP, MATRIX };

// Where in the source a thread waits. Threads that meet must come from one place.
struct Place {
    const char* file;
    int line;
};

void barrier(const char* what, Place place);
// Waits for all lanes of `mask`. SHUFFLE: the value of lane `source` (-1: the own value). BALLOT: a bit a lane.
uint64_t collective(Collective kind, unsigned mask, uint64_t value, int source, Place place);
int lane();
// The same memory for all threads of a block that ask with one key.
void* static_shared(const void* key, size_t bytes);
void* dynamic_shared();
void expect_aligned(const void* at, size_t alignment);
// Tells the checker of an access that cannot race with others of its kind.
void atomic_access(const void* at, size_t bytes);

// Every lane's `bytes` at `mine` (at most 64), in the order of the lanes; all lanes take part. Stays until all lanes
// have come to the next one.
const void* gather(const void* mine, size_t bytes, Place place);

void load_matrices(unsigned (&pieces)[4], const void* row, bool transposed, Place place);

// Lands at the latest when it is waited for; until then the place holds NaN, as it may be written at any moment.
void copy_async(void* shared, const void* global, bool valid);
void commit_copies();
void wait_copies(unsigned groups);

// 2ˣ, results below the smallest normal number as 0.
inline float exp2_flushed(float x) {
    float y = std::exp2(x);
    return y < 0x1p-126f ? 0.0f : y;
}

// A lane's fragments, wide: element 2·r + k of 32-bit piece r is its half k.
struct Fragments {
    float a[8], b[4];
};

// The lane's part of c += a·b. Products are exact in f32; sums in f32, one after the other. All memory is the lanes' own.
template <typename F>
__attribute__((no_sanitize_thread)) void multiply_add(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                                                      F widen, Place place) {
    Fragments mine;
    for (int i = 0; i < 8; i++) mine.a[i] = widen(a[i / 2] >> i % 2 * 16 & 0xffff);
    for (int i = 0; i < 4; i++) mine.b[i] = widen(b[i / 2] >> i % 2 * 16 & 0xffff);
    auto all = static_cast<const Fragments*>(gather(&mine, sizeof(mine), place));
    int g = lane() / 4, column = lane() % 4 * 2;
    for (int r = 0; r < 4; r++)
        for (int k = 0; k < 16; k++) {
            const Fragments &left = all[g * 4 + k % 8 / 2], &right = all[(column + r % 2) * 4 + k % 8 / 2];
            c[r] += left.a[(r / 2 + k / 8 * 2) * 2 + k % 2] * right.b[k / 8 * 2 + k % 2];
        }
}

template <typename T> T shuffle(unsigned mask, T value, int source, Place place) {
    static_assert(sizeof(T) <= 8, "a shuffle moves 4 or 8 bytes");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = collective(SHUFFLE, mask, bits, source, place);
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

}  // namespace cuda_on_cpu

#define CUDA_ON_CPU_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(CUDA_ON_CPU_PLACE) { cuda_on_cpu::barrier("__syncthreads", {file, line}); }

inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_ON_CPU_PLACE) {
    cuda_on_cpu::collective(cuda_on_cpu::SYNCWARP, mask, 0, -1, {file, line});
}

template <typename T> T __shfl_sync(unsigned mask, T value, int source, CUDA_ON_CPU_PLACE) {
    return cuda_on_cpu::shuffle(mask, value, source & 31, {file, line});
}

template <typename T> T __shfl_xor_sync(unsigned mask, T value, int bits, CUDA_ON_CPU_PLACE) {
    return cuda_on_cpu::shuffle(mask, value, (cuda_on_cpu::lane() ^ bits) & 31, {file, line});
}

// A lane beyond the warp gives back the own value.
template <typename T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, CUDA_ON_CPU_PLACE) {
    int source = cuda_on_cpu::lane() + static_cast<int>(delta);
    return cuda_on_cpu::shuffle(mask, value, source < 32 ? source : -1, {file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_ON_CPU_PLACE) {
    return static_cast<unsigned>(cuda_on_cpu::collective(cuda_on_cpu::BALLOT, mask, predicate != 0, -1, {file, line}));
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }

inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
inline float __int_as_float(int bits) { return __uint_as_float(static_cast<unsigned>(bits)); }
inline int __float_as_int(float value) {
    int bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}
inline unsigned __float_as_uint(float value) { return static_cast<unsigned>(__float_as_int(value)); }

inline float __half2float(__half h) {
    _Float16 value;
    std::memcpy(&value, &h, 2);
    return static_cast<float>(value);
}
inline __half __float2half_rn(float x) {
    _Float16 value = static_cast<_Float16>(x);
    __half h;
    std::memcpy(&h, &value, 2);
    return h;
}
inline float __bfloat162float(__nv_bfloat16 b) { return __uint_as_float(unsigned(b.bits) << 16); }
// To nearest, ties to even; NaN becomes 0x7fff, as on the device.
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    if (x != x) return {0x7fff};
    unsigned bits = __float_as_uint(x);
    return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

unsigned long long atomicMin(unsigned long long* at, unsigned long long value);
int atomicAdd(int* at, int value);
