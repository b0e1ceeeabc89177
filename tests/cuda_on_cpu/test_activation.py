from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from parity import assert_as_good, plain_and_exact, randn
from torch.nn import functional

from cuda_on_cpu.checks import DTYPES, Mutant, each_schedule, must_be_caught, mutants, name_of
from cuda_on_cpu.emulator import In, InOut, Kernels, Out, poison

# elements, threads, grid
SIZES = [(1, 32, 1), (129, 32, 2), (1000, 64, 3)]
KINDS: list[Callable[[torch.Tensor], torch.Tensor]] = [
    functional.gelu, lambda x: functional.gelu(x, approximate="tanh"), functional.silu, torch.relu,
]  # fmt: skip
KIND_NAMES = ["gelu", "gelu_tanh", "silu", "relu"]


def check_activation(kernels: Kernels, size: tuple[int, int, int], dtype: str, kind: int) -> None:
    n, threads, grid = size
    x, dy = randn(n, dtype=dtype, scale=2), randn(n, dtype=dtype, seed=1)
    if n > 100:
        x[:101] = torch.linspace(-12, 12, 101)

    def run(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        y, dx = poison(n, dtype=x.dtype), dy.clone()
        kernels.launch(f"activation_fwd_{name_of(x)}", grid, threads, Out(y), In(x), kind, n, seed=seed)
        kernels.launch(f"activation_bwd_{name_of(x)}", grid, threads, InOut(dx), InOut(dx), In(x), kind, n, seed=seed)
        return y, dx

    y, dx = each_schedule(run)
    plain, exact = plain_and_exact(KINDS[kind], [x], dy)
    assert_as_good(y, plain[0], exact[0])
    assert_as_good(dx, plain[1], exact[1], factor=3)


@pytest.mark.parametrize("kind", range(4), ids=KIND_NAMES)
@pytest.mark.parametrize("dtype", DTYPES.values())
def test_activation(kernels: Kernels, dtype: str, kind: int) -> None:
    for size in SIZES:
        check_activation(kernels, size, dtype, kind)


def test_activation_of_extremes(kernels: Kernels) -> None:
    x = torch.tensor([float("nan"), 1e30, -1e30, 20.0, 0.0, -0.0, 88.0, -88.0])
    for kind, function in enumerate(KINDS):
        y = poison(8)
        kernels.launch("activation_fwd_f32", 1, 32, Out(y), In(x), kind, 8)
        assert torch.equal(y.isnan(), function(x).isnan())
        torch.testing.assert_close(y, function(x), rtol=1e-6, atol=1e-30, equal_nan=True)


def battery(kernels: Kernels) -> None:
    for kind in range(4):
        check_activation(kernels, SIZES[2], "float32", kind)
    test_activation_of_extremes(kernels)


@mutants(
    Mutant("activation", "tanh scale", "1.5957691f", "1.5957f"),
    Mutant("activation", "normal fit", "0.11960548f", "0.1196f"),
    Mutant("activation", "NaN becomes 0", "x <= 0.0f ? 0.0f : x,", "x > 0.0f ? x : 0.0f,"),
    Mutant("activation", "silu slope", "fmaf(x, 1.0f - gate, 1.0f)", "fmaf(x, gate, 1.0f)"),
    Mutant("activation", "gelu slope", "fmaf(x * BELL, n.slope, n.value)", "n.value"),
)  # fmt: skip
def test_a_mistake_is_seen(mutant: Mutant) -> None:
    must_be_caught(mutant, battery)
