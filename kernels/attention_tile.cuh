// Tiles of attention in shared memory, and products of tiles in the registers of a warp.
#pragma once

#include "common.cuh"

namespace attention {
namespace {

// The exponential of scores·unit, where `unit` makes exp(x) of it: half types take the instruction for 2ˣ.
template <typename T> constexpr float UNIT = 1.4426950408889634f;
template <> constexpr float UNIT<float> = 1.0f;
template <typename T> __device__ __forceinline__ float exponential(float x) { return exp2_approx(x); }
template <> __device__ __forceinline__ float exponential<float>(float x) { return expf(x); }

// Rows of D elements in shared memory, in chunks of 16 bytes; chunk c of row r stands at place c ^ shift(r) of it.
// Eight chunks fill the banks once. With G the power of two in the chunks of a row, at most 8, rows r and r + 8/G begin
// at the same bank and their shifts differ: so eight rows at one chunk, which ldmatrix reads, meet no bank twice, and
// neither do eight chunks side by side, which are written.
template <typename T, int D> struct Tile {
    static constexpr unsigned CHUNKS = D * sizeof(T) / 16;
    static constexpr unsigned G = CHUNKS % 8 == 0 ? 8 : CHUNKS % 4 == 0 ? 4 : CHUNKS % 2 == 0 ? 2 : 1;

    uint4* memory;

    __device__ __forceinline__ T* at(unsigned row, unsigned chunk) const {
        return reinterpret_cast<T*>(memory + (row * CHUNKS + chunk / G * G + (chunk % G ^ row / (8 / G) % G)));
    }
    // From a row or column on, by 8 rows or 8 chunks.
    __device__ __forceinline__ Tile from(unsigned row) const { return {memory + row * CHUNKS}; }
    __device__ __forceinline__ Tile right_of(unsigned column) const { return {memory + column / WIDE<T>}; }
};

// Takes a piece for `rows` rows of a tile off the front of `memory`.
template <typename T, int D> __device__ __forceinline__ Tile<T, D> take(uint4*& memory, unsigned rows) {
    Tile<T, D> tile = {memory};
    memory += rows * Tile<T, D>::CHUNKS;
    return tile;
}

// Starts to bring rows first .. first + ROWS of a head of width d. Rows from `time` on and columns from d on become 0.
template <int ROWS, int THREADS, typename T, int D>
__device__ __forceinline__ void fetch(Tile<T, D> tile, const T* head, size_t row, int first, int time, unsigned d,
                                      bool wide) {
    constexpr int W = WIDE<T>, CHUNKS = Tile<T, D>::CHUNKS, PASS = THREADS / CHUNKS;
    static_assert(PASS > 0, "a row has more chunks than the block has threads");
    int r = threadIdx.x / CHUNKS, c = threadIdx.x % CHUNKS, left = time - first;
    if (r >= PASS) return;
    const T* from = head + (first + r) * row + c * W;
    if (wide) {
#pragma unroll 2
        for (; r < ROWS; r += PASS, from += PASS * row) copy_async(tile.at(r, c), from, r < left && c * W < int(d));
    } else {
#pragma unroll 1
        for (; r < ROWS; r += PASS, from += PASS * row) {
            Vec<T, W> piece;
            for (int j = 0; j < W; j++) piece.at[j] = r < left && c * W + j < int(d) ? from[j] : from_f32<T>(0.0f);
            store<W>(tile.at(r, c), piece);
        }
    }
}

// A warp's products lie in registers as multiply_add (device_ops.cuh) leaves them, for every dtype: of block (m, n),
// 16 by 8, element r is row 16·m + lane / 4 + 8·(r / 2), column 8·n + 2·(lane % 4) + r % 2.
__device__ __forceinline__ unsigned lane() { return threadIdx.x % 32; }
__device__ __forceinline__ unsigned warp() { return threadIdx.x / 32; }
__device__ __forceinline__ unsigned row_of_lane() { return lane() / 4; }
__device__ __forceinline__ unsigned column_of_lane() { return lane() % 4 * 2; }

// c += a·bᵀ for the first 16·M rows of a and 8·N rows of b.
template <int M, int N, typename T, int D>
__device__ __forceinline__ void multiply_rows(float (&c)[M][N][4], Tile<T, D> a, Tile<T, D> b) {
    unsigned l = computed_here(lane());
    if constexpr (sizeof(T) == 2) {
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            unsigned left[M][4], both[4];
#pragma unroll
            for (int m = 0; m < M; m++) load_matrices(left[m], a.at(l % 16, 2 * k + l / 16) + 16 * m * D);
#pragma unroll
            for (int n = 0; n < N; n += 2) {
                load_matrices(both, b.at(l % 8 + l / 16 * 8, 2 * k + l / 8 % 2) + 8 * n * D);
                const unsigned first[2] = {both[0], both[1]}, second[2] = {both[2], both[3]};
#pragma unroll
                for (int m = 0; m < M; m++) {
                    multiply_add<T>(c[m][n], left[m], first);
                    multiply_add<T>(c[m][n + 1], left[m], second);
                }
            }
        }
    } else {
#pragma unroll 2
        for (unsigned k = 0; k < Tile<T, D>::CHUNKS; k++) {
            Vec<T, 4> left[M][2], right[2];
#pragma unroll
            for (int i = 0; i < 2 * M; i++) left[i / 2][i % 2] = load<4>(a.at(l / 4, k) + 8 * i * D);
#pragma unroll
            for (int n = 0; n < N; n++) {
                for (int j = 0; j < 2; j++) right[j] = load<4>(b.at(l % 4 * 2 + j, k) + 8 * n * D);
#pragma unroll
                for (int i = 0; i < 4 * M * 4; i++) {
                    int m = i / 16, r = i / 4 % 4, j = i % 4;
                    c[m][n][r] = fmaf(left[m][r / 2][j], right[r % 2][j], c[m][n][r]);
                }
            }
        }
    }
}

// o += p·b for the first 8·K rows and 8·N columns of b; p is a product in registers. 16-bit types take
// it as it lies, rounded; f32 lends each row to the lanes that need it by way of `lent`, which is this warp's alone.
template <int M, int K, int N, typename T, int D>
__device__ __forceinline__ void multiply_columns(float (&o)[M][N][4], const float (&p)[M][K][4], Tile<T, D> b,
                                                 Tile<float, 8 * K> lent) {
    unsigned l = computed_here(lane());
    if constexpr (sizeof(T) == 2) {
#pragma unroll
        for (int k = 0; k < K; k += 2) {
            unsigned left[M][4], both[4];
#pragma unroll
            for (int i = 0; i < 4 * M; i++) {
                const float (&pair)[4] = p[i / 4][k + i % 4 / 2];
                left[i / 4][i % 4] = pack<T>(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
            }
#pragma unroll
            for (int n = 0; n < N; n += 2) {
                load_matrices_transposed(both, b.at(l % 16, n + l / 16) + 8 * k * D);
                const unsigned first[2] = {both[0], both[1]}, second[2] = {both[2], both[3]};
#pragma unroll
                for (int m = 0; m < M; m++) {
                    multiply_add<T>(o[m][n], left[m], first);
                    multiply_add<T>(o[m][n + 1], left[m], second);
                }
            }
        }
    } else {
        // Of this lane's two columns: chunk, element.
        unsigned place = l / 2 % 2, inside = l % 2 * 2;
        __syncwarp();  // what was lent before has been read
#pragma unroll
        for (int i = 0; i < 2 * M * K; i++) {
            int m = i / 2 / K, h = i / K % 2, k = i % K;
            Vec<float, 2> pair = {{p[m][k][2 * h], p[m][k][2 * h + 1]}};
            store<2>(lent.at(l / 4, 2 * k + place) + (128 * m + 64 * h) * K + inside, pair);
        }
        __syncwarp();  // it is lent
#pragma unroll 2
        for (unsigned k = 0; k < 8 * K; k++) {
            float left[2 * M];
#pragma unroll
            for (int i = 0; i < 2 * M; i++) left[i] = load<1>(lent.at(l / 4, k / 4) + 64 * i * K + k % 4)[0];
#pragma unroll
            for (int n = 0; n < N; n++) {
                Vec<float, 2> right = load<2>(b.at(k, 2 * n + place) + inside);
#pragma unroll
                for (int i = 0; i < 4 * M; i++)
                    o[i / 4][n][i % 4] = fmaf(left[i / 2], right[i % 2], o[i / 4][n][i % 4]);
            }
        }
    }
}

// The first 16·M rows and 8·N columns of a tile = x·factor; factor (m, h) is of row 16·m + 8·h + lane / 4.
template <int M, int N, typename T, int D>
__device__ __forceinline__ void put(Tile<T, D> tile, const float (&x)[M][N][4], const float (&factor)[M][2]) {
    constexpr unsigned W = WIDE<T>;
#pragma unroll
    for (int i = 0; i < 2 * M * N; i++) {
        int m = i / 2 / N, h = i / N % 2, n = i % N;
        unsigned at = 8 * n + column_of_lane();
        Vec<T, 2> pair;
        for (int j = 0; j < 2; j++) pair.set(j, x[m][n][2 * h + j] * factor[m][h]);
        store<2>(tile.at(16 * m + 8 * h + row_of_lane(), at / W) + at % W, pair);
    }
}

// Rows first .. first + rows of a head = those of a tile, by the threads `thread`, `thread` + threads, ...
template <typename T, int D>
__device__ __forceinline__ void send(T* head, size_t row, Tile<T, D> tile, unsigned rows, int first, int time,
                                     unsigned d, bool wide, unsigned thread, unsigned threads) {
    constexpr unsigned W = WIDE<T>, CHUNKS = Tile<T, D>::CHUNKS;
#pragma unroll 1
    for (unsigned i = thread; i < rows * CHUNKS; i += threads) {
        unsigned r = i / CHUNKS, c = i % CHUNKS;
        if (first + int(r) >= time || c * W >= d) continue;
        T* to = head + (first + r) * row + c * W;
        Vec<T, W> piece = load<W>(tile.at(r, c));
        if (wide) store<W>(to, piece);
        else
            for (unsigned j = 0; j < W && c * W + j < d; j++) to[j] = piece.at[j];
    }
}

}  // namespace
}  // namespace attention
