from __future__ import annotations

import numpy as np
import pytest
import torch
from parity import assert_same_bits_for_any_threads, randn

from llmjp_core._core import ops

SIZES = [1, 5, 16, 129, 32_768, 100_003]


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
@pytest.mark.parametrize("n", SIZES)
def test_sum_of_squares(n: int, scale: float) -> None:
    """In f64: neither tiny nor huge gradients are lost, unlike with squares in f32."""
    g = randn(n, scale=scale)
    exact = float(torch.linalg.vector_norm(g.double()) ** 2)
    ours = ops.grad_norm_sum_of_squares(g.numpy())
    assert ours == pytest.approx(exact, rel=1e-12, abs=0)
    g[n // 2] *= 1.1
    assert ops.grad_norm_sum_of_squares(g.numpy()) != pytest.approx(exact, rel=1e-12, abs=0)


def test_nothing() -> None:
    assert ops.grad_norm_sum_of_squares(np.zeros(0, np.float32)) == 0
    assert ops.grad_norm_first_non_finite(np.zeros(0, np.float32)) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("at", [0, 7, 32_768, 100_002])
def test_non_finite(bad: float, at: int) -> None:
    g = randn(100_003).numpy()
    assert ops.grad_norm_first_non_finite(g) is None
    g[at] = bad
    assert not np.isfinite(ops.grad_norm_sum_of_squares(g))
    assert ops.grad_norm_first_non_finite(g) == at


def test_same_bits() -> None:
    g = randn(300_001).numpy()
    assert_same_bits_for_any_threads(lambda: ops.grad_norm_sum_of_squares(g))
