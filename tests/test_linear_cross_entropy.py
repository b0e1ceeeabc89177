from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from loss_options import OPTIONS, losses_of, targets_of
from parity import DTYPES, assert_as_good, assert_same_bits_for_any_threads, call, plain_and_exact, randn

from llmjp_core import errors
from llmjp_core._core import ops

SHAPES = [(1, 1, 1), (5, 16, 129), (16, 5, 33), (129, 80, 1001), (2100, 5, 131)]  # tokens, width, vocabulary
GRAD_SCALE = 0.125  # a power of two: no rounding of its own


def losses(x: torch.Tensor, w: torch.Tensor, targets: np.ndarray, **options: Any) -> torch.Tensor:
    """As training code writes it: the matmul in the dtype, the loss of its logits in float32."""
    return losses_of(torch.nn.functional.linear(x, w), targets, **options)


def inputs(n: int, d: int, v: int, dtype: str = "float32", scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    return randn(n, d, dtype=dtype), randn(v, d, dtype=dtype, seed=1, scale=scale * d**-0.5)


def forward_backward(
    x: torch.Tensor, w: torch.Tensor, t: np.ndarray, dtype: str = "float32", **options: Any
) -> tuple[Any, ...]:
    op = ops.linear_cross_entropy_forward_backward
    return call(op, torch.zeros(w.shape), x, w, t, GRAD_SCALE, dtype=dtype, **options)


def check(x: torch.Tensor, w: torch.Tensor, t: np.ndarray, dtype: str, options: dict[str, Any]) -> None:
    dy = torch.full((len(t),), GRAD_SCALE)
    plain, exact = plain_and_exact(lambda x, w: losses(x, w, t, **options), [x, w], dy)
    assert_as_good(call(ops.linear_cross_entropy_forward, x, w, t, dtype=dtype, **options), plain[0], exact[0])
    ours = forward_backward(x, w, t, dtype, **options)
    for i, factor in enumerate([2, 3, 3]):
        if dtype == "bfloat16" and i > 0 and exact[i].numel() == 1:
            # The gradient of the logit is rounded, as torch's is; of one number one rounding says nothing of the other.
            assert abs(float(ours[i]) - float(exact[i])) <= 2**-8 * abs(float(exact[i]))
        elif float(exact[i].abs().max()) > 1e-15:
            assert_as_good(ours[i], plain[i], exact[i], factor)
        else:  # a vocabulary of one: loss and gradient are 0
            assert not ours[i].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward(shape: tuple[int, int, int], options: str, dtype: str) -> None:
    n, _, v = shape
    named = OPTIONS[options]
    check(*inputs(*shape, dtype=dtype), targets_of(n, v, named.get("ignore_index", -100)), dtype, named)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("scale", [30.0, 1e4])
def test_large_logits(scale: float, options: str) -> None:
    """The loss keeps its digits: it is not the difference of two large numbers."""
    named = OPTIONS[options]
    x, w = inputs(16, 16, 129, scale=scale)
    check(x, w, targets_of(16, 129, named.get("ignore_index", -100)), "float32", named)


def test_small_losses_with_large_logits() -> None:
    """Right answers at logits around 10 000: the loss is small, and still right."""
    x = torch.eye(5)
    w = torch.full((5, 5), 9990.0) + 10 * torch.eye(5)
    check(x, w, np.arange(5, dtype=np.int32), "float32", {})


def test_gradients_are_added_to_dw() -> None:
    x, w = inputs(16, 5, 33)
    t, before = targets_of(16, 33), randn(33, 5, seed=4)
    _, dx, dw = forward_backward(x, w, t)
    again = call(ops.linear_cross_entropy_forward_backward, before, x, w, t, GRAD_SCALE)
    assert torch.equal(again[1], dx)
    assert_as_good(again[2], before + dw, before.double() + dw.double())


def test_ignored_tokens_have_no_part() -> None:
    x, w = inputs(16, 5, 33)
    t = targets_of(16, 33)
    ignored = torch.from_numpy(t == -100)
    x[ignored] = float("nan")
    loss, dx, _ = forward_backward(x, w, t)
    assert not loss[ignored].any() and not dx[ignored].any()
    assert loss[~ignored].all() and dx[~ignored].any(-1).all()


@pytest.mark.parametrize("wrong", [{"label_smoothing": 0.1001}, {"z_loss": 1.01e-2}, {"ignore_index": 5}])
def test_another_option_is_seen(wrong: dict[str, Any]) -> None:
    right = {"label_smoothing": 0.1, "z_loss": 1e-2, "ignore_index": -100}
    x, w = inputs(16, 16, 129)
    t = np.arange(16, dtype=np.int32)
    dy = torch.full((16,), GRAD_SCALE)
    plain, exact = plain_and_exact(lambda x, w: losses(x, w, t, **right), [x, w], dy)
    ours = forward_backward(x, w, t, **right | wrong)
    for i in range(3):
        with pytest.raises(AssertionError):
            assert_as_good(ours[i], plain[i], exact[i], factor=3)


def test_nan_stays_in_its_token() -> None:
    x, w = inputs(5, 16, 129)
    x[2, 3] = float("nan")
    loss, dx, dw = forward_backward(x, w, np.arange(5, dtype=np.int32))
    assert loss.isnan().tolist() == [False, False, True, False, False]
    assert dx[2].isnan().all() and dw.isnan().all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_same_bits(dtype: str) -> None:
    x, w = inputs(2100, 17, 131, dtype)
    t = targets_of(2100, 131)
    assert_same_bits_for_any_threads(lambda: forward_backward(x, w, t, dtype))


@pytest.mark.parametrize("bad", [-1, 33, 2**31 - 1])
def test_targets_outside_are_named(bad: int) -> None:
    t = np.array([3, -100, bad], np.int32)
    match = rf"`targets` holds id {bad} at position 2, outside 0\.\.33"
    with pytest.raises(errors.UnsupportedInputError, match=match):
        call(ops.linear_cross_entropy_forward, *inputs(3, 5, 33), t)
    with pytest.raises(errors.UnsupportedInputError, match=match):
        forward_backward(*inputs(3, 5, 33), t)


def test_shapes_that_do_not_fit() -> None:
    x, w = inputs(3, 5, 33)
    t = targets_of(3, 33)
    with pytest.raises(errors.UnsupportedInputError, match="`x`"):
        call(ops.linear_cross_entropy_forward, x[1:], w, t)
    with pytest.raises(errors.UnsupportedInputError, match="`w`"):
        call(ops.linear_cross_entropy_forward, x, w[:, 1:], t)
    with pytest.raises(errors.UnsupportedInputError, match="`dw`"):
        call(ops.linear_cross_entropy_forward_backward, torch.zeros(32, 5), x, w, t, 1.0)
    with pytest.raises(errors.UnsupportedInputError, match="`w` has an extent of 0"):
        call(ops.linear_cross_entropy_forward, x, w[:0], t)
