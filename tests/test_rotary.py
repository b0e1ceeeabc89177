"""Against the function of `transformers` that both families use."""

from __future__ import annotations

import pytest
import torch
from parity import DTYPES, assert_as_good, assert_same_bits_for_any_threads, call, plain_and_exact, randn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from llmjp_core import errors
from llmjp_core._core import ops

CASES = [  # head dim, rotating dims, base
    (16, 16, 10_000.0),
    (16, 4, 10_000.0),
    (80, 20, 10_000.0),
    (96, 96, 500_000.0),
    (128, 32, 10_000.0),
]
TIMES = [1, 5, 129]
COUNT, EXTRA = 2, 3


def rotated(qkv: torch.Tensor, d: int, ndims: int, base: float, start: int) -> torch.Tensor:
    """Heads of d at the front of each row, the rest of the row as it is."""
    batch, time = qkv.shape[:2]
    kind = torch.float64 if qkv.dtype == torch.float64 else torch.float32
    frequency = 1.0 / (base ** (torch.arange(0, ndims, 2, dtype=torch.int64).to(kind) / ndims))
    angle = torch.outer(torch.arange(start, start + time).to(kind), frequency).repeat(1, 2)[None]
    heads = qkv[..., : COUNT * d].reshape(batch, time, COUNT, d).transpose(1, 2)
    turning, rest = heads[..., :ndims], heads[..., ndims:]
    turning, _ = apply_rotary_pos_emb(turning, turning, angle.cos().to(qkv.dtype), angle.sin().to(qkv.dtype))
    heads = torch.cat([turning, rest], -1).transpose(1, 2).reshape(batch, time, COUNT * d)
    return torch.cat([heads, qkv[..., COUNT * d :]], -1)


def ours(qkv: torch.Tensor, d: int, ndims: int, base: float, start: int, dtype: str, backward: bool) -> torch.Tensor:
    heads = (0, d, COUNT, d)
    return call(ops.rotary, qkv, heads, ndims, base, start + qkv.shape[1], start, backward, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize(("d", "ndims", "base"), CASES)
def test_forward_and_backward(d: int, ndims: int, base: float, time: int, dtype: str) -> None:
    row = COUNT * d + EXTRA
    qkv, dy = randn(2, time, row, dtype=dtype), randn(2, time, row, dtype=dtype, seed=1)
    plain, exact = plain_and_exact(lambda x: rotated(x, d, ndims, base, 7), [qkv], dy)
    y, dx = (ours(x, d, ndims, base, 7, dtype, backward) for x, backward in [(qkv, False), (dy, True)])
    assert_as_good(y, plain[0], exact[0])
    assert_as_good(dx, plain[1], exact[1], factor=3)
    assert torch.equal(y[..., COUNT * d :], qkv[..., COUNT * d :])
    assert torch.equal(y[..., ndims:d], qkv[..., ndims:d])


def test_far_positions() -> None:
    qkv = randn(1, 5, 35)
    plain, exact = plain_and_exact(lambda x: rotated(x, 16, 16, 10_000.0, 8187), [qkv])
    assert_as_good(ours(qkv, 16, 16, 10_000.0, 8187, "float32", False), plain[0], exact[0])


def test_one_position_off_is_seen() -> None:
    qkv = randn(1, 5, 35)
    plain, exact = plain_and_exact(lambda x: rotated(x, 16, 4, 10_000.0, 7), [qkv])
    with pytest.raises(AssertionError):
        assert_as_good(ours(qkv, 16, 4, 10_000.0, 8, "float32", False), plain[0], exact[0])


def test_no_rotating_dims() -> None:
    qkv = randn(1, 5, 35)
    assert torch.equal(ours(qkv, 16, 0, 10_000.0, 0, "float32", False), qkv)


def test_same_bits() -> None:
    qkv = randn(3, 129, 35)
    assert_same_bits_for_any_threads(lambda: ours(qkv, 16, 16, 10_000.0, 0, "float32", False))


def test_what_does_not_fit() -> None:
    qkv = randn(1, 5, 35)
    with pytest.raises(errors.UnsupportedInputError, match="position 4 is beyond the table of 4 positions"):
        call(ops.rotary, qkv, (0, 16, 2, 16), 16, 10_000.0, 4)
    with pytest.raises(errors.UnsupportedInputError, match="`heads`"):
        call(ops.rotary, qkv, (4, 16, 2, 16), 16, 10_000.0, 5)
    with pytest.raises(errors.UnsupportedInputError, match="`heads`"):
        call(ops.rotary, qkv, (0, 16, 2, 16), 18, 10_000.0, 5)
    with pytest.raises(errors.UnsupportedInputError, match="`qkv` has an extent of 0"):
        call(ops.rotary, qkv[..., :0], (0, 16, 0, 16), 16, 10_000.0, 5)
