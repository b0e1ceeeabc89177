// Attention, FlashAttention-2 (Dao 2023, arXiv 2307.08691): out = softmax(q·kᵀ·scale)·v without the matrix of scores.
//   lse = ln Σ exp(q·kᵀ·scale),  p = exp(q·kᵀ·scale − lse),  out = p·v
//   delta = Σ dout·out,  ds = p·(dout·vᵀ − delta);  dv = pᵀ·dout,  dk = dsᵀ·q·scale,  dq = ds·k·scale
// Query t sees the keys s of its own document with t − left ≤ s ≤ t + right; negative: without end; causal: right = 0.
// Tiles that nobody sees are not read. Several query heads may share a key head: head a uses a / (heads / kv_heads).
//   q, k, v, out and their gradients, any dtype: head a of token t of sequence b is the d elements from
//              b·sequence + t·token + a·head on, so they may lie in one projection, or as (batch, heads, time, d).
//              Nothing between the heads is touched.
//   lse, delta (batch, heads, time) f32
//   spans      (batch·time, 2) begin and end of each token's document, within its sequence; attention_spans makes it of
//              ends (documents) i32, where each document ends, counted over all tokens. null: documents are sequences
//   width      the kernel ..._dD takes d ≤ D: the smallest D that holds d. Columns beyond d are 0 in shared memory only.
//   scale      positive and finite; no size is 0
//   16 bytes at a time where each address, stride and d is a multiple of that, else one by one
//   launch     tiles · heads · batch blocks (bwd_kv: kv_heads), tiles = ⌈time / rows⌉; rows, threads and dynamic shared
//              memory of each: scripts/compile_kernels.py; more than 48 KiB of it the driver must be asked to allow
//   backward   attention_delta, then bwd_kv and bwd_q in any order; each result is summed by one block in one order
//   decoding   q (batch, heads) of one token a sequence, at position length − 1, against cached k, v in pieces of keys,
//              lengths (batch) i32, none 0, none beyond pieces · piece. attention_decode:
//              pieces · ⌈heads / kv_heads / 8⌉ · kv_heads · batch blocks; partial (batch, heads, pieces, d), tops, sums
//              (batch, heads, pieces) f32; then attention_combine: out (batch, heads, d); any grid, any block
// Accumulation in f32. 16-bit types multiply on tensor cores, with p and ds rounded to the type; f32 is all f32.
//
// The kernels of sm_90 that would use its own instructions (wgmma, TMA) belong beside these, under names ending in
// _sm90, with the same arguments: the host that loads a module chooses by compute capability.
#include "attention_backward.cuh"
#include "attention_decode.cuh"
#include "attention_forward.cuh"

namespace attention {
namespace {

// Lanes that share a row of out·dout: 16 bytes each make 128, a whole line.
constexpr unsigned LANES = 8;

template <int V, typename T>
__device__ __forceinline__ void sum_products(float* delta, const T* out, const T* dout, const Problem& p, size_t rows) {
    size_t step = size_t(gridDim.x) * blockDim.x / LANES, thread = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    unsigned l = threadIdx.x % LANES;
    for (size_t start = thread / 32 * (32 / LANES); start < rows; start += step) {  // the same for a whole warp
        size_t row = start + threadIdx.x % 32 / LANES;
        unsigned head = row % p.heads, t = row / p.heads % p.time, b = row / p.heads / p.time;
        const T *o = p.out.begin(out, b, head) + t * p.out.token, *g = p.dout.begin(dout, b, head) + t * p.dout.token;
        float sum = 0.0f;
        for (unsigned i = l * V; i < p.d && row < rows; i += LANES * V) {
            Vec<T, V> x = load<V>(o + i), y = load<V>(g + i);
            for (int j = 0; j < V; j++) sum = fmaf(x[j], y[j], sum);
        }
        for (int bits = LANES / 2; bits > 0; bits /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, bits);
        if (l == 0 && row < rows) delta[(size_t(b) * p.heads + head) * p.time + t] = sum;
    }
}

// How many documents end at or before token n.
__device__ __forceinline__ unsigned documents_before(const int* ends, unsigned documents, size_t n) {
    unsigned low = 0, high = documents;
    while (low < high) {
        unsigned middle = low + (high - low) / 2;
        if (size_t(ends[middle]) <= n) low = middle + 1;
        else high = middle;
    }
    return low;
}

__device__ __forceinline__ void write_spans(int* spans, const int* ends, unsigned documents, unsigned time,
                                            size_t tokens) {
    for_grid<1>(tokens, false, [&](auto, size_t n) {
        size_t first = n - n % time, last = first + time;  // a document ends with its sequence
        unsigned document = documents_before(ends, documents, n);
        size_t begin = document > 0 ? ends[document - 1] : 0, end = document < documents ? ends[document] : tokens;
        spans[2 * n] = int(begin > first ? begin - first : 0);
        spans[2 * n + 1] = int((end < last ? end : last) - first);
    });
}

}  // namespace
}  // namespace attention

extern "C" __global__ void attention_spans(int* spans, const int* ends, unsigned documents, unsigned time,
                                           size_t tokens) {
    attention::write_spans(spans, ends, documents, time, tokens);
}

#define DELTA(name, T)                                                                                                 \
    extern "C" __global__ void attention_delta_##name(float* delta, const T* out, const T* dout, attention::Problem p, \
                                                      size_t rows) {                                                   \
        if (attention::fits(out, p.out) && attention::fits(dout, p.dout) && fits<T>(p.d))                              \
            attention::sum_products<WIDE<T>>(delta, out, dout, p, rows);                                               \
        else attention::sum_products<1>(delta, out, dout, p, rows);                                                    \
    }
FOR_EACH_DTYPE(DELTA)

#define COMBINE(name, T)                                                                                             \
    extern "C" __global__ void attention_combine_##name(T* out, const float* partial, const float* tops,             \
                                                        const float* sums, unsigned pieces, unsigned d, float scale, \
                                                        size_t rows) {                                               \
        attention::combine(out, partial, tops, sums, pieces, d, scale, rows);                                        \
    }
FOR_EACH_DTYPE(COMBINE)

#define ATTENTION(name, T, D)                                                                                          \
    extern "C" __global__ void __launch_bounds__(attention::ForwardShape<sizeof(T), D>::THREADS, 1)                    \
        attention_fwd_##name##_d##D(T* out, float* lse, const T* q, const T* k, const T* v, const int* spans,          \
                                    attention::Problem p) {                                                            \
        attention::forward<T, D>(out, lse, q, k, v, spans, p);                                                         \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(attention::BackwardShape<sizeof(T), D>::THREADS, 1)                   \
        attention_bwd_kv_##name##_d##D(T* dk, T* dv, const T* dout, const T* q, const T* k, const T* v,                \
                                       const float* lse, const float* delta, const int* spans, attention::Problem p) { \
        attention::backward<T, D, true>(dk, dv, dout, q, k, v, lse, delta, spans, p);                                  \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(attention::BackwardShape<sizeof(T), D>::THREADS, 1)                   \
        attention_bwd_q_##name##_d##D(T* dq, const T* dout, const T* q, const T* k, const T* v, const float* lse,      \
                                      const float* delta, const int* spans, attention::Problem p) {                    \
        attention::backward<T, D, false>(dq, nullptr, dout, q, k, v, lse, delta, spans, p);                            \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(attention::DECODE_THREADS, 1)                                         \
        attention_decode_##name##_d##D(float* partial, float* tops, float* sums, const T* q, const T* k, const T* v,   \
                                       const int* lengths, attention::Decode p) {                                      \
        attention::decode<T, D>(partial, tops, sums, q, k, v, lengths, p);                                             \
    }

// The widths of heads in use; 256 for what is between and beyond, slower.
#define WIDTHS(name, T) \
    ATTENTION(name, T, 64) ATTENTION(name, T, 80) ATTENTION(name, T, 96) ATTENTION(name, T, 128) ATTENTION(name, T, 256)
FOR_EACH_DTYPE(WIDTHS)
