from __future__ import annotations

import pytest
import torch
from parity import assert_as_good, plain_and_exact, randn

from cuda_on_cpu.checks import DTYPES, Mutant, each_schedule, must_be_caught, mutants, name_of
from cuda_on_cpu.emulator import In, InOut, Kernels, Out, poison

EPS = 1e-5
# rows, width, threads, grid: one element; odd; vectors; rows longer than what a thread keeps; several rows a block
CASES = [(1, 1, 32, 1), (3, 129, 64, 3), (5, 16, 32, 2), (4, 1100, 32, 3), (3, 1096, 32, 2), (5, 512, 128, 5)]


def norm(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return torch.nn.functional.layer_norm(x, (x.shape[-1],), w, bias, EPS)


def forward(
    kernels: Kernels, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None,
    threads: int, grid: int, seed: int,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    """(y, sum or x, mean, rstd)."""
    y, total, mean, rstd = (
        poison(*x.shape, dtype=x.dtype),
        poison(*x.shape, dtype=x.dtype),
        poison(len(x)),
        poison(len(x)),
    )
    kernels.launch(
        f"layer_norm_fwd_{name_of(x)}", grid, threads, Out(y), None if residual is None else InOut(total), Out(mean),
        Out(rstd), In(x), None if residual is None else In(residual), In(w), None if bias is None else In(bias), EPS,
        *x.shape, seed=seed,
    )  # fmt: skip
    return y, x if residual is None else total, mean, rstd


def backward(
    kernels: Kernels, dy: torch.Tensor, x: torch.Tensor, mean: torch.Tensor, rstd: torch.Tensor, w: torch.Tensor,
    dresidual: torch.Tensor | None, before: torch.Tensor, threads: int, grid: int, seed: int,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """(dx, [dw, dbias]), added to `before` (2, d)."""
    (rows, d), dx, dw = x.shape, poison(*x.shape, dtype=x.dtype), before.clone()
    partial = poison(grid, 2 * d)
    kernels.launch(
        f"layer_norm_bwd_{name_of(x)}", grid, threads, Out(dx), Out(partial), In(dy), In(x), In(mean), In(rstd), In(w),
        None if dresidual is None else In(dresidual), rows, d, seed=seed,
    )  # fmt: skip
    kernels.launch("column_sums_f32", (-(-2 * d // 32), 1), (32, 8), InOut(dw), In(partial), grid, 2 * d, seed=seed)
    return dx, dw


def check(
    kernels: Kernels, case: tuple[int, int, int, int], dtype: str, fused: bool, scale: float = 1.0, shift: float = 0.0
) -> None:
    """Fused: with residual and bias."""
    rows, d, threads, grid = case
    x, residual = (randn(rows, d, dtype=dtype, seed=seed, scale=scale) + shift for seed in (0, 1))
    dresidual, dy = (randn(rows, d, dtype=dtype, seed=seed) for seed in (2, 3))
    w, bias, before = randn(d, dtype=dtype, seed=4), randn(d, dtype=dtype, seed=5), randn(2, d, seed=6)

    def run(seed: int) -> tuple[torch.Tensor, ...]:
        y, total, mean, rstd = forward(
            kernels, x, w, bias if fused else None, residual if fused else None, threads, grid, seed
        )
        extra = dresidual if fused else None
        return y, total, *backward(kernels, dy, total, mean, rstd, w, extra, before, threads, grid, seed)

    y, total, dx, (dw, dbias) = each_schedule(run)
    assert torch.equal(total, x + residual if fused else x)
    plain, exact = plain_and_exact(norm, [total, w, bias] if fused else [total, w], dy)
    assert_as_good(y, plain[0], exact[0])
    plain_bias, exact_bias = dy.sum(0), dy.double().sum(0)
    assert_as_good(dbias, before[1] + plain_bias.float(), before[1].double() + exact_bias, factor=3)
    extra = dresidual * fused
    if d == 1:  # one element a row: its normed value and the gradient of it are 0 but for rounding
        assert float((dx - extra).abs().max()) <= 1e-2 * float((w * dy).abs().max())
        assert torch.equal(dw, before[0])
        return
    assert_as_good(dx, plain[1] + extra, exact[1] + extra.double(), factor=3)
    assert_as_good(dw, before[0] + plain[2].float(), before[0].double() + exact[2], factor=3)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward_and_backward(kernels: Kernels, case: tuple[int, int, int, int], dtype: str, fused: bool) -> None:
    check(kernels, case, dtype, fused)


def test_far_from_zero(kernels: Kernels) -> None:
    """A mean a thousand times the deviation: a variance in one pass would have no digits left."""
    check(kernels, (5, 129, 64, 2), "float32", False, shift=1000.0)


def test_nan_stays_in_its_row(kernels: Kernels) -> None:
    x = randn(5, 129)
    x[2, 128] = float("nan")
    y = forward(kernels, x, randn(129, seed=1), None, None, 64, 2, 0)[0]
    assert y[2].isnan().all() and not y[[0, 1, 3, 4]].isnan().any()


def battery(kernels: Kernels) -> None:
    for case in [(5, 16, 64, 2), (3, 129, 64, 2), (4, 1100, 32, 3)]:
        check(kernels, case, "float32", True)
    check(kernels, (3, 132, 64, 2), "float32", False, scale=1e-3)
    test_far_from_zero(kernels)


@mutants(
    Mutant("layer_norm", "eps left out", "/ d + eps);", "/ d);"),
    Mutant("layer_norm", "the variance in one pass", "squares[0] += (v[j] - mu) * (v[j] - mu);", "squares[0] += v[j] * v[j] - mu * mu;"),
    Mutant("layer_norm", "no bias", "bias ? shift[j] : 0.0f", "0.0f"),
    Mutant("layer_norm", "the sum is not kept", "            store<V>(sum + i, v);\n", ""),
    Mutant("layer_norm", "no gradient of the residual", "dresidual ? grad + more[j] : grad", "grad"),
    Mutant("layer_norm", "no mean of the gradient", "fmaf(scale[j], gv[j], -mean_g)", "scale[j] * gv[j]"),
    Mutant("layer_norm", "x is not centred", "sums[1] += wg * (uv[j] - mu);", "sums[1] += wg * uv[j];"),
    Mutant("layer_norm", "a long row's bias counts the first row twice", "n == blockIdx.x ? gv[j] :", "false ? gv[j] :"),
    Mutant("layer_norm", "dw and dbias change places", "store_floats(partial_w + i, dw[k]), store_floats(partial_b + i, dbias[k])", "store_floats(partial_b + i, dw[k]), store_floats(partial_w + i, dbias[k])"),
    Mutant("layer_norm", "partial sums of blocks overlap", "partial + blockIdx.x * 2 * d", "partial + blockIdx.x * d"),
    Mutant("layer_norm", "every thread writes the mean of another row", "mean + n, rstd + n", "mean + blockIdx.x, rstd + n"),
    Mutant("layer_norm", "barrier after the sums removed", "= x[k];\n    __syncthreads();", "= x[k];"),
)  # fmt: skip
def test_a_mistake_is_seen(mutant: Mutant) -> None:
    must_be_caught(mutant, battery)
