from __future__ import annotations

import pytest
import torch
from parity import randn

from cuda_on_cpu.checks import DTYPES, Mutant, each_schedule, must_be_caught, mutants, name_of
from cuda_on_cpu.emulator import In, Kernels, Out, poison

# elements, threads, grid
SIZES = [(1, 32, 1), (129, 32, 2), (1000, 64, 3)]


def check_cast(kernels: Kernels, size: tuple[int, int, int], dtype: str) -> None:
    n, threads, grid = size
    x = randn(n) * torch.logspace(-8, 6, n)

    def run(seed: int) -> torch.Tensor:
        out = poison(n, dtype=getattr(torch, dtype))
        kernels.launch(f"cast_from_f32_{name_of(out)}", grid, threads, Out(out), In(x), n, seed=seed)
        return out

    assert torch.equal(each_schedule(run), x.to(getattr(torch, dtype)))


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_cast(kernels: Kernels, size: tuple[int, int, int], dtype: str) -> None:
    check_cast(kernels, size, dtype)


def battery(kernels: Kernels) -> None:
    check_cast(kernels, SIZES[2], "float32")


@mutants(
    Mutant("cast", "a vector twice", "store<V>(out + i, v)", "store<V>(out + i / 2, v)"),
)  # fmt: skip
def test_a_mistake_is_seen(mutant: Mutant) -> None:
    must_be_caught(mutant, battery)
