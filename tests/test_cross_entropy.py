from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from loss_options import OPTIONS, losses_of, targets_of
from parity import DTYPES, assert_as_good, assert_same_bits_for_any_threads, call, plain_and_exact, randn

from llmjp_core import errors
from llmjp_core._core import ops

SHAPES = [(1, 1), (5, 129), (16, 33), (129, 1001)]  # tokens, vocabulary
GRAD_SCALE = 0.125  # a power of two: no rounding of its own


def ours(logits: torch.Tensor, t: np.ndarray, dtype: str = "float32", **options: Any) -> tuple[Any, Any]:
    losses = call(ops.cross_entropy_forward, logits, t, dtype=dtype, **options)
    return losses, call(ops.cross_entropy_backward, logits, t, GRAD_SCALE, dtype=dtype, **options)


def check(logits: torch.Tensor, t: np.ndarray, dtype: str, options: dict[str, Any]) -> None:
    dy = torch.full((len(t),), GRAD_SCALE)
    plain, exact = plain_and_exact(lambda x: losses_of(x, t, **options), [logits], dy)
    for mine, p, e, factor in zip(ours(logits, t, dtype, **options), plain, exact, [2, 3], strict=True):
        assert_as_good(mine, p, e, factor)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward(shape: tuple[int, int], options: str, dtype: str) -> None:
    named = OPTIONS[options]
    logits = randn(*shape, dtype=dtype, scale=2)
    check(logits, targets_of(*shape, named.get("ignore_index", -100)), dtype, named)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("scale", [30.0, 1e4])
def test_large_logits(scale: float, options: str) -> None:
    named = OPTIONS[options]
    logits = randn(16, 129, scale=scale)
    check(logits, targets_of(16, 129, named.get("ignore_index", -100)), "float32", named)


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_small_losses_with_large_logits(shift: float) -> None:
    """Right answers at logits around 10 000: the loss is small, and keeps its digits."""
    logits = shift + 10 * torch.eye(5)
    check(logits, np.arange(5, dtype=np.int32), "float32", {})


@pytest.mark.parametrize("wrong", [{"label_smoothing": 0.1001}, {"z_loss": 1.01e-2}, {"ignore_index": 5}])
def test_another_option_is_seen(wrong: dict[str, Any]) -> None:
    right = {"label_smoothing": 0.1, "z_loss": 1e-2, "ignore_index": -100}
    logits, t = randn(16, 129), np.arange(16, dtype=np.int32)
    dy = torch.full((16,), GRAD_SCALE)
    plain, exact = plain_and_exact(lambda x: losses_of(x, t, **right), [logits], dy)
    for mine, p, e in zip(ours(logits, t, **right | wrong), plain, exact, strict=True):
        with pytest.raises(AssertionError):
            assert_as_good(mine, p, e, factor=3)


def test_ignored_and_nan_tokens_stay_alone() -> None:
    logits, t = randn(6, 33), targets_of(6, 33)  # 1 and 4 are ignored
    logits[4, 3] = logits[2, 32] = float("nan")
    losses, d = ours(logits, t)
    assert losses.isnan().tolist() == [False, False, True, False, False, False]
    assert d.isnan().all(-1).tolist() == losses.isnan().tolist()
    assert not losses[[1, 4]].any() and not d[[1, 4]].any() and d[0].any()


def test_same_bits() -> None:
    logits, t = randn(129, 1001), targets_of(129, 1001)
    assert_same_bits_for_any_threads(lambda: ours(logits, t))


def test_what_does_not_fit() -> None:
    logits, t = randn(3, 33), np.array([3, -100, 33], np.int32)
    for op, rest in [(ops.cross_entropy_forward, ()), (ops.cross_entropy_backward, (1.0,))]:
        with pytest.raises(errors.UnsupportedInputError, match=r"`targets` holds id 33 at position 2, outside 0\.\.33"):
            call(op, logits, t, *rest)
        with pytest.raises(errors.UnsupportedInputError, match="`logits`"):
            call(op, logits, t[:2], *rest)
        with pytest.raises(errors.UnsupportedInputError, match="`logits` has an extent of 0"):
            call(op, logits[:, :0], t, *rest)
