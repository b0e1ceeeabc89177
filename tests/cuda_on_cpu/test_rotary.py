from __future__ import annotations

import pytest
import torch
from parity import assert_as_good, plain_and_exact, randn

from cuda_on_cpu.checks import DTYPES, Mutant, each_schedule, must_be_caught, mutants, name_of
from cuda_on_cpu.emulator import In, InOut, Kernels

BASE = 10_000.0
# batch, time, heads, head width, rotating elements, start: partial rotation, odd widths, vectors
CASES = [(2, 5, 2, 9, 6, 3), (1, 3, 1, 2, 2, 0), (2, 4, 3, 32, 16, 1), (1, 7, 2, 64, 64, 0)]


def tables(positions: int, ndims: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos, sin (positions, ndims/2), in f32 as HF makes them."""
    frequencies = 1.0 / BASE ** (torch.arange(0, ndims, 2, dtype=torch.float32) / ndims)
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * frequencies
    return angles.cos(), angles.sin()


def rotated(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, ndims: int, interleaved: bool = False
) -> torch.Tensor:
    """HF's formula (Llama; GPT-J) on x (batch, time, heads, width) with cos, sin (time, ndims/2)."""
    if interleaved:
        c, s = (t.repeat_interleave(2, -1).to(x.dtype)[:, None] for t in (cos, sin))
        first, rest = x[..., :ndims], x[..., ndims:]
        turned = torch.stack([-first[..., 1::2], first[..., ::2]], -1).flatten(-2)
        return torch.cat([first * c + turned * s, rest], -1)
    c, s = (torch.cat([t, t], -1).to(x.dtype)[:, None] for t in (cos, sin))
    first, rest = x[..., :ndims], x[..., ndims:]
    turned = torch.cat([-first[..., ndims // 2 :], first[..., : ndims // 2]], -1)
    return torch.cat([first * c + turned * s, rest], -1)


def check(kernels: Kernels, case: tuple[int, ...], dtype: str, interleaved: bool) -> None:
    batch, time, heads, width, ndims, start = case
    x = randn(batch, time, heads, width, dtype=dtype)
    # Each token: some elements, the heads with a gap after each, some more; vectors fit where `width` allows it.
    unit = 8 if width % 8 == 0 else 1
    offset, stride, row = 2 * unit, width + unit, 2 * unit + heads * (width + unit) + 3 * unit
    around = randn(batch * time, row, dtype=dtype, seed=1)
    heads_at = [slice(offset + a * stride, offset + a * stride + width) for a in range(heads)]
    for a, at in enumerate(heads_at):
        around[:, at] = x[:, :, a].reshape(batch * time, width)
    cos, sin = tables(start + time, ndims)

    def run(seed: int, sign: float) -> torch.Tensor:
        qkv = around.clone()
        kernels.launch(
            f"rotary_{name_of(qkv)}", 3, 32, InOut(qkv), In(cos), In(sin), batch * time, row, offset, stride, heads,
            ndims // 2, int(interleaved), time, start, sign, seed=seed,
        )  # fmt: skip
        return qkv

    def only_heads(qkv: torch.Tensor) -> torch.Tensor:
        return torch.stack([qkv[:, at].view(batch, time, width) for at in heads_at], 2)

    # HF rounds cos and sin to the dtype, so the exact result takes the rounded ones.
    c, s = (t[start:].to(x.dtype) for t in (cos, sin))
    plain, exact = plain_and_exact(lambda x: rotated(x, c, s, ndims, interleaved), [x], x)
    forward = each_schedule(lambda seed: run(seed, 1.0))
    for ours, p, e in [(forward, plain[0], exact[0]), (run(0, -1.0), plain[1], exact[1])]:
        assert_as_good(only_heads(ours), p, e)
        untouched = torch.ones(row, dtype=torch.bool)
        for at in heads_at:
            untouched[at] = False
        assert torch.equal(ours[:, untouched], around[:, untouched])
        assert torch.equal(only_heads(ours)[..., ndims:], x[..., ndims:])


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "interleaved"])
def test_forward_and_backward(kernels: Kernels, case: tuple[int, ...], dtype: str, interleaved: bool) -> None:
    check(kernels, case, dtype, interleaved)


def battery(kernels: Kernels) -> None:
    for case in CASES:
        for interleaved in [False, True]:
            check(kernels, case, "float32", interleaved)


@mutants(
    Mutant("rotary", "the start is forgotten", "(start + n % time) * half", "n % time * half"),
    Mutant("rotary", "sequences run on", "(start + n % time) * half", "(start + n) * half"),
    Mutant("rotary", "the sign is forgotten", "cos[k], sign * sin[k]);\n    }", "cos[k], sin[k]);\n    }"),
    Mutant("rotary", "turned the other way", "fmaf(x, c, -(y * s))", "fmaf(x, c, y * s)"),
    Mutant("rotary", "heads without a gap", "offset + a * stride", "offset + a * 2 * half"),
    Mutant("rotary", "a head left out", "i < heads * vectors", "i < (heads - 1) * vectors"),
    Mutant("rotary", "neighbours instead of halves", "? V : half)", "? V : V)"),
    Mutant("rotary", "pairs of one vector alone", "(2 * k + 1) % V", "(2 * k) % V"),
    Mutant("rotary", "the sign is forgotten when interleaved", "V, cos[k], sign * sin[k]", "V, cos[k], sin[k]"),
    Mutant("rotary", "halves instead of neighbours", "if (interleaved)", "if (!interleaved)"),
    Mutant("rotary", "tokens left out", "n += gridDim.x", "n += gridDim.x + 1"),
)  # fmt: skip
def test_a_mistake_is_seen(mutant: Mutant) -> None:
    must_be_caught(mutant, battery)
