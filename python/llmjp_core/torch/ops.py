"""The ops, one block each: kernel, shapes for fake tensors, what is kept, the gradients.

# B batch, T tokens, A query heads, G key/value heads, D width of a row or a head, V vocabulary, N rows

A kernel takes what it is given to contiguous memory, has torch allocate its results, and calls Rust, which checks
dtypes and shapes and writes them. Sums of weight gradients are float32 inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.dlpack import from_dlpack

from .._core import torch as _rust
from ._op import Gradients, Kernel, Op

Tensor = torch.Tensor
Saved = Sequence[Tensor]
Rest = tuple[Any, ...]


# Results of so many numbers are worth 3 us.
_LARGE = 1 << 18


def like(x: Tensor) -> Tensor:
    """A place for a result like x, which is contiguous. A large one is memory that an earlier result has left.

    (torch gives large memory back to the system, which makes every page of it anew: a layer_norm of 2048 x 768 spends
    more time on that than on its numbers.)
    """
    if x.numel() >= _LARGE:
        capsule = _rust.pooled(x)
        if capsule is not None:
            return from_dlpack(capsule)
    return torch.empty_like(x)  # torch.empty(x.shape, dtype=x.dtype): 2.3 us, this: 0.9 us


def like_rows(x: Tensor, width: int) -> Tensor:
    """The same for rows of another width."""
    if x.numel() // (x.shape[-1] or 1) * width >= _LARGE:
        capsule = _rust.pooled(x, width)
        if capsule is not None:
            return from_dlpack(capsule)
    return x.new_empty((*x.shape[:-1], width))


def _fake_like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _sums_like(w: Tensor) -> Tensor:
    """Where the gradient of a weight is added up; what is in it does not matter."""
    return torch.empty_like(w, dtype=torch.float32)


def _rounded(sums: Tensor, w: Tensor) -> Tensor:
    return sums if w.dtype is torch.float32 else sums.to(w.dtype)


def _of_rows(x: Tensor, w: Tensor, numbers: int) -> Tensor:
    """A place for as many float32 of each row. (An extent in a tuple: 3 us more)"""
    return x.new_empty(numbers * (x.numel() // (w.numel() or 1)), dtype=torch.float32)


def _fake_of_rows(x: Tensor, w: Tensor, numbers: int) -> Tensor:
    return x.new_empty(numbers * (x.numel() // w.numel()), dtype=torch.float32)


# --- rms_norm: y = x·w / √(mean(x²) + eps) over the last dimension; x (.., D), w (D)


def _rms_norm(x: Tensor, w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    x, w = x.contiguous(), w.contiguous()
    y, rstd = like(x), _of_rows(x, w, 1)
    _rust.rms_norm_forward(y, rstd, x, w, eps)
    return y, rstd


def _rms_norm_fake(x: Tensor, w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return _fake_like(x), _fake_of_rows(x, w, 1)


def _rms_norm_backward(dy: Tensor, x: Tensor, rstd: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    dy, x, w = dy.contiguous(), x.contiguous(), w.contiguous()
    dx, dw = like(x), _sums_like(w)
    _rust.rms_norm_backward(dx, dw, dy, x, rstd.contiguous(), w)
    return dx, _rounded(dw, w)


def _rms_norm_rule(kernel: Kernel, saved: Saved, rest: Rest, dy: Tensor) -> Gradients:
    return (*kernel(dy, *saved), None)


rms_norm = Op(
    "rms_norm",
    "Tensor input, Tensor weight, float eps",
    "(Tensor, Tensor)",
    _rms_norm,
    _rms_norm_fake,
    names=("input", "weight"),
    backward_inputs="Tensor dy, Tensor input, Tensor rstd, Tensor weight",
    backward_outputs="(Tensor, Tensor)",
    backward_kernel=_rms_norm_backward,
    backward_fake=lambda dy, x, rstd, w: (_fake_like(x), _fake_like(w)),
    save=lambda inputs, outputs: ((inputs[0], outputs[1], inputs[1]), ()),
    rule=_rms_norm_rule,
)


# --- layer_norm: y = (x − mean)·w / √(var + eps) + bias over the last dimension; x (.., D), w, bias (D)


def _layer_norm(x: Tensor, w: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    x, w = x.contiguous(), w.contiguous()
    y, stats = like(x), _of_rows(x, w, 2)
    _rust.layer_norm_forward(y, stats, x, w, None if bias is None else bias.contiguous(), eps)
    return y, stats


def _layer_norm_fake(x: Tensor, w: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    return _fake_like(x), _fake_of_rows(x, w, 2)


def _layer_norm_backward(dy: Tensor, x: Tensor, stats: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dy, x, w = dy.contiguous(), x.contiguous(), w.contiguous()
    dx, dw, dbias = like(x), _sums_like(w), _sums_like(w)
    _rust.layer_norm_backward(dx, dw, dbias, dy, x, stats.contiguous(), w)
    return dx, _rounded(dw, w), _rounded(dbias, w)


def _layer_norm_rule(kernel: Kernel, saved: Saved, rest: Rest, dy: Tensor) -> Gradients:
    dx, dw, dbias = kernel(dy, *saved)
    return dx, dw, (dbias if rest[0] else None), None


layer_norm = Op(
    "layer_norm",
    "Tensor input, Tensor weight, Tensor? bias, float eps",
    "(Tensor, Tensor)",
    _layer_norm,
    _layer_norm_fake,
    names=("input", "weight", "bias"),
    backward_inputs="Tensor dy, Tensor input, Tensor stats, Tensor weight",
    backward_outputs="(Tensor, Tensor, Tensor)",
    backward_kernel=_layer_norm_backward,
    backward_fake=lambda dy, x, stats, w: (_fake_like(x), _fake_like(w), _fake_like(w)),
    save=lambda inputs, outputs: ((inputs[0], outputs[1], inputs[1]), (inputs[2] is not None,)),
    rule=_layer_norm_rule,
)


# --- activation: gelu, gelu_tanh, silu, relu, element by element


def _activation(x: Tensor, kind: str) -> Tensor:
    x = x.contiguous()
    y = like(x)
    _rust.activation_forward(y, x, kind)
    return y


def _activation_backward(dy: Tensor, x: Tensor, kind: str) -> Tensor:
    dy, x = dy.contiguous(), x.contiguous()
    dx = like(x)
    _rust.activation_backward(dx, dy, x, kind)
    return dx


activation = Op(
    "activation",
    "Tensor input, str kind",
    "Tensor",
    _activation,
    lambda x, kind: _fake_like(x),
    names=("input",),
    backward_inputs="Tensor dy, Tensor input, str kind",
    backward_outputs="Tensor",
    backward_kernel=_activation_backward,
    backward_fake=lambda dy, x, kind: _fake_like(x),
    save=lambda inputs, outputs: ((inputs[0],), inputs[1:]),
    rule=lambda kernel, saved, rest, dy: (kernel(dy, *saved, *rest), None),
)


# --- gated_mlp: h = act(gate)·up, all of one shape; the backward pass computes act again


def _gated_mlp(gate: Tensor, up: Tensor, kind: str) -> Tensor:
    gate, up = gate.contiguous(), up.contiguous()
    h = like(gate)
    _rust.gated_mlp_forward(h, gate, up, kind)
    return h


def _gated_mlp_backward(dh: Tensor, gate: Tensor, up: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    dh, gate, up = dh.contiguous(), gate.contiguous(), up.contiguous()
    dgate, dup = like(gate), like(up)
    _rust.gated_mlp_backward(dgate, dup, dh, gate, up, kind)
    return dgate, dup


gated_mlp = Op(
    "gated_mlp",
    "Tensor gate, Tensor up, str kind",
    "Tensor",
    _gated_mlp,
    lambda gate, up, kind: _fake_like(gate),
    names=("gate", "up"),
    backward_inputs="Tensor dh, Tensor gate, Tensor up, str kind",
    backward_outputs="(Tensor, Tensor)",
    backward_kernel=_gated_mlp_backward,
    backward_fake=lambda dh, gate, up, kind: (_fake_like(gate), _fake_like(up)),
    save=lambda inputs, outputs: (inputs[:2], inputs[2:]),
    rule=lambda kernel, saved, rest, dh: (*kernel(dh, *saved, *rest), None),
)


# --- linear: y = x·wᵀ + bias; x (.., I), w (O, I), bias (O)


def _linear(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    x, w = x.contiguous(), w.contiguous()
    y = x.new_empty((*x.shape[:-1], w.shape[0]))
    _rust.linear_forward(y, x, w, None if bias is None else bias.contiguous())
    return y


def _linear_backward(dy: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dy, x, w = dy.contiguous(), x.contiguous(), w.contiguous()
    dx, dw, dbias = like(x), _sums_like(w), w.new_empty(w.shape[0], dtype=torch.float32)
    _rust.linear_backward_input(dx, dy, w)
    _rust.linear_backward_weight(dw, dbias, dy, x)
    return dx, _rounded(dw, w), _rounded(dbias, w)


def _linear_rule(kernel: Kernel, saved: Saved, rest: Rest, dy: Tensor) -> Gradients:
    dx, dw, dbias = kernel(dy, *saved)
    return dx, dw, (dbias if rest[0] else None)


linear = Op(
    "linear",
    "Tensor input, Tensor weight, Tensor? bias",
    "Tensor",
    _linear,
    lambda x, w, bias: x.new_empty((*x.shape[:-1], w.shape[0])),
    names=("input", "weight", "bias"),
    backward_inputs="Tensor dy, Tensor input, Tensor weight",
    backward_outputs="(Tensor, Tensor, Tensor)",
    backward_kernel=_linear_backward,
    backward_fake=lambda dy, x, w: (_fake_like(x), _fake_like(w), w.new_empty(w.shape[0])),
    save=lambda inputs, outputs: (inputs[:2], (inputs[2] is not None,)),
    rule=_linear_rule,
)


# --- rotary: half rotation of the first dims of each head; x (B, T, A, D), cos and sin (1 or B, T, dims)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, backward: bool) -> Tensor:
    x = x.contiguous()
    y = like(x)
    _rust.rotary_into(y, x, cos.contiguous(), sin.contiguous(), backward)
    return y


rotary = Op(
    "rotary",
    "Tensor input, Tensor cos, Tensor sin",
    "Tensor",
    lambda x, cos, sin: _rotate(x, cos, sin, False),
    lambda x, cos, sin: _fake_like(x),
    names=("input", "cos", "sin"),
    backward_inputs="Tensor dy, Tensor cos, Tensor sin",
    backward_outputs="Tensor",
    backward_kernel=lambda dy, cos, sin: _rotate(dy, cos, sin, True),
    backward_fake=lambda dy, cos, sin: _fake_like(dy),
    save=lambda inputs, outputs: (inputs[1:], ()),
    rule=lambda kernel, saved, rest, dy: (kernel(dy, *saved), None, None),
)


# --- attention: softmax(q·kᵀ·scale)·v, with the rotation of q and k before it when cos and sin are given.
# q (B, T, A, D), k and v (B, T, G, D); or q alone (B, T, A, 3D), each head's [q | k | v] as GPT-NeoX has them.
# Queries, keys and values are kept side by side in the rows of one tensor, rotated.

_Heads = tuple[int, int, int, int]  # offset, stride, count, dim


def _layout(heads: int, kv_heads: int, dim: int) -> tuple[_Heads, _Heads, _Heads]:
    """Where q, k and v stand in a row; kv_heads = 0 means one [q | k | v] for each head."""
    if kv_heads == 0:
        return (0, 3 * dim, heads, dim), (dim, 3 * dim, heads, dim), (2 * dim, 3 * dim, heads, dim)
    k = heads * dim
    return (0, dim, heads, dim), (k, dim, kv_heads, dim), (k + kv_heads * dim, dim, kv_heads, dim)


def _sizes(q: Tensor, k: Tensor | None) -> tuple[int, int, int]:
    """(heads, kv_heads, dim)"""
    return (q.shape[2], 0, q.shape[3] // 3) if k is None else (q.shape[2], k.shape[2], q.shape[3])


def _attention(
    q: Tensor, k: Tensor | None, v: Tensor | None, cos: Tensor | None, sin: Tensor | None, scale: float, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    b, t = q.shape[:2]
    heads, kv_heads, dim = _sizes(q, k)
    if k is not None and v is not None:
        qkv = torch.cat((q, k, v), 2)
    else:
        qkv = q.contiguous() if cos is None else q.clone(memory_format=torch.contiguous_format)
    qkv = qkv.view(b, t, -1)
    places = _layout(heads, kv_heads, dim)
    if cos is not None and sin is not None:
        cos, sin = cos.contiguous(), sin.contiguous()
        _rust.rotary(qkv, places[0], cos, sin, False)
        _rust.rotary(qkv, places[1], cos, sin, False)
    out = q.new_empty((b, t, heads, dim))
    lse = q.new_empty((b, heads, t), dtype=torch.float32)
    _rust.attention_forward(out, lse, qkv, *places, scale, causal)
    return out, lse, qkv


def _attention_fake(
    q: Tensor, k: Tensor | None, v: Tensor | None, cos: Tensor | None, sin: Tensor | None, scale: float, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    b, t = q.shape[:2]
    heads, kv_heads, dim = _sizes(q, k)
    row = 3 * heads * dim if kv_heads == 0 else (heads + 2 * kv_heads) * dim
    lse = q.new_empty((b, heads, t), dtype=torch.float32)
    return q.new_empty((b, t, heads, dim)), lse, q.new_empty((b, t, row))


def _attention_backward(
    dout: Tensor,
    out: Tensor,
    lse: Tensor,
    qkv: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    kv_heads: int,
    scale: float,
    causal: bool,
) -> Tensor:
    dout, qkv = dout.contiguous(), qkv.contiguous()
    dqkv = like(qkv)
    places = _layout(out.shape[2], kv_heads, out.shape[3])
    _rust.attention_backward(dqkv, dout, out.contiguous(), lse.contiguous(), qkv, *places, scale, causal)
    if cos is not None and sin is not None:
        cos, sin = cos.contiguous(), sin.contiguous()
        _rust.rotary(dqkv, places[0], cos, sin, True)
        _rust.rotary(dqkv, places[1], cos, sin, True)
    return dqkv


def _attention_save(inputs: Rest, outputs: Any) -> tuple[tuple[Tensor, ...], Rest]:
    q, k, _, cos, sin, scale, causal = inputs
    out, lse, qkv = outputs
    tensors = (out, lse, qkv) if cos is None else (out, lse, qkv, cos, sin)
    return tensors, (_sizes(q, k)[1], scale, causal)


def _attention_rule(kernel: Kernel, saved: Saved, rest: Rest, dy: Tensor) -> Gradients:
    out, lse, qkv, *table = saved
    cos, sin = table or (None, None)
    kv_heads = rest[0]
    dqkv = kernel(dy, out, lse, qkv, cos, sin, *rest)
    b, t, heads, dim = out.shape
    if kv_heads == 0:
        return dqkv.view(b, t, heads, 3 * dim), None, None, None, None, None, None
    parts = dqkv.view(b, t, heads + 2 * kv_heads, dim).split((heads, kv_heads, kv_heads), 2)
    return *parts, None, None, None, None


attention = Op(
    "attention",
    "Tensor query, Tensor? key, Tensor? value, Tensor? cos, Tensor? sin, float scale, bool causal",
    "(Tensor, Tensor, Tensor)",
    _attention,
    _attention_fake,
    names=("query", "key", "value", "cos", "sin"),
    backward_inputs="Tensor dout, Tensor out, Tensor lse, Tensor qkv, Tensor? cos, Tensor? sin, int kv_heads, "
    "float scale, bool causal",
    backward_outputs="Tensor",
    backward_kernel=_attention_backward,
    backward_fake=lambda dout, out, lse, qkv, cos, sin, kv_heads, scale, causal: _fake_like(qkv),
    save=_attention_save,
    rule=_attention_rule,
)
