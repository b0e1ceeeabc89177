from __future__ import annotations

import pytest
import torch
from parity import assert_as_good, plain_and_exact, randn

from cuda_on_cpu.checks import DTYPES, Mutant, each_schedule, must_be_caught, mutants, name_of
from cuda_on_cpu.emulator import In, Kernels, Out, poison
from cuda_on_cpu.test_activation import KIND_NAMES, KINDS


def check_gated(
    kernels: Kernels, rows: int, f: int, threads: int, grid: tuple[int, int], dtype: str, kind: int
) -> None:
    """Fused [gate | up] and apart: the same bits."""
    gate_up, dh = randn(rows, 2 * f, dtype=dtype, scale=2), randn(rows, f, dtype=dtype, seed=1)
    gate, up = (part.contiguous() for part in gate_up.chunk(2, -1))
    T = name_of(dh)

    def run(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        h, d = poison(rows, f, dtype=dh.dtype), poison(rows, 2 * f, dtype=dh.dtype)
        whole, flat = gate_up.flatten(), d.view(-1)
        halves = In(whole), In(whole[f:])
        kernels.launch(f"gated_mlp_fwd_{T}", grid, threads, Out(h), *halves, kind, rows, f, 2 * f, seed=seed)
        kernels.launch(
            f"gated_mlp_bwd_{T}",
            grid,
            threads,
            Out(flat),
            Out(flat[f:]),
            In(dh),
            *halves,
            kind,
            rows,
            f,
            2 * f,
            seed=seed,
        )
        return h, d

    h, d = each_schedule(run)
    plain, exact = plain_and_exact(
        lambda gate_up: KINDS[kind](gate_up.chunk(2, -1)[0]) * gate_up.chunk(2, -1)[1], [gate_up], dh
    )
    assert_as_good(h, plain[0], exact[0])
    assert_as_good(d, plain[1], exact[1], factor=3)
    n = rows * f
    apart, dgate, dup = (poison(rows, f, dtype=dh.dtype) for _ in range(3))
    kernels.launch(f"gated_mlp_fwd_{T}", (grid[0], 1), threads, Out(apart), In(gate), In(up), kind, 1, n, n)
    kernels.launch(
        f"gated_mlp_bwd_{T}", (grid[0], 1), threads, Out(dgate), Out(dup), In(dh), In(gate), In(up), kind, 1, n, n
    )
    assert torch.equal(apart, h) and torch.equal(torch.cat([dgate, dup], -1), d)


@pytest.mark.parametrize("kind", range(4), ids=KIND_NAMES)
@pytest.mark.parametrize("dtype", DTYPES.values())
def test_gated_mlp(kernels: Kernels, dtype: str, kind: int) -> None:
    for rows, f, threads, grid in [(1, 1, 32, (1, 1)), (5, 17, 32, (2, 3)), (3, 136, 64, (1, 2)), (4, 33, 32, (3, 4))]:
        check_gated(kernels, rows, f, threads, grid, dtype, kind)


def battery(kernels: Kernels) -> None:
    for kind in range(4):
        check_gated(kernels, 5, 17, 32, (2, 3), "float32", kind)
        check_gated(kernels, 3, 136, 64, (1, 2), "float32", kind)


@mutants(
    Mutant("gated_mlp", "up of another row", "up + n * row + i", "up + i"),
    Mutant("gated_mlp", "rows left out", "n += gridDim.y", "n += gridDim.y + 1"),
    Mutant("gated_mlp", "the slope is forgotten", "d[j] * u[j] * act.slope", "d[j] * u[j]"),
    Mutant("gated_mlp", "gradients change places", "store<V>(dgate + n * row + i, g)", "store<V>(dgate + n * row + i, u)"),
)  # fmt: skip
def test_a_mistake_is_seen(mutant: Mutant) -> None:
    must_be_caught(mutant, battery)
