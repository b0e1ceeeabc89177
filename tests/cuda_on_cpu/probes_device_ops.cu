// One use of each wrapper of device_ops.cuh, for test_device_ops.py.
#include "common.cuh"

#define PROBE extern "C" __global__ void

// in (32, 8): row l is what lane l points to; out (32, 4) the pieces.
PROBE probe_load_matrices(unsigned* out, const unsigned short* in, int transposed) {
    SHARED(uint4, rows, [32]);
    rows[threadIdx.x] = reinterpret_cast<const uint4*>(in)[threadIdx.x];
    __syncwarp();
    unsigned pieces[4];
    if (transposed) load_matrices_transposed(pieces, &rows[threadIdx.x]);
    else load_matrices(pieces, &rows[threadIdx.x]);
    for (int r = 0; r < 4; r++) out[threadIdx.x * 4 + r] = pieces[r];
}

// Without the __syncwarp.
PROBE probe_load_matrices_early(unsigned* out, const unsigned short* in) {
    SHARED(uint4, rows, [32]);
    rows[threadIdx.x] = reinterpret_cast<const uint4*>(in)[threadIdx.x];
    unsigned pieces[4];
    load_matrices(pieces, &rows[threadIdx.x]);
    out[threadIdx.x] = pieces[0];
}

#define MULTIPLY(name, T)                                                                              \
    PROBE probe_multiply_##name(float* c, const unsigned* a, const unsigned* b) {                      \
        unsigned left[4], right[2];                                                                    \
        float sum[4];                                                                                  \
        for (int r = 0; r < 4; r++) left[r] = a[threadIdx.x * 4 + r], sum[r] = c[threadIdx.x * 4 + r]; \
        for (int r = 0; r < 2; r++) right[r] = b[threadIdx.x * 2 + r];                                 \
        multiply_add<T>(sum, left, right);                                                             \
        for (int r = 0; r < 4; r++) c[threadIdx.x * 4 + r] = sum[r];                                   \
    }
MULTIPLY(f16, __half)
MULTIPLY(bf16, __nv_bfloat16)

// out (threads): 2ˣ;  halves, brains (threads): x and its negative.
PROBE probe_numbers(float* out, unsigned* halves, unsigned* brains, const float* in) {
    float x = in[threadIdx.x];
    out[threadIdx.x] = exp2_approx(x);
    halves[threadIdx.x] = pack<__half>(x, -x);
    brains[threadIdx.x] = pack<__nv_bfloat16>(x, -x);
}

PROBE probe_computed_here(unsigned* out) { out[threadIdx.x] = computed_here(threadIdx.x) + 1; }

// With all shared memory that the launch asks for: each thread's place is the last's.
PROBE probe_dynamic_shared(unsigned* out) {
    DYNAMIC_SHARED(memory);
    memory[threadIdx.x].x = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = memory[blockDim.x - 1 - threadIdx.x].x;
}

// Half of the warp stays away.
PROBE probe_multiply_divergent(float* c) {
    unsigned left[4] = {}, right[2] = {};
    float sum[4] = {};
    if (threadIdx.x < 16) multiply_add<__half>(sum, left, right);
    c[threadIdx.x] = sum[0];
}

// Tiles of 4 numbers a thread go through two buffers; the next is on its way while one is read, by another thread.
// mistake 0: none; 1: waits for one group too few; 2: no barrier after the wait; 3: no barrier before a buffer is
// overwritten; 4: no wait
PROBE probe_copies(float* out, const float* in, int tiles, int valid_tiles, int mistake) {
    SHARED(uint4, buffers, [2][64]);
    unsigned t = threadIdx.x, other = blockDim.x - 1 - t;
    const uint4* from = reinterpret_cast<const uint4*>(in);
    copy_async(&buffers[0][t], from + t, 0 < valid_tiles);
    commit_copies();
    for (int k = 0; k < tiles; k++) {
        if (k + 1 < tiles) {
            bool valid = k + 1 < valid_tiles;
            copy_async(&buffers[(k + 1) % 2][t], from + (valid ? (k + 1) * blockDim.x + t : 0), valid);
        }
        commit_copies();
        if (mistake == 1) wait_copies<2>();
        else if (mistake != 4) wait_copies<1>();
        if (mistake != 2) __syncthreads();
        const float* tile = reinterpret_cast<const float*>(&buffers[k % 2][other]);
        for (int j = 0; j < 4; j++) out[(k * blockDim.x + t) * 4 + j] = tile[j];
        if (mistake != 3) __syncthreads();
    }
}
