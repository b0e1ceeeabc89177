from __future__ import annotations

import pytest
import torch
from parity import assert_as_good, plain_and_exact, randn

from cuda_on_cpu.checks import DTYPES, Mutant, each_schedule, must_be_caught, mutants, name_of
from cuda_on_cpu.emulator import In, InOut, Kernels, Out, poison

EPS = 1e-6
# rows, width, threads, grid: one element; odd; vectors; rows longer than what a thread keeps; several rows a block
CASES = [(1, 1, 32, 1), (3, 129, 64, 3), (5, 16, 32, 2), (4, 1100, 32, 3), (3, 1096, 32, 2), (5, 512, 128, 5)]


def norm(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), w, EPS)


def forward(
    kernels: Kernels,
    x: torch.Tensor,
    w: torch.Tensor,
    residual: torch.Tensor | None,
    threads: int,
    grid: int,
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(y, sum or x, rstd)."""
    y, total, rstd = poison(*x.shape, dtype=x.dtype), poison(*x.shape, dtype=x.dtype), poison(len(x))
    kernels.launch(
        f"rms_norm_fwd_{name_of(x)}", grid, threads, Out(y), None if residual is None else InOut(total), Out(rstd),
        In(x), None if residual is None else In(residual), In(w), EPS, *x.shape, seed=seed,
    )  # fmt: skip
    return y, x if residual is None else total, rstd


def backward(
    kernels: Kernels, dy: torch.Tensor, x: torch.Tensor, rstd: torch.Tensor, w: torch.Tensor,
    dresidual: torch.Tensor | None, before: torch.Tensor, threads: int, grid: int, seed: int,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """(dx, dw), dw added to `before`."""
    (rows, d), dx, dw = x.shape, poison(*x.shape, dtype=x.dtype), before.clone()
    partial = poison(grid, d)
    kernels.launch(
        f"rms_norm_bwd_{name_of(x)}", grid, threads, Out(dx), Out(partial), In(dy), In(x), In(rstd), In(w),
        None if dresidual is None else In(dresidual), rows, d, seed=seed,
    )  # fmt: skip
    kernels.launch("column_sums_f32", (-(-d // 32), 1), (32, 8), InOut(dw), In(partial), grid, d, seed=seed)
    return dx, dw


def check(kernels: Kernels, case: tuple[int, int, int, int], dtype: str, fused: bool, scale: float = 1.0) -> None:
    rows, d, threads, grid = case
    x, residual = (randn(rows, d, dtype=dtype, seed=seed, scale=scale) for seed in (0, 1))
    dresidual, dy = (randn(rows, d, dtype=dtype, seed=seed) for seed in (2, 3))
    w, before = randn(d, dtype=dtype, seed=4), randn(d, seed=5)

    def run(seed: int) -> tuple[torch.Tensor, ...]:
        y, total, rstd = forward(kernels, x, w, residual if fused else None, threads, grid, seed)
        extra = dresidual if fused else None
        return y, total, *backward(kernels, dy, total, rstd, w, extra, before, threads, grid, seed)

    y, total, dx, dw = each_schedule(run)
    assert torch.equal(total, x + residual if fused else x)
    plain, exact = plain_and_exact(norm, [total, w], dy)
    assert_as_good(y, plain[0], exact[0])
    if d == 1:  # the gradient vanishes but for eps: compared with the size of its two terms
        assert float((dx - fused * dresidual).abs().max()) <= 1e-2 * float((w * dy).abs().max() / total.abs().min())
    else:
        extra = dresidual * fused
        assert_as_good(dx, plain[1] + extra, exact[1] + extra.double(), factor=3)
    assert_as_good(dw, before + plain[2].float(), before.double() + exact[2], factor=3)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward_and_backward(kernels: Kernels, case: tuple[int, int, int, int], dtype: str, fused: bool) -> None:
    check(kernels, case, dtype, fused)


def test_magnitudes(kernels: Kernels) -> None:
    w = randn(129, seed=2)
    for scale in [1e-4, 1e4, 1e15]:
        x = randn(5, 129, scale=scale)
        plain, exact = plain_and_exact(norm, [x, w])
        assert_as_good(forward(kernels, x, w, None, 32, 2, 0)[0], plain[0], exact[0])


def test_nan_stays_in_its_row(kernels: Kernels) -> None:
    x = randn(5, 129)
    x[2, 128] = float("nan")
    y = forward(kernels, x, randn(129, seed=1), None, 64, 2, 0)[0]
    assert y[2].isnan().all() and not y[[0, 1, 3, 4]].isnan().any()


def battery(kernels: Kernels) -> None:
    for case in [(5, 16, 64, 2), (3, 129, 64, 2), (4, 1100, 32, 3)]:
        check(kernels, case, "float32", True)
    check(kernels, (3, 132, 64, 2), "float32", False, scale=1e-3)


@mutants(
    Mutant("rms_norm", "eps left out", "/ d + eps);", "/ d);"),
    Mutant("rms_norm", "the sum is not kept", "            store<V>(sum + i, v);\n", ""),
    Mutant("rms_norm", "residual of another row", "x + at, residual ? residual + at : nullptr", "x + at, residual"),
    Mutant("rms_norm", "no gradient of the residual", "dresidual ? grad + more[j] : grad", "grad"),
    Mutant("rms_norm", "the term of the mean has another sign", "float c = -dot[0]", "float c = dot[0]"),
    Mutant("rms_norm", "the first row of a long one counts twice", "n == blockIdx.x ? term :", "false ? term :"),
    Mutant("rms_norm", "barrier before the sums removed", "__syncthreads();  // the sums of", "// the sums of"),
    Mutant("rms_norm", "barrier after the sums removed", "= x[k];\n    __syncthreads();", "= x[k];"),
    Mutant("rms_norm", "a warp left out", "w < warps; w++) x[k]", "w + 1 < warps; w++) x[k]"),
    Mutant("rms_norm", "a lane left out", "bits = 16; bits > 0;", "bits = 16; bits > 1;"),
    Mutant("rms_norm", "one vector too many", "if (i < d) f(k, i);", "if (i <= d) f(k, i);"),
    Mutant("rms_norm", "vectors at any address", "if (fits(d, y, sum, x, residual, w))", "if (d > 16)"),
)  # fmt: skip
def test_a_mistake_is_seen(mutant: Mutant) -> None:
    must_be_caught(mutant, battery)
