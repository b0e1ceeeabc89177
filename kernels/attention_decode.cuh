// One query a sequence against cached keys and values. Each block has a piece of the keys and some of the query heads
// that share them, so that a cached number is read once for all of these; attention_combine adds the pieces up.
#pragma once

#include "attention_mask.cuh"

namespace attention {
namespace {

// What a launch is asked; the host fills it in as it stands here.
struct Decode {
    Heads q, k, v;
    unsigned heads, kv_heads, d;
    int left;                // as in Problem, from the last position on; negative: all
    unsigned piece, pieces;  // keys of a piece, and how many pieces hold the longest sequence
    float scale;
};

// Query heads and keys at a time, and the threads of a block: a lane has a key, a pair of columns belongs to a thread.
constexpr int DECODE_HEADS = 8, DECODE_KEYS = 32, DECODE_THREADS = 128;

// Which heads, keys and sequence a block has.
struct Piece {
    unsigned piece, kv_head, head, heads, sequence;
    int begin, end;

    __device__ __forceinline__ Piece(const Decode& p, const int* lengths) {
        unsigned shared = p.heads / p.kv_heads, groups = (shared - 1) / DECODE_HEADS + 1, rest = blockIdx.x / p.pieces;
        piece = blockIdx.x % p.pieces;
        head = rest % groups * DECODE_HEADS;
        heads = min(unsigned(DECODE_HEADS), shared - head);
        kv_head = rest / groups % p.kv_heads;
        head += kv_head * shared;
        sequence = rest / groups / p.kv_heads;
        int length = lengths[sequence];
        begin = max(int(piece * p.piece), p.left < 0 ? 0 : length - 1 - p.left);
        end = min(int((piece + 1) * p.piece), length);
    }
    // Of one of its heads, in memory of (batch, heads, pieces).
    __device__ __forceinline__ size_t row(const Decode& p, unsigned h) const {
        return (size_t(sequence) * p.heads + head + h) * p.pieces + piece;
    }
};

// q·k for head h and this lane's key.
template <typename T, int D> __device__ __forceinline__ float score(const float* q, Tile<T, D> keys) {
    constexpr int W = WIDE<T>;
    float sum = 0.0f;
#pragma unroll 2
    for (unsigned c = 0; c < D / W; c++) {
        Vec<T, W> key = load<W>(keys.at(lane(), c));
#pragma unroll
        for (int j = 0; j < W; j += 4) {
            Vec<float, 4> query = load<4>(q + c * W + j);
            for (int i = 0; i < 4; i++) sum = fmaf(query[i], key[j + i], sum);
        }
    }
    return sum;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int bits = 16; bits > 0; bits /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, bits));
    return x;
}

template <typename T, int D>
__device__ __forceinline__ void decode(float* partial, float* tops, float* sums, const T* q, const T* k, const T* v,
                                       const int* lengths, const Decode& p) {
    constexpr int HEADS = DECODE_HEADS, KEYS = DECODE_KEYS, THREADS = DECODE_THREADS, WARPS = THREADS / 32;
    // Pairs of columns, and parts of the keys for each.
    constexpr unsigned PAIRS = D / 2, PARTS = THREADS / PAIRS, W = WIDE<T>;
    DYNAMIC_SHARED(memory);
    uint4* free = memory;
    Tile<T, D> keys = take<T, D>(free, KEYS), values = take<T, D>(free, KEYS);
    float* queries = reinterpret_cast<float*>(free);  // [HEADS][D]
    float* weights = queries + HEADS * D;             // [HEADS][KEYS]
    float* shrinks = weights + HEADS * KEYS;          // [HEADS]

    Piece at(p, lengths);
    const T *keys_from = p.k.begin(k, at.sequence, at.kv_head), *values_from = p.v.begin(v, at.sequence, at.kv_head);
    bool wide = fits(k, p.k) && fits(v, p.v) && ::fits<T>(p.d);
    float scale = p.scale * UNIT<T>;
    for (unsigned i = threadIdx.x; i < HEADS * D; i += THREADS) {
        unsigned h = i / D, c = i % D;
        queries[i] = h < at.heads && c < p.d ? to_f32(p.q.begin(q, at.sequence, at.head + h)[c]) : 0.0f;
    }
    if (at.begin < at.end) fetch<KEYS, THREADS>(keys, keys_from, p.k.token, at.begin, at.end, p.d, wide);
    commit_copies();

    // This warp's heads are warp(), warp() + WARPS, ...
    float top[HEADS / WARPS], sum[HEADS / WARPS] = {}, o[HEADS][2] = {};
    for (float& x : top) x = -infinity();
    unsigned pair = threadIdx.x % PAIRS, part = threadIdx.x / PAIRS;
    for (int from = at.begin; from < at.end; from += KEYS) {
        wait_copies<0>();
        __syncthreads();  // keys and queries are there, and nobody reads values and weights any more
        fetch<KEYS, THREADS>(values, values_from, p.v.token, from, at.end, p.d, wide);
        commit_copies();
#pragma unroll
        for (int i = 0; i < HEADS / WARPS; i++) {
            unsigned h = warp() + i * WARPS;
            if (h >= at.heads) continue;
            float s = from + int(lane()) < at.end ? score<T, D>(queries + h * D, keys) : -infinity();
            float best = fmaxf(top[i], warp_max(s)), base = best == -infinity() ? 0.0f : best * scale;
            float weight = exponential<T>(fmaf(s, scale, -base)), shrink = exponential<T>(fmaf(top[i], scale, -base));
            top[i] = best;
            sum[i] = fmaf(sum[i], shrink, weight);
            weights[h * KEYS + lane()] = weight;
            if (lane() == 0) shrinks[h] = shrink;
        }
        wait_copies<0>();
        __syncthreads();  // values and weights are there, and nobody reads the keys any more
        if (from + KEYS < at.end) fetch<KEYS, THREADS>(keys, keys_from, p.k.token, from + KEYS, at.end, p.d, wide);
        commit_copies();
        if (part >= PARTS) continue;
#pragma unroll
        for (unsigned h = 0; h < HEADS; h++)
            if (h < at.heads) o[h][0] *= shrinks[h], o[h][1] *= shrinks[h];
#pragma unroll 4
        for (unsigned s = part; s < KEYS; s += PARTS) {
            Vec<T, 2> value = load<2>(values.at(s, pair * 2 / W) + pair * 2 % W);
#pragma unroll
            for (unsigned h = 0; h < HEADS; h++)
                for (int j = 0; j < 2 && h < at.heads; j++) o[h][j] = fmaf(weights[h * KEYS + s], value[j], o[h][j]);
        }
    }

#pragma unroll
    for (int i = 0; i < HEADS / WARPS; i++) {
        unsigned h = warp() + i * WARPS;
        float all = warp_sum(sum[i]);
        if (h < at.heads && lane() == 0) tops[at.row(p, h)] = top[i], sums[at.row(p, h)] = all;
    }
    // The parts meet where the queries were, one after the other.
    for (unsigned turn = 0; turn < PARTS; turn++) {
        __syncthreads();  // the queries have been read, or the part before has been added
        if (part != turn) continue;
#pragma unroll
        for (unsigned h = 0; h < HEADS; h++)
            for (int j = 0; j < 2; j++) {
                float* x = queries + h * D + 2 * pair + j;
                *x = turn == 0 ? o[h][j] : *x + o[h][j];
            }
    }
    __syncthreads();  // all parts are added
    for (unsigned i = threadIdx.x; i < at.heads * D; i += THREADS)
        if (i % D < p.d) partial[at.row(p, i / D) * p.d + i % D] = queries[i];
}

// out of one head: its pieces, each brought to the largest top, in their order. A piece without keys has top −∞, sums 0.
template <typename T>
__device__ __forceinline__ void combine(T* out, const float* partial, const float* tops, const float* sums,
                                        unsigned pieces, unsigned d, float scale, size_t rows) {
    for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
        const float *top = tops + row * pieces, *sum = sums + row * pieces;
        float best = -infinity(), total = 0.0f;
        for (unsigned s = 0; s < pieces; s++) best = fmaxf(best, top[s]);
        for (unsigned s = 0; s < pieces; s++)
            total = fmaf(exponential<T>((top[s] - best) * scale * UNIT<T>), sum[s], total);
        for (unsigned c = threadIdx.x; c < d; c += blockDim.x) {
            float x = 0.0f;
            for (unsigned s = 0; s < pieces; s++)
                x = fmaf(exponential<T>((top[s] - best) * scale * UNIT<T>), partial[(row * pieces + s) * d + c], x);
            out[row * d + c] = from_f32<T>(x / total);
        }
    }
}

}  // namespace
}  // namespace attention
