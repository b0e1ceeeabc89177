from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from parity import DTYPES, assert_as_good, assert_same_bits_for_any_threads, call, plain_and_exact, randn
from torch.nn import functional

from llmjp_core import errors
from llmjp_core._core import ops

Kinds = dict[str, Callable[[torch.Tensor], torch.Tensor]]
KINDS: Kinds = {
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "silu": functional.silu,
    "relu": functional.relu,
}


def gelu_without_cancellation(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * torch.special.erfc(-x * 0.5**0.5)


def gelu_tanh_without_cancellation(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))


# torch's formulas 1 + erf and 1 + tanh leave nothing of the tails, in float64 neither.
STABLE = KINDS | {"gelu": gelu_without_cancellation, "gelu_tanh": gelu_tanh_without_cancellation}


def check(x: torch.Tensor, dy: torch.Tensor, kind: str, dtype: str, exactly: Kinds = KINDS) -> None:
    plain, _ = plain_and_exact(KINDS[kind], [x], dy)
    _, exact = plain_and_exact(exactly[kind], [x], dy)
    assert_as_good(call(ops.activation_forward, x, kind, dtype=dtype), plain[0], exact[0])
    assert_as_good(call(ops.activation_backward, dy, x, kind, dtype=dtype), plain[1], exact[1], factor=3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1,), (5, 1), (3, 129), (16, 16, 5)])
def test_forward_and_backward(shape: tuple[int, ...], kind: str, dtype: str) -> None:
    check(randn(*shape, dtype=dtype, scale=2), randn(*shape, dtype=dtype, seed=1), kind, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_part_of_the_line(kind: str, dtype: str) -> None:
    """Windows of one unit, so that a wrong tail does not hide behind large values."""
    for start in range(-12, 12):
        x = torch.linspace(start, start + 1, 65).to(getattr(torch, dtype))
        check(x, torch.ones_like(x), kind, dtype, STABLE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_large_magnitudes(kind: str, dtype: str) -> None:
    x = torch.tensor([-6e4, -300.0, -89.0, -0.0, 0.0, 1e-7, 89.0, 300.0, 6e4]).to(getattr(torch, dtype))
    check(x, torch.ones_like(x), kind, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_nan_stays_nan(kind: str, dtype: str) -> None:
    x = torch.tensor([1.0, float("nan"), -1.0]).to(getattr(torch, dtype))
    y = call(ops.activation_forward, x, kind, dtype=dtype)
    dx = call(ops.activation_backward, x, torch.ones_like(x), kind, dtype=dtype)
    assert y.isnan().tolist() == dx.isnan().tolist() == [False, True, False]


def test_the_other_gelu_is_seen() -> None:
    x = randn(129)
    plain, exact = plain_and_exact(KINDS["gelu"], [x], torch.ones_like(x))
    with pytest.raises(AssertionError):
        assert_as_good(call(ops.activation_forward, x, "gelu_tanh"), plain[0], exact[0])
    with pytest.raises(AssertionError):
        assert_as_good(call(ops.activation_backward, torch.ones_like(x), x, "gelu_tanh"), plain[1], exact[1], factor=3)


@pytest.mark.parametrize("kind", KINDS)
def test_same_bits(kind: str) -> None:
    x, dy = randn(40_001), randn(40_001, seed=1)
    assert_same_bits_for_any_threads(
        lambda: (call(ops.activation_forward, x, kind), call(ops.activation_backward, dy, x, kind))
    )


def test_what_does_not_fit() -> None:
    with pytest.raises(errors.UnsupportedInputError, match="`dy`"):
        call(ops.activation_backward, randn(4), randn(5), "silu")
    with pytest.raises(errors.UnsupportedInputError, match="`kind` must be"):
        call(ops.activation_forward, randn(4), "swish")


def test_nothing() -> None:
    assert call(ops.activation_forward, randn(0, 3), "silu").shape == (0, 3)
