"""The learning rate of every step, against the specification's table and the schedulers of torch and transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import get_cosine_with_min_lr_schedule_with_warmup, get_linear_schedule_with_warmup, get_wsd_schedule

import llmjp_core as lc
from llmjp_core._core import learning_rates

BASE: dict[str, Any] = {
    "flavor": "neox",
    "style": "cosine",
    "lr": 2e-4,
    "min_lr": 2e-5,
    "warmup_iters": 10.0,
    "decay_iters": 1000,
    "wsd_decay_iters": 200,
}
STEPS = [0, 1, 5, 10, 11, 250, 505, 999, 1000, 1200]
HEAD = [2e-5, 2e-5, 1e-4, 2e-4]
GOLDEN = {
    "cosine": [*HEAD, 1.999995469e-4, 1.751360634e-4, 1.1e-4, 2.000045315e-5, 2e-5, 2e-5],
    "linear": [*HEAD, 1.997979798e-4, 1.515151515e-4, 1e-4, 2e-5, 2e-5, 2e-5],
    "exponential": [
        *HEAD,
        1.998600490e-4,
        1.690707669e-4,
        1.414317639e-4,
        1.000847540e-4,
        1.000147191e-4,
        8.694861974e-5,
    ],
    "constant": [*HEAD, 2e-4, 2e-4, 2e-4, 2e-4, 2e-4, 2e-4],
}


@pytest.mark.parametrize("style", GOLDEN)
def test_golden_values(style: str) -> None:
    np.testing.assert_allclose(learning_rates({**BASE, "style": style}, STEPS), GOLDEN[style], rtol=1e-9)


def test_the_comparison_can_fail() -> None:
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(learning_rates({**BASE, "warmup_iters": 11.0}, STEPS), GOLDEN["cosine"], rtol=1e-9)


def followed(make: Callable[[torch.optim.Optimizer], Any], lr: float, steps: int) -> list[float]:
    """The rates that a scheduler of torch gives to steps 0, 1, ..."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("changes", "theirs"),
    [
        (
            {"style": "cosine", "flavor": "megatron"},
            lambda o: get_cosine_with_min_lr_schedule_with_warmup(o, 10, 1000, min_lr=2e-5),
        ),
        (
            {"style": "linear", "flavor": "megatron", "min_lr": 0.0},
            lambda o: get_linear_schedule_with_warmup(o, 10, 1000),
        ),
        (
            # transformers warms up from its least rate, Megatron from 0: they agree where that is 0.
            {"style": "wsd", "flavor": "megatron", "min_lr": 0.0},
            lambda o: get_wsd_schedule(
                o, 10, 200, num_stable_steps=790, decay_type="linear", min_lr_ratio=0.0
            ),
        ),
        (
            {"style": "cosine", "warmup_iters": 0.0},
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 1000, eta_min=2e-5),
        ),
    ],
)  # fmt: skip
def test_agrees_with_other_libraries(changes: dict[str, Any], theirs: Callable[[torch.optim.Optimizer], Any]) -> None:
    ours = learning_rates({**BASE, **changes}, list(range(1000)))
    np.testing.assert_allclose(ours, followed(theirs, 2e-4, 1000), rtol=1e-6, atol=1e-12)


def test_neox_differs_from_megatron_where_it_should() -> None:
    neox, megatron = (learning_rates({**BASE, "style": "linear", "flavor": f}, [0, 505]) for f in ("neox", "megatron"))
    np.testing.assert_allclose(neox, [2e-5, 1e-4])
    np.testing.assert_allclose(megatron, [0.0, 1.1e-4])


@pytest.mark.parametrize(
    "changes", [{"min_lr": 1.0}, {"lr": float("nan")}, {"warmup_iters": 2000.0}, {"decay_iters": 0}]
)
def test_contradictions_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(lc.errors.ConfigError, match="schedule"):
        learning_rates({**BASE, **changes}, [0])
