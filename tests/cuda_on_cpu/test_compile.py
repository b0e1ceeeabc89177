"""The kernels for real GPUs, where none is: they compile, spill nothing and keep to the budget in budgets.json.

`python scripts/compile_kernels.py --budgets` writes the budgets anew, after a change that is worth its registers.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cuda_on_cpu.build import ROOT, sources

pytestmark = pytest.mark.slow


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compile_kernels", ROOT / "scripts/compile_kernels.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


@pytest.fixture(scope="module", autouse=True)
def nvrtc() -> Any:
    try:
        return script.Nvrtc()
    except script.CompileError as error:
        pytest.skip(f"the compiler of CUDA 12 is not installed: {error}")


@pytest.fixture(scope="module")
def table() -> dict[str, dict[str, Any]]:
    return script.all_kernels()


def test_every_kernel_is_there_for_every_target(table: dict[str, dict[str, Any]]) -> None:
    names = set(table[script.PTX])
    assert len(names) >= 50 and all(set(kernels) == names for kernels in table.values())


def test_nothing_spills(table: dict[str, dict[str, Any]]) -> None:
    wrong = {(t, k) for t in script.CUBINS for k, needs in table[t].items() if needs["spilled"] or needs["stack"]}
    assert not wrong


def test_budgets(table: dict[str, dict[str, Any]]) -> None:
    budgets = json.loads(script.BUDGETS.read_text())
    assert budgets.keys() == table["sm_80"].keys()
    over = {
        (kernel, target)
        for kernel, budget in budgets.items()
        for target in script.CUBINS
        for what in ("registers", "shared")
        if table[target][kernel][what] > budget[what]
    }
    assert not over


def test_occupancies_follow_from_the_budgets() -> None:
    for kernel, b in json.loads(script.BUDGETS.read_text()).items():
        assert b["threads"] == script.threads_of(kernel)
        for target in script.CUBINS:
            filled = script.occupancy(target, b["registers"], b["shared"], b["threads"])
            least = 1 if script.attention(kernel) else 25
            assert filled == b["occupancy"][target] and filled >= least, (kernel, target)


def test_attention_fills_the_tensor_cores() -> None:
    """Its warps hold their sums in registers and have work of their own to hide waits with: few are enough. Two blocks
    of four or one of eight give each of the four tensor cores of a multiprocessor two warps."""
    for kernel, b in json.loads(script.BUDGETS.read_text()).items():
        if script.attention(kernel) and not re.search("f32|d256|decode", kernel):
            for target in ("sm_80", "sm_90"):
                warps = b["occupancy"][target] * script.THREADS[target] / 100 / 32
                assert warps >= 7.5, (kernel, target)  # percents are rounded


@pytest.mark.parametrize(
    ("target", "registers", "shared", "threads", "percent"),
    [
        ("sm_80", 32, 0, 256, 100),  # 2048 threads of 32 registers fill the file
        ("sm_80", 33, 0, 256, 75),  # registers go to a warp by 256: 40 each, 51 warps, 6 blocks of 8
        ("sm_86", 32, 0, 256, 100),
        ("sm_80", 64, 0, 512, 50),
        ("sm_80", 16, 48 << 10, 256, 38),  # three blocks of 49 KiB in 164
        ("sm_90", 128, 0, 1024, 0),  # no block of 1024 threads: it has 64 registers a thread
    ],
)
def test_occupancy(target: str, registers: int, shared: int, threads: int, percent: int) -> None:
    """By hand, after the rules of NVIDIA's occupancy calculator."""
    assert script.occupancy(target, registers, shared, threads) == percent


def test_parameters_are_what_the_kernel_takes(nvrtc: Any, tmp_path: Path) -> None:
    (tmp_path / "k.cu").write_text(
        "struct Pair { size_t a; int b; };\n"
        'extern "C" __global__ void k(float* x, Pair p, unsigned n, double d, float f) { x[n] = p.a + p.b + d + f; }\n'
        'extern "C" __global__ void none() {}\n'
    )
    ptx = nvrtc.compile(tmp_path / "k.cu", script.PTX)[0].decode()
    assert script.parameters(ptx) == {"k": "8s164df", "none": ""}


def test_the_archive_knows_every_kernel(table: dict[str, dict[str, Any]]) -> None:
    packed = script.archive(script.PRODUCTS)
    header = json.loads(packed[8 : 8 + int.from_bytes(packed[:8], "little")])
    assert header["kernels"].keys() == set(table[script.PTX])


def test_a_mistake_is_told(nvrtc: Any, tmp_path: Path) -> None:
    (tmp_path / "wrong.cu").write_text('extern "C" __global__ void k(float* x) { x[0] = y; }')
    with pytest.raises(script.CompileError, match=r"wrong\.cu for sm_80: (?s:.*)y"):
        nvrtc.compile(tmp_path / "wrong.cu", "sm_80")


def test_a_spill_is_seen(nvrtc: Any, tmp_path: Path) -> None:
    (tmp_path / "large.cu").write_text(
        'extern "C" __global__ void __launch_bounds__(1024) k(float* x, int n) {\n'
        "    float v[200];\n"
        "#pragma unroll\n"
        "    for (int i = 0; i < 200; i++) v[i] = x[i * n];\n"
        "#pragma unroll\n"
        "    for (int i = 0; i < 200; i++) x[i * n] = v[i] * v[199 - i];\n"
        "}\n"
    )
    needs = script.needs(nvrtc.compile(tmp_path / "large.cu", "sm_80")[1])["k"]
    assert needs["spilled"] > 0 and needs["registers"] <= 64


def disassembler() -> str | None:
    """Triton, which torch brings on Linux, brings NVIDIA's."""
    spec = importlib.util.find_spec("triton")
    found = Path(spec.origin).parent / "backends/nvidia/bin/nvdisasm" if spec and spec.origin else None
    return str(found) if found and found.is_file() else shutil.which("nvdisasm")


# Kernels that move no vectors: sums down the columns, 32 neighbours to a warp; counting; a few rows of f32.
WITHOUT_VECTORS = {"attention_combine", "attention_spans", "column_sums", "embedding_order", "grad_norm_scale"}


@pytest.fixture(scope="module")
def sass(table: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The machine code of each kernel for sm_80."""
    program = disassembler()
    if program is None:
        pytest.skip("no nvdisasm: neither triton nor CUDA's tools are installed")
    found: dict[str, str] = {}
    for op in sources():
        cubin = script.PRODUCTS / f"{op}.sm_80.cubin"
        text = subprocess.run([program, str(cubin)], capture_output=True, text=True, check=True).stdout
        for part in text.split("\t.section\t.text.")[1:]:
            name = re.match(r"\w+", part)
            assert name
            found[name[0]] = part
    assert found.keys() == table["sm_80"].keys()
    return found


def count(code: str, instruction: str) -> int:
    return len(re.findall(rf"\b{instruction}\b", code))


def test_memory_is_moved_by_16_bytes(sass: dict[str, str]) -> None:
    loads = {k: count(code, r"(?:LDG|LDGSTS)\.E(?:\.\w+)*\.128") for k, code in sass.items()}
    assert {k for k, n in loads.items() if n == 0} == {k for k in loads if k.startswith(tuple(WITHOUT_VECTORS))}


def test_attention_multiplies_on_tensor_cores(sass: dict[str, str]) -> None:
    """Each tile's products as often as they are counted by hand: an HMMA is 16·8·16, an LDSM brings 16 rows by 16."""
    for kernel, code in sass.items():
        tiles = script.attention(kernel)
        if not tiles:
            continue
        size, width = 4 if "f32" in kernel else 2, int(kernel.rsplit("_d")[-1])
        multiply, load = count(code, r"HMMA\.16816\.F32(?:\.BF16)?"), count(code, r"LDSM\.16\.M\w*88\.4")
        assert count(code, r"LDGSTS\.E\.BYPASS\.128") > 0 and count(code, r"LDG\.E\.\w*\.?128") == 0, kernel
        if size == 4 or "decode" in kernel:
            assert multiply == load == 0 and count(code, "FFMA") > 100, kernel
        elif kernel.startswith("attention_fwd"):
            _, blocks, keys = script.FORWARD[size, width]
            assert multiply == 2 * blocks * keys * width // 128, kernel
            assert load == width // 16 * blocks + 2 * keys * width // 256, kernel
        else:
            _, split, columns = script.BACKWARD[size, width]
            results = 2 if "bwd_kv" in kernel else 1
            assert multiply == (2 + results / split) * columns * width / 128, kernel
            assert load == 2 * width // 16 + (2 + results / split) * columns * width / 256, kernel
