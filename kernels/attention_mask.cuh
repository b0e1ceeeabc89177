// Who sees whom in attention, and which piece of the work a block has.
//
// Query t sees the keys s of its own document with t − left ≤ s ≤ t + right.
#pragma once

#include "attention_tile.cuh"

namespace attention {
namespace {

// Head a of token t of sequence b begins at b·sequence + t·token + a·head.
struct Heads {
    size_t sequence, token, head;

    // The first token.
    template <typename T> __device__ __forceinline__ T* begin(T* data, unsigned b, unsigned a) const {
        return data + b * sequence + a * head;
    }
};

// Whether all rows can be moved by 16 bytes.
template <typename T> __device__ __forceinline__ bool fits(const T* data, const Heads& h) {
    return ::fits(h.sequence, data) && ::fits<T>(h.token) && ::fits<T>(h.head);
}

struct Interval {
    int begin, end;
};

// What a launch is asked; the host fills it in as it stands here.
struct Problem {
    Heads q, k, v, out, dout, dq, dk, dv;
    unsigned heads, kv_heads, d;
    int time, left, right;
    float scale;
};

// Which piece a block has: tile by tile of a head, head by head of a sequence.
struct Place {
    unsigned tile, tiles, head, sequence;

    __device__ __forceinline__ Place(const Problem& p, unsigned rows, unsigned heads) {
        tiles = (p.time - 1) / rows + 1;
        tile = blockIdx.x % tiles;
        head = blockIdx.x / tiles % heads;
        sequence = blockIdx.x / tiles / heads;
    }
};

// Which positions of the sequence a position sees, or is seen by: one interval, whose ends never go back when the
// position goes on, so that what a tile sees lies between what its first and its last row see.
struct Sight {
    const int* spans;   // (time, 2): begin and end of the position's document; null: one document
    int before, after;  // how far it reaches; negative: without end
    int time;

    __device__ __forceinline__ Sight(const int* all_spans, unsigned sequence, int before, int after, int time)
        : spans(all_spans ? all_spans + size_t(2) * sequence * time : nullptr),
          before(before),
          after(after),
          time(time) {}
    __device__ __forceinline__ Interval of(int t) const {
        Interval seen = {0, time};
        if (spans) seen = {spans[2 * t], spans[2 * t + 1]};
        if (before >= 0) seen.begin = max(seen.begin, t - before);
        if (after >= 0 && after < time - t) seen.end = min(seen.end, t + after + 1);
        return seen;
    }
};

// What rows first .. first + count see: all of `common`, and nothing outside of `any`; nothing at all beyond `time`.
struct Outlook {
    Interval any, common;

    __device__ __forceinline__ Outlook(const Sight& sight, int first, int count) : any{0, 0}, common{0, 0} {
        if (first >= sight.time) return;
        Interval top = sight.of(first), bottom = sight.of(min(first + count, sight.time) - 1);
        any = {top.begin, bottom.end};
        common = {bottom.begin, top.end};
    }
    __device__ __forceinline__ bool sees(int from, int count) const {
        return from < any.end && from + count > any.begin;
    }
    __device__ __forceinline__ bool sees_all(int from, int count) const {
        return from >= common.begin && from + count <= common.end;
    }
};

// Scores of row `first` and the following become −∞ where they do not see; columns are positions from `from` on.
template <int M, int N>
__device__ __forceinline__ void hide(float (&s)[M][N][4], const Sight& sight, int first, int from) {
#pragma unroll
    for (int i = 0; i < 2 * M; i++) {
        int t = first + 8 * i + int(row_of_lane());
        Interval seen = t < sight.time ? sight.of(t) : Interval{0, 0};
#pragma unroll
        for (int j = 0; j < 2 * N; j++) {
            int at = from + j / 2 * 8 + int(column_of_lane()) + j % 2;
            if (at < seen.begin || at >= seen.end) s[i / 2][j / 2][i % 2 * 2 + j % 2] = -infinity();
        }
    }
}

}  // namespace
}  // namespace attention
