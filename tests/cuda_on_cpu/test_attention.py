from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass

import pytest
import torch
from parity import assert_as_good, bits, plain_and_exact, randn

from cuda_on_cpu import build
from cuda_on_cpu.checks import DTYPES, Mutant, each_schedule, must_be_caught, mutants, name_of
from cuda_on_cpu.emulator import In, KernelError, Kernels, Out, poison
from cuda_on_cpu.test_compile import script


class Heads(ctypes.Structure):
    """attention::Heads: elements from one sequence, token and head to the next."""

    _fields_ = [(name, ctypes.c_size_t) for name in ("sequence", "token", "head")]


class Problem(ctypes.Structure):
    """attention::Problem."""

    _fields_ = [
        *[(name, Heads) for name in ("q", "k", "v", "out", "dout", "dq", "dk", "dv")],
        *[(name, ctypes.c_uint) for name in ("heads", "kv_heads", "d")],
        *[(name, ctypes.c_int) for name in ("time", "left", "right")],
        ("scale", ctypes.c_float),
    ]


@dataclass(frozen=True)
class Grid:
    """Where heads stand in a piece of memory."""

    offset: int
    sequence: int
    token: int
    head: int

    def heads(self) -> Heads:
        return Heads(self.sequence, self.token, self.head)

    def of(self, memory: torch.Tensor, batch: int, heads: int, time: int, d: int) -> torch.Tensor:
        """(batch, heads, time, d), a view."""
        return memory.as_strided((batch, heads, time, d), (self.sequence, self.head, self.token, 1), self.offset)


@dataclass(frozen=True)
class Case:
    batch: int
    time: int
    heads: int
    kv: int
    d: int
    left: int = -1
    right: int = 0  # causal
    documents: tuple[int, ...] = ()  # lengths, over all sequences
    gap: int = 8  # elements after each head; vectors fit where d + gap allows it
    apart: bool = False  # each tensor by itself as (batch, heads, time, d); else rows of queries, keys and values

    def __str__(self) -> str:
        return "-".join(str(getattr(self, name)) for name in self.__dataclass_fields__)

    @property
    def width(self) -> int:
        return next(width for width in script.WIDTHS if width >= self.d)

    @property
    def counts(self) -> dict[str, int]:
        return {"q": self.heads, "k": self.kv, "v": self.kv}

    def grids(self) -> tuple[dict[str, Grid], int]:
        """Of q, k and v, which share one piece of memory, and its size; something is between all heads."""
        step = self.d + self.gap
        start = 8 if step % 8 == 0 or self.heads % 8 == 0 else self.gap
        grids, at = {}, start
        row = start + sum(self.counts.values()) * step
        for name, heads in self.counts.items():
            if self.apart:
                grids[name] = Grid(at, heads * self.time * step, step, self.time * step)
                at += self.batch * heads * self.time * step
            else:
                grids[name] = Grid(at, self.time * row, row, step)
                at += heads * step
        return grids, at if self.apart else self.batch * self.time * row

    def out(self) -> Grid:
        """Of the result, without anything between."""
        size = self.heads * self.time * self.d
        return Grid(0, size, self.d, self.time * self.d) if self.apart else Grid(0, size, self.heads * self.d, self.d)

    def problem(self, scale: float) -> Problem:
        q, k, v = (grid.heads() for grid in self.grids()[0].values())
        out = self.out().heads()
        numbers = (self.heads, self.kv, self.d, self.time, self.left, self.right)
        return Problem(q, k, v, out, out, q, k, v, *numbers, scale)

    def seen(self) -> torch.Tensor:
        """(batch, time, time): which key each query sees."""
        t = torch.arange(self.time)
        far = t[None, :] - t[:, None]
        mask = torch.ones(self.time, self.time, dtype=torch.bool)
        if self.left >= 0:
            mask &= far >= -self.left
        if self.right >= 0:
            mask &= far <= self.right
        lengths = self.documents or (self.batch * self.time,)
        document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        document = document.view(self.batch, self.time)
        return mask & (document[:, :, None] == document[:, None, :])

    def blocks(self, kernel: str, heads: int) -> int:
        rows = script.attention(kernel)[0]
        return -(-self.time // rows) * heads * self.batch


def spans_of(kernels: Kernels, case: Case, seed: int) -> torch.Tensor | None:
    if not case.documents:
        return None
    ends = torch.tensor(case.documents).cumsum(0).int()
    spans = poison(case.batch * case.time, 2, dtype=torch.int32)
    kernels.launch(
        "attention_spans", 2, 32, Out(spans), In(ends), len(ends), case.time, case.batch * case.time, seed=seed
    )
    return spans


def run(
    kernels: Kernels, case: Case, qkv: torch.Tensor, dout: torch.Tensor, scale: float, seed: int
) -> tuple[torch.Tensor, ...]:
    """(out, lse, delta, dqkv); qkv, dqkv: one piece of memory; out, dout: (batch, heads, time, d) as `case.out()` has it."""
    name, problem, grids = f"{name_of(qkv)}_d{case.width}", case.problem(scale), case.grids()[0].values()
    spans = spans_of(kernels, case, seed)
    out, lse, delta = poison(dout.numel(), dtype=qkv.dtype), *[poison(case.batch, case.heads, case.time) for _ in "ab"]
    dqkv, grad = poison(*qkv.shape, dtype=qkv.dtype), In(dout)
    x, s = [In(qkv[grid.offset :]) for grid in grids], None if spans is None else In(spans)
    dq, dk, dv = (Out(dqkv[grid.offset :]) for grid in grids)

    def launch(kernel: str, heads: int, *arguments: object) -> None:
        _, threads, shared = script.attention(kernel)
        kernels.launch(kernel, case.blocks(kernel, heads), threads, *arguments, problem, shared=shared, seed=seed)

    launch(f"attention_fwd_{name}", case.heads, Out(out), Out(lse), *x, s)
    rows = case.batch * case.time * case.heads
    kernels.launch(f"attention_delta_{name_of(qkv)}", 2, 64, Out(delta), In(out), grad, problem, rows, seed=seed)
    launch(f"attention_bwd_kv_{name}", case.kv, dk, dv, grad, *x, In(lse), In(delta), s)
    launch(f"attention_bwd_q_{name}", case.heads, dq, grad, *x, In(lse), In(delta), s)
    return out, lse, delta, dqkv


def check(kernels: Kernels, case: Case, dtype: str, schedules: bool = True, size: float = 1.0) -> None:
    grids, elements = case.grids()
    shape = (case.batch, case.heads, case.time, case.d)
    q, k, v = (
        randn(case.batch, n, case.time, case.d, dtype=dtype, seed=i, scale=size)
        for i, n in enumerate(case.counts.values())
    )
    dout, qkv = randn(q.numel(), dtype=dtype, seed=3), poison(elements, dtype=q.dtype)
    for grid, x in zip(grids.values(), (q, k, v), strict=True):
        grid.of(qkv, *x.shape).copy_(x)
    scale, seen = case.d**-0.5, case.seen()[:, None]

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, seen, scale=scale, enable_gqa=True)

    def go(seed: int) -> tuple[torch.Tensor, ...]:
        return run(kernels, case, qkv, dout, scale, seed)

    out, lse, delta, dqkv = each_schedule(go) if schedules else go(0)
    result, gradient = (case.out().of(x, *shape) for x in (out, dout))
    plain, exact = plain_and_exact(attend, [q, k, v], gradient)
    assert_as_good(result, plain[0], exact[0])

    def lse_in(kind: torch.dtype) -> torch.Tensor:
        scores = q.to(kind) @ k.to(kind).repeat_interleave(case.heads // case.kv, 1).transpose(2, 3) * scale
        return scores.masked_fill(~seen, float("-inf")).logsumexp(-1)

    assert_as_good(lse, lse_in(torch.float32), lse_in(torch.float64))
    assert_as_good(delta, (result.float() * gradient.float()).sum(-1), (result.double() * gradient.double()).sum(-1))
    for (name, grid), p, e in zip(grids.items(), plain[1:], exact[1:], strict=True):
        ours = grid.of(dqkv, case.batch, case.counts[name], case.time, case.d)
        assert_as_good(ours, p, e, factor=3)
        ours.fill_(float("nan"))
    assert dqkv.isnan().all()  # nothing between the heads


SMALL = [
    Case(1, 1, 1, 1, 1, gap=2),
    Case(1, 33, 1, 1, 9, gap=7),  # vectors fit everywhere but in a head
    Case(1, 18, 2, 1, 30, right=-1, gap=3),
    Case(2, 19, 2, 1, 64, right=3, apart=True),
    Case(2, 9, 3, 3, 20, gap=1, apart=True),
    Case(2, 40, 4, 2, 64, left=20),
    Case(2, 37, 2, 1, 72, right=-1, documents=(3, 0, 30, 20, 21)),
    Case(1, 70, 1, 1, 80, left=30, right=9),
    Case(1, 17, 1, 1, 96),
    Case(1, 34, 2, 2, 100, gap=4),
    Case(1, 18, 1, 1, 128, left=0),
    Case(1, 18, 1, 1, 128, left=1),
    Case(1, 20, 1, 1, 200, left=9, documents=(13, 7)),
]
# Several blocks of queries and of keys, some of which nobody sees.
LARGE = [
    Case(1, 300, 1, 1, 64, left=150),
    Case(1, 200, 2, 1, 128, documents=(10, 160, 30)),
    Case(1, 129, 1, 1, 96, right=-1),
    Case(2, 65, 1, 1, 256),
]


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_forward_and_backward(kernels: Kernels, case: Case, dtype: str) -> None:
    if case.left == 0 and dtype == "bfloat16":
        pytest.skip("dq and dk are 0, and how little torch misses that by in bfloat16 depends on the processor")
    check(kernels, case, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_many_tiles(kernels: Kernels, case: Case, dtype: str) -> None:
    check(kernels, case, dtype, schedules=False)


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_magnitudes(kernels: Kernels, dtype: str) -> None:
    """Rows that are almost one-hot, and rows that are almost even."""
    for size in (4.0, 1e-3):
        check(kernels, Case(1, 70, 1, 1, 64), dtype, schedules=False, size=size)


def outputs(kernels: Kernels, case: Case, qkv: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, ...]:
    dout = randn(case.batch * case.time * case.heads * case.d, dtype=str(qkv.dtype)[6:], seed=3)
    return run(kernels, case, qkv, dout, case.d**-0.5, seed)


def test_a_query_that_is_not_finite_stays_in_its_row(kernels: Kernels) -> None:
    case = Case(1, 20, 1, 1, 64)
    grids, elements = case.grids()
    qkv = randn(elements, dtype="float16")
    grids["q"].of(qkv, 1, 1, 20, 64)[0, 0, 7, 63] = float("nan")
    out, lse, _, _ = outputs(kernels, case, qkv)
    for rows in (out.view(20, 64).isnan().any(1), lse[0, 0].isnan()):
        assert rows.nonzero().flatten().tolist() == [7]


def test_documents_are_sequences_of_their_own(kernels: Kernels) -> None:
    """Bit for bit: whether one stands alone, or between others."""
    whole = Case(1, 48, 2, 1, 64, documents=(16, 16, 16))
    qkv = randn(whole.grids()[1], dtype="bfloat16")
    apart = Case(3, 16, 2, 1, 64)
    assert torch.equal(whole.seen()[0], torch.block_diag(*apart.seen()))
    out, lse, *_ = outputs(kernels, whole, qkv)
    alone, alone_lse, *_ = outputs(kernels, apart, qkv)
    assert bits(out[: 16 * 2 * 64]) == bits(alone[: 16 * 2 * 64])
    assert (out.float() - alone.float()).abs().max() < 2e-2
    assert (lse.view(2, 3, 16).transpose(0, 1) - alone_lse).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("ends", "want"),
    [
        ([7], [(0, 4)] * 4 + [(0, 3)] * 3 + [(3, 4)]),  # what follows the last end is a document too
        ([2, 2, 6, 8], [(0, 2)] * 2 + [(2, 4)] * 2 + [(0, 2)] * 2 + [(2, 4)] * 2),  # cut where the sequence ends
        ([1, 3, 4, 8], [(0, 1), (1, 3), (1, 3), (3, 4)] + [(0, 4)] * 4),
    ],
)
def test_spans(kernels: Kernels, ends: list[int], want: list[tuple[int, int]]) -> None:
    spans = poison(8, 2, dtype=torch.int32)
    kernels.launch("attention_spans", 2, 32, Out(spans), In(torch.tensor(ends).int()), len(ends), 4, 8)
    assert [tuple(span) for span in spans.tolist()] == want


def no_conflicts(kernels: Kernels) -> None:
    """Each ldmatrix of each width reads every bank once."""
    kernels.bank_conflicts()
    for width in script.WIDTHS:
        if f"attention_fwd_f16_d{width}" in kernels:
            check(kernels, Case(1, 17, 1, 1, width), "float16", schedules=False)
            assert kernels.bank_conflicts() == 0, width


def test_no_bank_conflicts(kernels: Kernels) -> None:
    no_conflicts(kernels)


@pytest.fixture(scope="module")
def checked() -> Kernels:
    """Also where the others are built for sanitizers, which end the process at an error."""
    return Kernels(build.library(build.sources()))


@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize("width", script.WIDTHS)
def test_shared_memory_is_what_the_table_says(checked: Kernels, width: int, dtype: str) -> None:
    """With 16 bytes less, a kernel goes beyond its end; 99 KiB is what a block can have on sm_86 and sm_89."""
    case = Case(1, 128, 1, 1, width)  # so that each warp has rows
    qkv = randn(case.grids()[1], dtype=DTYPES[dtype])
    x, out, lse = [In(qkv)] * 3, poison(128 * width, dtype=qkv.dtype), torch.zeros(1, 1, 128)
    problem, saved = case.problem(1.0), [In(torch.zeros_like(out)), *x, In(lse), In(lse), None]
    for kernel, arguments in {
        f"attention_fwd_{dtype}_d{width}": [Out(out), Out(lse), *x, None],
        f"attention_bwd_kv_{dtype}_d{width}": [Out(qkv.clone()), Out(qkv.clone()), *saved],
        f"attention_bwd_q_{dtype}_d{width}": [Out(qkv.clone()), *saved],
    }.items():
        _, threads, shared = script.attention(kernel)
        assert shared <= 99 << 10
        with pytest.raises(
            KernelError, match=r"shared memory .* beyond its end|outside of every buffer|memory that is not shared"
        ):
            checked.launch(kernel, 1, threads, *arguments, problem, shared=shared - 16)


BATTERY = [
    Case(1, 33, 1, 1, 9, gap=7),
    Case(2, 40, 4, 2, 40, left=20),
    Case(2, 70, 2, 1, 64, right=30, documents=(3, 0, 60, 20, 57)),
    Case(1, 140, 1, 1, 64),
    Case(1, 20, 1, 1, 256),
    Case(2, 9, 4, 2, 16, gap=1, apart=True),
    Case(1, 5, 8, 8, 16, gap=1),  # vectors fit rows and the first head of each operand, but no other
]


def battery(kernels: Kernels) -> None:
    for case in [case for case in BATTERY if f"attention_fwd_f16_d{case.width}" in kernels]:
        for dtype in ("float16", "float32"):
            check(kernels, case, dtype, schedules=False)
    no_conflicts(kernels)


class Narrow(Mutant):
    """With heads of one width, which saves the compiler's time."""

    others = r"ATTENTION\(name, T, (80|96|128|256)\)"

    def text(self) -> str:
        return re.sub(self.others, "", super().text())


class Wide(Narrow):
    """With heads of which several warps share the results."""

    others = r"ATTENTION\(name, T, (64|80|96|128)\)"


@mutants(
    Narrow("attention", "no barrier before the values come", "__syncthreads();  // the keys are", "// the keys are"),
    Narrow("attention", "no barrier before the keys come", "__syncthreads();  // the values are", "// the values are"),
    Narrow("attention", "no barrier between stages", "__syncthreads();  // this stage is", "// this stage is"),
    Wide("attention", "no barrier before the results", "__syncthreads();  // nobody reads the rows", "// the rows"),
    Narrow("attention", "no barrier after the results", "__syncthreads();  // the results are", "// the results are"),
    Narrow("attention", "no meeting before out is sent", "__syncwarp();  // the rows are", "// the rows are"),
    Narrow("attention", "no meeting before lending", "__syncwarp();  // what was lent", "// what was lent"),
    Narrow("attention", "no meeting after lending", "__syncwarp();  // it is lent", "// it is lent"),
    Narrow("attention", "waits for a group too few", "wait_copies<0>()", "wait_copies<1>()"),
    Narrow("attention", "does not wait for keys", "wait_copies<0>();\n        __syncthreads();  // the keys", "__syncthreads();  // the keys"),
    Narrow("attention", "does not wait for values", "wait_copies<0>();\n        __syncthreads();  // the values", "__syncthreads();  // the values"),
    Narrow("attention", "lse in the wrong stage", "queries[(stage ^ 1) * COLUMNS", "queries[stage * COLUMNS"),
    Narrow("attention", "the other stage", "c.from(stage * COLUMNS));", "c.from((stage ^ 1) * COLUMNS));"),
    Narrow("attention", "one key too many", "t + after + 1", "t + after + 2"),
    Narrow("attention", "one key too few", "t - before)", "t - before + 1)"),
    Narrow("attention", "the end is seen", "at >= seen.end", "at > seen.end"),
    Narrow("attention", "a tile left out", "from < any.end && from", "from + count < any.end && from"),
    Narrow("attention", "a tile not masked", "from + count <= common.end", "from <= common.end"),
    Narrow("attention", "a tile not masked at its begin", "return from >= common.begin &&", "return"),
    Narrow("attention", "the window is not turned", "KV ? p.right : p.left, KV ? p.left : p.right", "p.left, p.right"),
    Narrow("attention", "the other fragment", "b.at(l % 8 + l / 16 * 8, 2 * k + l / 8 % 2)", "b.at(l % 16, 2 * k + l / 16)"),
    Narrow("attention", "not transposed", "load_matrices_transposed(both", "load_matrices(both"),
    Narrow("attention", "neighbours swapped", "pack<T>(pair[i % 2 * 2], pair[i % 2 * 2 + 1])", "pack<T>(pair[i % 2 * 2 + 1], pair[i % 2 * 2])"),
    Narrow("attention", "rows swapped", "p[i / 4][k + i % 4 / 2]", "p[i / 4][k + i % 2]"),
    Narrow("attention", "two chunks at one place", "(chunk % G ^ row / (8 / G) % G)", "(chunk % G | row / (8 / G) % G)"),
    Narrow("attention", "bank conflicts", "(chunk % G ^ row / (8 / G) % G)", "chunk % G"),
    Narrow("attention", "lent to the wrong row", "fmaf(left[i / 2], right", "fmaf(left[0], right"),
    Narrow("attention", "a lane left out of the maximum", "return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));", "return x;"),
    Narrow("attention", "a lane left out of the sum", "return x + __shfl_xor_sync(0xffffffffu, x, 2);", "return x;"),
    Narrow("attention", "the old sum keeps its top", "rows.sum[m][i % 2] * shrink", "rows.sum[m][i % 2]"),
    Narrow("attention", "old values keep their top", "o[m][n][h] *= shrink, o[m][n][h + 1] *= shrink;", ";"),
    Narrow("attention", "a row that sees nothing yet", "top == -infinity() ? 0.0f : top * scale", "top * scale"),
    Narrow("attention", "lse without its sum", "p.scale, logf(sum))", "p.scale, 0.0f)"),
    Narrow("attention", "lse in other units", "lse[row + t] * UNIT<T>", "lse[row + t]"),
    Narrow("attention", "delta left out", "(d[0][n][r] - of.delta)", "d[0][n][r]"),
    Narrow("attention", "gradients without the scale", "{{p.scale, p.scale}}", "{{1.0f, 1.0f}}"),
    Narrow("attention", "another key head", "at.head / (p.heads / p.kv_heads)", "at.head % p.kv_heads"),
    Narrow("attention", "a query head left out", "head < last)", "head + 1 < last)"),
    Narrow("attention", "tokens beyond the sequence", "from, r < left && c", "from, c"),
    Narrow("attention", "columns beyond the head", "r < left && c * W < int(d));", "r < left);"),
    Narrow("attention", "vectors in odd heads", " && ::fits<T>(p.d)", ""),
    Narrow("attention", "vectors at odd heads", " && ::fits<T>(h.head)", ""),
    Narrow("attention", "lse of another head", "* p.heads + at.head) * p.time", "* p.heads) * p.time"),
    Narrow("attention", "delta of another token", "(size_t(b) * p.heads + head) * p.time + t", "row"),
    Narrow("attention", "delta of another head", "p.dout.begin(dout, b, head)", "p.dout.begin(dout, b, 0)"),
    Narrow("attention", "the place of q for its gradient", "KV ? p.dk : p.dq", "KV ? p.dk : p.dk"),
    Narrow("attention", "delta without a lane", "bits = LANES / 2; bits > 0", "bits = LANES / 2; bits > 1"),
    Narrow("attention", "a document ends early", "ends[middle]) <= n", "ends[middle]) < n"),
    Narrow("attention", "a document goes beyond its sequence", "(end < last ? end : last)", "end"),
)  # fmt: skip
def test_a_mistake_is_seen(mutant: Mutant) -> None:
    must_be_caught(mutant, battery)
