"""A whole decoder layer as one op: what is between its products is made once and not kept.

# B batch, T tokens, A query heads, G key/value heads, H width of a head, D width of the layer, F width of the MLP

Sequential: y = x + Attn(norm1(x)); out = y + MLP(norm2(y)). Parallel: out = x + Attn(norm1(x)) + MLP(norm2(x)).
The backward pass computes norms and the activation again. Kept are x, what attention reads and gives, y, and what goes
into the activation. In float32 the products are this package's; in half dtypes torch's, which gives the gradients of
weights in their own dtype without a float32 copy.
"""

from __future__ import annotations

from typing import Any, NamedTuple, get_type_hints

import torch

from .._core import torch as _rust
from ._op import Gradients, Kernel, Op
from .ops import Saved, _rounded, _sums_like, like, like_rows

Tensor = torch.Tensor
Rest = tuple[Any, ...]


class Parts(NamedTuple):
    """What a layer computes with. Weights are torch's: (outputs, inputs)."""

    input: Tensor  # (B, T, D)
    cos: Tensor  # (1 or B, T, rotated dims)
    sin: Tensor
    documents: Tensor | None  # as `attention` takes them
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
    q_norm: Tensor | None  # (H)
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
    left: int  # keys before its own that a query sees, -1: all
    kind: str  # of the activation


class Kept(NamedTuple):
    """What the forward pass leaves for the backward pass; without numbers where a layer has no such thing."""

    turned: Tensor  # rotated queries and keys (B, T, A + G, H), or with the values (B, T, A, 3H)
    v: Tensor  # (B, T, G, H)
    attended: Tensor  # (B, T, A, H)
    lse: Tensor
    middle: Tensor  # (B, T, D)
    gate: Tensor  # (B, T, F)
    up: Tensor
    stats1: Tensor
    stats2: Tensor
    q: Tensor  # before its norm
    k: Tensor
    q_rstd: Tensor
    k_rstd: Tensor


_MANY = len(Parts._fields)


def _flat(x: Tensor, width: int) -> Tensor:
    return x.view(-1, width)


def _rows(x: Tensor) -> Tensor:
    """(B, T, heads, H) as (B, T, heads·H)"""
    return x.view(*x.shape[:2], -1)


# --- products of contiguous rows


def _product(y: Tensor, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    """y = x·wᵀ + bias"""
    if x.dtype is torch.float32:
        _rust.linear_forward(y, x, w, bias)
    elif bias is None:
        torch.mm(_flat(x, w.shape[1]), w.t(), out=_flat(y, w.shape[0]))
    else:
        torch.addmm(bias, _flat(x, w.shape[1]), w.t(), out=_flat(y, w.shape[0]))
    return y


def _product_input(dx: Tensor, dy: Tensor, w: Tensor, add: bool = False) -> Tensor:
    """dx = dy·w, or dx +="""
    if dx.dtype is torch.float32:
        (_rust.linear_backward_input_add if add else _rust.linear_backward_input)(dx, dy, w)
    elif add:
        _flat(dx, w.shape[1]).addmm_(_flat(dy, w.shape[0]), w)
    else:
        torch.mm(_flat(dy, w.shape[0]), w, out=_flat(dx, w.shape[1]))
    return dx


class _Gradients:
    """Of the parts, those that are wanted."""

    def __init__(self, p: Parts, wanted: list[bool]) -> None:
        self.parts = p._asdict()
        self.wanted = dict(zip(Parts._fields, wanted, strict=True))
        self.found: dict[str, Tensor] = {}

    def product(self, name: str, dy: Tensor, x: Tensor) -> None:
        """Of the weight `name` and its bias."""
        w, bias = self.parts[name], self.parts[f"{name}_bias"]
        if not self.wanted[name] and not self.wanted[f"{name}_bias"]:
            return
        if dy.dtype is torch.float32:
            dw, dbias = like(w), None if bias is None else torch.empty_like(bias)
            _rust.linear_backward_weight(dw, dbias, dy, x)
        else:
            dy = _flat(dy, w.shape[0])
            dw, dbias = torch.mm(dy.t(), _flat(x, w.shape[1])), None if bias is None else dy.sum(0)
        self.found[name] = dw
        if dbias is not None:
            self.found[f"{name}_bias"] = dbias

    def norm(
        self, name: str, dx: Tensor, dy: Tensor, x: Tensor, stats: Tensor, residual: Tensor | None, centred: bool
    ) -> None:
        """Of the norm `name`; dx = the gradient through it + residual."""
        w, bias = self.parts[name], self.parts.get(f"{name}_bias")
        dw, dbias = _sums_like(w), None if bias is None else _sums_like(bias)
        if centred:
            _rust.layer_norm_backward(dx, dw, dbias, dy, x, stats, w, residual)
        else:
            _rust.rms_norm_backward(dx, dw, dy, x, stats, w, residual)
        self.found[name] = _rounded(dw, w)
        if dbias is not None:
            self.found[f"{name}_bias"] = _rounded(dbias, w)

    def in_order(self) -> list[Tensor]:
        return [self.found[name] for name, wanted in self.wanted.items() if wanted]


# --- norms


def _stats(x: Tensor, centred: bool) -> Tensor:
    """A number of each row, or two."""
    return x.new_empty((1 + centred) * (x.numel() // x.shape[-1]), dtype=torch.float32)


def _normed(x: Tensor, w: Tensor, bias: Tensor | None, eps: float, centred: bool) -> tuple[Tensor, Tensor]:
    """norm(x), and what its backward pass needs"""
    y, stats = like(x), _stats(x, centred)
    if centred:
        _rust.layer_norm_forward(y, stats, x, w, bias, eps)
    else:
        _rust.rms_norm_forward(y, stats, x, w, eps)
    return y, stats


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


# --- attention, from the input of its projections to the input of its output


def _heads(p: Parts, s: Settings) -> tuple[int, int]:
    """(A, G); G is 0 where each head has its own [q | k | v]."""
    if p.k is None:
        return p.q.shape[0] // (3 * s.head_dim), 0
    return p.q.shape[0] // s.head_dim, p.k.shape[0] // s.head_dim


def _project(x: Tensor, w: Tensor, bias: Tensor | None, dim: int) -> Tensor:
    return _product(like_rows(x, w.shape[0]), x, w, bias).view(*x.shape[:2], -1, dim)


def _attention(x: Tensor, p: Parts, s: Settings) -> dict[str, Tensor]:
    """What of `Kept` is attention's."""
    (b, t), (heads, kv_heads) = x.shape[:2], _heads(p, s)
    kept = {name: x.new_empty(0) for name in ("v", "q", "k", "q_rstd", "k_rstd")}
    q = _project(x, p.q, p.q_bias, s.head_dim if kv_heads else 3 * s.head_dim)
    k = v = None
    if p.k is not None and p.v is not None:
        k, v = _project(x, p.k, p.k_bias, s.head_dim), _project(x, p.v, p.v_bias, s.head_dim)
        kept["v"] = v
        if p.q_norm is not None and p.k_norm is not None:
            kept.update(q=q, k=k)
            q, kept["q_rstd"] = _normed(q, p.q_norm, None, s.q_eps, False)
            k, kept["k_rstd"] = _normed(k, p.k_norm, None, s.k_eps, False)
    dims = (kv_heads + heads) * s.head_dim if kv_heads else 3 * heads * s.head_dim
    turned = like_rows(x, dims).view(b, t, -1, q.shape[3])
    attended = like_rows(x, heads * s.head_dim).view(b, t, heads, s.head_dim)
    lse = x.new_empty(b * t * heads, dtype=torch.float32)
    read = (q, k, v, p.cos, p.sin, p.documents)
    _rust.attention_forward(attended, lse, turned, *read, s.scale, s.left, 0, False)
    return {**kept, "turned": turned, "attended": attended, "lse": lse}


def _attention_backward(
    found: _Gradients, dx: Tensor, dout: Tensor, x: Tensor, p: Parts, s: Settings, kept: Kept
) -> None:
    """dx = the gradient of x, from that of what attention gives"""
    dattended = dout.view(kept.attended.shape)
    whole = p.k is None or p.v is None
    v = None if whole else kept.v
    dq = like(kept.turned) if whole else like(kept.attended)
    dk, dv = (None, None) if v is None else (like(v), like(v))
    read = (kept.attended, kept.lse, kept.turned, None, v, p.cos, p.sin, p.documents)
    _rust.attention_backward(dq, dk, dv, dattended, *read, s.scale, s.left, 0, False)
    if p.q_norm is not None and dk is not None:
        dq, dturned = like(dq), dq
        found.norm("q_norm", dq, dturned, kept.q, kept.q_rstd, None, False)
        dk, dturned = like(dk), dk
        found.norm("k_norm", dk, dturned, kept.k, kept.k_rstd, None, False)
    found.product("q", _rows(dq), x)
    _product_input(dx, _rows(dq), p.q)
    for name, dy, w in (("k", dk, p.k), ("v", dv, p.v)):
        if dy is not None and w is not None:
            found.product(name, _rows(dy), x)
            _product_input(dx, _rows(dy), w, add=True)


# --- the MLP, from the input of its products to the input of the last


def _activate(gate: Tensor | None, up: Tensor, kind: str) -> Tensor:
    h = like(up)
    if gate is None:
        _rust.activation_forward(h, up, kind)
    else:
        _rust.gated_mlp_forward(h, gate, up, kind)
    return h


def _mlp_backward(found: _Gradients, dx: Tensor, dy: Tensor, x: Tensor, p: Parts, s: Settings, kept: Kept) -> None:
    """dx = the gradient of x, from that of what the MLP gives"""
    gate = None if p.gate is None else kept.gate
    h = _activate(gate, kept.up, s.kind)
    found.product("down", dy, h)
    dh = _product_input(like(h), dy, p.down)
    if gate is None or p.gate is None:
        _rust.activation_backward(h, dh, kept.up, s.kind)
        found.product("up", h, x)
        _product_input(dx, h, p.up)
        return
    dup = like(h)
    _rust.gated_mlp_backward(h, dup, dh, gate, kept.up, s.kind)
    del dh
    found.product("gate", h, x)
    found.product("up", dup, x)
    _product_input(dx, h, p.gate)
    _product_input(dx, dup, p.up, add=True)


# --- the layer


def _contiguous(tensors: Rest) -> list[Any]:
    return [None if x is None else x.contiguous() for x in tensors]


def _forward(*inputs: Any) -> tuple[Tensor, ...]:
    p, s = Parts(*_contiguous(inputs[:_MANY])), Settings(*inputs[_MANY:])
    x = p.input
    branch, stats1 = _normed(x, p.norm1, p.norm1_bias, s.eps1, s.centred)
    attention = _attention(branch, p, s)
    _product(branch, _rows(attention["attended"]), p.o, p.o_bias)
    if s.parallel:
        middle = x.new_empty(0)
        normed, stats2 = _normed(x, p.norm2, p.norm2_bias, s.eps2, s.centred)
    else:
        normed, middle = like(x), like(x)
        stats2 = _norm_add(normed, middle, branch, x, p.norm2, p.norm2_bias, s.eps2, s.centred)
        del branch
    up = _product(like_rows(x, p.up.shape[0]), normed, p.up, p.up_bias)
    gate = x.new_empty(0) if p.gate is None else _product(like(up), normed, p.gate, p.gate_bias)
    h = _activate(None if p.gate is None else gate, up, s.kind)
    _product(normed, h, p.down, p.down_bias)
    del h
    out = like(x)
    if s.parallel:
        both = like(x)
        _rust.add(both, normed, branch)
        _rust.add(out, both, x)
    else:
        _rust.add(out, normed, middle)
    return out, *Kept(middle=middle, gate=gate, up=up, stats1=stats1, stats2=stats2, **attention)


def _backward(dy: Tensor, *rest: Any) -> list[Tensor]:
    """The gradients of the parts that are wanted, in their order."""
    many = _MANY + len(Kept._fields)
    *settings, wanted = rest[many:]
    p, kept, s = Parts(*_contiguous(rest[:_MANY])), Kept(*_contiguous(rest[_MANY:many])), Settings(*settings)
    found, dy, x = _Gradients(p, list(wanted)), dy.contiguous(), p.input
    middle = x if s.parallel else kept.middle
    normed, _ = _normed(middle, p.norm2, p.norm2_bias, s.eps2, s.centred)
    dnormed, dmiddle = like(x), like(x)
    _mlp_backward(found, dnormed, dy, normed, p, s, kept)
    found.norm("norm2", dmiddle, dnormed, middle, kept.stats2, dy, s.centred)
    dbranch = dy if s.parallel else dmiddle
    found.product("o", dbranch, _rows(kept.attended))
    dattended = _product_input(like_rows(x, p.o.shape[1]), dbranch, p.o)
    del normed
    normed, _ = _normed(x, p.norm1, p.norm1_bias, s.eps1, s.centred)
    _attention_backward(found, dnormed, dattended, normed, p, s, kept)
    dx = normed
    found.norm("norm1", dx, dnormed, x, kept.stats1, dmiddle, s.centred)
    found.found["input"] = dx
    return found.in_order()


def _fake(*inputs: Any) -> tuple[Tensor, ...]:
    p, s = Parts(*inputs[:_MANY]), Settings(*inputs[_MANY:])
    x, (heads, kv_heads), dim = p.input, _heads(p, s), s.head_dim
    b, t = x.shape[:2]

    def numbers(*shape: Any) -> Tensor:
        return x.new_empty(shape)

    def sums(count: Any) -> Tensor:
        return x.new_empty(count, dtype=torch.float32)

    normed, stats = p.q_norm is not None, (1 + s.centred) * b * t
    kept = Kept(
        turned=numbers(b, t, heads + kv_heads, dim) if kv_heads else numbers(b, t, heads, 3 * dim),
        v=numbers(b, t, kv_heads, dim) if kv_heads else numbers(0),
        attended=numbers(b, t, heads, dim),
        lse=sums(b * t * heads),
        middle=numbers(0) if s.parallel else numbers(*x.shape),
        gate=numbers(0) if p.gate is None else numbers(b, t, p.up.shape[0]),
        up=numbers(b, t, p.up.shape[0]),
        stats1=sums(stats),
        stats2=sums(stats),
        q=numbers(b, t, heads, dim) if normed else numbers(0),
        k=numbers(b, t, kv_heads, dim) if normed else numbers(0),
        q_rstd=sums(b * t * heads) if normed else numbers(0),
        k_rstd=sums(b * t * kv_heads) if normed else numbers(0),
    )
    return numbers(*x.shape), *kept


def _backward_fake(dy: Tensor, *rest: Any) -> list[Tensor]:
    parts, contiguous = zip(rest[:_MANY], rest[-1], strict=True), torch.contiguous_format
    return [torch.empty_like(x, memory_format=contiguous) for x, wanted in parts if wanted]


def _rule(kernel: Kernel, saved: Saved, rest: Rest, dy: Tensor) -> Gradients:
    found = iter(kernel(dy, *saved, *rest))
    return (*(next(found) if wanted else None for wanted in rest[-1]), *(None for _ in Settings._fields))


_KINDS = {Tensor: "Tensor", Tensor | None: "Tensor?", bool: "bool", int: "int", float: "float", str: "str"}


def _declared(names: type, prefix: str = "") -> str:
    return ", ".join(f"{_KINDS[kind]} {prefix}{name}" for name, kind in get_type_hints(names).items())


decoder_layer = Op(
    "decoder_layer",
    f"{_declared(Parts)}, {_declared(Settings)}",
    f"({', '.join(['Tensor'] * (1 + len(Kept._fields)))})",
    _forward,
    _fake,
    names=Parts._fields,
    backward_inputs=f"Tensor dy, {_declared(Parts)}, {_declared(Kept, 'kept_')}, {_declared(Settings)}, bool[] wanted",
    backward_outputs="Tensor[]",
    backward_kernel=_backward,
    backward_fake=_backward_fake,
    save=lambda inputs, outputs: ((*inputs[:_MANY], *outputs[1:]), inputs[_MANY:]),
    rule=_rule,
    alone=lambda *inputs: _forward(*inputs)[0],
    tells_wanted=True,
)
