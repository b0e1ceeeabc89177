from __future__ import annotations

from typing import Any

import pytest
import torch
from parity import DTYPES, assert_as_good, assert_same_bits_for_any_threads, call, plain_and_exact, randn

from llmjp_core import errors
from llmjp_core._core import ops

SHAPES = [(1, 2), (1, 129), (5, 16), (129, 5), (70, 300)]  # rows, width
EPS = 1e-5


def norm(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
    return torch.nn.functional.layer_norm(x, (x.shape[-1],), w, b, EPS)


def inputs(n: int, d: int, dtype: str = "float32", scale: float = 1.0, shift: float = 0.0) -> tuple[torch.Tensor, ...]:
    x = (randn(n, d, dtype="float64", scale=scale) + shift).to(getattr(torch, dtype))
    w, b = (randn(d, dtype=dtype, seed=seed) for seed in (2, 3))
    return x, w, b, randn(n, d, dtype=dtype, seed=1)


def forward_backward(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, dy: torch.Tensor, dtype: str = "float32"
) -> tuple[Any, ...]:
    y, mean, rstd = call(ops.layer_norm_forward, x, w, b, EPS, dtype=dtype)
    zeros = torch.zeros(w.shape)
    return y, *call(ops.layer_norm_backward, zeros, zeros, dy, x, mean, rstd, w, dtype=dtype)


def check(ours: tuple[Any, ...], plain: tuple[torch.Tensor, ...], exact: tuple[torch.Tensor, ...]) -> None:
    for i in range(4):
        assert_as_good(ours[i], plain[i], exact[i], 3 if i else 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward(shape: tuple[int, int], dtype: str) -> None:
    x, w, b, dy = inputs(*shape, dtype=dtype)
    check(forward_backward(x, w, b, dy, dtype), *plain_and_exact(norm, [x, w, b], dy))


@pytest.mark.parametrize(("scale", "shift"), [(1e-2, 0), (1e4, 0), (1e15, 0), (1, 300), (1, -1e4)])
def test_magnitudes(scale: float, shift: float) -> None:
    """A mean far from zero: a variance in one pass would lose its digits."""
    x, w, b, dy = inputs(5, 129, scale=scale, shift=shift)
    check(forward_backward(x, w, b, dy), *plain_and_exact(norm, [x, w, b], dy))


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_bias(dtype: str) -> None:
    x, w, _, dy = inputs(5, 129, dtype)
    plain, exact = plain_and_exact(norm, [x, w], dy)
    y, mean, rstd = call(ops.layer_norm_forward, x, w, None, EPS, dtype=dtype)
    dx, dw, db = call(ops.layer_norm_backward, torch.zeros(129), None, dy, x, mean, rstd, w, dtype=dtype)
    for ours, p, e in zip((y, dx, dw), plain, exact, strict=True):
        assert_as_good(ours, p, e, factor=2 if ours is y else 3)
    assert db is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_residual(dtype: str) -> None:
    x, w, b, dy = inputs(5, 129, dtype)
    residual, dresidual = randn(5, 129, dtype=dtype, seed=4), randn(5, 129, dtype=dtype, seed=5)
    y, total, mean, rstd = call(ops.layer_norm_forward_add, x, residual, w, b, EPS, dtype=dtype)
    assert torch.equal(total, x + residual)
    plain, exact = plain_and_exact(norm, [total, w, b], dy)
    assert_as_good(y, plain[0], exact[0])
    dw, db = randn(129, seed=6), randn(129, seed=7)
    ours = call(ops.layer_norm_backward, dw, db, dy, total, mean, rstd, w, dresidual, dtype=dtype)
    assert_as_good(ours[0], plain[1] + dresidual, exact[1] + dresidual.double(), factor=3)
    assert_as_good(ours[1], dw + plain[2].float(), dw.double() + exact[2], factor=3)
    assert_as_good(ours[2], db + plain[3].float(), db.double() + exact[3], factor=3)


def test_an_unbiased_variance_is_seen() -> None:
    x, w, b, dy = inputs(5, 129)
    _, mean, rstd = call(ops.layer_norm_forward, x, w, b, EPS)
    rstd *= (128 / 129) ** 0.5
    zeros = torch.zeros(129)
    ours = call(ops.layer_norm_backward, zeros, zeros, dy, x, mean, rstd, w)
    plain, exact = plain_and_exact(norm, [x, w, b], dy)
    with pytest.raises(AssertionError):
        assert_as_good(ours[0], plain[1], exact[1], factor=3)


def test_nan_stays_in_its_row() -> None:
    x, w, b, _ = inputs(5, 129)
    x[2, 128] = float("nan")
    y = call(ops.layer_norm_forward, x, w, b, EPS)[0]
    assert y[2].isnan().all() and not y[[0, 1, 3, 4]].isnan().any()


def test_same_bits() -> None:
    x, w, b, dy = inputs(517, 129)
    assert_same_bits_for_any_threads(lambda: forward_backward(x, w, b, dy))


def test_shapes_that_do_not_fit() -> None:
    x, w, b, dy = inputs(5, 16)
    ones, zeros = torch.ones(5), torch.zeros(16)
    with pytest.raises(errors.UnsupportedInputError, match="`weight`"):
        call(ops.layer_norm_forward, x, w[1:], b, EPS)
    with pytest.raises(errors.UnsupportedInputError, match="`bias`"):
        call(ops.layer_norm_forward, x, w, b[1:], EPS)
    with pytest.raises(errors.UnsupportedInputError, match="`residual`"):
        call(ops.layer_norm_forward_add, x, x[1:], w, b, EPS)
    with pytest.raises(errors.UnsupportedInputError, match="`dbias`"):
        call(ops.layer_norm_backward, zeros, zeros[1:], dy, x, ones, ones, w)
    with pytest.raises(errors.UnsupportedInputError, match="`mean`"):
        call(ops.layer_norm_backward, zeros, zeros, dy, x, ones[1:], ones, w)
    with pytest.raises(errors.UnsupportedInputError, match="`x` has an extent of 0"):
        call(ops.layer_norm_forward, x[:, :0], w[:0], None, EPS)
