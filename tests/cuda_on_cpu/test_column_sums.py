from __future__ import annotations

import pytest
import torch
from parity import assert_as_good, randn

from cuda_on_cpu.checks import DTYPES, Mutant, each_schedule, must_be_caught, mutants, name_of
from cuda_on_cpu.emulator import In, InOut, Kernels, Out, poison

# rows, columns, parts
CASES = [(1, 1, 1), (5, 33, 1), (129, 70, 1), (129, 70, 4), (300, 31, 7), (3, 40, 2)]


def check(kernels: Kernels, case: tuple[int, int, int], dtype: str) -> None:
    rows, cols, parts = case
    x, before = randn(rows, cols, dtype=dtype), randn(cols, seed=1)
    columns = -(-cols // 32)

    def run(seed: int) -> torch.Tensor:
        sums = before.clone()
        if parts == 1:
            kernels.launch(
                f"column_sums_{name_of(x)}", (columns, 1), (32, 8), InOut(sums), In(x), rows, cols, seed=seed
            )
            return sums
        partial = poison(parts, cols)
        kernels.launch(
            f"column_sums_{name_of(x)}", (columns, parts), (32, 8), Out(partial), In(x), rows, cols, seed=seed
        )
        kernels.launch("column_sums_f32", (columns, 1), (32, 8), InOut(sums), In(partial), parts, cols, seed=seed)
        return sums

    # f32 sums, whatever the dtype of x: compared with torch's in f32.
    assert_as_good(each_schedule(run), before + x.float().sum(0), before.double() + x.double().sum(0))


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("case", CASES, ids=str)
def test_sums(kernels: Kernels, case: tuple[int, int, int], dtype: str) -> None:
    check(kernels, case, dtype)


def battery(kernels: Kernels) -> None:
    for case in CASES[1:]:
        check(kernels, case, "float32")


@mutants(
    Mutant("column_sums", "no barrier", "= sum;\n    __syncthreads();", "= sum;"),
    Mutant("column_sums", "a row left out", "r < rows;", "r + 1 < rows;"),
    Mutant("column_sums", "columns beyond the last", "if (c < cols) {", "if (c <= cols) {"),
    Mutant("column_sums", "the old value is lost", "sums[c] += total;", "sums[c] = total;"),
    Mutant("column_sums", "parts write one row", "sums[blockIdx.y * cols + c]", "sums[c]"),
    Mutant("column_sums", "parts take the same rows", "size_t(blockIdx.y) * ROWS + threadIdx.y", "threadIdx.y"),
    Mutant("column_sums", "a warp left out", "w < ROWS;", "w < ROWS - 1;"),
    Mutant("column_sums", "a return before the barrier", "    float sum = 0;", "    if (c >= cols) return;\n    float sum = 0;"),
)  # fmt: skip
def test_a_mistake_is_seen(mutant: Mutant) -> None:
    must_be_caught(mutant, battery)
