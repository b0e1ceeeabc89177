// GELU (erf and tanh), SiLU, ReLU and their slopes, for activation.cu and gated_mlp.cu.
//
// GELU: x·Φ(x).  Its tanh form, ½x(1 + tanh u) with u = √(2/π)(x + 0.044715x³), is x·σ(2u), which loses nothing to
// cancellation where tanh is near −1.
#pragma once

#include "common.cuh"

namespace {

// The numbers are those of the host's enum.
enum Activation { GELU, GELU_TANH, SILU, RELU };

struct ValueAndSlope {
    float value, slope;
};

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// (Φ(x), e^(−x²/2)).  1 − Φ(a) = e^(−a²/2)·P(t), t = 1/(1 + 0.3·a), for a = |x|; P fitted on 0..9: a relative error
// below 6e-7 down to x = −4, an absolute one below 3e-7 everywhere.
__device__ __forceinline__ ValueAndSlope normal(float x) {
    float a = fabsf(x), bell = expf(-0.5f * a * a), t = 1.0f / fmaf(0.3f, a, 1.0f);
    float p = fmaf(t, 0.037536424f, -0.16502278f);
    p = fmaf(t, p, 0.21997695f);
    p = fmaf(t, p, -0.06640821f);
    p = fmaf(t, p, 0.1354234f);
    p = fmaf(t, p, 0.09778287f);
    p = fmaf(t, p, 0.121105894f);
    p = fmaf(t, p, 0.11960548f);
    float tail = bell * p * t;
    return {x < 0.0f ? tail : 1.0f - tail, bell};
}

template <int KIND> __device__ __forceinline__ ValueAndSlope activation(float x) {
    constexpr float BELL = 0.3989423f, TANH_SCALE = 1.5957691f, TANH_CUBE = 0.044715f;  // 1/√(2π), 2·√(2/π)
    if (KIND == GELU) {
        ValueAndSlope n = normal(x);
        return {x * n.value, fmaf(x * BELL, n.slope, n.value)};
    }
    if (KIND == GELU_TANH) {
        float square = x * x, gate = sigmoid(TANH_SCALE * x * fmaf(TANH_CUBE, square, 1.0f));
        float inner = TANH_SCALE * fmaf(3.0f * TANH_CUBE, square, 1.0f);
        return {x * gate, gate + x * gate * (1.0f - gate) * inner};
    }
    if (KIND == SILU) {
        float gate = sigmoid(x);
        return {x * gate, gate * fmaf(x, 1.0f - gate, 1.0f)};
    }
    // Not fmaxf, which turns NaN into 0.
    return {x <= 0.0f ? 0.0f : x, x <= 0.0f ? 0.0f : 1.0f};
}

// f(Width<kind>): the branch stands outside of the loop.
template <typename F> __device__ __forceinline__ void for_kind(int kind, F f) {
    if (kind == GELU) f(Width<GELU>{});
    else if (kind == GELU_TANH) f(Width<GELU_TANH>{});
    else if (kind == SILU) f(Width<SILU>{});
    else f(Width<RELU>{});
}

}  // namespace
