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
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r, %r, %r, %r}, [%r];",
    "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r, %r, %r, %r}, [%r];",
    "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f, %f, %f, %f}, {%r, %r, %r, %r}, {%r, %r}, {%f, %f, %f, %f};",
    "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f, %f, %f, %f}, {%r, %r, %r, %r}, {%r, %r}, {%f, %f, %f, %f};",
    "cp.async.cg.shared.global [%r], [%rd], 16, %r;",
    "cp.async.commit_group;",
    "cp.async.wait_group 1;",
    "cp.async.wait_group 2;",
}


@pytest.mark.slow
def test_instructions(tmp_path: Path) -> None:
    """In PTX word for word, but for the numbers of registers; in SASS by name."""
    try:
        nvrtc = script.Nvrtc()
    except script.CompileError as error:
        pytest.skip(f"the compiler of CUDA 12 is not installed: {error}")
    ptx = nvrtc.compile(SOURCE, script.PTX)[0].decode()
    lines = {re.sub(r"%(rd|r|f)\d+", r"%\1", line.strip()) for line in ptx.splitlines()}
    assert {line for line in lines if re.match(r"(ldmatrix|mma|cp\.async)", line)} == INSTRUCTIONS
    program = disassembler()
    if program is None:
        pytest.skip("no nvdisasm: neither triton nor CUDA's tools are installed")
    for target in script.CUBINS:
        cubin = tmp_path / f"{target}.cubin"
        cubin.write_bytes(nvrtc.compile(SOURCE, target)[0])
        sass = subprocess.run([program, str(cubin)], capture_output=True, text=True, check=True).stdout
        for name in ("LDSM.16.M88.4", "LDSM.16.MT88.4", "HMMA.16816.F32", "HMMA.16816.F32.BF16", "LDGSTS.E.BYPASS.128"):
            assert re.search(rf"\b{re.escape(name)}\b", sass), (target, name)
