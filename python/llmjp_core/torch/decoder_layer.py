"""A whole decoder layer as one op: what is between its products is made once and not kept.

# B batch, T tokens, A query heads, G key/value heads, D width of the layer, R width of a row of queries, keys, values

Sequential: y = x + Attn(norm1(x)); out = y + MLP(norm2(y)). Parallel (GPT-NeoX): out = x + Attn(norm1(x)) + MLP(norm2(x)).
The backward pass computes norms and the activation again. Kept are x, the rotated queries, keys and values, what
attention gives, y, and what goes into the activation. In float32 the products are this package's; in half dtypes
torch's, which has instructions for them that this package does not use yet.
"""

from __future__ import annotations

from typing import Any, NamedTuple, get_type_hints

import torch

from .._core import torch as _rust
from ._op import Gradients, Kernel, Op
from .ops import Saved, _layout, _rounded, _sums_like, like, like_rows

Tensor = torch.Tensor
Rest = tuple[Any, ...]


class Parts(NamedTuple):
    """What a layer computes with. Weights are torch's: (outputs, inputs)."""

    input: Tensor  # (B, T, D)
    cos: Tensor  # (1 or B, T, rotated dims)
    sin: Tensor
    norm1: Tensor
    norm1_bias: Tensor | None
    norm2: Tensor
    norm2_bias: Tensor | None
    q: Tensor  # or all three, as GPT-NeoX has them: each head's [q | k | v]
    q_bias: Tensor | None
    k: Tensor | None
    k_bias: Tensor | None
    v: Tensor | None
    v_bias: Tensor | None
    q_norm: Tensor | None  # of the width of a head
    k_norm: Tensor | None
    o: Tensor
    o_bias: Tensor | None
    gate: Tensor | None  # None: down(act(up)), else down(act(gate)·up)
    gate_bias: Tensor | None
    up: Tensor
    up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


class Settings(NamedTuple):
    centred: bool  # layer_norm instead of rms_norm
    parallel: bool
    eps1: float
    eps2: float
    q_eps: float
    k_eps: float
    head_dim: int
    scale: float
    kind: str  # of the activation


class Kept(NamedTuple):
    """What the forward pass leaves for the backward pass; without numbers where a layer has no such thing."""

    qkv: Tensor  # (B, T, R), rotated
    attended: Tensor  # (B, T, A·head_dim)
    lse: Tensor
    middle: Tensor  # (B, T, D)
    gate: Tensor
    up: Tensor
    stats1: Tensor
    stats2: Tensor
    q: Tensor  # before its norm
    k: Tensor
    q_rstd: Tensor
    k_rstd: Tensor


_MANY = len(Parts._fields)
_Part = tuple[int, Tensor, Tensor | None]  # first column, weight, bias


def _heads(p: Parts, s: Settings) -> tuple[int, int]:
    """(heads, kv_heads), as `_layout` takes them."""
    if p.k is None:
        return p.q.shape[0] // (3 * s.head_dim), 0
    return p.q.shape[0] // s.head_dim, p.k.shape[0] // s.head_dim


def _width(p: Parts) -> int:
    return p.q.shape[0] + sum(w.shape[0] for w in (p.k, p.v) if w is not None)


# --- products: rows of a contiguous tensor, or columns of them


def _flat(x: Tensor) -> Tensor:
    return x.view(-1, x.shape[-1])


def _columns(x: Tensor, first: int, w: Tensor) -> Tensor:
    return _flat(x)[:, first : first + w.shape[0]]


def _product(y: Tensor, first: int, x: Tensor, w: Tensor, bias: Tensor | None) -> None:
    """Columns from `first` on of y = x·wᵀ + bias."""
    if x.dtype is torch.float32:
        _rust.linear_into(y, first, x, w, bias)
    elif bias is None:
        torch.mm(_flat(x), w.t(), out=_columns(y, first, w))
    else:
        torch.addmm(bias, _flat(x), w.t(), out=_columns(y, first, w))


def _product_input(dx: Tensor, dy: Tensor, parts: list[_Part]) -> Tensor:
    """dx = Σ columns of dy · w."""
    for i, (first, w, _) in enumerate(parts):
        if dx.dtype is torch.float32:
            _rust.linear_backward_input_of(dx, dy, first, w, i > 0)
        elif i == 0:
            torch.mm(_columns(dy, first, w), w, out=_flat(dx))
        else:
            _flat(dx).addmm_(_columns(dy, first, w), w)
    return dx


class _Gradients:
    """Of the weights, those that are asked for."""

    def __init__(self, wanted: list[bool]) -> None:
        self.wanted = dict(zip(Parts._fields, wanted, strict=True))
        self.found: dict[str, Tensor] = {}

    def product(self, name: str, dy: Tensor, part: _Part, x: Tensor) -> None:
        first, w, bias = part
        if not self.wanted[name] and not (bias is not None and self.wanted[f"{name}_bias"]):
            return
        if dy.dtype is torch.float32:
            dw = like(w)
            dbias = None if bias is None else torch.empty_like(bias)
            _rust.linear_backward_weight_of(dw, dbias, dy, first, x)
        else:
            columns = _columns(dy, first, w)
            dw = torch.mm(columns.t(), _flat(x))
            dbias = None if bias is None else columns.sum(0)
        self.found[name] = dw
        if dbias is not None:
            self.found[f"{name}_bias"] = dbias

    def norm(self, name: str, dw: Tensor, dbias: Tensor | None, w: Tensor) -> None:
        self.found[name] = _rounded(dw, w)
        if dbias is not None:
            self.found[f"{name}_bias"] = _rounded(dbias, w)

    def list(self) -> list[Tensor]:
        return [self.found[name] for name, wanted in self.wanted.items() if wanted]


# --- norms


def _stats(x: Tensor, centred: bool) -> Tensor:
    """A number of each row, or two."""
    return x.new_empty((1 + centred) * (x.numel() // x.shape[-1]), dtype=torch.float32)


def _norm(y: Tensor, x: Tensor, w: Tensor, bias: Tensor | None, eps: float, centred: bool) -> Tensor:
    stats = _stats(x, centred)
    if centred:
        _rust.layer_norm_forward(y, stats, x, w, bias, eps)
    else:
        _rust.rms_norm_forward(y, stats, x, w, eps)
    return stats


def _norm_add(
    y: Tensor, total: Tensor, x: Tensor, residual: Tensor, w: Tensor, bias: Tensor | None, eps: float, centred: bool
) -> Tensor:
    """total = x + residual, y = norm(total)"""
    stats = _stats(x, centred)
    if centred:
        _rust.layer_norm_forward_add(y, total, stats, x, residual, w, bias, eps)
    else:
        _rust.rms_norm_forward_add(y, total, stats, x, residual, w, eps)
    return stats


def _norm_backward(
    found: _Gradients,
    name: str,
    dx: Tensor,
    dy: Tensor,
    x: Tensor,
    stats: Tensor,
    w: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    centred: bool,
) -> None:
    """dx = the gradient through the norm + residual"""
    dw, dbias = _sums_like(w), None if bias is None else _sums_like(bias)
    if centred:
        _rust.layer_norm_backward(dx, dw, dbias, dy, x, stats, w, residual)
    else:
        _rust.rms_norm_backward(dx, dw, dy, x, stats, w, residual)
    found.norm(name, dw, dbias, w)


# --- queries, keys and values


def _projections(p: Parts) -> list[tuple[str, _Part]]:
    """Where each stands in a row."""
    first, all_of_them = 0, []
    for name, w, bias in (("q", p.q, p.q_bias), ("k", p.k, p.k_bias), ("v", p.v, p.v_bias)):
        if w is not None:
            all_of_them.append((name, (first, w, bias)))
            first += w.shape[0]
    return all_of_them


def _head_norm(qkv: Tensor, part: _Part, w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Norms each head in the columns of `part`; what they were, and 1/√mean of each."""
    first, projection, _ = part
    columns = qkv[..., first : first + projection.shape[0]]
    before = columns.reshape(-1, w.shape[0])
    after = like(before)
    rstd = _norm(after, before, w, None, eps, False)
    columns.copy_(after.view_as(columns))
    return before, rstd


def _head_norm_backward(
    found: _Gradients, name: str, dqkv: Tensor, part: _Part, w: Tensor, x: Tensor, rstd: Tensor
) -> None:
    first, projection, _ = part
    columns = dqkv[..., first : first + projection.shape[0]]
    dy = columns.reshape(x.shape)
    dx = like(x)
    _norm_backward(found, name, dx, dy, x, rstd, w, None, None, False)
    columns.copy_(dx.view_as(columns))


def _rotate(qkv: Tensor, p: Parts, s: Settings, backward: bool) -> None:
    q, k, _ = _layout(*_heads(p, s), s.head_dim)
    _rust.rotary(qkv, q, p.cos, p.sin, backward)
    _rust.rotary(qkv, k, p.cos, p.sin, backward)


# --- the MLP


def _activate(gate: Tensor | None, up: Tensor, kind: str) -> Tensor:
    h = like(up)
    if gate is None:
        _rust.activation_forward(h, up, kind)
    else:
        _rust.gated_mlp_forward(h, gate, up, kind)
    return h


def _mlp_backward(found: _Gradients, dx: Tensor, dy: Tensor, x: Tensor, p: Parts, s: Settings, kept: Kept) -> None:
    """dx = the gradient of the input x of the MLP"""
    gate = None if p.gate is None else kept.gate
    h = _activate(gate, kept.up, s.kind)
    down = (0, p.down, p.down_bias)
    found.product("down", dy, down, h)
    dh = _product_input(like(h), dy, [down])
    up = (0, p.up, p.up_bias)
    if gate is None or p.gate is None:
        dup = h
        _rust.activation_backward(dup, dh, kept.up, s.kind)
        found.product("up", dup, up, x)
        _product_input(dx, dup, [up])
        return
    dgate, dup = h, like(h)
    _rust.gated_mlp_backward(dgate, dup, dh, gate, kept.up, s.kind)
    del dh
    found.product("gate", dgate, (0, p.gate, p.gate_bias), x)
    found.product("up", dup, up, x)
    _product_input(dx, dgate, [(0, p.gate, None)])
    _add_product_input(dx, dup, p.up)


def _add_product_input(dx: Tensor, dy: Tensor, w: Tensor) -> None:
    if dx.dtype is torch.float32:
        _rust.linear_backward_input_of(dx, dy, 0, w, True)
    else:
        _flat(dx).addmm_(_flat(dy), w)


# --- the layer


def _contiguous(parts: Rest) -> Parts:
    return Parts(*(None if x is None else x.contiguous() for x in parts))


def _forward(*inputs: Any) -> tuple[Tensor, ...]:
    p, s = _contiguous(inputs[:_MANY]), Settings(*inputs[_MANY:])
    x, none = p.input, p.input.new_empty(0)
    b, t = x.shape[:2]
    heads, kv_heads = _heads(p, s)
    branch = like(x)
    stats1 = _norm(branch, x, p.norm1, p.norm1_bias, s.eps1, s.centred)
    qkv = like_rows(x, _width(p))
    projections = _projections(p)
    for _, (first, w, bias) in projections:
        _product(qkv, first, branch, w, bias)
    q = k = q_rstd = k_rstd = none
    if p.q_norm is not None and p.k_norm is not None:
        q, q_rstd = _head_norm(qkv, projections[0][1], p.q_norm, s.q_eps)
        k, k_rstd = _head_norm(qkv, projections[1][1], p.k_norm, s.k_eps)
    _rotate(qkv, p, s, False)
    attended = like_rows(x, heads * s.head_dim)
    lse = x.new_empty((b, heads, t), dtype=torch.float32)
    _rust.attention_forward(attended, lse, qkv, *_layout(heads, kv_heads, s.head_dim), s.scale, True)
    _product(branch, 0, attended, p.o, p.o_bias)
    normed, middle = like(x), none
    if s.parallel:
        stats2 = _norm(normed, x, p.norm2, p.norm2_bias, s.eps2, s.centred)
    else:
        middle = like(x)
        stats2 = _norm_add(normed, middle, branch, x, p.norm2, p.norm2_bias, s.eps2, s.centred)
    gate, up = none, like_rows(x, p.up.shape[0])
    if p.gate is not None:
        gate = like(up)
        _product(gate, 0, normed, p.gate, p.gate_bias)
    _product(up, 0, normed, p.up, p.up_bias)
    h = _activate(None if p.gate is None else gate, up, s.kind)
    _product(normed, 0, h, p.down, p.down_bias)
    del h
    out = like(x)
    if s.parallel:
        total = like(x)
        _rust.add(total, normed, branch)
        _rust.add(out, total, x)
    else:
        _rust.add(out, normed, middle)
    return out, *Kept(qkv, attended, lse, middle, gate, up, stats1, stats2, q, k, q_rstd, k_rstd)


def _fake(*inputs: Any) -> tuple[Tensor, ...]:
    p, s = Parts(*inputs[:_MANY]), Settings(*inputs[_MANY:])
    x = p.input
    b, t = x.shape[:2]
    heads, kv_heads = _heads(p, s)

    def numbers(*shape: Any, dtype: torch.dtype | None = None) -> Tensor:
        return x.new_empty(shape, dtype=dtype or x.dtype)

    def sums(count: Any) -> Tensor:
        return numbers(count, dtype=torch.float32)

    none = numbers(0)
    stats = (1 + s.centred) * b * t
    kept = Kept(
        qkv=numbers(b, t, _width(p)),
        attended=numbers(b, t, heads * s.head_dim),
        lse=numbers(b, heads, t, dtype=torch.float32),
        middle=none if s.parallel else numbers(*x.shape),
        gate=none if p.gate is None else numbers(b, t, p.up.shape[0]),
        up=numbers(b, t, p.up.shape[0]),
        stats1=sums(stats),
        stats2=sums(stats),
        q=none if p.q_norm is None else numbers(b * t * heads, s.head_dim),
        k=none if p.k_norm is None else numbers(b * t * kv_heads, s.head_dim),
        q_rstd=none if p.q_norm is None else sums(b * t * heads),
        k_rstd=none if p.k_norm is None else sums(b * t * kv_heads),
    )
    return numbers(*x.shape), *kept


def _backward(dy: Tensor, *rest: Any) -> list[Tensor]:
    """The gradients of the parts that are wanted, in their order."""
    p, kept = _contiguous(rest[:_MANY]), Kept(*(x.contiguous() for x in rest[_MANY : _MANY + len(Kept._fields)]))
    *settings, wanted = rest[_MANY + len(Kept._fields) :]
    s, dy, found = Settings(*settings), dy.contiguous(), _Gradients(list(wanted))
    x = p.input
    entry = x if s.parallel else kept.middle
    normed, dnormed, dmiddle = like(x), like(x), like(x)
    _norm(normed, entry, p.norm2, p.norm2_bias, s.eps2, s.centred)
    _mlp_backward(found, dnormed, dy, normed, p, s, kept)
    _norm_backward(
        found, "norm2", dmiddle, dnormed, entry, kept.stats2, p.norm2, p.norm2_bias, dy, s.centred
    )
    dbranch = dy if s.parallel else dmiddle
    dqkv = _attention_backward(found, dbranch, p, s, kept)
    _norm(normed, x, p.norm1, p.norm1_bias, s.eps1, s.centred)
    projections = _projections(p)
    for name, part in projections:
        found.product(name, dqkv, part, normed)
    _product_input(dnormed, dqkv, [part for _, part in projections])
    del dqkv
    dx = normed
    _norm_backward(found, "norm1", dx, dnormed, x, kept.stats1, p.norm1, p.norm1_bias, dmiddle, s.centred)
    found.found["input"] = dx
    return found.list()


def _attention_backward(found: _Gradients, dy: Tensor, p: Parts, s: Settings, kept: Kept) -> Tensor:
    """The gradients of queries, keys and values, before norms and rotation."""
    out = (0, p.o, p.o_bias)
    found.product("o", dy, out, kept.attended)
    dattended = _product_input(like(kept.attended), dy, [out])
    dqkv = like(kept.qkv)
    places = _layout(*_heads(p, s), s.head_dim)
    _rust.attention_backward(dqkv, dattended, kept.attended, kept.lse, kept.qkv, *places, s.scale, True)
    _rotate(dqkv, p, s, True)
    if p.q_norm is not None and p.k_norm is not None:
        (_, q), (_, k), _ = _projections(p)
        _head_norm_backward(found, "q_norm", dqkv, q, p.q_norm, kept.q, kept.q_rstd)
        _head_norm_backward(found, "k_norm", dqkv, k, p.k_norm, kept.k, kept.k_rstd)
    return dqkv


def _backward_fake(dy: Tensor, *rest: Any) -> list[Tensor]:
    parts, wanted = rest[:_MANY], rest[-1]
    return [
        torch.empty_like(x, memory_format=torch.contiguous_format)
        for x, want in zip(parts, wanted, strict=True)
        if want
    ]


def _rule(kernel: Kernel, saved: Saved, rest: Rest, dy: Tensor) -> Gradients:
    wanted = rest[-1]
    found = iter(kernel(dy, *saved, *rest))
    return (*(next(found) if want else None for want in wanted), *(None for _ in Settings._fields))


_KINDS = {Tensor: "Tensor", Tensor | None: "Tensor?", bool: "bool", int: "int", float: "float", str: "str"}


def _declared(names: type) -> str:
    return ", ".join(f"{_KINDS[kind]} {name}" for name, kind in get_type_hints(names).items())


decoder_layer = Op(
    "decoder_layer",
    f"{_declared(Parts)}, {_declared(Settings)}",
    f"({', '.join(['Tensor'] * (1 + len(Kept._fields)))})",
    _forward,
    _fake,
    names=Parts._fields,
    backward_inputs=f"Tensor dy, {_declared(Parts)}, "
    + ", ".join(f"Tensor kept_{name}" for name in Kept._fields)
    + f", {_declared(Settings)}, bool[] wanted",
    backward_outputs="Tensor[]",
    backward_kernel=_backward,
    backward_fake=_backward_fake,
    save=lambda inputs, outputs: ((*inputs[:_MANY], *outputs[1:]), inputs[_MANY:]),
    rule=_rule,
    tells_wanted=True,
)
