from __future__ import annotations

from typing import Any

import pytest
import torch
from parity import DTYPES, assert_as_good, assert_same_bits_for_any_threads, call, plain_and_exact, randn

from llmjp_core import errors
from llmjp_core._core import ops

SHAPES = [(1, 1), (1, 129), (5, 16), (129, 5), (70, 300)]  # rows, width
EPS = 1e-6


def norm(x: torch.Tensor, w: torch.Tensor, eps: float = EPS) -> torch.Tensor:
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), w, eps)


def inputs(n: int, d: int, dtype: str = "float32", scale: float = 1.0) -> tuple[torch.Tensor, ...]:
    x, dy = (randn(n, d, dtype=dtype, seed=seed, scale=s) for seed, s in [(0, scale), (1, 1.0)])
    return x, randn(d, dtype=dtype, seed=2), dy


def forward_backward(x: torch.Tensor, w: torch.Tensor, dy: torch.Tensor, dtype: str) -> tuple[Any, ...]:
    y, rstd = call(ops.rms_norm_forward, x, w, EPS, dtype=dtype)
    dx, dw = call(ops.rms_norm_backward, torch.zeros(w.shape), dy, x, rstd, w, dtype=dtype)
    return y, dx, dw


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward(shape: tuple[int, int], dtype: str) -> None:
    x, w, dy = inputs(*shape, dtype=dtype)
    plain, exact = plain_and_exact(norm, [x, w], dy)
    ours = forward_backward(x, w, dy, dtype)
    assert_as_good(ours[0], plain[0], exact[0])
    if shape[1] == 1:  # the gradient vanishes but for eps: compared with the size of its two terms
        assert float(ours[1].abs().max()) <= 1e-6 * float((w * dy).abs().max() / x.abs().min()) + 1e-6
    else:
        assert_as_good(ours[1], plain[1], exact[1], factor=3)
    assert_as_good(ours[2], plain[2], exact[2], factor=3)


@pytest.mark.parametrize("scale", [1e-4, 1e4, 1e15])
def test_magnitudes(scale: float) -> None:
    x, w, dy = inputs(5, 129, scale=scale)
    plain, exact = plain_and_exact(norm, [x, w], dy)
    for i, (ours, factor) in enumerate(zip(forward_backward(x, w, dy, "float32"), [2, 3, 3], strict=True)):
        assert_as_good(ours, plain[i], exact[i], factor)


@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_residual(dtype: str) -> None:
    x, w, dy = inputs(5, 129, dtype)
    residual, dresidual = randn(5, 129, dtype=dtype, seed=3), randn(5, 129, dtype=dtype, seed=4)
    y, total, rstd = call(ops.rms_norm_forward_add, x, residual, w, EPS, dtype=dtype)
    assert torch.equal(total, x + residual)
    plain, exact = plain_and_exact(norm, [total, w], dy)
    assert_as_good(y, plain[0], exact[0])
    before = randn(129, seed=5)
    dx, dw = call(ops.rms_norm_backward, before, dy, total, rstd, w, dresidual, dtype=dtype)
    assert_as_good(dx, plain[1] + dresidual, exact[1] + dresidual.double(), factor=3)
    assert_as_good(dw, before + plain[2].float(), before.double() + exact[2], factor=3)


def test_another_eps_is_seen() -> None:
    x, w, _ = inputs(5, 129)
    plain, exact = plain_and_exact(norm, [x, w])
    with pytest.raises(AssertionError):
        assert_as_good(call(ops.rms_norm_forward, x, w, 1e-5)[0], plain[0], exact[0])


def test_nan_stays_in_its_row() -> None:
    x, w, _ = inputs(5, 129)
    x[2, 128] = float("nan")
    y, _ = call(ops.rms_norm_forward, x, w, EPS)
    assert y[2].isnan().all() and not y[[0, 1, 3, 4]].isnan().any()


def test_a_row_of_zeros() -> None:
    x, w, dy = inputs(1, 16)
    plain, exact = plain_and_exact(norm, [x * 0, w], dy)
    for ours, p, e in zip(forward_backward(x * 0, w, dy, "float32"), plain, exact, strict=True):
        assert_as_good(ours, p, e, factor=3)


def test_same_bits() -> None:
    x, w, dy = inputs(517, 129)
    assert_same_bits_for_any_threads(lambda: forward_backward(x, w, dy, "float32"))


def test_shapes_that_do_not_fit() -> None:
    x, w, dy = inputs(5, 16)
    with pytest.raises(errors.UnsupportedInputError, match="`weight`"):
        call(ops.rms_norm_forward, x, w[1:], EPS)
    with pytest.raises(errors.UnsupportedInputError, match="`residual`"):
        call(ops.rms_norm_forward_add, x, x[1:], w, EPS)
    with pytest.raises(errors.UnsupportedInputError, match="`dy`"):
        call(ops.rms_norm_backward, torch.zeros(16), dy[1:], x, torch.ones(5), w)
    with pytest.raises(errors.UnsupportedInputError, match="`dw`"):
        call(ops.rms_norm_backward, torch.zeros(15), dy, x, torch.ones(5), w)
    with pytest.raises(errors.UnsupportedInputError, match="`rstd`"):
        call(ops.rms_norm_backward, torch.zeros(16), dy, x, torch.ones(4), w)
    with pytest.raises(errors.UnsupportedInputError, match="`x` has an extent of 0"):
        call(ops.rms_norm_forward, x[:, :0], w[:0], EPS)
