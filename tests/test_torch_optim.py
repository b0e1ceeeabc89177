"""`llmjp_core.torch.optim` beside torch.optim.AdamW: the numbers, the state, both ways."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from parity import assert_as_good, assert_same_bits_for_any_threads, randn
from torch import nn

import llmjp_core.torch as lct
from llmjp_core.errors import UnsupportedInputError

SHAPES = [(33, 17), (5,), (1,), (3, 4, 5)]
OPTIONS: dict[str, Any] = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(randn(*shape, seed=i).to(dtype)) for i, shape in enumerate(SHAPES)]


def give_gradients(params: list[nn.Parameter], step: int, scale: float = 1.0) -> None:
    for i, p in enumerate(params):
        p.grad = (randn(*p.shape, seed=100 * step + i) * scale).to(p.dtype)


def train(optimizer: type, dtype: torch.dtype, steps: int = 5, clip: bool = False, **more: Any) -> list[torch.Tensor]:
    params = parameters(dtype)
    groups = [{"params": params[:1]}, {"params": params[1:], "weight_decay": 0.0, "lr": 1e-3}]
    o = optimizer(groups, **OPTIONS, **more)
    for step in range(1, steps + 1):
        give_gradients(params, step)
        if clip:
            nn.utils.clip_grad_norm_(params, 0.5)
        o.step()
    return [p.detach() for p in params]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_parity(dtype: torch.dtype) -> None:
    ours, plain = train(lct.optim.AdamW, dtype), train(torch.optim.AdamW, dtype)
    if dtype != torch.float32:  # torch rounds within a step; we once: measured against a float32 run
        exact = train(torch.optim.AdamW, torch.float32)
        ours_float = train(lct.optim.AdamW, dtype)
        for o, p, e in zip(ours_float, plain, exact, strict=True):
            assert float((o - e).abs().max()) <= 2 * float((p - e).abs().max()) + float(e.abs().max()) * 2**-7
        return
    for o, p, e in zip(ours, plain, train(torch.optim.AdamW, torch.float64), strict=True):
        assert_as_good(o, p, e)


def test_a_wrong_step_is_seen() -> None:
    plain, exact = train(torch.optim.AdamW, torch.float32), train(torch.optim.AdamW, torch.float64)
    wrong = train(lct.optim.AdamW, torch.float32, steps=4)
    with pytest.raises(AssertionError):
        assert_as_good(wrong[0], plain[0], exact[0])


def test_clipping_in_the_step() -> None:
    ours = train(lct.optim.AdamW, torch.float32, max_grad_norm=0.5)
    plain, exact = (train(torch.optim.AdamW, kind, clip=True) for kind in (torch.float32, torch.float64))
    for o, p, e in zip(ours, plain, exact, strict=True):
        assert_as_good(o, p, e)
    params = parameters()
    optimizer = lct.optim.AdamW(params, max_grad_norm=1e-3)
    give_gradients(params, 1)
    before = [p.grad.clone() for p in params]
    optimizer.step()
    assert all(torch.equal(p.grad, g) for p, g in zip(params, before, strict=True))
    assert optimizer.grad_norm == pytest.approx(float(nn.utils.get_total_norm(before)), rel=1e-6)


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clip_grad_norm(max_norm: float) -> None:
    mine, theirs = parameters(), parameters()
    for params in (mine, theirs):
        give_gradients(params, 1)
    norm, want = lct.optim.clip_grad_norm_(mine, max_norm), nn.utils.clip_grad_norm_(theirs, max_norm)
    torch.testing.assert_close(norm, want, rtol=1e-6, atol=0)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=2e-6, atol=0)


def test_clip_grad_norm_of_infinity() -> None:
    params = parameters()
    give_gradients(params, 1, float("inf"))
    with pytest.raises(RuntimeError, match="norm is"):
        lct.optim.clip_grad_norm_(params, 1.0, error_if_nonfinite=True)
    with pytest.raises(UnsupportedInputError, match="norm_type"):
        lct.optim.clip_grad_norm_(params, 1.0, norm_type=1.0)


@pytest.mark.parametrize("first", [lct.optim.AdamW, torch.optim.AdamW], ids=["ours first", "torch first"])
def test_state_goes_both_ways(first: type) -> None:
    """Three steps with the one, two with the other from its state_dict: as five with torch."""
    second = torch.optim.AdamW if first is lct.optim.AdamW else lct.optim.AdamW
    params = parameters()
    one = first(params, **OPTIONS)
    for step in range(1, 4):
        give_gradients(params, step)
        one.step()
    two = second(params, **OPTIONS)
    state = copy.deepcopy(one.state_dict())
    two.load_state_dict(state)
    for step in range(4, 6):
        give_gradients(params, step)
        two.step()
    reference = parameters()
    three = torch.optim.AdamW(reference, **OPTIONS)
    for step in range(1, 6):
        give_gradients(reference, step)
        three.step()
    for a, b in zip(params, reference, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    mine, theirs = lct.optim.AdamW(parameters(), **OPTIONS), three.state_dict()
    assert mine.state_dict()["param_groups"] == theirs["param_groups"]
    assert list(state["state"][0]) == list(theirs["state"][0])


def test_same_bits_for_any_threads() -> None:
    def run() -> tuple[torch.Tensor, ...]:
        p = nn.Parameter(randn(40_000, seed=1))
        optimizer = lct.optim.AdamW([p], max_grad_norm=0.1)
        for step in range(2):
            p.grad = randn(40_000, seed=step + 2)
            optimizer.step()
        return p.detach(), optimizer.state[p]["exp_avg"], optimizer.state[p]["exp_avg_sq"]

    assert_same_bits_for_any_threads(run)


def test_closure_missing_gradients_and_strides() -> None:
    p, q = nn.Parameter(randn(4, 6, seed=1).T), nn.Parameter(torch.ones(2))
    twin = nn.Parameter(p.detach().clone())
    optimizer, theirs = lct.optim.AdamW([p, q]), torch.optim.AdamW([twin])
    loss = optimizer.step(lambda: (p.square().sum().backward(), 3.0)[1])
    twin.square().sum().backward()
    theirs.step()
    assert loss == 3.0 and not optimizer.state[q]
    assert not p.is_contiguous()
    torch.testing.assert_close(p, twin, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["amsgrad", "maximize", "capturable", "differentiable"])
def test_refused(name: str) -> None:
    with pytest.raises(UnsupportedInputError, match=name):
        lct.optim.AdamW(parameters(), **{name: True})


def test_refused_numbers() -> None:
    with pytest.raises(UnsupportedInputError, match="max_grad_norm"):
        lct.optim.AdamW(parameters(), max_grad_norm=0.0)
    p = nn.Parameter(torch.ones(3, 2))
    p.grad = torch.ones(3, 2).to_sparse()
    with pytest.raises(UnsupportedInputError, match="sparse"):
        lct.optim.AdamW([p]).step()
