from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from parity import assert_as_good, bits, plain_and_exact, randn

from cuda_on_cpu import build
from cuda_on_cpu.checks import DTYPES, Mutant, each_schedule, must_be_caught, mutants, name_of
from cuda_on_cpu.emulator import In, KernelError, Kernels, Out, poison
from cuda_on_cpu.test_compile import script


class Problem(ctypes.Structure):
    """attention::Problem."""

    _fields_ = [
        *[(f"{tensor}_{what}", ctypes.c_size_t) for tensor in "qkv" for what in ("offset", "stride", "row")],
        *[(name, ctypes.c_uint) for name in ("heads", "kv_heads", "d")],
        *[(name, ctypes.c_int) for name in ("time", "left", "right")],
        ("scale", ctypes.c_float),
    ]


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
    gap: int = 8  # elements between heads; an odd number forbids vectors

    def __str__(self) -> str:
        return "-".join(str(getattr(self, name)) for name in self.__dataclass_fields__)

    @property
    def width(self) -> int:
        return next(width for width in script.WIDTHS if width >= self.d)

    def offsets(self) -> tuple[list[tuple[int, int, int]], int]:
        """(offset, stride, heads) of q, k and v, and the row: all queries, all keys, all values, a gap after each head."""
        step, at, places = self.d + self.gap, self.gap, []
        for heads in (self.heads, self.kv, self.kv):
            places.append((at, step, heads))
            at += heads * step
        return places, at + self.gap

    def problem(self, scale: float) -> Problem:
        places, row = self.offsets()
        flat = [number for offset, stride, _ in places for number in (offset, stride, row)]
        return Problem(*flat, self.heads, self.kv, self.d, self.time, self.left, self.right, scale)

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


def place(packed: torch.Tensor, x: torch.Tensor, at: tuple[int, int, int]) -> None:
    """x (batch, heads, time, d) into rows."""
    offset, stride, heads = at
    for a in range(heads):
        packed[:, offset + a * stride : offset + a * stride + x.shape[-1]] = x[:, a].reshape(-1, x.shape[-1])


def taken(packed: torch.Tensor, case: Case, at: tuple[int, int, int]) -> torch.Tensor:
    offset, stride, heads = at
    parts = [packed[:, offset + a * stride : offset + a * stride + case.d] for a in range(heads)]
    return torch.stack(parts, 1).view(case.batch, case.time, heads, case.d).transpose(1, 2)


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
    """(out, lse, delta, dqkv)"""
    name, problem = f"{name_of(qkv)}_d{case.width}", case.problem(scale)
    spans = spans_of(kernels, case, seed)
    out, lse, delta = poison(*dout.shape, dtype=qkv.dtype), poison(case.batch, case.heads, case.time), None
    delta, dqkv = poison(case.batch, case.heads, case.time), poison(*qkv.shape, dtype=qkv.dtype)
    x, s = [In(qkv)] * 3, None if spans is None else In(spans)

    def launch(kernel: str, heads: int, *arguments: object) -> None:
        _, threads, shared = script.attention(kernel)
        kernels.launch(kernel, case.blocks(kernel, heads), threads, *arguments, shared=shared, seed=seed)

    launch(f"attention_fwd_{name}", case.heads, Out(out), Out(lse), *x, s, problem)
    rows = case.batch * case.time * case.heads
    kernels.launch(
        f"attention_delta_{name_of(qkv)}", 2, 64, Out(delta), In(out), In(dout), case.heads, case.d, case.time, rows,
        seed=seed,
    )  # fmt: skip
    saved = [In(dout), *x, In(lse), In(delta), s, problem]
    launch(f"attention_bwd_kv_{name}", case.kv, Out(dqkv), Out(dqkv), *saved)
    launch(f"attention_bwd_q_{name}", case.heads, Out(dqkv), *saved)
    return out, lse, delta, dqkv


def check(kernels: Kernels, case: Case, dtype: str, schedules: bool = True, size: float = 1.0) -> None:
    places, row = case.offsets()
    counts = (case.heads, case.kv, case.kv)
    q, k, v = (randn(case.batch, n, case.time, case.d, dtype=dtype, seed=i, scale=size) for i, n in enumerate(counts))
    dout = randn(case.batch, case.time, case.heads, case.d, dtype=dtype, seed=3)
    qkv = poison(case.batch * case.time, row, dtype=q.dtype)
    for x, at in zip((q, k, v), places, strict=True):
        place(qkv, x, at)
    scale, seen = case.d**-0.5, case.seen()[:, None]

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, seen, scale=scale, enable_gqa=True)

    def go(seed: int) -> tuple[torch.Tensor, ...]:
        return run(kernels, case, qkv, dout, scale, seed)

    out, lse, delta, dqkv = each_schedule(go) if schedules else go(0)
    plain, exact = plain_and_exact(attend, [q, k, v], dout.transpose(1, 2))
    assert_as_good(out.transpose(1, 2), plain[0], exact[0])

    def lse_in(kind: torch.dtype) -> torch.Tensor:
        scores = q.to(kind) @ k.to(kind).repeat_interleave(case.heads // case.kv, 1).transpose(2, 3) * scale
        return scores.masked_fill(~seen, float("-inf")).logsumexp(-1)

    assert_as_good(lse, lse_in(torch.float32), lse_in(torch.float64))
    products = (out.double() * dout.double()).sum(-1).transpose(1, 2)
    assert_as_good(delta, (out.float() * dout.float()).sum(-1).transpose(1, 2), products)
    for at, p, e in zip(places, plain[1:], exact[1:], strict=True):
        assert_as_good(taken(dqkv, case, at), p, e, factor=3)
        place(dqkv, torch.full_like(taken(dqkv, case, at), float("nan")), at)
    assert dqkv.isnan().all()  # nothing between the heads
