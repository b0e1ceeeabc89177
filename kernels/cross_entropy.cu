// The loss of rows of logits l (V) with targets y, and its gradient, which may overwrite the logits.
//   lse = ln Σ exp(l);  loss = lse − (1−ε)·l_y − ε·mean(l) + z·lse²
//   dloss/dl = (softmax(l)·(1 + 2·z·lse) − (1−ε)·onehot(y) − ε/V)·scale
//   losses (rows) f32 or null; logits, dlogits (rows, v), any dtype, dlogits null or logits itself; targets (rows)
//   A target of ignore_index has loss 0 and gradient 0.
//   launch   one block a row at a time, any grid; block: whole warps, at most 1024 threads
// Memory is read once for the loss, and once more for the gradient, when the row may still be in the cache.
#include "common.cuh"

namespace cross_entropy {
namespace {

constexpr int THREADS = 1024;

struct Options {
    int ignore_index;
    float smoothing, z;
};

// Of some logits: the largest (NaN left out), Σ exp(l − top) and Σ (top − l), and how many.
struct Sums {
    float top, exps, gaps, count;
};

// exp(a − b) for a ≤ b, where −∞ stands for "nothing yet".
__device__ __forceinline__ float shrink(float a, float b) { return a == -infinity() ? 0.0f : expf(a - b); }

__device__ __forceinline__ float gaps_to(const Sums& s, float top) {
    return s.count == 0.0f || s.top == top ? s.gaps : fmaf(s.count, top - s.top, s.gaps);
}

__device__ __forceinline__ Sums merge(const Sums& a, const Sums& b) {
    float top = fmaxf(a.top, b.top);
    return {top, a.exps * shrink(a.top, top) + b.exps * shrink(b.top, top), gaps_to(a, top) + gaps_to(b, top),
            a.count + b.count};
}

template <int V, typename T> __device__ __forceinline__ void take(Sums& s, const Vec<T, V>& l) {
    float top = l[0];
    for (int j = 1; j < V; j++) top = fmaxf(top, l[j]);
    top = fmaxf(s.top, top);
    s.exps *= shrink(s.top, top);
    s.gaps = gaps_to(s, top);
    for (int j = 0; j < V; j++) {
        // −∞ is a logit too (a masked class), also before there is another: it adds nothing. NaN adds NaN.
        bool masked = l[j] == -infinity();
        s.exps += masked ? 0.0f : expf(l[j] - top);
        s.gaps += masked ? infinity() : top - l[j];
    }
    s.top = top;
    s.count += V;
}

__device__ __forceinline__ Sums over_warp(Sums s) {
#pragma unroll
    for (int bits = 1; bits < 32; bits *= 2) {
        Sums other = {__shfl_xor_sync(0xffffffffu, s.top, bits), __shfl_xor_sync(0xffffffffu, s.exps, bits),
                      __shfl_xor_sync(0xffffffffu, s.gaps, bits), __shfl_xor_sync(0xffffffffu, s.count, bits)};
        s = merge(s, other);
    }
    return s;
}

// All threads take the sums of each warp's lane 0: lanes may differ in a bit, as a·b + c·d has two ways to be an fma.
__device__ __forceinline__ Sums over_block(Sums s) {
    SHARED(Sums, partial, [32]);
    s = over_warp(s);
    __syncthreads();  // the sums of an earlier row have been read
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = s;
    __syncthreads();
    s = partial[0];
    for (unsigned w = 1; w < blockDim.x / 32; w++) s = merge(s, partial[w]);
    return s;
}

template <int V, typename T> __device__ void fill_zero(T* d, size_t v) {
    Vec<T, V> zero;
    for (int j = 0; j < V; j++) zero.set(j, 0.0f);
    for_row<V, 0>(v, [&](int, size_t i) { store<V>(d + i, zero); });
}

template <int V, typename T>
__device__ void row(float* loss, T* d, const T* l, int target, float scale, const Options& o, size_t v) {
    if (target == o.ignore_index) {
        if (loss && threadIdx.x == 0) *loss = 0.0f;
        if (d) fill_zero<V>(d, v);
        return;
    }
    Sums s = {-infinity(), 0.0f, 0.0f, 0.0f};
    for_row<V, 0>(v, [&](int, size_t i) { take(s, load<V>(l + i)); });
    float right = to_f32(l[target]);  // before the barriers of over_block: afterwards it may be its gradient
    s = over_block(s);
    // lse alone has no digits left for a small loss where logits are large: top and the rest stay apart.
    float rest = logf(s.exps), lse = s.top + rest;
    if (loss && threadIdx.x == 0) {
        float mean_gap = o.smoothing > 0.0f ? s.gaps / v : 0.0f;
        *loss = rest + (1.0f - o.smoothing) * (s.top - right) + o.smoothing * mean_gap + o.z * lse * lse;
    }
    if (!d) return;
    float factor = scale * (1.0f + 2.0f * o.z * lse) / s.exps, shift = scale * o.smoothing / v;
    float hit = expf(right - s.top) / s.exps;
    // Next to p = 1, what smoothing and z-loss add must not be rounded away.
    float smooth = o.smoothing - o.smoothing / v;
    float at_target = scale * ((hit - 1.0f) + (smooth + 2.0f * o.z * lse * hit));
    for_row<V, 0>(v, [&](int, size_t i) {
        Vec<T, V> x = load<V>(l + i);
        for (int j = 0; j < V; j++)
            x.set(j, i + j == size_t(target) ? at_target : fmaf(expf(x[j] - s.top), factor, -shift));
        store<V>(d + i, x);
    });
}

template <int V, typename T>
__device__ void run(float* losses, T* dlogits, const T* logits, const int* targets, float scale, const Options& o,
                    size_t rows, size_t v) {
    for (size_t n = blockIdx.x; n < rows; n += gridDim.x)
        row<V>(losses ? losses + n : nullptr, dlogits ? dlogits + n * v : nullptr, logits + n * v, targets[n], scale, o,
               v);
}

}  // namespace
}  // namespace cross_entropy

#define CROSS_ENTROPY(name, T)                                                                            \
    extern "C" __global__ void __launch_bounds__(cross_entropy::THREADS)                                  \
        cross_entropy_##name(float* losses, T* dlogits, const T* logits, const int* targets, float scale, \
                             int ignore_index, float smoothing, float z, size_t rows, size_t v) {         \
        cross_entropy::Options o = {ignore_index, smoothing, z};                                          \
        if (fits(v, dlogits, logits))                                                                     \
            cross_entropy::run<WIDE<T>>(losses, dlogits, logits, targets, scale, o, rows, v);             \
        else cross_entropy::run<1>(losses, dlogits, logits, targets, scale, o, rows, v);                  \
    }
FOR_EACH_DTYPE(CROSS_ENTROPY)
