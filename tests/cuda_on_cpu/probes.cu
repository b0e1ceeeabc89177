// Small kernels, right and wrong ones, on which test_emulation.py tries the emulation.
#include "common.cuh"

#define PROBE extern "C" __global__ void

// Each thread's left neighbour, over shared memory; thread 0 takes the last.
PROBE probe_neighbour(int* out, const int* in, int barrier) {
    SHARED(int, values, [1024]);
    values[threadIdx.x] = in[threadIdx.x];
    if (barrier) __syncthreads();
    out[threadIdx.x] = values[(threadIdx.x + blockDim.x - 1) % blockDim.x];
}

// The same inside of a warp, by __syncwarp.
PROBE probe_warp_neighbour(int* out, const int* in, int sync) {
    SHARED(int, values, [1024]);
    values[threadIdx.x] = in[threadIdx.x];
    if (sync) __syncwarp();
    out[threadIdx.x] = values[threadIdx.x / 32 * 32 + (threadIdx.x + 31) % 32];
}

PROBE probe_syncwarp_is_no_barrier(int* out, const int* in) {
    SHARED(int, values, [1024]);
    values[threadIdx.x] = in[threadIdx.x];
    __syncwarp();
    out[threadIdx.x] = values[(threadIdx.x + 32) % blockDim.x];
}

// Written again without a barrier after it was read.
PROBE probe_write_after_read(int* out, const int* in) {
    SHARED(int, value, [1]);
    for (int k = 0; k < 3; k++) {
        if (threadIdx.x == 0) value[0] = in[k];
        __syncthreads();
        out[k * blockDim.x + threadIdx.x] = value[0];
    }
}

PROBE probe_shared_is_poisoned(float* out) {
    SHARED(float, values, [32]);
    out[threadIdx.x] = values[threadIdx.x];
}

PROBE probe_beyond_shared(float* out) {
    SHARED(float, first, [32]);
    SHARED(float, second, [32]);
    first[threadIdx.x] = second[threadIdx.x] = 0;
    __syncthreads();
    out[threadIdx.x] = first[threadIdx.x + 1];
}

PROBE probe_divergence(int* out, unsigned returns, unsigned elsewhere) {
    if (threadIdx.x == returns) return;
    if (threadIdx.x == elsewhere) __syncthreads();
    else __syncthreads();
    out[threadIdx.x] = 1;
}

PROBE probe_shuffles(int* out) {
    int lane = threadIdx.x % 32, *row = out + threadIdx.x * 5;
    row[0] = __shfl_xor_sync(0xffffffffu, lane * 10, 5);
    row[1] = __shfl_sync(0xffffffffu, lane * 10, 7);
    row[2] = __shfl_down_sync(0xffffffffu, lane * 10, 3);
    row[3] = int(__ballot_sync(0xffffffffu, lane % 3 == 0));
    row[4] = lane < 8 ? __shfl_xor_sync(0xffu, lane, 1) : __shfl_xor_sync(0xffffff00u, lane, 2);
}

// kind 0: a lane outside of its own mask; 1: a source outside of the mask; 2: half of the warp stays away;
// 3: half of the warp waits at a barrier; 4: a lane of the mask has returned; 5: two different shuffles meet
PROBE probe_illegal_shuffle(int* out, int kind) {
    int lane = threadIdx.x, value = lane;
    if (kind == 0) value = __shfl_sync(0xfffffffeu, value, 1);
    if (kind == 1) value = lane < 16 ? __shfl_sync(0xffffu, value, 20) : lane;
    if (kind == 2 && lane < 16) value = __shfl_sync(0xffffffffu, value, 0);
    if (kind == 3) {
        if (lane < 16) value = __shfl_sync(0xffffffffu, value, 0);
        else __syncthreads();
    }
    if (kind == 4) {
        if (lane == 3) return;
        value = __shfl_sync(0xffffffffu, value, 0);
    }
    if (kind == 5) {
        if (lane < 16) value = __shfl_sync(0xffffffffu, value, 0);
        else value = __shfl_sync(0xffffffffu, value, 1);
    }
    out[lane] = value;
}

// kind 0: write an input, 1: read an output, 2: write beyond, 3: read before, 4: a misaligned vector
PROBE probe_memory(float* out, const float* in, int kind) {
    float value = 0;
    if (kind == 0) const_cast<float*>(in)[threadIdx.x] = 1;
    if (kind == 1) value = out[threadIdx.x];
    if (kind == 2 && threadIdx.x == 31) out[32] = 1;
    if (kind == 3) value = in[int(threadIdx.x) - 1];
    if (kind == 4) value = load<4>(in + threadIdx.x)[0];
    out[threadIdx.x] = value;
}

// Blocks that write one place, and blocks that count together.
PROBE probe_blocks_race(int* out) { out[0] = blockIdx.x; }
PROBE probe_blocks_count(int* out) { atomicAdd(out, 1); }
PROBE probe_atomic_and_plain(int* out) {
    if (blockIdx.x == 0) atomicAdd(out, 1);
    else out[0] = 5;
}

PROBE probe_order(int* out, int* next) { out[atomicAdd(next, 1)] = int(blockIdx.x * blockDim.x + threadIdx.x); }

PROBE probe_round(__half* h, __nv_bfloat16* b, float* back, const float* x, size_t n) {
    for (size_t i = threadIdx.x; i < n; i += blockDim.x) {
        h[i] = from_f32<__half>(x[i]);
        b[i] = from_f32<__nv_bfloat16>(x[i]);
        back[2 * i] = to_f32(h[i]);
        back[2 * i + 1] = to_f32(b[i]);
    }
}

PROBE probe_coordinates(unsigned* out) {
    unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    unsigned* row = out + 6 * size_t(block * blockDim.x * blockDim.y * blockDim.z + thread);
    row[0] = blockIdx.x, row[1] = blockIdx.y, row[2] = blockIdx.z;
    row[3] = threadIdx.x, row[4] = threadIdx.y, row[5] = threadIdx.z;
}

PROBE probe_arguments(double* out, float f, double d, int i, unsigned u, size_t z) {
    if (threadIdx.x > 0) return;
    out[0] = f, out[1] = d, out[2] = i, out[3] = u, out[4] = double(z);
}
