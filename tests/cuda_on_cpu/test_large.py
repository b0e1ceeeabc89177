"""Sizes of real models, and offsets beyond 32 bits in memory of which only a few pages exist."""

from __future__ import annotations

import mmap
from collections.abc import Callable

import pytest
import torch
from loss_options import OPTIONS
from parity import randn

from cuda_on_cpu import (
    test_adamw,
    test_attention,
    test_column_sums,
    test_cross_entropy,
    test_embedding,
    test_gated_mlp,
    test_grad_norm,
    test_layer_norm,
    test_rms_norm,
    test_rotary,
)
from cuda_on_cpu.checks import Mutant, must_be_caught, mutants
from cuda_on_cpu.emulator import In, InOut, Kernels, Out, poison

CHECKS: dict[str, Callable[[Kernels], None]] = {
    "rms_norm": lambda k: test_rms_norm.check(k, (2, 8200, 512, 2), "bfloat16", True),
    "rms_norm_beyond_registers": lambda k: test_rms_norm.check(k, (2, 8200, 256, 1), "float32", True),
    "layer_norm": lambda k: test_layer_norm.check(k, (2, 5120, 512, 2), "bfloat16", True),
    "layer_norm_beyond_registers": lambda k: test_layer_norm.check(k, (3, 5120, 128, 2), "float32", True),
    "gated_mlp": lambda k: test_gated_mlp.check_gated(k, 2, 5504, 256, (3, 2), "bfloat16", 2),
    "rotary": lambda k: test_rotary.check(k, (1, 20, 16, 128, 128, 2000), "bfloat16", False),
    "cross_entropy": lambda k: test_cross_entropy.check_case(k, (3, 50_000, 512, 3), "bfloat16", OPTIONS["all"]),
    "embedding": lambda k: test_embedding.check(k, (1500, 300, 40), "bfloat16"),
    "adamw": lambda k: test_adamw.check(k, [(9_001, 0.1), (2, 0.0), (2_997, 0.1)], "bfloat16"),
    "grad_norm": lambda k: test_grad_norm.check_norm(k, (200_001, 512, 24), 1.0),
    "attention": lambda k: test_attention.check(k, test_attention.Case(1, 260, 2, 1, 128, left=200), "bfloat16", False),
    "column_sums": lambda k: test_column_sums.check(k, (3000, 40, 16), "bfloat16"),
}


@pytest.mark.parametrize("name", CHECKS)
def test_sizes_of_real_models(kernels: Kernels, name: str) -> None:
    CHECKS[name](kernels)


NO_RESERVE = 0x4000  # MAP_NORESERVE of Linux
FAR = 2**31 + 8  # elements


def sparse(elements: int) -> torch.Tensor:
    """f16 zeros; a page exists once it is written."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
    return torch.frombuffer(mmap.mmap(-1, 2 * elements, flags=flags), dtype=torch.float16)


def check_far_rows(kernels: Kernels) -> None:
    """Two rows of a tensor that is a little larger than 2³¹ elements, then of one beyond 2³²."""
    for row in (FAR, 2 * FAR):
        gate, h = sparse(row + 64), poison(2, 32, dtype=torch.float16)
        gate[:64], gate[row:] = randn(64, dtype="float16"), randn(64, dtype="float16", seed=1)
        kernels.launch("gated_mlp_fwd_f16", (1, 2), 32, Out(h), In(gate), In(gate[32:]), 3, 2, 32, row)
        for n in range(2):
            assert torch.equal(h[n], gate[n * row : n * row + 32].relu() * gate[n * row + 32 : n * row + 64])


def check_far_heads(kernels: Kernels) -> None:
    cos, sin = test_rotary.tables(2, 16)
    qkv = sparse(FAR + 32)
    x = randn(2, 1, 1, 16, dtype="float16")
    qkv[8:24], qkv[FAR + 8 : FAR + 24] = x[0, 0, 0], x[1, 0, 0]
    kernels.launch("rotary_f16", 2, 32, InOut(qkv), In(cos), In(sin), 2, FAR, 8, 16, 1, 8, 0, 1, 1, 1.0)
    want = test_rotary.rotated(x, cos[1:], sin[1:], 16)
    assert (qkv[8:24] - want[0, 0, 0]).abs().max() < 2e-3 and (
        qkv[FAR + 8 : FAR + 24] - want[1, 0, 0]
    ).abs().max() < 2e-3
    assert not qkv[8:24].equal(x[0, 0, 0])


def check_far_table(kernels: Kernels) -> None:
    d, last = 4096, FAR // 4096
    table, ids, y = sparse((last + 1) * d), torch.tensor([last], dtype=torch.int32), poison(1, d, dtype=torch.float16)
    table[last * d :] = randn(d, dtype="float16")
    kernels.launch("embedding_fwd_f16", 1, 128, Out(y), In(table), In(ids), 1, d)
    assert torch.equal(y[0], table[last * d :])


def check_far_attention(kernels: Kernels) -> None:
    """Two tokens far apart, against the same two side by side."""
    x, dout = randn(2, 192, dtype="float16"), randn(2 * 64, dtype="float16", seed=1)

    def run(row: int) -> list[torch.Tensor]:
        qkv, dqkv, out, lse = sparse(row + 192), sparse(row + 192), poison(2 * 64, dtype=x.dtype), poison(1, 1, 2)
        qkv[:192], qkv[row:] = x
        far, near = test_attention.Heads(0, row, 0), test_attention.Heads(0, 64, 0)
        problem = test_attention.Problem(far, far, far, near, near, far, far, far, 1, 1, 64, 2, -1, 0, 0.125)
        delta, operands = torch.zeros(1, 1, 2), [In(qkv[at:]) for at in (0, 64, 128)]
        dq, dk, dv = (Out(dqkv[at:]) for at in (0, 64, 128))
        saved = [In(dout), *operands, In(lse), In(delta), None, problem]
        for kernel, arguments in {
            "attention_fwd_f16_d64": [Out(out), Out(lse), *operands, None, problem],
            "attention_bwd_kv_f16_d64": [dk, dv, *saved],
            "attention_bwd_q_f16_d64": [dq, *saved],
        }.items():
            tiles = test_attention.script.attention(kernel)
            kernels.launch(kernel, 1, tiles[1], *arguments, shared=tiles[2])
        return [out, lse, dqkv[:192].clone(), dqkv[row:].clone()]

    near, far = run(192), run(FAR)
    assert all(torch.equal(a, b) for a, b in zip(near, far, strict=True)) and far[3].abs().min() > 0


@pytest.mark.parametrize("check", [check_far_rows, check_far_heads, check_far_table, check_far_attention])
def test_offsets_beyond_32_bits(kernels: Kernels, check: Callable[[Kernels], None]) -> None:
    check(kernels)


FAR_CHECKS = {
    "gated_mlp": check_far_rows,
    "rotary": check_far_heads,
    "embedding": check_far_table,
    "attention": check_far_attention,
}


@mutants(
    Mutant("gated_mlp", "32 bits in an offset", "gate + n * row + i", "gate + unsigned(n * row + i)"),
    Mutant("rotary", "32 bits in a row", "qkv + n * row + offset", "qkv + int(n * row) + offset"),
    test_attention.Narrow(
        "attention", "32 bits in a tile", "head + (first + r) * row", "head + (first + r) * int(row)"
    ),
    test_attention.Narrow(
        "attention", "32 bits in a result", "head + (first + r) * row + c", "head + int((first + r) * row) + c"
    ),
    Mutant("embedding", "32 bits in a table", "table + ids[n] * d + i", "table + ids[n] * int(d) + i"),
)
def test_a_mistake_is_seen(mutant: Mutant) -> None:
    must_be_caught(mutant, FAR_CHECKS[mutant.op])
