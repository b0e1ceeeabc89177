// What C++ cannot say: the place for inline assembly and for what the host emulation must do in another way.
// Thin wrappers, one instruction each; under CUDA_ON_CPU (tests/cuda_on_cpu) a twin that does the same and checks more.
#pragma once

// SHARED(float, sums, [2][32]): an array in shared memory. The emulation gives it memory that it poisons and watches.
#ifdef CUDA_ON_CPU
#define SHARED(T, name, extents) \
    static char name##_key;      \
    auto& name = *static_cast<T(*) extents>(cuda_on_cpu::static_shared(&name##_key, sizeof(T extents)))
#else
#define SHARED(T, name, extents) __shared__ T name extents
#endif

// DYNAMIC_SHARED(memory): the shared memory that the launch asks for, in pieces of 16 bytes.
#ifdef CUDA_ON_CPU
#define DYNAMIC_SHARED(name) uint4* name = static_cast<uint4*>(cuda_on_cpu::dynamic_shared())
#else
#define DYNAMIC_SHARED(name) extern __shared__ uint4 name[]
#endif

// One access of sizeof(V) bytes. `at` is a multiple of it: else the device traps, and the emulation stops.
template <typename V> __device__ __forceinline__ V load_whole(const void* at) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::expect_aligned(at, alignof(V));
#endif
    return *static_cast<const V*>(at);
}

template <typename V> __device__ __forceinline__ void store_whole(void* at, const V& value) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::expect_aligned(at, alignof(V));
#endif
    *static_cast<V*>(at) = value;
}

// x, of which the compiler knows nothing: what is computed from it is computed here, and not before the loop around,
// where it would hold registers.
__device__ __forceinline__ unsigned computed_here(unsigned x) {
#ifndef CUDA_ON_CPU
    asm volatile("" : "+r"(x));
#endif
    return x;
}

// 2ˣ within 2⁻²² of it, results below 2⁻¹²⁶ as 0 (PTX ISA, ex2.approx.ftz): where the result is rounded to 16 bits anyway.
__device__ __forceinline__ float exp2_approx(float x) {
#ifdef CUDA_ON_CPU
    return cuda_on_cpu::exp2_flushed(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

// Two numbers rounded to T = __half or __nv_bfloat16, `low` in the lower half.
template <typename T> __device__ __forceinline__ unsigned pack(float low, float high);

#ifdef CUDA_ON_CPU
#define PACK(T, name, narrow)                                                        \
    template <> __device__ __forceinline__ unsigned pack<T>(float low, float high) { \
        return unsigned(narrow(low).bits) | unsigned(narrow(high).bits) << 16;       \
    }
#else
#define PACK(T, name, narrow)                                                        \
    template <> __device__ __forceinline__ unsigned pack<T>(float low, float high) { \
        unsigned pair;                                                               \
        asm("cvt.rn." name "x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low)); \
        return pair;                                                                 \
    }
#endif
PACK(__half, "f16", __float2half_rn)
PACK(__nv_bfloat16, "bf16", __float2bfloat16_rn)
#undef PACK

// Tensor cores. A warp holds a matrix of 16-bit numbers in pieces, two neighbours of a row in 32 bits: with
// g = lane / 4 and c = 2·(lane % 4), piece r of a lane is
//   A (16, 16):  row g + 8·(r % 2), columns c + 8·(r / 2) and the next
//   B (16, 8):   rows c + 8·r and the next, column g
// and C (16, 8) in f32:  element r is row g + 8·(r / 2), column c + r % 2
// (PTX ISA, "matrix fragments for mma.m16n8k16").

// Four matrices (8, 8) of 16-bit numbers from shared memory. Lane l gives the address of row l % 8 of matrix l / 8,
// 16 bytes each; piece r of a lane is row g, columns c and c + 1, of matrix r.
__device__ __forceinline__ void load_matrices(unsigned (&pieces)[4], const void* row) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::load_matrices(pieces, row, false, {__FILE__, __LINE__});
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(pieces[0]), "=r"(pieces[1]), "=r"(pieces[2]), "=r"(pieces[3])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
                 : "memory");
#endif
}

// The same matrices transposed: piece r of a lane is rows c and c + 1, column g, of matrix r.
__device__ __forceinline__ void load_matrices_transposed(unsigned (&pieces)[4], const void* row) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::load_matrices(pieces, row, true, {__FILE__, __LINE__});
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(pieces[0]), "=r"(pieces[1]), "=r"(pieces[2]), "=r"(pieces[3])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
                 : "memory");
#endif
}

// c += a·b, for T = __half and __nv_bfloat16.
template <typename T>
__device__ __forceinline__ void multiply_add(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]);

#ifdef CUDA_ON_CPU
#define MULTIPLY_ADD(T, name, widen)                                                                                 \
    template <>                                                                                                      \
    __device__ __forceinline__ void multiply_add<T>(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { \
        cuda_on_cpu::multiply_add(c, a, b,                                                                           \
                                  [](unsigned bits) {                                                                \
                                      T value;                                                                       \
                                      value.bits = static_cast<uint16_t>(bits);                                      \
                                      return widen(value);                                                           \
                                  },                                                                                 \
                                  {__FILE__, __LINE__});                                                             \
    }
#else
#define MULTIPLY_ADD(T, name, widen)                                                                                 \
    template <>                                                                                                      \
    __device__ __forceinline__ void multiply_add<T>(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." name "." name                                          \
                     ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                          \
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                            \
    }
#endif
MULTIPLY_ADD(__half, "f16", __half2float)
MULTIPLY_ADD(__nv_bfloat16, "bf16", __bfloat162float)
#undef MULTIPLY_ADD

// Starts to copy 16 bytes from global to shared memory, or to fill them with 0 where not `valid` (then nothing is read).
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::copy_async(shared, global, valid);
#else
    asm volatile(
        "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(shared))),
        "l"(global), "r"(valid ? 16 : 0)
        : "memory");
#endif
}

// Closes a group: the copies that this thread has started since the last one.
__device__ __forceinline__ void commit_copies() {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::commit_copies();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most N groups of this thread are under way. Other threads see its copies after a barrier.
template <int N> __device__ __forceinline__ void wait_copies() {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::wait_copies(N);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}
