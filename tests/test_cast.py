"""Rounding to the half types is torch's, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity import assert_same_bits_for_any_threads, call, randn

from llmjp_core._core import ops


def all_kinds() -> torch.Tensor:
    """Every upper half of an f32 with lower halves at, below and above the ties of both types."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    lower = np.array([0, 1, 0x0FFF, 0x1000, 0x1001, 0x2000, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    return torch.from_numpy((upper[:, None] | lower).reshape(-1).view(np.float32))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_equals_torch(dtype: str) -> None:
    x = all_kinds()
    theirs, ours = x.to(getattr(torch, dtype)), call(ops.cast_from_f32, x, dtype=dtype)
    same = ours.view(torch.int16) == theirs.view(torch.int16)
    assert (same | (ours.isnan() & theirs.isnan())).all()


def test_truncation_is_seen() -> None:
    x = all_kinds()
    truncated = (x.view(torch.int32) >> 16).to(torch.int16).view(torch.bfloat16)
    assert not torch.equal(truncated.nan_to_num(), call(ops.cast_from_f32, x, dtype="bfloat16").nan_to_num())


def test_f32_is_itself() -> None:
    x = randn(129)
    assert torch.equal(call(ops.cast_from_f32, x), x)


def test_same_bits() -> None:
    x = randn(200_001)
    assert_same_bits_for_any_threads(lambda: call(ops.cast_from_f32, x, dtype="bfloat16"))
