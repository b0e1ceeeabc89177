from __future__ import annotations

from typing import Any

import pytest
import torch
from parity import DTYPES, assert_as_good, assert_same_bits_for_any_threads, call, plain_and_exact, randn

from llmjp_core import errors
from llmjp_core._core import ops

SHAPES = [(1, 1, 1), (5, 16, 129), (129, 5, 16), (16, 129, 5), (65, 300, 33)]  # rows, in, out


def inputs(n: int, i: int, o: int, dtype: str = "float32", scale: float = 1.0) -> list[torch.Tensor]:
    shapes = [(n, i), (o, i), (o,), (n, o)]
    return [randn(*shape, dtype=dtype, seed=seed, scale=scale) for seed, shape in enumerate(shapes)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward(shape: tuple[int, int, int], dtype: str) -> None:
    x, w, b, dy = inputs(*shape, dtype=dtype)
    plain, exact = plain_and_exact(torch.nn.functional.linear, [x, w, b], dy)
    assert_as_good(call(ops.linear_forward, x, w, b, dtype=dtype), plain[0], exact[0])
    assert_as_good(call(ops.linear_backward_input, dy, w, dtype=dtype), plain[1], exact[1], factor=3)
    dw, db = randn(*w.shape, seed=5), randn(*b.shape, seed=6)
    ours = call(ops.linear_backward_weight, dw, db, dy, x, dtype=dtype)
    assert_as_good(ours[0], dw + plain[2].float(), dw.double() + exact[2], factor=3)
    assert_as_good(ours[1], db + plain[3].float(), db.double() + exact[3], factor=3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_bias(dtype: str) -> None:
    x, w, _, dy = inputs(5, 16, 129, dtype)
    plain, exact = plain_and_exact(torch.nn.functional.linear, [x, w], dy)
    assert_as_good(call(ops.linear_forward, x, w, dtype=dtype), plain[0], exact[0])
    dw, db = call(ops.linear_backward_weight, torch.zeros(129, 16), None, dy, x, dtype=dtype)
    assert_as_good(dw, plain[2], exact[2], factor=3)
    assert db is None


@pytest.mark.parametrize("scale", [1e4, 1e-4])
def test_magnitudes(scale: float) -> None:
    x, w, b, _ = inputs(16, 129, 5, scale=scale)
    plain, exact = plain_and_exact(torch.nn.functional.linear, [x, w, b])
    assert_as_good(call(ops.linear_forward, x, w, b), plain[0], exact[0])


def test_a_slightly_wrong_weight_is_seen() -> None:
    x, w, b, _ = inputs(16, 129, 5)
    plain, exact = plain_and_exact(torch.nn.functional.linear, [x, w, b])
    w[3, 128] += 1e-3
    with pytest.raises(AssertionError):
        assert_as_good(call(ops.linear_forward, x, w, b), plain[0], exact[0])


def test_nan_stays_in_its_row() -> None:
    x, w, b, _ = inputs(5, 16, 129)
    x[2, 15] = float("nan")
    y = call(ops.linear_forward, x, w, b)
    assert y[2].isnan().all() and not y[[0, 1, 3, 4]].isnan().any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_same_bits(dtype: str) -> None:
    x, w, b, dy = inputs(517, 129, 263, dtype)

    def everything() -> tuple[Any, ...]:
        y = call(ops.linear_forward, x, w, b, dtype=dtype)
        dx = call(ops.linear_backward_input, dy, w, dtype=dtype)
        dw = call(ops.linear_backward_weight, torch.zeros(263, 129), torch.zeros(263), dy, x, dtype=dtype)
        return y, dx, *dw

    assert_same_bits_for_any_threads(everything)


def test_shapes_that_do_not_fit() -> None:
    x, w, b, dy = inputs(5, 16, 129)
    with pytest.raises(errors.UnsupportedInputError, match="`w`"):
        call(ops.linear_forward, x, w[:, 1:], b)
    with pytest.raises(errors.UnsupportedInputError, match="`bias`"):
        call(ops.linear_forward, x, w, b[1:])
    with pytest.raises(errors.UnsupportedInputError, match="`dy`"):
        call(ops.linear_backward_input, dy[:, 1:], w)
    with pytest.raises(errors.UnsupportedInputError, match="`dw`"):
        call(ops.linear_backward_weight, w[1:], None, dy, x)
    with pytest.raises(errors.UnsupportedInputError, match="`dbias`"):
        call(ops.linear_backward_weight, w, b[1:], dy, x)
    with pytest.raises(errors.UnsupportedInputError, match="`w` has an extent of 0"):
        call(ops.linear_forward, x[:, :0], w[:, :0])


def test_no_rows() -> None:
    x, w, b, dy = inputs(0, 16, 5)
    assert call(ops.linear_forward, x, w, b).shape == (0, 5)
    assert torch.equal(call(ops.linear_backward_weight, w, None, dy, x)[0], w)
