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


@pytest.mark.parametrize(
    ("dtype", "state_dtype"),
    [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.float16, torch.float32)],
    ids=str,
)
def test_moments_in_their_own_dtype(dtype: torch.dtype, state_dtype: torch.dtype) -> None:
    """Against a float32 run; a resume from the saved state goes on bit for bit."""
    params = parameters(dtype)
    optimizer = lct.optim.AdamW(params, **OPTIONS, state_dtype=state_dtype)
    exact = parameters(dtype)
    exact = [nn.Parameter(p.detach().float()) for p in exact]
    reference = torch.optim.AdamW(exact, **OPTIONS)
    for step in range(1, 4):
        give_gradients(params, step)
        optimizer.step()
        for p, e in zip(params, exact, strict=True):
            e.grad = p.grad.float()
        reference.step()
    unit = 2.0**-8 if torch.bfloat16 in (dtype, state_dtype) else 2.0**-11
    for p, e in zip(params, exact, strict=True):
        for name in ("exp_avg", "exp_avg_sq"):
            ours, theirs = optimizer.state[p][name], reference.state[e][name]
            assert ours.dtype == state_dtype
            bound = 2e-6 if state_dtype == torch.float32 else 3 * unit
            assert float((ours - theirs).abs().max()) <= bound * float(theirs.abs().max())
        assert float((p - e).abs().max()) <= 3 * unit * float(e.abs().max())
    again = [nn.Parameter(p.detach().clone()) for p in params]
    resumed = lct.optim.AdamW(again, **OPTIONS, state_dtype=state_dtype)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, o in ((params, optimizer), (again, resumed)):
        give_gradients(one, 4)
        o.step()
    for a, b in zip(params, again, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(optimizer.state[a]["exp_avg"], resumed.state[b]["exp_avg"])


def small_steps(**options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """bfloat16 weights near 1 after 200 steps of 1e-4 each, and how they moved in float64."""
    p, exact = nn.Parameter(torch.ones(4096).bfloat16()), nn.Parameter(torch.ones(4096).double())
    numbers: dict[str, Any] = {"lr": 1e-4, "weight_decay": 0.0}
    optimizer, reference = lct.optim.AdamW([p], **numbers, **options), torch.optim.AdamW([exact], **numbers)
    for _ in range(200):
        p.grad, exact.grad = torch.ones_like(p), torch.ones_like(exact)
        optimizer.step()
        reference.step()
    return p.detach(), exact.detach()


def test_stochastic_rounding_gets_small_steps_through() -> None:
    p, exact = small_steps()
    assert torch.equal(p, torch.ones_like(p)), "to the nearest, nothing moves"
    p, exact = small_steps(stochastic_rounding=True)
    moved, want = 1 - p.double().mean(), 1 - exact.mean()
    assert abs(float(moved / want) - 1) < 0.03, (moved, want)
    again, _ = small_steps(stochastic_rounding=True)
    other, _ = small_steps(stochastic_rounding=True, seed=1)
    assert torch.equal(p, again) and not torch.equal(p, other)


def test_stochastic_rounding_after_a_resume() -> None:
    """Also of parameters that had no gradient for a while: a place is a parameter's for good."""

    def steps(params: list[nn.Parameter], optimizer: torch.optim.Optimizer, numbers: range) -> None:
        for step in numbers:
            give_gradients(params, step)
            params[1].grad = None if step == 2 else params[1].grad
            optimizer.step()

    options: dict[str, Any] = {**OPTIONS, "stochastic_rounding": True, "seed": 5}
    whole = parameters(torch.bfloat16)
    one = lct.optim.AdamW([{"params": whole[:2]}, {"params": whole[2:]}], **options)
    steps(whole, one, range(1, 3))
    halves = [nn.Parameter(p.detach().clone()) for p in whole]
    two = lct.optim.AdamW([{"params": halves[:2]}, {"params": halves[2:]}], **options)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    steps(whole, one, range(3, 6))
    steps(halves, two, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole, halves, strict=True))


def test_refused_storage() -> None:
    with pytest.raises(UnsupportedInputError, match="state_dtype"):
        lct.optim.AdamW(parameters(), state_dtype=torch.float16)
    with pytest.raises(UnsupportedInputError, match="seed"):
        lct.optim.AdamW(parameters(), seed=-1)
    for dtype, options, what in (
        (torch.float32, {"stochastic_rounding": True}, "stochastic rounding is for bfloat16"),
        (torch.float16, {"state_dtype": torch.bfloat16}, "moments of bfloat16 are not kept for parameters of float16"),
        (torch.float64, {}, "`param` must be float32, bfloat16, float16"),
    ):
        params = parameters(dtype)
        give_gradients(params, 1)
        with pytest.raises(UnsupportedInputError, match=what):
            lct.optim.AdamW(params, **options).step()


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
