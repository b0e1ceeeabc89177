from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from parity import assert_as_good, assert_same_bits_for_any_threads, one_thread, randn

from llmjp_core import errors
from llmjp_core._core import ops

NUMBERS: dict[str, Any] = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
STEPS = 20


def ours(p: torch.Tensor, gradients: list[torch.Tensor], grad_scale: float = 1.0, **changed: Any) -> list[torch.Tensor]:
    """p, m, v after one step for each gradient."""
    state = (p.numpy(), np.zeros(p.shape, np.float32), np.zeros(p.shape, np.float32))
    for step, g in enumerate(gradients, 1):
        state = ops.adamw_step(*state, g.numpy(), step=step, grad_scale=grad_scale, **NUMBERS | changed)
    return [torch.from_numpy(x) for x in state]


def theirs(p: torch.Tensor, gradients: list[torch.Tensor], kind: torch.dtype, **changed: Any) -> list[torch.Tensor]:
    numbers = NUMBERS | changed
    leaf = p.to(kind).clone().requires_grad_()
    betas = (numbers["beta1"], numbers["beta2"])
    named = {"lr": numbers["lr"], "eps": numbers["eps"], "weight_decay": numbers["weight_decay"]}
    optimizer = torch.optim.AdamW([leaf], betas=betas, **named)
    with one_thread():
        for g in gradients:
            leaf.grad = g.to(kind)
            optimizer.step()
    state = optimizer.state[leaf]
    return [leaf.detach(), state["exp_avg"], state["exp_avg_sq"]]


def gradients(n: int, scale: float = 1.0) -> list[torch.Tensor]:
    return [randn(n, seed=seed, scale=scale) for seed in range(1, STEPS + 1)]


def test_golden() -> None:
    p, m, v = np.ones(1, np.float32), np.zeros(1, np.float32), np.zeros(1, np.float32)
    golden = [(0.5, 0.998900000020), (-0.25, 0.998531740579), (0.125, 0.998085205787)]
    for step, (g, after) in enumerate(golden, 1):
        p, m, v = ops.adamw_step(p, m, v, np.full(1, g, np.float32), step=step, **NUMBERS)
        assert p[0] == pytest.approx(after, abs=6e-8 * step)


@pytest.mark.parametrize("changed", [{}, {"weight_decay": 0.0}, {"beta1": 0.0, "beta2": 0.999}, {"eps": 1e-3}])
@pytest.mark.parametrize("n", [1, 5, 129, 4001])
def test_against_torch(n: int, changed: dict[str, Any]) -> None:
    p, g = randn(n), gradients(n)
    plain, exact = (theirs(p, g, kind, **changed) for kind in (torch.float32, torch.float64))
    for own, p_, e in zip(ours(p, g, **changed), plain, exact, strict=True):
        assert_as_good(own, p_, e)


@pytest.mark.parametrize("scale", [1e-12, 1e6])
def test_magnitudes(scale: float) -> None:
    p, g = randn(129), gradients(129, scale)
    plain, exact = (theirs(p, g, kind) for kind in (torch.float32, torch.float64))
    for own, p_, e in zip(ours(p, g), plain, exact, strict=True):
        assert_as_good(own, p_, e)


def test_grad_scale_multiplies_the_gradient() -> None:
    p, g = randn(129), gradients(129)
    quarter = ours(p, g, grad_scale=0.25)
    assert all(torch.equal(a, b) for a, b in zip(quarter, ours(p, [x * 0.25 for x in g]), strict=True))
    assert not torch.equal(quarter[1], ours(p, g)[1])


@pytest.mark.parametrize("wrong", [{"weight_decay": 0.11}, {"beta2": 0.951}, {"eps": 1e-4}])
def test_another_number_is_seen(wrong: dict[str, Any]) -> None:
    p, g = randn(129), gradients(129)
    plain, exact = (theirs(p, g, kind) for kind in (torch.float32, torch.float64))
    with pytest.raises(AssertionError):
        assert_as_good(ours(p, g, **wrong)[0], plain[0], exact[0])


def test_nan_is_not_lost() -> None:
    p, g = randn(5), [torch.tensor([1.0, float("nan"), 0.0, 1.0, 1.0])]
    assert all(x.isnan().tolist() == [False, True, False, False, False] for x in ours(p, g))


def test_same_bits() -> None:
    p, g = randn(100_001), [randn(100_001, seed=1)]
    assert_same_bits_for_any_threads(lambda: tuple(ours(p, g)))


def test_what_does_not_fit() -> None:
    x, short = np.ones(5, np.float32), np.ones(4, np.float32)
    for i, name in enumerate("mvg", 1):
        args = [x, x, x, x]
        args[i] = short
        with pytest.raises(errors.UnsupportedInputError, match=f"`{name}`"):
            ops.adamw_step(*args, step=1, **NUMBERS)
    with pytest.raises(errors.UnsupportedInputError, match="`step` counts from 1"):
        ops.adamw_step(x, x, x, x, step=0, **NUMBERS)
