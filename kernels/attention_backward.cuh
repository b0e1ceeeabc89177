// The backward pass of attention. A block holds rows and meets columns tile by tile; what it sums belongs to it alone,
// so nothing is added by two blocks. Two kernels of one form:
//   KV   rows are keys of a key head, columns the queries of its whole group:  dv += pᵀ·dout,  dk += dsᵀ·q
//   else rows are queries, columns keys:                                       dq += ds·k
// with p = exp(q·kᵀ·scale − lse),  ds = p·(dout·vᵀ − delta),  made again from tiles of both; dq and dk times scale.
#pragma once

#include "attention_mask.cuh"

namespace attention {
namespace {

// How a block is cut: GROUPS of 16 rows; each is given to SPLIT warps, which share out the columns of the results where
// a warp cannot hold them (all of them make p and ds); COLUMNS at a time.
template <int GROUPS_, int SPLIT_, int COLUMNS_> struct BackwardCut {
    static constexpr int SPLIT = SPLIT_, COLUMNS = COLUMNS_, WARPS = GROUPS_ * SPLIT, THREADS = 32 * WARPS,
                         ROWS = 16 * GROUPS_;
};
// By bytes of an element and width.
template <int BYTES, int D> struct BackwardShape;
template <int D> struct BackwardShape<2, D> : BackwardCut<4, 1, 32> {};
template <> struct BackwardShape<2, 64> : BackwardCut<4, 1, 64> {};
template <> struct BackwardShape<2, 128> : BackwardCut<8, 1, 32> {};
template <> struct BackwardShape<2, 256> : BackwardCut<2, 2, 32> {};
template <int D> struct BackwardShape<4, D> : BackwardCut<4, 1, 16> {};
template <> struct BackwardShape<4, 128> : BackwardCut<2, 2, 16> {};
template <> struct BackwardShape<4, 256> : BackwardCut<1, 4, 8> {};

// Of a query: what p and ds need. Beyond the sequence nothing is seen, and 0 keeps it finite.
struct Query {
    float lse, delta;
};

template <typename T>
__device__ __forceinline__ Query query(const float* lse, const float* delta, size_t row, int t, int time) {
    if (t >= time) return {0.0f, 0.0f};
    return {lse[row + t] * UNIT<T>, delta[row + t]};
}

template <typename T, int D, bool KV>
__device__ __forceinline__ void backward(T* first_out, T* second_out, const T* dout, const T* q, const T* k, const T* v,
                                         const float* lse, const float* delta, const int* spans, const Problem& p) {
    using Shape = BackwardShape<sizeof(T), D>;
    constexpr int COLUMNS = Shape::COLUMNS, ROWS = Shape::ROWS, THREADS = Shape::THREADS, N = COLUMNS / 8,
                  WIDTH = D / Shape::SPLIT;
    static_assert(WIDTH * sizeof(T) / 16 % Tile<T, D>::G == 0, "the shift of chunks would cross the split");
    DYNAMIC_SHARED(memory);
    uint4* free = memory;
    // In the names of dq: a, b are queries and gradients of the output, c, e keys and values. KV has them the other way.
    Tile<T, D> a = take<T, D>(free, ROWS), b = take<T, D>(free, ROWS);
    Tile<T, D> c = take<T, D>(free, 2 * COLUMNS), e = take<T, D>(free, 2 * COLUMNS);  // two stages each
    Tile<float, COLUMNS> lent = Tile<float, COLUMNS>{free}.from(16 * warp());
    if (sizeof(T) == 4) take<float, COLUMNS>(free, 16 * Shape::WARPS);
    Query* queries = reinterpret_cast<Query*>(free);  // [2][COLUMNS], of KV

    Place at(p, ROWS, KV ? p.kv_heads : p.heads);
    Sight sight(spans, at.sequence, KV ? p.right : p.left, KV ? p.left : p.right, p.time);
    bool wide = fits(q, p.q) && fits(k, p.k) && fits(v, p.v) && fits(dout, p.dout) && ::fits<T>(p.d);
    // What has the most to do under a causal mask comes first.
    int first = (KV ? at.tile : at.tiles - 1 - at.tile) * ROWS;
    unsigned group = warp() / Shape::SPLIT, column = warp() % Shape::SPLIT * WIDTH;
    int mine = first + 16 * group;
    Interval all = Outlook(sight, first, ROWS).any;
    Outlook outlook(sight, mine, 16);

    auto fetch_columns = [&](int stage, unsigned head, int from) {
        const T* to_c = KV ? p.q.begin(q, at.sequence, head) : p.k.begin(k, at.sequence, head);
        const T* to_e = KV ? p.dout.begin(dout, at.sequence, head) : p.v.begin(v, at.sequence, head);
        fetch<COLUMNS, THREADS>(c.from(stage * COLUMNS), to_c, KV ? p.q.token : p.k.token, from, p.time, p.d, wide);
        fetch<COLUMNS, THREADS>(e.from(stage * COLUMNS), to_e, KV ? p.dout.token : p.v.token, from, p.time, p.d, wide);
        commit_copies();
    };
    unsigned shared = p.heads / p.kv_heads;  // query heads that share a key head
    unsigned head = KV ? at.head * shared : at.head / shared, last = KV ? head + shared - 1 : head;
    auto query_of = [&](unsigned of, int t) {
        return query<T>(lse, delta, (size_t(at.sequence) * p.heads + of) * p.time, t, p.time);
    };

    const T* to_a = KV ? p.k.begin(k, at.sequence, at.head) : p.q.begin(q, at.sequence, at.head);
    const T* to_b = KV ? p.v.begin(v, at.sequence, at.head) : p.dout.begin(dout, at.sequence, at.head);
    fetch<ROWS, THREADS>(a, to_a, KV ? p.k.token : p.q.token, first, p.time, p.d, wide);
    fetch<ROWS, THREADS>(b, to_b, KV ? p.v.token : p.dout.token, first, p.time, p.d, wide);
    fetch_columns(0, head, all.begin);
    Query own[2];
    for (int h = 0; h < 2 && !KV; h++) own[h] = query_of(at.head, mine + 8 * h + row_of_lane());
    if (KV && threadIdx.x < COLUMNS) queries[threadIdx.x] = query_of(head, all.begin + threadIdx.x);

    float x[1][WIDTH / 8][4] = {}, y[1][KV ? WIDTH / 8 : 1][4] = {};  // dq, or dk and dv
    for (int from = all.begin, stage = 0; from < all.end; stage ^= 1) {
        wait_copies<0>();
        __syncthreads();  // this stage is there, and nobody reads the other one any more
        int now = from;
        Query next = {0.0f, 0.0f};
        from += COLUMNS;
        if (from >= all.end && head < last) from = all.begin, head++;
        if (from < all.end) {
            fetch_columns(stage ^ 1, head, from);
            if (KV && threadIdx.x < COLUMNS) next = query_of(head, from + threadIdx.x);
        }
        if (outlook.sees(now, COLUMNS)) {
            float s[1][N][4] = {}, d[1][N][4] = {};
            multiply_rows(s, a.from(16 * group), c.from(stage * COLUMNS));
            multiply_rows(d, b.from(16 * group), e.from(stage * COLUMNS));
            if (!outlook.sees_all(now, COLUMNS)) hide(s, sight, mine, now);
#pragma unroll
            for (int i = 0; i < 4 * N; i++) {
                int n = i / 4, r = i % 4;
                Query of = KV ? queries[stage * COLUMNS + 8 * n + column_of_lane() + r % 2] : own[r / 2];
                s[0][n][r] = exponential<T>(fmaf(s[0][n][r], p.scale * UNIT<T>, -of.lse));
                d[0][n][r] = s[0][n][r] * (d[0][n][r] - of.delta);
            }
            if constexpr (KV) multiply_columns(y, s, e.from(stage * COLUMNS).right_of(column), lent);
            multiply_columns(x, d, c.from(stage * COLUMNS).right_of(column), lent);
        }
        if (KV && threadIdx.x < COLUMNS) queries[(stage ^ 1) * COLUMNS + threadIdx.x] = next;
    }

    __syncthreads();  // nobody reads the rows any more: the results take their place, to move 16 bytes at a time
    const float scale[1][2] = {{p.scale, p.scale}}, one[1][2] = {{1.0f, 1.0f}};
    put(a.from(16 * group).right_of(column), x, scale);
    if constexpr (KV) put(b.from(16 * group).right_of(column), y, one);
    __syncthreads();  // the results are there
    const Heads& to_x = KV ? p.dk : p.dq;
    send(to_x.begin(first_out, at.sequence, at.head), to_x.token, a, ROWS, first, p.time, p.d,
         wide && fits(first_out, to_x), threadIdx.x, THREADS);
    if (KV)
        send(p.dv.begin(second_out, at.sequence, at.head), p.dv.token, b, ROWS, first, p.time, p.d,
             wide && fits(second_out, p.dv), threadIdx.x, THREADS);
}

}  // namespace
}  // namespace attention
