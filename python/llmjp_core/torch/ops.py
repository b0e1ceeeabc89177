"""The ops, one block each: kernel, shapes for fake tensors, what is kept, the gradients.

# B batch, T tokens, A query heads, G key/value heads, D width of a row or a head, V vocabulary, N rows

A kernel takes what it is given to contiguous memory, has torch allocate its results, and calls Rust, which checks
dtypes and shapes and writes them. Sums of weight gradients are float32 inside.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
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
    return like(w) if w.dtype is torch.float32 else torch.empty_like(w, dtype=torch.float32)


def _rounded(sums: Tensor, w: Tensor) -> Tensor:
    return sums if w.dtype is torch.float32 else sums.to(w.dtype)


def _floats(x: Tensor, count: int) -> Tensor:
    """A place for as many float32. (An extent in a tuple: 3 us more, a dtype: 0.4)"""
    return x.new_empty(count) if x.dtype is torch.float32 else x.new_empty(count, dtype=torch.float32)


def _of_rows(x: Tensor, w: Tensor, numbers: int) -> Tensor:
    """As many float32 of each row."""
    return _floats(x, numbers * (x.numel() // (w.numel() or 1)))


def _fake_of_rows(x: Tensor, w: Tensor, numbers: int) -> Tensor:
    return x.new_empty(numbers * (x.numel() // w.numel()), dtype=torch.float32)


def _all(dy: Tensor, gradients: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """What is not there as nothing."""
    return tuple(dy.new_empty(0) if x is None else x for x in gradients)


# --- rms_norm: y = x·w / √(mean(x²) + eps) over the last dimension; x (.., D), w (D)


def _rms_norm(x: Tensor, w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    x, w = x.contiguous(), w.contiguous()
    y, rstd = like(x), _of_rows(x, w, 1)
    _rust.rms_norm_forward(y, rstd, x, w, eps)
    return y, rstd


def _rms_norm_alone(x: Tensor, w: Tensor, eps: float) -> Tensor:
    x = x.contiguous()
    y = like(x)
    _rust.rms_norm_forward(y, None, x, w.contiguous(), eps)
    return y


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
    alone=_rms_norm_alone,
)


# --- layer_norm: y = (x − mean)·w / √(var + eps) + bias over the last dimension; x (.., D), w, bias (D)


def _layer_norm(x: Tensor, w: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    x, w = x.contiguous(), w.contiguous()
    y, stats = like(x), _of_rows(x, w, 2)
    _rust.layer_norm_forward(y, stats, x, w, None if bias is None else bias.contiguous(), eps)
    return y, stats


def _layer_norm_alone(x: Tensor, w: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    x = x.contiguous()
    y = like(x)
    _rust.layer_norm_forward(y, None, x, w.contiguous(), None if bias is None else bias.contiguous(), eps)
    return y


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
    alone=_layer_norm_alone,
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
    y = like_rows(x, w.shape[0])
    _rust.linear_forward(y, x, w, None if bias is None else bias.contiguous())
    return y


def _linear_backward(
    dy: Tensor, x: Tensor, w: Tensor, of_x: bool = True, of_w: bool = True, of_bias: bool = True
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Of those that are wanted. The gradient of the bias goes with that of the weight."""
    dy, x, w = dy.contiguous(), x.contiguous(), w.contiguous()
    dx = dw = dbias = None
    if of_x:
        dx = like(x)
        _rust.linear_backward_input(dx, dy, w)
    if of_w or of_bias:
        dw, dbias = _sums_like(w), _floats(w, w.shape[0]) if of_bias else None
        _rust.linear_backward_weight(dw, dbias, dy, x)
        dw, dbias = _rounded(dw, w), None if dbias is None else _rounded(dbias, w)
    return dx, dw, dbias


def _linear_backward_fake(
    dy: Tensor, x: Tensor, w: Tensor, of_x: bool, of_w: bool, of_bias: bool
) -> tuple[Tensor, ...]:
    whole = of_w or of_bias
    return (
        _fake_like(x) if of_x else dy.new_empty(0),
        _fake_like(w) if whole else dy.new_empty(0),
        w.new_empty(w.shape[0] if of_bias else 0),
    )


def _linear_rule(kernel: Kernel, saved: Saved, rest: Rest, dy: Tensor) -> Gradients:
    (wanted,) = rest
    return tuple(x if want else None for x, want in zip(kernel(dy, *saved, *wanted), wanted, strict=True))


linear = Op(
    "linear",
    "Tensor input, Tensor weight, Tensor? bias",
    "Tensor",
    _linear,
    lambda x, w, bias: x.new_empty((*x.shape[:-1], w.shape[0])),
    names=("input", "weight", "bias"),
    backward_inputs="Tensor dy, Tensor input, Tensor weight, bool of_input, bool of_weight, bool of_bias",
    backward_outputs="(Tensor, Tensor, Tensor)",
    backward_kernel=lambda dy, *inputs: _all(dy, _linear_backward(dy, *inputs)),
    backward_fake=_linear_backward_fake,
    save=lambda inputs, outputs: (inputs[:2], ()),
    rule=_linear_rule,
    eager_backward=_linear_backward,
    tells_wanted=True,
)


def _rows(x: Tensor) -> Tensor:
    """With numbers of a head side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()


# --- rotary of the first dims of each head; x (B, T, A, D), cos and sin (1 or B, T, dims)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, backward: bool) -> Tensor:
    x = _rows(x)
    y = like(x) if x.is_contiguous() else _fake_like(x)
    _rust.rotary_into(y, x, cos.contiguous(), sin.contiguous(), interleaved, backward)
    return y


rotary = Op(
    "rotary",
    "Tensor input, Tensor cos, Tensor sin, bool interleaved",
    "Tensor",
    lambda x, cos, sin, interleaved: _rotate(x, cos, sin, interleaved, False),
    lambda x, cos, sin, interleaved: _fake_like(x),
    names=("input", "cos", "sin"),
    backward_inputs="Tensor dy, Tensor cos, Tensor sin, bool interleaved",
    backward_outputs="Tensor",
    backward_kernel=lambda dy, cos, sin, interleaved: _rotate(dy, cos, sin, interleaved, True),
    backward_fake=lambda dy, cos, sin, interleaved: _fake_like(dy),
    save=lambda inputs, outputs: (inputs[1:3], inputs[3:]),
    rule=lambda kernel, saved, rest, dy: (kernel(dy, *saved, *rest), None, None, None),
)


# --- attention: softmax(q·kᵀ·scale)·v, with the rotation of q and k before it when cos and sin are given.
# q (B, T, A, D), k and v (B, T, G, D), or heads before tokens with heads_first, without rotation then; or q alone
# (B, T, A, 3D), each head's [q | k | v] as GPT-NeoX has them. All are read, and gradients written, where they stand.
# A query sees `left` keys before its own and `right` after it (-1: all), of its own document: documents are ids
# (B, T) that do not decrease, or cumulative lengths (documents + 1) of one sequence, int64.
# What the products read is kept: the inputs, or the rotated copy: queries, then keys (B, T, A + G, D), or as q alone.


def _placed_like(x: Tensor) -> Tensor:
    """A place for a result like x, its dimensions in the same order in memory."""
    return like(x) if x.is_contiguous() else torch.empty_like(x)


def _turned(q: Tensor, k: Tensor | None) -> Tensor:
    """A place for the rotated inputs."""
    if k is None:
        return _fake_like(q)
    b, t, heads, dim = q.shape
    return q.new_empty((b, t, heads + k.shape[2], dim))


def _attended(q: Tensor, k: Tensor | None) -> Tensor:
    """A place for the result."""
    return _placed_like(q) if k is not None else q.new_empty((*q.shape[:3], q.shape[3] // 3))


def _lse(q: Tensor) -> Tensor:
    return _floats(q, q.numel() // (q.shape[3] or 1))


def _contiguous(*tensors: Tensor | None) -> Iterator[Tensor | None]:
    return (None if x is None else x.contiguous() for x in tensors)


def _attention(
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    documents: Tensor | None,
    scale: float,
    left: int,
    right: int,
    heads_first: bool,
    kept: bool = True,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """What is `kept` for the backward pass is left out else."""
    q = _rows(q)
    out, lse = _attended(q, k), _lse(q) if kept else None
    if k is not None and v is not None:
        k, v = _rows(k), _rows(v)
    turned = None if cos is None else _turned(q, k)
    if cos is not None or documents is not None:
        cos, sin, documents = _contiguous(cos, sin, documents)
    _rust.attention_forward(out, lse, turned, q, k, v, cos, sin, documents, scale, left, right, heads_first)
    return out, lse, turned


def _attention_library(q: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    out, lse, turned = _attention(q, *rest)
    assert lse is not None
    return out, lse, q.new_empty(0) if turned is None else turned


def _attention_fake(
    q: Tensor, k: Tensor | None, v: Tensor | None, cos: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    out = _attended(q if q.stride(-1) == 1 else _fake_like(q), k)
    return out, _lse(q), q.new_empty(0) if cos is None else _turned(q, k)


def _gradients(
    out: Tensor, q: Tensor, k: Tensor | None, v: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Places for dq, dk, dv, or for all in one."""
    if v is None:
        return _placed_like(q), None, None
    if k is None:  # rotated: q has the keys too
        return _placed_like(out), _placed_like(v), _placed_like(v)
    return _placed_like(q), _placed_like(k), _placed_like(v)


def _attention_backward(
    dout: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    documents: Tensor | None,
    scale: float,
    left: int,
    right: int,
    heads_first: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    dout, out, lse, q = _rows(dout), _rows(out), lse.contiguous(), _rows(q)
    k, v = None if k is None else _rows(k), None if v is None else _rows(v)
    if cos is not None or documents is not None:
        cos, sin, documents = _contiguous(cos, sin, documents)
    dq, dk, dv = _gradients(out, q, k, v)
    _rust.attention_backward(
        dq, dk, dv, dout, out, lse, q, k, v, cos, sin, documents, scale, left, right, heads_first
    )  # fmt: skip
    return dq, dk, dv


def _attention_backward_fake(
    dout: Tensor, out: Tensor, lse: Tensor, q: Tensor, k: Tensor | None, v: Tensor | None, *rest: Any
) -> tuple[Tensor, ...]:
    of = (out, v, v) if k is None and v is not None else (q, k, v)
    return _all(dout, [None if x is None else torch.empty_like(x) for x in of])


def _attention_save(inputs: Rest, outputs: Any) -> tuple[tuple[Tensor, ...], Rest]:
    q, k, v, cos, sin, documents, *rest = inputs
    out, lse, turned = outputs
    read = (q, k, v) if cos is None else (turned, None, v)
    return (out, lse, *read, cos, sin, documents), tuple(rest)


def _attention_rule(kernel: Kernel, saved: Saved, rest: Rest, dy: Tensor) -> Gradients:
    dq, dk, dv = kernel(dy, *saved, *rest)
    apart = saved[4] is not None
    return (dq, dk if apart else None, dv if apart else None, *(None,) * 7)


attention = Op(
    "attention",
    "Tensor query, Tensor? key, Tensor? value, Tensor? cos, Tensor? sin, Tensor? documents, float scale, int left, "
    "int right, bool heads_first",
    "(Tensor, Tensor, Tensor)",
    _attention_library,
    _attention_fake,
    names=("query", "key", "value", "cos", "sin", "documents"),
    backward_inputs="Tensor dout, Tensor out, Tensor lse, Tensor query, Tensor? key, Tensor? value, Tensor? cos, "
    "Tensor? sin, Tensor? documents, float scale, int left, int right, bool heads_first",
    backward_outputs="(Tensor, Tensor, Tensor)",
    backward_kernel=lambda dout, *inputs: _all(dout, _attention_backward(dout, *inputs)),
    backward_fake=_attention_backward_fake,
    save=_attention_save,
    rule=_attention_rule,
    eager_kernel=_attention,
    eager_backward=_attention_backward,
    alone=functools.partial(_attention, kept=False),
)
