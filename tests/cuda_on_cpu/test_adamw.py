from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from parity import assert_as_good, one_thread, randn

from cuda_on_cpu.checks import DTYPES, Mutant, each_schedule, must_be_caught, mutants, name_of
from cuda_on_cpu.emulator import In, InOut, Kernels, Out, poison

NUMBERS: dict[str, Any] = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8}
# Sizes of the groups, each with its weight decay: one element; vectors over the bounds of groups; an empty group.
GROUPS = [
    [(1, 0.1)],
    [(5, 0.1), (3, 0.0), (121, 0.2)],
    [(64, 0.0), (0, 0.5), (64, 0.1)],
    [(500, 0.1), (1, 0.0), (503, 0.3)],
]
STEPS = 3


def ours(
    kernels: Kernels, p: torch.Tensor, gradients: list[torch.Tensor], groups: list[tuple[int, float]], dtype: torch.dtype,
    seed: int, grad_scale: float = 1.0, **changed: Any,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    """p, m, v and the rounded p after one step for each gradient."""
    o = NUMBERS | changed
    p, m, v, low = p.clone(), torch.zeros_like(p), torch.zeros_like(p), poison(len(p), dtype=dtype)
    ends = torch.tensor([size for size, _ in groups]).cumsum(0)
    decays = torch.tensor([o["lr"] * decay for _, decay in groups], dtype=torch.float32)
    for t, g in enumerate(gradients, 1):
        numbers = (
            o["lr"] / (1 - o["beta1"] ** t), 1 / math.sqrt(1 - o["beta2"] ** t),
            o["beta1"], 1 - o["beta1"], o["beta2"], 1 - o["beta2"], o["eps"],
        )  # fmt: skip
        kernels.launch(
            f"adamw_{name_of(low)}", 3, 32, InOut(p), InOut(m), InOut(v), Out(low), In(g), In(torch.tensor([grad_scale])),
            In(ends), In(decays), len(groups), *numbers, len(p), seed=seed,
        )  # fmt: skip
    return p, m, v, low


def theirs(
    p: torch.Tensor, gradients: list[torch.Tensor], groups: list[tuple[int, float]], kind: torch.dtype
) -> list[torch.Tensor]:
    parts = [part.to(kind).clone().requires_grad_() for part in p.split([size for size, _ in groups])]
    betas = (NUMBERS["beta1"], NUMBERS["beta2"])
    named = [{"params": [part], "weight_decay": decay} for part, (_, decay) in zip(parts, groups, strict=True)]
    optimizer = torch.optim.AdamW(named, lr=NUMBERS["lr"], betas=betas, eps=NUMBERS["eps"])
    with one_thread():
        for g in gradients:
            for part, own in zip(parts, g.split([size for size, _ in groups]), strict=True):
                part.grad = own.to(kind)
            optimizer.step()
    state = [optimizer.state[part] for part in parts]
    return [torch.cat([part.detach() for part in parts])] + [
        torch.cat([s[name] for s in state]) for name in ("exp_avg", "exp_avg_sq")
    ]


def check(kernels: Kernels, groups: list[tuple[int, float]], dtype: str) -> None:
    n = sum(size for size, _ in groups)
    p, gradients = randn(n), [randn(n, seed=seed) for seed in range(1, STEPS + 1)]
    p_, m, v, low = each_schedule(lambda seed: ours(kernels, p, gradients, groups, getattr(torch, dtype), seed))
    plain, exact = (theirs(p, gradients, groups, kind) for kind in (torch.float32, torch.float64))
    for own, a, e in zip((p_, m, v), plain, exact, strict=True):
        assert_as_good(own, a, e)
    assert torch.equal(low, p_.to(low.dtype))


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("groups", GROUPS, ids=str)
def test_against_torch(kernels: Kernels, groups: list[tuple[int, float]], dtype: str) -> None:
    check(kernels, groups, dtype)


def check_decay_of_small_numbers(kernels: Kernels) -> None:
    """lr·wd below f32's resolution around 1: the decay is there all the same."""
    p, g = randn(128), [torch.zeros(128)] * 3
    groups = [(128, 1e-4)]
    p_ = ours(kernels, p, g, groups, torch.float32, 0)[0]
    assert_as_good(p_ - p, theirs(p, g, groups, torch.float32)[0] - p, theirs(p, g, groups, torch.float64)[0] - p)


def test_decay_of_small_numbers(kernels: Kernels) -> None:
    check_decay_of_small_numbers(kernels)


def test_grad_scale(kernels: Kernels) -> None:
    p, g = randn(129), [randn(129, seed=1)]
    quarter = ours(kernels, p, g, [(129, 0.1)], torch.float32, 0, grad_scale=0.25)
    same = ours(kernels, p, [g[0] * 0.25], [(129, 0.1)], torch.float32, 0)
    assert all(torch.equal(a, b) for a, b in zip(quarter, same, strict=True))
    assert not torch.equal(quarter[1], ours(kernels, p, g, [(129, 0.1)], torch.float32, 0)[1])


def check_skips(kernels: Kernels) -> None:
    p, g = randn(129), [randn(129, seed=1)]
    for scale in [float("nan"), float("inf")]:
        skipped = ours(kernels, p, g, [(129, 0.1)], torch.float32, 0, grad_scale=scale)
        assert torch.equal(skipped[0], p) and not skipped[1].any() and not skipped[2].any() and skipped[3].isnan().all()


def test_a_scale_that_is_not_finite_skips_the_step(kernels: Kernels) -> None:
    check_skips(kernels)


def battery(kernels: Kernels) -> None:
    for groups in GROUPS:
        check(kernels, groups, "float32")
    check_decay_of_small_numbers(kernels)
    test_grad_scale(kernels)
    check_skips(kernels)


@mutants(
    Mutant("adamw", "a vector has one group", "            while (i + j >= ends[group]) group++;\n", ""),
    Mutant("adamw", "the last group for all", "    return low;\n", "    return groups - 1;\n"),
    Mutant("adamw", "eps inside of the root", "fmaf(sqrtf(vv[j]), o.root2, o.eps)", "sqrtf(fmaf(vv[j], o.root2 * o.root2, o.eps))"),
    Mutant("adamw", "no bias correction", "fmaf(sqrtf(vv[j]), o.root2, o.eps)", "(sqrtf(vv[j]) + o.eps)"),
    Mutant("adamw", "the decay of Adam", "o.rest1 * g)", "o.rest1 * (g + decays[group] * pv[j]))"),
    Mutant("adamw", "the gradient is not scaled", "gv[j] * scale", "gv[j]"),
    Mutant("adamw", "no step is skipped", "    if (!isfinite(scale)) return;\n", ""),
    Mutant("adamw", "p is not rounded anew", "rounded.set(j, pv[j])", "rounded.set(j, pv[j] + update)"),
    Mutant("adamw", "moments change places", "store<V>(m + i, mv);", "store<V>(m + i, vv);"),
)  # fmt: skip
def test_a_mistake_is_seen(mutant: Mutant) -> None:
    must_be_caught(mutant, battery)
