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
