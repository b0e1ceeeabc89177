from __future__ import annotations

import pytest
import torch
from parity import DTYPES, assert_same_bits_for_any_threads, call, randn

from llmjp_core import errors
from llmjp_core._core import ops


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (5, 16), (129, 129), (0, 3)])
def test_equals_torch(shape: tuple[int, ...], dtype: str) -> None:
    a, b = randn(*shape, dtype=dtype), randn(*shape, dtype=dtype, seed=1, scale=30)
    y = call(ops.add_forward, a, b, dtype=dtype)
    assert torch.equal(y, a + b)
    if y.numel():
        assert not torch.equal(call(ops.add_forward, a, -b, dtype=dtype), a + b)


def test_overflow_and_nan() -> None:
    a = torch.tensor([6e4, float("nan"), float("inf")]).half()
    b = torch.tensor([6e4, 1.0, float("-inf")]).half()
    y = call(ops.add_forward, a, b, dtype="float16")
    assert y[0] == float("inf") and y[1:].isnan().all()


def test_same_bits() -> None:
    a, b = randn(40_001, dtype="bfloat16"), randn(40_001, dtype="bfloat16", seed=1)
    assert_same_bits_for_any_threads(lambda: call(ops.add_forward, a, b, dtype="bfloat16"))


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(errors.UnsupportedInputError, match="`b`"):
        call(ops.add_forward, randn(5, 3), randn(3, 5))
