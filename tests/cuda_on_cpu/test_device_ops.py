"""The wrappers of device_ops.cuh: their host twins against the tables of the PTX ISA, and the instructions they become."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch
from parity import randn

from cuda_on_cpu import build
from cuda_on_cpu.checks import SEEDS, each_schedule
from cuda_on_cpu.emulator import In, InOut, KernelError, Kernels, Out, poison
from cuda_on_cpu.test_compile import disassembler, script

SOURCE = build.HERE / "probes_device_ops.cu"


@pytest.fixture(scope="module")
def probes() -> Kernels:
    return Kernels(build.library({"probes_device_ops": SOURCE.read_text()}, name="probes"))


def pair(first: int, second: int) -> int:
    """Two 16-bit numbers in 32, as a signed integer."""
    bits = first | second << 16
    return bits - (bits >> 31 << 32)


@pytest.mark.parametrize("transposed", [False, True])
def test_load_matrices(probes: Kernels, transposed: bool) -> None:
    """Fragment layout of ldmatrix .x4: thread t holds row t/4, columns 2·(t%4) and the next, of each matrix."""
    matrices = torch.arange(4 * 8 * 8, dtype=torch.int16).view(4, 8, 8) * 251

    def run(seed: int) -> torch.Tensor:
        out = poison(32, 4, dtype=torch.int32)
        probes.launch("probe_load_matrices", 1, 32, Out(out), In(matrices), int(transposed), seed=seed)
        return out

    seen = matrices.transpose(1, 2) if transposed else matrices
    numbers = (seen.int() & 0xFFFF).tolist()
    want = [
        [pair(numbers[m][t // 4][t % 4 * 2], numbers[m][t // 4][t % 4 * 2 + 1]) for m in range(4)] for t in range(32)
    ]
    assert each_schedule(run).tolist() == want


def test_load_matrices_races(probes: Kernels) -> None:
    rows = torch.zeros(256, dtype=torch.int16)
    for seed in SEEDS:
        with pytest.raises(KernelError, match=r"race: .* reads shared memory|uninitialised: .* reads shared memory"):
            probes.launch("probe_load_matrices_early", 1, 32, Out(poison(32, dtype=torch.int32)), In(rows), seed=seed)


# mma.m16n8k16 for 16-bit types: where element i of a thread's fragment stands, as the PTX ISA has it.
def place_a(t: int, i: int) -> tuple[int, int]:
    row = t // 4 if i in (0, 1, 4, 5) else t // 4 + 8
    return row, t % 4 * 2 + (i & 1) + (8 if i >= 4 else 0)


def place_b(t: int, i: int) -> tuple[int, int]:
    return t % 4 * 2 + (i & 1) + (8 if i >= 2 else 0), t // 4


def place_c(t: int, i: int) -> tuple[int, int]:
    return t // 4 if i < 2 else t // 4 + 8, t % 4 * 2 + (i & 1)


def fragments(matrix: torch.Tensor, place: object, elements: int) -> torch.Tensor:
    return torch.stack([torch.stack([matrix[place(t, i)] for i in range(elements)]) for t in range(32)])  # type: ignore[operator]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_multiply_add(probes: Kernels, dtype: torch.dtype) -> None:
    a, b, c = randn(16, 16).to(dtype), randn(16, 8, seed=1).to(dtype), randn(16, 8, seed=2)
    name = "f16" if dtype == torch.float16 else "bf16"

    def run(seed: int) -> torch.Tensor:
        held = fragments(c, place_c, 4).contiguous()
        left, right = fragments(a, place_a, 8).view(torch.int32), fragments(b, place_b, 4).view(torch.int32)
        probes.launch(f"probe_multiply_{name}", 1, 32, InOut(held), In(left), In(right), seed=seed)
        return held

    exact = c.double() + a.double() @ b.double()
    assert (each_schedule(run) - fragments(exact, place_c, 4)).abs().max() < 1e-5


def test_a_warp_multiplies_as_a_whole(probes: Kernels) -> None:
    for seed in SEEDS:
        with pytest.raises(KernelError, match=r"divergence: .* an instruction on matrices"):
            probes.launch("probe_multiply_divergent", 1, 32, Out(poison(32)), seed=seed)


def test_the_extremes_of_a_product(probes: Kernels) -> None:
    """Subnormal numbers count, and what is not finite stays so, in its row and column alone."""
    for dtype, name in ((torch.float16, "f16"), (torch.bfloat16, "bf16")):
        a, b = torch.zeros(16, 16, dtype=dtype), torch.zeros(16, 8, dtype=dtype)
        a[0, 0], a[1, 1], a[2, 2] = torch.finfo(dtype).smallest_normal / 4, float("inf"), float("nan")
        b[0, 0], b[1, 0], b[2, 0] = 3.0, 1.0, 1.0
        held = fragments(torch.zeros(16, 8), place_c, 4).contiguous()
        left, right = fragments(a, place_a, 8).view(torch.int32), fragments(b, place_b, 4).view(torch.int32)
        probes.launch(f"probe_multiply_{name}", 1, 32, InOut(held), In(left), In(right))
        want = torch.zeros(16, 8)
        want[:, 0] = a.float()[:, :3] @ b.float()[:3, 0]
        want[:, 1:] = a.float()[:, :3] @ torch.zeros(3, 7)  # inf·0 is NaN
        assert torch.equal(held.isnan(), fragments(want, place_c, 4).isnan())
        assert torch.equal(held.nan_to_num(7.0), fragments(want, place_c, 4).nan_to_num(7.0))


def test_numbers(probes: Kernels) -> None:
    """2ˣ to a unit in the last place, nothing below the smallest normal number; rounding to 16 bits as torch rounds."""
    ends = [float("inf"), float("-inf"), float("nan"), 0.0, -126.0, -126.5, -150.0, 127.5, 65519.0, 65520.0, 1e-8]
    ties = [1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8, 1 + 3 * 2**-8, 1.5 * 2**-24]
    x = torch.cat([torch.tensor(ends + ties), randn(112, scale=20)])
    y, halves, brains = poison(128), poison(128, dtype=torch.int32), poison(128, dtype=torch.int32)
    probes.launch("probe_numbers", 1, 128, Out(y), Out(halves), Out(brains), In(x))
    want = torch.exp2(x.double()).float()
    want[want < 2.0**-126] = 0
    assert torch.equal(y.isnan(), want.isnan()) and ((y - want).abs() <= 1.2e-7 * want)[want.isfinite()].all()
    assert torch.equal(y == float("inf"), want == float("inf")) and (y == 0).sum() == (want == 0).sum() >= 3
    for packed, dtype in ((halves, torch.float16), (brains, torch.bfloat16)):
        pairs, both = packed.view(dtype).view(128, 2), torch.stack([x, -x], 1).to(dtype)
        assert torch.equal(pairs.nan_to_num(7.0), both.nan_to_num(7.0)) and torch.equal(pairs.isnan(), both.isnan())


def test_shared_memory_of_the_launch(probes: Kernels) -> None:
    def run(seed: int, shared: int) -> list[int]:
        out = poison(64, dtype=torch.int32)
        probes.launch("probe_dynamic_shared", 1, 64, Out(out), shared=shared, seed=seed)
        return list(out.tolist())

    for seed in SEEDS:
        assert run(seed, 1024) == list(range(63, -1, -1))
        with pytest.raises(KernelError, match=r"out of bounds: .* writes"):
            run(seed, 1008)
    out = poison(32, dtype=torch.int32)
    probes.launch("probe_computed_here", 1, 32, Out(out))
    assert out.tolist() == list(range(1, 33))


def copied(probes: Kernels, tiles: int, valid: int, mistake: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, out = randn(tiles, 64, 4), poison(tiles, 64, 4)
    probes.launch("probe_copies", 1, 64, Out(out), In(x), tiles, valid, mistake, seed=seed)
    x[valid:] = 0
    return out, x.flip(1)


@pytest.mark.parametrize("tiles", [1, 2, 5])
def test_copies(probes: Kernels, tiles: int) -> None:
    for valid in (tiles, tiles - 1):
        out, want = each_schedule(lambda seed, v=valid: copied(probes, tiles, v, 0, seed))
        assert torch.equal(out, want)


@pytest.mark.parametrize("mistake", [2, 3])
def test_copies_without_a_barrier(probes: Kernels, mistake: int) -> None:
    for seed in SEEDS:
        with pytest.raises(KernelError, match=r"race: |uninitialised: "):
            copied(probes, 5, 5, mistake, seed)


@pytest.mark.parametrize("mistake", [1, 4])
def test_copies_that_nobody_waits_for(probes: Kernels, mistake: int) -> None:
    """What has not landed is NaN, or a race with the copy that lands late."""
    for seed in SEEDS:
        try:
            out, want = copied(probes, 5, 5, mistake, seed)
        except KernelError as error:
            assert "race" in str(error)
        else:
            assert out.isnan().any() and not torch.equal(out, want)


# Wrapper by wrapper, as they stand in the probes.
INSTRUCTIONS = {
    "ex2.approx.ftz.f32 %f, %f;",
    "cvt.rn.f16x2.f32 %r, %f, %f;",
    "cvt.rn.bf16x2.f32 %r, %f, %f;",
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r, %r, %r, %r}, [%r];",
    "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r, %r, %r, %r}, [%r];",
    "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f, %f, %f, %f}, {%r, %r, %r, %r}, {%r, %r}, {%f, %f, %f, %f};",
    "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f, %f, %f, %f}, {%r, %r, %r, %r}, {%r, %r}, {%f, %f, %f, %f};",
    "cp.async.cg.shared.global [%r], [%rd], 16, %r;",
    "cp.async.commit_group;",
    "cp.async.wait_group 1;",
    "cp.async.wait_group 2;",
}

# In machine code; sm_90 says from what it packs.
NAMES = [
    r"LDSM\.16\.M88\.4", r"LDSM\.16\.MT88\.4", r"HMMA\.16816\.F32", r"HMMA\.16816\.F32\.BF16",
    r"LDGSTS\.E\.BYPASS\.128", r"MUFU\.EX2", r"F2FP\.(?:F16\.F32\.)?PACK_AB", r"F2FP\.BF16\.(?:F32\.)?PACK_AB",
]  # fmt: skip


@pytest.mark.slow
def test_instructions(tmp_path: Path) -> None:
    """In PTX word for word, but for the numbers of registers; in SASS by name."""
    try:
        nvrtc = script.Nvrtc()
    except script.CompileError as error:
        pytest.skip(f"the compiler of CUDA 12 is not installed: {error}")
    ptx = nvrtc.compile(SOURCE, script.PTX)[0].decode()
    lines = {re.sub(r"%(rd|r|f)\d+", r"%\1", line.strip()) for line in ptx.splitlines()}
    assert {line for line in lines if re.match(r"(ldmatrix|mma|cp\.async|ex2|cvt\.rn\.b?f16x2)", line)} == INSTRUCTIONS
    program = disassembler()
    if program is None:
        pytest.skip("no nvdisasm: neither triton nor CUDA's tools are installed")
    for target in script.CUBINS:
        cubin = tmp_path / f"{target}.cubin"
        cubin.write_bytes(nvrtc.compile(SOURCE, target)[0])
        sass = subprocess.run([program, str(cubin)], capture_output=True, text=True, check=True).stdout
        for name in NAMES:
            assert re.search(rf"\b{name}\b", sass), (target, name)
