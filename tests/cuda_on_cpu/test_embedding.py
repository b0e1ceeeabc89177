from __future__ import annotations

import pytest
import torch
from parity import assert_as_good, plain_and_exact, randn

from cuda_on_cpu.checks import DTYPES, Mutant, each_schedule, must_be_caught, mutants, name_of
from cuda_on_cpu.emulator import In, InOut, Kernels, Out, poison

# tokens, rows, width: one; odd; more tokens than a tile holds; vectors, and more columns than a block has threads
CASES = [(1, 1, 1), (5, 7, 16), (300, 17, 5), (600, 129, 3), (40, 9, 300)]
TILE = 256


def order_of(kernels: Kernels, ids: torch.Tensor, seed: int = 0) -> torch.Tensor:
    order = poison(len(ids), dtype=torch.int32)
    kernels.launch("embedding_order", 2, TILE, Out(order), In(ids), len(ids), seed=seed)
    return order


def check(kernels: Kernels, case: tuple[int, int, int], dtype: str) -> None:
    n, rows, d = case
    ids = torch.randint(0, rows, (n,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    table, dy, before = randn(rows, d, dtype=dtype), randn(n, d, dtype=dtype, seed=1), randn(rows, d, seed=2)

    def run(seed: int) -> tuple[torch.Tensor, ...]:
        y, dtable, order = poison(n, d, dtype=table.dtype), before.clone(), order_of(kernels, ids, seed)
        kernels.launch(f"embedding_fwd_{name_of(table)}", 3, 32, Out(y), In(table), In(ids), n, d, seed=seed)
        kernels.launch(
            f"embedding_bwd_{name_of(dy)}", (n, 2), 32, InOut(dtable), In(dy), In(ids), In(order), n, d, seed=seed
        )
        return y, dtable, order

    y, dtable, order = each_schedule(run)
    assert order.tolist() == ids.argsort(stable=True).tolist()
    plain, exact = plain_and_exact(lambda table: torch.nn.functional.embedding(ids.long(), table), [table], dy)
    assert torch.equal(y, plain[0])
    assert_as_good(dtable, before + plain[1].float(), before.double() + exact[1], factor=3)


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward_and_backward(kernels: Kernels, case: tuple[int, int, int], dtype: str) -> None:
    check(kernels, case, dtype)


def battery(kernels: Kernels) -> None:
    for case in CASES[1:]:
        check(kernels, case, "float32")


@mutants(
    Mutant("embedding", "equal ids change places", "from + k < own)", "from + k > own)"),
    Mutant("embedding", "no barrier before a tile", "__syncthreads();  // the tile", "// the tile"),
    Mutant("embedding", "no barrier after a tile", "+ threadIdx.x];\n            __syncthreads();", "+ threadIdx.x];"),
    Mutant("embedding", "the last tile is full", "min(unsigned(TILE), tokens - from)", "unsigned(TILE)"),
    Mutant("embedding", "every token adds all", "    if (first > 0 && ids[order[first - 1]] == id) return;\n", ""),
    Mutant("embedding", "only the first token", "k < tokens && ids[order[k]] == id", "k < first + 1 && ids[order[k]] == id"),
    Mutant("embedding", "the old value is lost", "add_floats(dtable + id * d + i, sum)", "store_floats(dtable + id * d + i, sum)"),
    Mutant("embedding", "columns of a block only", "step = size_t(gridDim.y) * blockDim.x * V;", "step = d;"),
    Mutant("embedding", "tiles of columns overlap", "(size_t(blockIdx.y) * blockDim.x + threadIdx.x) * V", "size_t(threadIdx.x) * V"),
    Mutant("embedding", "the token instead of its id", "load<V>(table + ids[n] * d + i)", "load<V>(table + n % 7 * d + i)"),
)  # fmt: skip
def test_a_mistake_is_seen(mutant: Mutant) -> None:
    must_be_caught(mutant, battery)
