from __future__ import annotations

import numpy as np
import pytest
import torch
from parity import DTYPES, assert_as_good, assert_same_bits_for_any_threads, call, plain_and_exact, randn

from llmjp_core import errors
from llmjp_core._core import ops

SHAPES = [(1, 1, 1), (5, 7, 16), (129, 17, 5), (300, 129, 33)]  # tokens, rows, width


def ids_of(n: int, rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, rows, n, dtype=np.int32)


def lookup(ids: np.ndarray, table: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.embedding(torch.from_numpy(ids).long(), table)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward(shape: tuple[int, int, int], dtype: str) -> None:
    n, rows, d = shape
    ids, table, dy = ids_of(n, rows), randn(rows, d, dtype=dtype), randn(n, d, dtype=dtype, seed=1)
    plain, exact = plain_and_exact(lambda table: lookup(ids, table), [table], dy)
    assert torch.equal(call(ops.embedding_forward, table, ids, dtype=dtype), plain[0])
    before = randn(rows, d, seed=2)
    dtable = call(ops.embedding_backward, before, dy, ids, dtype=dtype)
    assert_as_good(dtable, before + plain[1].float(), before.double() + exact[1], factor=3)


def test_a_token_left_out_is_seen() -> None:
    ids, table, dy = ids_of(129, 17), randn(17, 5), randn(129, 5, seed=1)
    plain, exact = plain_and_exact(lambda table: lookup(ids, table), [table], dy)
    dtable = call(ops.embedding_backward, torch.zeros(17, 5), dy[:-1], ids[:-1])
    with pytest.raises(AssertionError):
        assert_as_good(dtable, plain[1], exact[1], factor=3)


def test_same_bits() -> None:
    ids, dy = ids_of(1000, 129), randn(1000, 33)
    assert_same_bits_for_any_threads(lambda: call(ops.embedding_backward, torch.zeros(129, 33), dy, ids))


@pytest.mark.parametrize("bad", [-1, 17, -(2**31), 2**31 - 1])
def test_ids_outside_are_named(bad: int) -> None:
    ids = np.array([3, bad, 5], np.int32)
    with pytest.raises(errors.UnsupportedInputError, match=rf"`ids` holds id {bad} at position 1, outside 0\.\.17"):
        call(ops.embedding_forward, randn(17, 5), ids)
    with pytest.raises(errors.UnsupportedInputError, match=f"id {bad} at position 1"):
        call(ops.embedding_backward, torch.zeros(17, 5), randn(3, 5), ids)


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(errors.UnsupportedInputError, match="`dy`"):
        call(ops.embedding_backward, torch.zeros(17, 5), randn(3, 4), ids_of(3, 17))
    with pytest.raises(errors.UnsupportedInputError, match="`table`"):
        call(ops.embedding_forward, torch.zeros(17, 0), ids_of(3, 17))


def test_no_tokens() -> None:
    assert call(ops.embedding_forward, randn(17, 5), ids_of(0, 17)).shape == (0, 5)
