from __future__ import annotations

import pytest
import torch
from parity import randn

from cuda_on_cpu.checks import Mutant, each_schedule, must_be_caught, mutants
from cuda_on_cpu.emulator import In, InOut, Kernels, Out, poison

# elements, threads, grid
SIZES = [(1, 32, 1), (129, 64, 2), (5003, 128, 5)]


def squares(kernels: Kernels, g: torch.Tensor, threads: int, grid: int, seed: int = 0) -> torch.Tensor:
    partial = poison(grid, dtype=torch.float64)
    kernels.launch("grad_norm_squares", grid, threads, Out(partial), In(g), len(g), seed=seed)
    return partial


def scale(
    kernels: Kernels, partial: torch.Tensor, unscale: float, largest: float, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    norm, grad_scale = poison(1), poison(1)
    kernels.launch(
        "grad_norm_scale", 1, 64, Out(norm), Out(grad_scale), In(partial), len(partial), unscale, largest, seed=seed
    )
    return norm, grad_scale


def first(kernels: Kernels, g: torch.Tensor, seed: int = 0) -> int:
    at = torch.tensor([len(g)])
    kernels.launch("grad_norm_first_non_finite", 3, 32, InOut(at), In(g), len(g), seed=seed)
    return int(at)


def check_norm(kernels: Kernels, size: tuple[int, int, int], magnitude: float) -> None:
    """In f64: neither tiny nor huge gradients are lost, unlike with squares in f32."""
    n, threads, grid = size
    g = randn(n, scale=magnitude)
    exact = float(torch.linalg.vector_norm(g.double()))
    partial = each_schedule(lambda seed: squares(kernels, g, threads, grid, seed))
    assert float(partial.sum()) == pytest.approx(exact**2, rel=1e-12, abs=0)
    for unscale, largest in [(1.0, 0.0), (0.25, 0.0), (0.5, exact / 8), (0.5, exact)]:
        norm, grad_scale = each_schedule(lambda seed, u=unscale, m=largest: scale(kernels, partial, u, m, seed))
        assert norm.item() == pytest.approx(exact * unscale, rel=1e-7, abs=0)
        clip = largest / (exact * unscale + 1e-6) if largest > 0 and exact * unscale + 1e-6 > largest else 1.0
        assert grad_scale.item() == pytest.approx(clip * unscale, rel=1e-7, abs=0)


@pytest.mark.parametrize("magnitude", [1e-25, 1.0, 1e25])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_norm(kernels: Kernels, size: tuple[int, int, int], magnitude: float) -> None:
    check_norm(kernels, size, magnitude)


def check_non_finite(kernels: Kernels) -> None:
    g = randn(5003)
    assert first(kernels, g) == 5003
    for bad in [float("nan"), float("inf"), -float("inf")]:
        for at in [5002, 4096, 130, 0]:
            g[at] = bad
            assert each_schedule(lambda seed, g=g: torch.tensor(first(kernels, g, seed))).item() == at
        norm, grad_scale = scale(kernels, squares(kernels, g, 64, 3), 1.0, 1.0)
        assert not norm.isfinite() and grad_scale.isnan()
        g = randn(5003)


def test_non_finite(kernels: Kernels) -> None:
    check_non_finite(kernels)


def battery(kernels: Kernels) -> None:
    for size in SIZES:
        check_norm(kernels, size, 1e25)
    check_norm(kernels, SIZES[1], 1e-25)
    check_non_finite(kernels)


@mutants(
    Mutant("grad_norm", "squares in f32", "return double(x) * double(x);", "return x * x;"),
    Mutant("grad_norm", "a block's sum in every place", "partial[blockIdx.x] = sum[0];", "partial[0] = sum[0];"),
    Mutant("grad_norm", "partial sums left out", "b < parts; b += blockDim.x) sum", "b < parts - 1; b += blockDim.x) sum"),
    Mutant("grad_norm", "the clip takes the scaled norm", "sqrt(sum[0]) * unscale", "sqrt(sum[0])"),
    Mutant("grad_norm", "clipped without a maximum", "max > 0 && longer > max", "longer > max"),
    Mutant("grad_norm", "infinity goes on", "isfinite(length) ?", "true ?"),
    Mutant("grad_norm", "the first without an atomic", "atomicMin(first, i + j)", "*first = i + j"),
    Mutant("grad_norm", "the vector instead of the element", "atomicMin(first, i + j)", "atomicMin(first, i)"),
    Mutant("grad_norm", "no barrier", "= x[k];\n    __syncthreads();", "= x[k];"),
)  # fmt: skip
def test_a_mistake_is_seen(mutant: Mutant) -> None:
    must_be_caught(mutant, battery)
