from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from parity import DTYPES, assert_as_good, assert_same_bits_for_any_threads, call, plain_and_exact, randn
from torch.nn import functional

from llmjp_core import errors
from llmjp_core._core import ops

KINDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "silu": functional.silu,
    "relu": functional.relu,
}


def gated(kind: str, gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, -1)
    return KINDS[kind](gate) * up


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 16), (129, 5), (16, 129)])
def test_forward_and_backward(shape: tuple[int, int], kind: str, dtype: str) -> None:
    n, f = shape
    gate_up, dh = randn(n, 2 * f, dtype=dtype, scale=2), randn(n, f, dtype=dtype, seed=1)
    plain, exact = plain_and_exact(partial(gated, kind), [gate_up], dh)
    assert_as_good(call(ops.gated_mlp_forward, gate_up, kind, dtype=dtype), plain[0], exact[0])
    assert_as_good(call(ops.gated_mlp_backward, dh, gate_up, kind, dtype=dtype), plain[1], exact[1], factor=3)


def test_large_magnitudes() -> None:
    gate_up, dh = randn(5, 32, scale=1e4), randn(5, 16, seed=1)
    plain, exact = plain_and_exact(partial(gated, "silu"), [gate_up], dh)
    assert_as_good(call(ops.gated_mlp_forward, gate_up, "silu"), plain[0], exact[0])
    assert_as_good(call(ops.gated_mlp_backward, dh, gate_up, "silu"), plain[1], exact[1], factor=3)


def test_up_before_gate_is_seen() -> None:
    gate_up, dh = randn(5, 32), randn(5, 16, seed=1)
    plain, exact = plain_and_exact(partial(gated, "silu"), [gate_up], dh)
    wrong = torch.cat(gate_up.chunk(2, -1)[::-1], -1)
    with pytest.raises(AssertionError):
        assert_as_good(call(ops.gated_mlp_forward, wrong, "silu"), plain[0], exact[0])
    with pytest.raises(AssertionError):
        assert_as_good(call(ops.gated_mlp_backward, dh, wrong, "silu"), plain[1], exact[1], factor=3)


def test_nan_is_not_lost() -> None:
    gate_up = randn(2, 6)
    gate_up[0, 1] = gate_up[1, 5] = float("nan")
    h = call(ops.gated_mlp_forward, gate_up, "relu")
    assert h.isnan().tolist() == [[False, True, False], [False, False, True]]


def test_same_bits() -> None:
    gate_up, dh = randn(129, 258), randn(129, 129, seed=1)
    assert_same_bits_for_any_threads(
        lambda: (call(ops.gated_mlp_forward, gate_up, "silu"), call(ops.gated_mlp_backward, dh, gate_up, "silu"))
    )


def test_what_does_not_fit() -> None:
    with pytest.raises(errors.UnsupportedInputError, match="`gate_up`"):
        call(ops.gated_mlp_forward, randn(5, 31), "silu")
    with pytest.raises(errors.UnsupportedInputError, match="`gate_up`"):
        call(ops.gated_mlp_backward, randn(5, 15), randn(5, 32), "silu")
    with pytest.raises(errors.UnsupportedInputError, match="extent of 0"):
        call(ops.gated_mlp_forward, randn(5, 0), "silu")
