// The forward pass of attention: a block holds a tile of queries and meets the keys tile by tile (online softmax).
#pragma once

#include "attention_mask.cuh"

namespace attention {
namespace {

// How a block is cut: WARPS of 16·M queries each, KEYS at a time. The sums of a warp, 16·M·(D + KEYS) floats, stay in
// registers; wide warps read shared memory less often.
template <int WARPS_, int M_, int KEYS_> struct ForwardCut {
    static constexpr int WARPS = WARPS_, M = M_, KEYS = KEYS_, THREADS = 32 * WARPS, ROWS = 16 * M * WARPS;
};
// By bytes of an element and width.
template <int BYTES, int D> struct ForwardShape;
template <int D> struct ForwardShape<2, D> : ForwardCut<4, 2, 64> {};
template <> struct ForwardShape<2, 96> : ForwardCut<4, 2, 32> {};
template <> struct ForwardShape<2, 128> : ForwardCut<4, 2, 32> {};
template <> struct ForwardShape<2, 256> : ForwardCut<4, 1, 32> {};
template <int D> struct ForwardShape<4, D> : ForwardCut<4, 1, 32> {};
template <> struct ForwardShape<4, 256> : ForwardCut<2, 1, 16> {};

__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// What a lane knows of its rows: the largest score so far, and its own part of the sum of exponentials.
template <int M> struct Rows {
    float top[M][2], sum[M][2];
};

// Scores become exp(score·scale − top); what was summed before is brought to the new top.
template <typename T, int M, int N, int C>
__device__ __forceinline__ void soften(float (&s)[M][N][4], float (&o)[M][C][4], Rows<M>& rows, float scale) {
#pragma unroll
    for (int i = 0; i < 2 * M; i++) {
        int m = i / 2, h = i % 2 * 2;
        float top = rows.top[m][i % 2];
#pragma unroll
        for (int n = 0; n < N; n++) top = fmaxf(top, fmaxf(s[m][n][h], s[m][n][h + 1]));
        top = quad_max(top);
        float base = top == -infinity() ? 0.0f : top * scale;  // a row that has seen nothing yet: −∞ − 0, not −∞ + ∞
        float shrink = exponential<T>(fmaf(rows.top[m][i % 2], scale, -base)), sum = rows.sum[m][i % 2] * shrink;
        rows.top[m][i % 2] = top;
#pragma unroll
        for (int n = 0; n < C; n++) o[m][n][h] *= shrink, o[m][n][h + 1] *= shrink;
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int j = h; j < h + 2; j++) sum += s[m][n][j] = exponential<T>(fmaf(s[m][n][j], scale, -base));
        rows.sum[m][i % 2] = sum;
    }
}

template <typename T, int D>
__device__ __forceinline__ void forward(T* out, float* lse, const T* q, const T* k, const T* v, const int* spans,
                                        const Problem& p) {
    using Shape = ForwardShape<sizeof(T), D>;
    constexpr int M = Shape::M, KEYS = Shape::KEYS, ROWS = Shape::ROWS, THREADS = Shape::THREADS;
    DYNAMIC_SHARED(memory);
    uint4* free = memory;
    Tile<T, D> queries = take<T, D>(free, ROWS), keys = take<T, D>(free, KEYS), values = take<T, D>(free, KEYS);
    Tile<float, KEYS> lent = Tile<float, KEYS>{free}.from(16 * M * warp());

    Place at(p, ROWS, p.heads);
    Sight sight(spans, at.sequence, p.left, p.right, p.time);
    unsigned shared_head = at.head / (p.heads / p.kv_heads);
    const T *keys_from = p.k.begin(k, at.sequence, shared_head), *values_from = p.v.begin(v, at.sequence, shared_head);
    bool wide = fits(q, p.q) && fits(k, p.k) && fits(v, p.v) && ::fits<T>(p.d);
    // The last tile comes first: with a causal mask it has the most to do.
    int first = (at.tiles - 1 - at.tile) * ROWS, mine = first + 16 * M * warp();
    Interval all = Outlook(sight, first, ROWS).any;
    Outlook outlook(sight, mine, 16 * M);

    float o[M][D / 8][4] = {};
    Rows<M> rows;
    for (int i = 0; i < 2 * M; i++) rows.top[i / 2][i % 2] = -infinity(), rows.sum[i / 2][i % 2] = 0.0f;
    fetch<ROWS, THREADS>(queries, p.q.begin(q, at.sequence, at.head), p.q.token, first, p.time, p.d, wide);
    fetch<KEYS, THREADS>(keys, keys_from, p.k.token, all.begin, p.time, p.d, wide);
    commit_copies();
    // Values come while scores are computed, and the next keys while values are added up.
    for (int from = all.begin; from < all.end; from += KEYS) {
        bool busy = outlook.sees(from, KEYS);
        wait_copies<0>();
        __syncthreads();  // the keys are there, and nobody reads the values any more
        fetch<KEYS, THREADS>(values, values_from, p.v.token, from, p.time, p.d, wide);
        commit_copies();
        float s[M][KEYS / 8][4] = {};
        if (busy) multiply_rows(s, queries.from(16 * M * warp()), keys);
        wait_copies<0>();
        __syncthreads();  // the values are there, and nobody reads the keys any more
        if (from + KEYS < all.end) fetch<KEYS, THREADS>(keys, keys_from, p.k.token, from + KEYS, p.time, p.d, wide);
        commit_copies();
        if (!busy) continue;
        if (!outlook.sees_all(from, KEYS)) hide(s, sight, mine, from);
        soften<T>(s, o, rows, p.scale * UNIT<T>);
        multiply_columns(o, s, values, lent);
    }

    lse += (size_t(at.sequence) * p.heads + at.head) * p.time;
    float factor[M][2];
    for (int i = 0; i < 2 * M; i++) {
        int t = mine + 8 * i + row_of_lane();
        float sum = quad_sum(rows.sum[i / 2][i % 2]);
        factor[i / 2][i % 2] = 1.0f / sum;
        if (t < p.time && lane() % 4 == 0) lse[t] = fmaf(rows.top[i / 2][i % 2], p.scale, logf(sum));
    }
    // Through the queries' place, of which each warp reads only what it now writes, to move 16 bytes at a time.
    Tile<T, D> own = queries.from(16 * M * warp());
    put(own, o, factor);
    __syncwarp();  // the rows are there
    send(p.out.begin(out, at.sequence, at.head), p.out.token, own, 16 * M, mine, p.time, p.d, wide && fits(out, p.out),
         lane(), 32);
}

}  // namespace
}  // namespace attention
