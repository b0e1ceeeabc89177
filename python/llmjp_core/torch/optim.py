"""`torch.optim.AdamW` in one pass over each parameter, with clipping in the same pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from .._core import torch as _rust
from ..errors import UnsupportedInputError
from ._op import on_cpu

Tensor = torch.Tensor
_MOMENTS = ("exp_avg", "exp_avg_sq")


def _ready(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The tensors as a kernel takes them: themselves where they are contiguous, else copies."""
    return [t if t.is_contiguous() else t.contiguous() for t in tensors]


def _gradients(op: str, parameters: Iterable[Tensor]) -> list[Tensor]:
    gradients = [p.grad for p in parameters if p.grad is not None]
    for gradient in gradients:
        on_cpu(op, grad=gradient)
        if gradient.is_sparse:
            raise UnsupportedInputError(f"{op}: sparse gradients are not supported; use torch's")
    return gradients


def _norm(gradients: list[Tensor]) -> float:
    """In float64, in the order of the parameters: the same for any number of threads."""
    if any(hasattr(gradient, "to_local") for gradient in gradients):
        raise UnsupportedInputError(
            "the norm of distributed gradients is torch's to take: torch.nn.utils.clip_grad_norm_"
        )
    return math.sqrt(sum(_rust.sum_of_squares(_ready(gradients))))


def _clipping(norm: float, max_norm: float) -> float:
    """What gradients are multiplied by, as torch.nn.utils.clip_grad_norm_ computes it."""
    return min(1.0, max_norm / (norm + 1e-6))


@torch.no_grad()
def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """`torch.nn.utils.clip_grad_norm_`; the norm is the same bit for bit whatever the number of threads."""
    op = "clip_grad_norm_"
    if float(norm_type) != 2.0:
        raise UnsupportedInputError(f"{op}: `norm_type` must be 2, got {norm_type}; use torch.nn.utils.clip_grad_norm_")
    gradients = _gradients(op, [parameters] if isinstance(parameters, Tensor) else parameters)
    norm = _norm(gradients)
    if error_if_nonfinite and not torch.isfinite(torch.tensor(norm)):
        raise RuntimeError(f"{op}: the gradient norm is {norm}; pass error_if_nonfinite=False to go on")
    scale = _clipping(norm, float(max_norm))
    if scale != 1.0:  # NaN is passed on, as torch does
        for gradient in gradients:
            gradient.mul_(scale)
    return torch.tensor(norm, dtype=torch.float32)


class AdamW(torch.optim.AdamW):
    """`torch.optim.AdamW`: the same arguments, the same state_dict, read both ways.

    `max_grad_norm` clips the gradients of all parameters together, as `clip_grad_norm_` before the step would, without
    writing them; `grad_norm` is the norm before clipping. Parameters are float32, bfloat16 or float16; whatever they
    are, the arithmetic is float32, and what is stored is rounded once.

    `state_dtype`: the dtype of the moments, where it is not to be the parameters': bfloat16 (half the memory of
    float32 parameters' moments) or float32 (for parameters in half dtypes). A state_dict is read in that dtype.

    `stochastic_rounding`: what is stored as bfloat16, parameters and moments, is rounded up or down at random, in
    proportion to what is cut off. To the nearest, a step smaller than half of a weight's last bit is lost each time;
    so it gets through on average. The random numbers have addresses (`seed`, parameter, step, element), so a resume
    or another number of threads gives the same bits.

    Refused: amsgrad, maximize, capturable, differentiable, sparse gradients.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        max_grad_norm: float | None = None,
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = False,
        seed: int = 0,
    ) -> None:
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise UnsupportedInputError(f"AdamW: `max_grad_norm` must be positive, got {max_grad_norm}")
        if state_dtype not in (None, torch.float32, torch.bfloat16):
            raise UnsupportedInputError(f"AdamW: `state_dtype` must be float32 or bfloat16, got {state_dtype}")
        if not 0 <= seed < 2**64:
            raise UnsupportedInputError(f"AdamW: `seed` must be within 0..2**64, got {seed}")
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
        )
        self.max_grad_norm = max_grad_norm
        self.state_dtype = state_dtype
        self.stochastic_rounding = stochastic_rounding
        self.seed = seed
        self.grad_norm: float | None = None
        self._check_groups()

    def _check_groups(self) -> None:
        for group in self.param_groups:
            for name in ("amsgrad", "maximize", "capturable", "differentiable"):
                if group.get(name):
                    raise UnsupportedInputError(f"AdamW: `{name}` is not supported; use torch.optim.AdamW")

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        self._check_groups()
        if self.state_dtype is None:
            return
        # torch has cast the moments to the dtype of their parameters, which may hold less.
        saved = (number for group in state_dict["param_groups"] for number in group["params"])
        for number, p in zip(saved, self._parameters(), strict=True):
            moments = state_dict["state"].get(number, {})
            for name in moments.keys() & set(_MOMENTS):
                self.state[p][name] = moments[name].to(device=p.device, dtype=self.state_dtype)

    def _parameters(self) -> Iterator[Tensor]:
        return (p for group in self.param_groups for p in group["params"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale = 1.0
        if self.max_grad_norm is not None:
            self.grad_norm = _norm(_gradients("AdamW", self._parameters()))
            scale = _clipping(self.grad_norm, self.max_grad_norm)
        first = 0
        for group in self.param_groups:
            self._update(group, scale, first)
            first += len(group["params"])
        return loss

    def _update(self, group: dict[str, Any], scale: float, first: int) -> None:
        """`first`: the place of the group's first parameter among all."""
        by_step: dict[int, list[tuple[int, Tensor]]] = {}
        for place, p in enumerate(group["params"], first):
            if p.grad is None:
                continue
            _gradients("AdamW", (p,))
            state = self.state[p]
            if not state:
                state["step"] = torch.tensor(0.0, dtype=torch.float32)
                for name in _MOMENTS:
                    state[name] = torch.zeros_like(p, dtype=self.state_dtype, memory_format=torch.preserve_format)
            state["step"] += 1
            by_step.setdefault(int(state["step"].item()), []).append((place, p))
        beta1, beta2 = (float(beta) for beta in group["betas"])
        for step, numbered in by_step.items():
            params = [p for _, p in numbered]
            stored = [[_local(p) for p in params]]
            stored += [[_local(self.state[p][name]) for p in params] for name in _MOMENTS]
            ready = [_ready(tensors) for tensors in stored]
            _rust.adamw_step(
                ready[0],
                ready[1],
                ready[2],
                _ready(_local(p.grad) for p in params),
                lr=float(group["lr"]),
                beta1=beta1,
                beta2=beta2,
                eps=float(group["eps"]),
                weight_decay=float(group["weight_decay"]),
                step=step,
                grad_scale=scale,
                dither=(self.seed, [place for place, _ in numbered]) if self.stochastic_rounding else None,
            )
            for tensors, updated in zip(stored, ready, strict=True):
                for tensor, new in zip(tensors, updated, strict=True):
                    if tensor is not new:
                        tensor.copy_(new)


def _local(tensor: Any) -> Tensor:
    """The part of a distributed tensor that this process holds."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local
