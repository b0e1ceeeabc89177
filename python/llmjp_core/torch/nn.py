"""Layers with the kernels of this package. Each is torch's layer, or takes its weights: the names in `state_dict()` are
those of the layer it replaces."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import UnsupportedInputError
from . import functional as F

Tensor = torch.Tensor


class RMSNorm(nn.RMSNorm):
    """`torch.nn.RMSNorm`."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class LayerNorm(nn.LayerNorm):
    """`torch.nn.LayerNorm`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class GELU(nn.GELU):
    """`torch.nn.GELU`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.gelu(input, self.approximate)


class SiLU(nn.SiLU):
    """`torch.nn.SiLU`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.silu(input, self.inplace)


class SwiGLU(nn.Module):
    """down_proj(silu(gate_proj(x))·up_proj(x)), with the names of Hugging Face's Llama MLP."""

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        bias: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=bias, device=device, dtype=dtype)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=bias, device=device, dtype=dtype)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.swiglu(self.gate_proj(x), self.up_proj(x)))  # type: ignore[no-any-return]


class RotaryEmbedding(nn.Module):
    """Rotates the first `dim` elements of queries and keys, (batch, tokens, heads, head_dim): elements j and dim/2 + j
    together, or neighbours when `interleaved`.

    `inv_freq` is a buffer that is not saved, as in Hugging Face's modules.
    """

    inv_freq: Tensor

    def __init__(self, dim: int, base: float = 10_000.0, device: Any = None, *, interleaved: bool = False) -> None:
        super().__init__()
        if dim <= 0 or dim % 2:
            raise UnsupportedInputError(f"RotaryEmbedding: `dim` must be even and positive, got {dim}")
        inv_freq = 1.0 / base ** (torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.interleaved = interleaved

    def table(self, position_ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin (batch, tokens, dim) of positions (batch, tokens)."""
        angles = position_ids[..., None].float() * self.inv_freq.float()
        angles = angles.repeat_interleave(2, -1) if self.interleaved else torch.cat((angles, angles), -1)
        return angles.cos().to(dtype), angles.sin().to(dtype)

    def forward(self, query: Tensor, key: Tensor, position_ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if position_ids is None:
            position_ids = torch.arange(query.shape[1], device=query.device)[None]
        cos, sin = self.table(position_ids, query.dtype)
        query, key = (F.rotary(x, cos, sin, interleaved=self.interleaved) for x in (query, key))
        return query, key


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss` for class indices."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


class LinearCrossEntropyLoss(nn.Module):
    """The output matrix and its loss, as `torch.nn.LinearCrossEntropyLoss` (which names it `linear.weight`)."""

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        ignore_index: int | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        lse_square_scale: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, num_classes, bias=False, device=device, dtype=dtype)
        self.ignore_index, self.reduction = ignore_index, reduction
        self.label_smoothing, self.lse_square_scale = label_smoothing, lse_square_scale

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.linear_cross_entropy(
            input,
            self.linear.weight,
            target,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            lse_square_scale=self.lse_square_scale,
        )
