"""Large results live on memory that earlier results have left: they share none with what is alive."""

from __future__ import annotations

import copy
import gc
import io
import threading

import pytest
import torch

import llmjp_core.torch as lct
from llmjp_core.errors import UnsupportedInputError
from llmjp_core.torch import ops

ROWS, WIDTH = 512, 1024


def large(seed: int, dtype: torch.dtype = torch.float32, width: int = WIDTH) -> torch.Tensor:
    return torch.randn(ROWS, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_a_result_takes_the_memory_that_one_has_left() -> None:
    x = large(1, width=1700)  # a size that no other test leaves
    left = lct.functional.silu(x)
    place = left.data_ptr()
    del left
    gc.collect()
    assert lct.functional.silu(x).data_ptr() == place


def test_small_results_are_torchs() -> None:
    assert lct.functional.silu(torch.ones(4)).untyped_storage().resizable()
    assert not lct.functional.silu(large(1)).untyped_storage().resizable()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_view_keeps_the_memory(dtype: torch.dtype) -> None:
    x = large(1, dtype)
    y = lct.functional.silu(x)
    assert y.dtype == dtype and y.shape == x.shape and y.is_contiguous() and not y.requires_grad
    row, before = y[7], y[7].clone()
    del y
    others = [lct.functional.gelu(large(seed, dtype)) for seed in range(2, 5)]
    assert torch.equal(row, before)
    assert len({other.data_ptr() for other in others}) == 3


def test_results_can_be_changed_copied_and_stored() -> None:
    y = lct.functional.silu(large(1))
    want = torch.nn.functional.silu(large(1))
    torch.testing.assert_close(copy.deepcopy(y).add_(1), want + 1)
    stored = io.BytesIO()
    torch.save(y, stored)
    stored.seek(0)
    torch.testing.assert_close(torch.load(stored), want)


def test_gradients_outlive_their_graph() -> None:
    x = large(1).requires_grad_()
    lct.functional.gelu(x).backward(large(2))
    assert x.grad is not None
    first = x.grad.clone()
    for seed in range(3):
        lct.functional.gelu(large(seed).requires_grad_()).sum().backward()
    assert torch.equal(x.grad, first)


def test_threads_share_no_result() -> None:
    wrong = []

    def work(seed: int) -> None:
        x = large(seed)
        want = lct.functional.silu(x).clone()
        for _ in range(20):
            y = lct.functional.silu(x)
            if not torch.equal(y, want):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_capsule_that_nobody_takes_is_let_go() -> None:
    x = large(1, width=2500)
    place = ops.like(x).data_ptr()
    gc.collect()
    capsule = ops._rust.pooled(x)
    assert capsule is not None
    del capsule
    assert ops.like(x).data_ptr() == place
    with pytest.raises(UnsupportedInputError):
        ops._rust.pooled(x.int())
