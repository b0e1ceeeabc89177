"""The losses as ops, one block each, as in `ops`.

# N tokens, D width, V vocabulary

`divisor` divides the sum of the losses: None is the number of targets that are not ignored (torch's mean), 0 leaves the
losses apart (N).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from .._core import torch as _rust
from ._op import Gradients, Kernel, Op
from .ops import like

Tensor = torch.Tensor
Saved = Sequence[Tensor]
Rest = tuple[Any, ...]


# --- cross_entropy: losses of logits (N, V) for targets (N)


# Up to this many numbers Python is done before torch has begun.
_FEW = 256


def _count(target: Tensor, ignore_index: int, divisor: float | None) -> float:
    if divisor is not None:
        return divisor
    if target.numel() <= _FEW:
        return float(target.numel() - target.tolist().count(ignore_index))
    return float((target != ignore_index).sum().item())


def _reduced(losses: Tensor, divisor: float) -> Tensor:
    """Summed in float64."""
    total = math.fsum(losses.tolist()) if losses.numel() <= _FEW else float(losses.sum(dtype=torch.float64).item())
    return losses.new_full((), total / divisor if divisor else math.nan)


def _cross_entropy(
    logits: Tensor, target: Tensor, ignore_index: int, label_smoothing: float, lse_square: float, divisor: float | None
) -> tuple[Tensor, Tensor]:
    """The loss, and what the backward pass measures the exponentials of each row by."""
    logits, target = logits.contiguous(), target.contiguous()
    n = target.numel()
    losses, sums = logits.new_empty(n, dtype=torch.float32), logits.new_empty(2 * n, dtype=torch.float32)
    total, count = _rust.cross_entropy_forward(losses, sums, logits, target, ignore_index, label_smoothing, lse_square)
    if divisor == 0:
        return (losses if logits.dtype is torch.float32 else losses.to(logits.dtype)), sums
    divisor = count if divisor is None else divisor
    loss = total / divisor if divisor else math.nan
    return torch.scalar_tensor(loss, dtype=logits.dtype, device=logits.device), sums


def _cross_entropy_fake(
    logits: Tensor, target: Tensor, ignore_index: int, label_smoothing: float, lse_square: float, divisor: float | None
) -> tuple[Tensor, Tensor]:
    sums = logits.new_empty(2 * target.numel(), dtype=torch.float32)
    return logits.new_empty(target.shape if divisor == 0 else ()), sums


def _cross_entropy_backward(
    dy: Tensor,
    logits: Tensor,
    sums: Tensor,
    target: Tensor,
    ignore_index: int,
    label_smoothing: float,
    lse_square: float,
    divisor: float | None,
) -> Tensor:
    logits, target = logits.contiguous(), target.contiguous()
    dlogits = like(logits)
    scale = 1.0 if divisor == 0 else dy.item() / (divisor or 1.0)
    options = (scale, divisor is None, ignore_index, label_smoothing, lse_square)
    _rust.cross_entropy_backward(dlogits, logits, sums.contiguous(), target, *options)
    return dlogits.mul_(dy.unsqueeze(-1)) if divisor == 0 else dlogits


def _cross_entropy_rule(kernel: Kernel, saved: Saved, rest: Rest, dy: Tensor) -> Gradients:
    return kernel(dy, *saved, *rest), None, None, None, None, None


cross_entropy = Op(
    "cross_entropy",
    "Tensor input, Tensor target, int ignore_index, float label_smoothing, float lse_square, float? divisor",
    "(Tensor, Tensor)",
    _cross_entropy,
    _cross_entropy_fake,
    names=("input", "target"),
    backward_inputs="Tensor dy, Tensor input, Tensor sums, Tensor target, int ignore_index, float label_smoothing, "
    "float lse_square, float? divisor",
    backward_outputs="Tensor",
    backward_kernel=_cross_entropy_backward,
    backward_fake=lambda dy, logits, *_: torch.empty_like(logits, memory_format=torch.contiguous_format),
    save=lambda inputs, outputs: ((inputs[0], outputs[1], inputs[1]), inputs[2:]),
    rule=_cross_entropy_rule,
)


# --- linear_cross_entropy: the same of the logits x·wᵀ, made and used chunk by chunk; x (N, D), w (V, D), targets (N).
# With `gradients` the forward pass makes dx and dw too, so that no logits are made twice. They hold for dloss = 1,
# except in float16, where 1/divisor would lose the small ones: there the backward pass divides.


def _late(x: Tensor) -> bool:
    return x.dtype == torch.float16


def _linear_cross_entropy(
    x: Tensor,
    w: Tensor,
    target: Tensor,
    ignore_index: int,
    label_smoothing: float,
    lse_square: float,
    divisor: float | None,
    gradients: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, w, target = x.contiguous(), w.contiguous(), target.contiguous()
    losses = x.new_empty(target.shape, dtype=torch.float32)
    options = (ignore_index, label_smoothing, lse_square)
    count = _count(target, ignore_index, divisor)
    inverse = 1.0 / count if count else 0.0
    if not gradients:
        _rust.linear_cross_entropy_forward(losses, x, w, target, *options)
        dx, dw = x.new_empty(0), w.new_empty(0, dtype=torch.float32)
    else:
        dx, dw = torch.empty_like(x), torch.empty_like(w, dtype=torch.float32)
        scale = 1.0 if _late(x) else inverse
        _rust.linear_cross_entropy_forward_backward(losses, dx, dw, x, w, target, scale, *options)
        if not _late(x):
            dw = dw.to(w.dtype)
    loss = losses if divisor == 0 else _reduced(losses, count)
    return loss, dx, dw, losses.new_full((), inverse if _late(x) else 1.0)


def _linear_cross_entropy_fake(
    x: Tensor,
    w: Tensor,
    target: Tensor,
    ignore_index: int,
    label_smoothing: float,
    lse_square: float,
    divisor: float | None,
    gradients: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss = x.new_empty(target.shape if divisor == 0 else (), dtype=torch.float32)
    kind = torch.float32 if _late(x) or not gradients else w.dtype
    dx, dw = x.new_empty(x.shape if gradients else (0,)), w.new_empty(w.shape if gradients else (0,), dtype=kind)
    return loss, dx, dw, x.new_empty((), dtype=torch.float32)


def _scaled(dy: Tensor, dx: Tensor, dw: Tensor, late: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """x and w are there for autograd alone: what is computed depends on them."""
    scale = dy * late
    return (dx * scale).to(dx.dtype), (dw * scale).to(dx.dtype)


def _scaled_or_passed(dy: Tensor, dx: Tensor, dw: Tensor, late: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """What is right as it stands is passed on: the gradient of the weight is as large as the weight."""
    if dx.dtype == dw.dtype and float(dy.item()) == 1.0:
        return dx, dw
    return _scaled(dy, dx, dw, late, x, w)


def _linear_cross_entropy_rule(kernel: Kernel, saved: Saved, rest: Rest, dy: Tensor) -> Gradients:
    return (*kernel(dy, *saved), *(None,) * 6)


linear_cross_entropy = Op(
    "linear_cross_entropy",
    "Tensor input, Tensor linear_weight, Tensor target, int ignore_index, float label_smoothing, float lse_square, "
    "float? divisor, bool gradients",
    "(Tensor, Tensor, Tensor, Tensor)",
    _linear_cross_entropy,
    _linear_cross_entropy_fake,
    names=("input", "linear_weight", "target"),
    backward_inputs="Tensor dy, Tensor dx, Tensor dw, Tensor late, Tensor input, Tensor linear_weight",
    backward_outputs="(Tensor, Tensor)",
    backward_kernel=_scaled,
    backward_fake=lambda dy, dx, dw, *_: (torch.empty_like(dx), torch.empty_like(dw, dtype=dx.dtype)),
    eager_backward=_scaled_or_passed,
    save=lambda inputs, outputs: ((*outputs[1:], *inputs[:2]), ()),
    rule=_linear_cross_entropy_rule,
)
