// AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2) over an arena, state in f32, one pass:
//   g = grad·grad_scale;  m = β₁m + (1−β₁)g;  v = β₂v + (1−β₂)g²
//   p −= step_size·m/(√v·root2 + eps) + decay·p, with the old p on the right
//   step_size = lr/(1−β₁ᵗ), root2 = 1/√(1−β₂ᵗ), decay = lr·wd
//   p, m, v, grad (n) f32; low (n) or null: the new p rounded to a storage type, for the next forward pass
//   ends, decays (groups): stretches of the arena, each up to its end (the last is n), with a decay each
//   grad_scale (1) f32, on the device: clipping and unscaling. Not finite: nothing is written, the step is skipped.
//   launch   any grid, any block
#include "common.cuh"

namespace adamw {
namespace {

struct Numbers {
    float step_size, root2, beta1, rest1, beta2, rest2, eps;
};

// The first group that ends after element i.
__device__ __forceinline__ int group_of(size_t i, const size_t* ends, int groups) {
    int low = 0, high = groups - 1;
    while (low < high) {
        int middle = (low + high) / 2;
        if (i < ends[middle]) high = middle;
        else low = middle + 1;
    }
    return low;
}

template <typename T>
__device__ void step(float* p, float* m, float* v, T* low, const float* grad, const float* grad_scale,
                     const size_t* ends, const float* decays, int groups, const Numbers& o, size_t n) {
    float scale = *grad_scale;
    if (!isfinite(scale)) return;
    for_grid<4>(n, fits(0, p, m, v, grad, low), [&](auto width, size_t i) {
        constexpr int V = decltype(width)::value;
        Vec<float, V> pv = load<V>(p + i), mv = load<V>(m + i), vv = load<V>(v + i), gv = load<V>(grad + i);
        Vec<T, V> rounded;
        int group = group_of(i, ends, groups);
        for (int j = 0; j < V; j++) {
            while (i + j >= ends[group]) group++;
            float g = gv[j] * scale;
            mv.at[j] = fmaf(o.beta1, mv[j], o.rest1 * g);
            vv.at[j] = fmaf(o.beta2, vv[j], o.rest2 * (g * g));
            float update = o.step_size * (mv[j] / fmaf(sqrtf(vv[j]), o.root2, o.eps));
            // lr·wd·p as such: 1 − lr·wd, rounded to f32, would be wrong by up to a percent of the decay.
            pv.at[j] -= fmaf(decays[group], pv[j], update);
            rounded.set(j, pv[j]);
        }
        store<V>(p + i, pv);
        store<V>(m + i, mv);
        store<V>(v + i, vv);
        if (low) store<V>(low + i, rounded);
    });
}

}  // namespace
}  // namespace adamw

#define ADAMW(name, T)                                                                                          \
    extern "C" __global__ void adamw_##name(float* p, float* m, float* v, T* low, const float* grad,            \
                                            const float* grad_scale, const size_t* ends, const float* decays,   \
                                            int groups, float step_size, float root2, float beta1, float rest1, \
                                            float beta2, float rest2, float eps, size_t n) {                    \
        adamw::Numbers o = {step_size, root2, beta1, rest1, beta2, rest2, eps};                                 \
        adamw::step(p, m, v, low, grad, grad_scale, ends, decays, groups, o, n);                                \
    }
FOR_EACH_DTYPE(ADAMW)
