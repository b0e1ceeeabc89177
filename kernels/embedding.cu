// y[n] = table[ids[n]], and the scatter of gradients, dtable[ids[n]] += dy[n], in the order of the tokens.
//   table (rows, d), y, dy (tokens, d), any dtype; dtable (rows, d) f32; ids (tokens), each inside the table
//   embedding_order: order (tokens) = the tokens sorted by id, those of one id in their order
//   embedding_bwd:   a block a token of that order and a tile of columns; the first of an id adds up all of its tokens
//   launch   fwd: one block a token at a time, any grid, any block
//            order: any grid; block TILE threads.  Every thread counts over all tokens: 32 768 of them are 1.1e9
//            comparisons, a fraction of a millisecond, for which no sort with its passes over memory is needed.
//            bwd: grid (tokens, any), block any: y and threads over the columns
#include "common.cuh"

namespace embedding {
namespace {

constexpr int TILE = 256;

template <int V, typename T> __device__ void forward(T* y, const T* table, const int* ids, size_t tokens, size_t d) {
    for (size_t n = blockIdx.x; n < tokens; n += gridDim.x)
        for_row<V, 1>(d, [&](int, size_t i) { store<V>(y + n * d + i, load<V>(table + ids[n] * d + i)); });
}

// The place of a token: how many have a smaller id, or the same one earlier.
__device__ void order(unsigned* order, const int* ids, unsigned tokens) {
    SHARED(int, tile, [TILE]);
    for (unsigned first = blockIdx.x * TILE; first < tokens; first += gridDim.x * TILE) {
        unsigned own = first + threadIdx.x, place = 0;
        int id = own < tokens ? ids[own] : 0;
        for (unsigned from = 0; from < tokens; from += TILE) {
            unsigned count = min(unsigned(TILE), tokens - from);
            __syncthreads();  // the tile before has been read
            if (threadIdx.x < count) tile[threadIdx.x] = ids[from + threadIdx.x];
            __syncthreads();
            for (unsigned k = 0; k < count; k++) place += tile[k] < id || (tile[k] == id && from + k < own);
        }
        if (own < tokens) order[place] = own;
    }
}

template <int V, typename T>
__device__ void backward(float* dtable, const T* dy, const int* ids, const unsigned* order, size_t tokens, size_t d) {
    size_t first = blockIdx.x, step = size_t(gridDim.y) * blockDim.x * V;
    int id = ids[order[first]];
    if (first > 0 && ids[order[first - 1]] == id) return;
    for (size_t i = (size_t(blockIdx.y) * blockDim.x + threadIdx.x) * V; i < d; i += step) {
        float sum[V] = {};
        for (size_t k = first; k < tokens && ids[order[k]] == id; k++) {
            Vec<T, V> g = load<V>(dy + order[k] * d + i);
            for (int j = 0; j < V; j++) sum[j] += g[j];
        }
        add_floats(dtable + id * d + i, sum);
    }
}

}  // namespace
}  // namespace embedding

#define EMBEDDING(name, T)                                                                                             \
    extern "C" __global__ void embedding_fwd_##name(T* y, const T* table, const int* ids, size_t tokens, size_t d) {   \
        if (fits(d, y, table)) embedding::forward<WIDE<T>>(y, table, ids, tokens, d);                                  \
        else embedding::forward<1>(y, table, ids, tokens, d);                                                          \
    }                                                                                                                  \
    extern "C" __global__ void embedding_bwd_##name(float* dtable, const T* dy, const int* ids, const unsigned* order, \
                                                    size_t tokens, size_t d) {                                         \
        if (fits(d, dy, dtable)) embedding::backward<WIDE<T>>(dtable, dy, ids, order, tokens, d);                      \
        else embedding::backward<1>(dtable, dy, ids, order, tokens, d);                                                \
    }
FOR_EACH_DTYPE(EMBEDDING)

extern "C" __global__ void __launch_bounds__(embedding::TILE)
    embedding_order(unsigned* order, const int* ids, unsigned tokens) {
    embedding::order(order, ids, tokens);
}
