"""The comparison that the tests of ops rest on can fail."""

from __future__ import annotations

import pytest
import torch
from parity import assert_as_good, assert_same_bits_for_any_threads, randn

from llmjp_core import errors
from llmjp_core._core import ops


def test_an_error_like_the_plain_one_passes() -> None:
    exact = randn(9, dtype="float64")
    assert_as_good(exact.bfloat16(), exact.bfloat16(), exact)


@pytest.mark.parametrize("wrong", [1.1, float("nan"), float("inf")])
def test_a_wrong_element_fails(wrong: float) -> None:
    exact = torch.ones(9, dtype=torch.float64)
    ours = exact.clone()
    ours[4] = wrong
    with pytest.raises(AssertionError):
        assert_as_good(ours, exact, exact)


def test_another_shape_fails() -> None:
    with pytest.raises(AssertionError):
        assert_as_good(torch.ones(3), torch.ones(3, 1), torch.ones(3, 1))


def test_other_bits_fail() -> None:
    with pytest.raises(AssertionError):
        assert_same_bits_for_any_threads(lambda: torch.tensor([float(ops.num_threads())]))


def test_arguments_of_another_kind_are_named() -> None:
    x = randn(3, 4, dtype="float64").numpy()
    with pytest.raises(errors.UnsupportedInputError, match="`a` must be a numpy array of float32"):
        ops.add_forward(x, x)
    with pytest.raises(errors.UnsupportedInputError, match="`a` must be a numpy array of uint16"):
        ops.add_forward(x, x, dtype="bfloat16")
    with pytest.raises(errors.UnsupportedInputError, match="`dtype` must be"):
        ops.add_forward(x, x, dtype="int8")
    with pytest.raises(errors.UnsupportedInputError, match="`a` must have at most 4"):
        y = randn(1, 1, 1, 1, 2).numpy()
        ops.add_forward(y, y)
