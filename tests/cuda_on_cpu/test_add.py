from __future__ import annotations

import pytest
import torch
from parity import randn

from cuda_on_cpu.checks import DTYPES, Mutant, each_schedule, must_be_caught, mutants, name_of
from cuda_on_cpu.emulator import In, InOut, Kernels, Out, poison

# elements, threads, grid
SIZES = [(1, 32, 1), (129, 32, 2), (1000, 64, 3)]


def check_add(kernels: Kernels, size: tuple[int, int, int], dtype: str, in_place: bool = False) -> None:
    n, threads, grid = size
    a, b = randn(n, dtype=dtype), randn(n, dtype=dtype, seed=1)

    def run(seed: int) -> torch.Tensor:
        y = a.clone() if in_place else poison(n, dtype=a.dtype)
        first = InOut(y) if in_place else In(a)
        kernels.launch(f"add_fwd_{name_of(a)}", grid, threads, InOut(y), first, In(b), n, seed=seed)
        return y

    assert torch.equal(each_schedule(run), a + b)


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_add(kernels: Kernels, size: tuple[int, int, int], dtype: str) -> None:
    check_add(kernels, size, dtype)
    check_add(kernels, size, dtype, in_place=True)


def test_an_address_that_is_no_multiple_of_16(kernels: Kernels) -> None:
    """Parts of a tensor: the vectors do not fit, the result is the same."""
    a, b, y = randn(101), randn(101, seed=1), poison(101)
    kernels.launch("add_fwd_f32", 2, 32, Out(y[1:]), In(a[1:]), In(b[1:]), 100)
    assert torch.equal(y[1:], a[1:] + b[1:]) and y[0].isnan()


def battery(kernels: Kernels) -> None:
    check_add(kernels, SIZES[2], "float32")
    test_an_address_that_is_no_multiple_of_16(kernels)


@mutants(
    Mutant("add", "the rest is forgotten", "+ first; i < n;", "+ first; i < vectors * V;"),
    Mutant("add", "blocks overlap", "step = size_t(gridDim.x) * blockDim.x", "step = blockDim.x"),
    Mutant("add", "vectors at any address", "fits(0, y, a, b)", "true"),
    Mutant("add", "an element of a vector left out", "j < V; j++) u.set", "j < V - (V > 1); j++) u.set"),
)  # fmt: skip
def test_a_mistake_is_seen(mutant: Mutant) -> None:
    must_be_caught(mutant, battery)
