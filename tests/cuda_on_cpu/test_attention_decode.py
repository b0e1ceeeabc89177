"""One query against cached keys and values, cut into pieces."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import pytest
import torch
from parity import assert_as_good, bits, randn

from cuda_on_cpu.checks import DTYPES, each_schedule, must_be_caught, mutants, name_of
from cuda_on_cpu.emulator import In, Kernels, Out, poison
from cuda_on_cpu.test_attention import Heads, Narrow
from cuda_on_cpu.test_compile import script


class Decode(ctypes.Structure):
    """attention::Decode."""

    _fields_ = [
        *[(name, Heads) for name in ("q", "k", "v")],
        *[(name, ctypes.c_uint) for name in ("heads", "kv_heads", "d")],
        ("left", ctypes.c_int),
        *[(name, ctypes.c_uint) for name in ("piece", "pieces")],
        ("scale", ctypes.c_float),
    ]


@dataclass(frozen=True)
class Case:
    lengths: tuple[int, ...]
    heads: int
    kv: int
    d: int
    left: int = -1
    gap: int = 8  # elements before each head

    def __str__(self) -> str:
        return "-".join(str(getattr(self, name)) for name in self.__dataclass_fields__)


def run(
    kernels: Kernels, case: Case, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, piece: int, seed: int = 0
) -> torch.Tensor:
    """q (batch, heads, gap + d), k, v (batch, capacity, kv, gap + d); out (batch, heads, d)."""
    batch, capacity, step = len(case.lengths), k.shape[1], case.d + case.gap
    pieces, groups = -(-max(case.lengths) // piece), -(-case.heads // case.kv // 8)
    cache = Heads(capacity * case.kv * step, case.kv * step, step)
    problem = Decode(
        Heads(case.heads * step, 0, step), cache, cache, case.heads, case.kv, case.d, case.left, piece, pieces,
        case.d**-0.5,
    )  # fmt: skip
    partial, tops, sums = poison(batch, case.heads, pieces, case.d), *[poison(batch, case.heads, pieces) for _ in "ab"]
    out = poison(batch, case.heads, case.d, dtype=q.dtype)
    width = next(width for width in script.WIDTHS if width >= case.d)
    kernel = f"attention_decode_{name_of(q)}_d{width}"
    _, threads, shared = script.attention(kernel)
    kernels.launch(
        kernel, pieces * groups * case.kv * batch, threads, Out(partial), Out(tops), Out(sums), *[In(x.view(-1)[case.gap :]) for x in (q, k, v)],
        In(torch.tensor(case.lengths).int()), problem, shared=shared, seed=seed,
    )  # fmt: skip
    kernels.launch(
        f"attention_combine_{name_of(q)}", 2, 32, Out(out), In(partial), In(tops), In(sums), pieces, case.d,
        problem.scale, batch * case.heads, seed=seed,
    )  # fmt: skip
    return out


def inputs(case: Case, dtype: str, size: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """NaN between the heads and beyond a sequence's length."""
    batch, capacity, step = len(case.lengths), max(case.lengths) + 3, case.d + case.gap
    q = randn(batch, case.heads, step, dtype=dtype, scale=size)
    k, v = (randn(batch, capacity, case.kv, step, dtype=dtype, seed=seed) for seed in (1, 2))
    for x in (q, k, v):
        x[..., : case.gap] = float("nan")
    for b, length in enumerate(case.lengths):
        k[b, length:], v[b, length:] = float("nan"), float("nan")
    return q, k, v


def wanted(case: Case, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, b: int, kind: torch.dtype) -> torch.Tensor:
    """(heads, d) of sequence b, as torch computes it."""
    first = 0 if case.left < 0 else max(0, case.lengths[b] - 1 - case.left)
    query = q[b, :, case.gap :].to(kind)[None, :, None]
    keys, values = (x[b, first : case.lengths[b], :, case.gap :].to(kind).transpose(0, 1)[None] for x in (k, v))
    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(query, keys, values, scale=case.d**-0.5, enable_gqa=True)[0, :, 0]


def check(kernels: Kernels, case: Case, dtype: str, piece: int, schedules: bool = True, size: float = 1.0) -> None:
    q, k, v = inputs(case, dtype, size)

    def go(seed: int) -> torch.Tensor:
        return run(kernels, case, q, k, v, piece, seed)

    out = each_schedule(go) if schedules else go(0)
    for b in range(len(case.lengths)):
        plain, exact = (wanted(case, q, k, v, b, kind) for kind in (q.dtype, torch.float64))
        assert_as_good(out[b], plain, exact)


# Lengths, query heads, key heads, width; a window that hides whole pieces; more heads than a block takes at a time.
CASES = [
    (Case((1,), 1, 1, 1, gap=1), 32),
    (Case((33, 5, 70), 4, 2, 64), 32),
    (Case((100,), 10, 1, 80), 64),
    (Case((65, 40), 3, 3, 9, gap=7), 32),
    (Case((150, 20), 2, 1, 128, left=40), 64),
    (Case((40,), 2, 2, 96), 256),
    (Case((70,), 1, 1, 200), 40),
]


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize(("case", "piece"), CASES, ids=str)
def test_decode(kernels: Kernels, case: Case, piece: int, dtype: str) -> None:
    check(kernels, case, dtype, piece)


def test_magnitudes(kernels: Kernels) -> None:
    for size in (1e-3, 30.0):
        check(kernels, Case((70,), 2, 1, 64), "float16", 32, schedules=False, size=size)


def test_a_longer_cache_changes_nothing(kernels: Kernels) -> None:
    """Pieces begin at fixed positions: what is to the right, or how much may come, does not move a bit."""
    case = Case((60,), 2, 1, 64)
    q, k, v = inputs(case, "bfloat16")
    alone = run(kernels, case, q, k, v, 32)
    longer = Case((60, 130), 2, 1, 64)
    more = [torch.cat([x, x]) for x in (q, torch.nn.functional.pad(k, (0, 0, 0, 0, 0, 70), value=1.0), v)]
    more[2] = torch.nn.functional.pad(v, (0, 0, 0, 0, 0, 70), value=1.0).repeat(2, 1, 1, 1)
    assert bits(run(kernels, longer, *more, 32)[:1]) == bits(alone)


def battery(kernels: Kernels) -> None:
    for case, piece in [
        (Case((33, 5, 70), 4, 2, 64), 32),
        (Case((100,), 10, 1, 40), 64),
        (Case((90, 20), 2, 1, 9, left=40, gap=7), 64),
    ]:
        for dtype in ("float16", "float32"):
            check(kernels, case, dtype, piece, schedules=False)


@mutants(
    Narrow("attention", "no barrier before values come", "__syncthreads();  // keys and queries", "// keys and queries"),
    Narrow("attention", "no barrier before sums", "__syncthreads();  // values and weights", "// values and weights"),
    Narrow("attention", "no barrier between parts", "__syncthreads();  // the queries have", "// the queries have"),
    Narrow("attention", "no barrier after parts", "__syncthreads();  // all parts", "// all parts"),
    Narrow("attention", "keys not waited for", "wait_copies<0>();\n        __syncthreads();  // keys and", "__syncthreads();  // keys and"),
    Narrow("attention", "values not waited for", "wait_copies<0>();\n        __syncthreads();  // values and", "__syncthreads();  // values and"),
    Narrow("attention", "keys beyond the piece", "from + int(lane()) < at.end ?", "true ?"),
    Narrow("attention", "the window one key short", "length - 1 - p.left", "length - p.left"),
    Narrow("attention", "the window forgotten", "p.left < 0 ? 0 : length - 1 - p.left", "0"),
    Narrow("attention", "beyond the length", "min(int((piece + 1) * p.piece), length)", "int((piece + 1) * p.piece)"),
    Narrow("attention", "heads of another group", "head += kv_head * shared;", "head += kv_head;"),
    Narrow("attention", "the ninth head left out", "rest % groups * DECODE_HEADS", "0"),
    Narrow("attention", "sums keep their top", "fmaf(sum[i], shrink, weight)", "sum[i] + weight"),
    Narrow("attention", "values keep their top", "o[h][0] *= shrinks[h], o[h][1] *= shrinks[h]", "o[h][0] += 0"),
    Narrow("attention", "a part left out", "*x = turn == 0 ? o[h][j] : *x + o[h][j]", "*x = o[h][j]"),
    Narrow("attention", "a piece of another top", "exponential<T>((top[s] - best) * scale * UNIT<T>), partial", "1.0f, partial"),
    Narrow("attention", "a sum of another top", "exponential<T>((top[s] - best) * scale * UNIT<T>), sum", "1.0f, sum"),
    Narrow("attention", "the cache of another sequence", "p.k.begin(k, at.sequence, at.kv_head)", "p.k.begin(k, 0, at.kv_head)"),
)  # fmt: skip
def test_a_mistake_is_seen(mutant: Narrow) -> None:
    must_be_caught(mutant, battery)
