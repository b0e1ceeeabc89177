"""Compiles kernels/*.cu for the GPUs that are meant, where no GPU is, and tells what each kernel needs.

    python scripts/compile_kernels.py            # cubins, PTX and table.json in target/kernels
    python scripts/compile_kernels.py --budgets  # and writes tests/cuda_on_cpu/budgets.json anew
    python scripts/compile_kernels.py --archive FILE --products FOLDER   # what build.rs puts into the library

NVRTC 12 of the package index: nvidia-cuda-nvrtc-cu12, -runtime-cu12 and -cccl-cu12, which the build and the test extra
install. Without it --archive ends with status 3.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib.util
import json
import os
import re
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "kernels"
PRODUCTS = ROOT / "target/kernels"
BUDGETS = ROOT / "tests/cuda_on_cpu/budgets.json"

CUBINS = ("sm_80", "sm_86", "sm_89", "sm_90")
PTX = "compute_80"
OPTIONS = ["-std=c++17", "-default-device", "--ptxas-options=-v"]


NO_COMPILER = 3


class CompileError(Exception):
    pass


class NoCompiler(CompileError):
    pass


def wheel(package: str) -> Path:
    """The folder of a wheel of NVIDIA's CUDA 12."""
    spec = importlib.util.find_spec("nvidia")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (Path(place) / package).is_dir():
            return Path(place) / package
    name = f"nvidia-{package.replace('_', '-')}-cu12"
    raise NoCompiler(f"{sys.executable} has no {name} (pyproject.toml pins its version under build-system)")


class Nvrtc:
    """The four calls that are needed."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(str(wheel("cuda_nvrtc") / "lib/libnvrtc.so.12"))
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        self._include = [f"-I{wheel(name) / 'include'}" for name in ("cuda_runtime", "cuda_cccl")]

    def version(self) -> str:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        return f"{major.value}.{minor.value}"

    def _bytes(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(max(size.value, 1))
        getattr(self._library, f"nvrtcGet{what}")(program, text)
        return text.raw[: size.value]

    def compile(self, source: Path, target: str) -> tuple[bytes, str]:
        """(cubin or PTX, log)."""
        program = ctypes.c_void_p()
        text = source.read_bytes()
        self._library.nvrtcCreateProgram(ctypes.byref(program), text, source.name.encode(), 0, None, None)
        options = [f"--gpu-architecture={target}", *OPTIONS, f"-I{KERNELS}", *self._include]
        encoded = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        failed = self._library.nvrtcCompileProgram(program, len(options), encoded)
        log = self._bytes(program, "ProgramLog").rstrip(b"\0").decode()
        if failed:
            raise CompileError(
                f"{source.name} for {target}: {self._library.nvrtcGetErrorString(failed).decode()}\n{log}"
            )
        code = self._bytes(program, "CUBIN" if target.startswith("sm") else "PTX")
        self._library.nvrtcDestroyProgram(ctypes.byref(program))
        return code, log


def needs(log: str) -> dict[str, dict[str, int]]:
    """What ptxas says of each kernel."""
    found = {}
    for part in log.split("Compiling entry function '")[1:]:

        def number(pattern: str, part: str = part) -> int:
            match = re.search(pattern, part)
            return int(match[1]) if match else 0

        found[part.split("'")[0]] = {
            "registers": number(r"Used (\d+) registers"),
            "shared": number(r"(\d+) bytes smem"),
            "spilled": number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
            "stack": number(r"(\d+) bytes stack frame"),
        }
    return found


def compiled(op: str, target: str, products: Path) -> dict[str, Any]:
    """{kernel: needs}, from a file when nothing has changed. For PTX the kernels alone."""
    nvrtc = Nvrtc()
    sources = "".join(path.read_text() for path in sorted(KERNELS.glob("*.cuh"))) + (KERNELS / f"{op}.cu").read_text()
    key = hashlib.sha256("\0".join([nvrtc.version(), target, *OPTIONS, sources]).encode()).hexdigest()
    record = products / f"{op}.{target}.json"
    if record.exists() and (old := json.loads(record.read_text()))["key"] == key:
        return dict(old["kernels"])
    code, log = nvrtc.compile(KERNELS / f"{op}.cu", target)
    kernels = needs(log)
    if target == PTX:
        kernels = {name: {} for name in re.findall(r"\.visible \.entry (\w+)", code.decode())}
    image(op, target, products).write_bytes(code)
    record.write_text(json.dumps({"key": key, "kernels": kernels}, indent=1))
    return kernels


def image(op: str, target: str, products: Path) -> Path:
    return products / f"{op}.{target}.{'ptx' if target == PTX else 'cubin'}"


def ops() -> list[str]:
    return sorted(path.stem for path in KERNELS.glob("*.cu"))


def launched() -> list[str]:
    """Those whose launches are written: the others would lie in the library for nothing."""
    return [op for op in ops() if (ROOT / f"rust/src/cuda/{op}.rs").is_file()]


def all_kernels(products: Path = PRODUCTS, only: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """{target: {kernel: needs}}; the images lie in `products`."""
    meant = ops() if only is None else only
    products.mkdir(parents=True, exist_ok=True)
    wheel("cuda_nvrtc"), wheel("cuda_runtime"), wheel("cuda_cccl")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {target: [pool.submit(compiled, op, target, products) for op in meant] for target in (*CUBINS, PTX)}
        return {target: {k: v for job in done for k, v in job.result().items()} for target, done in jobs.items()}


# A parameter of a kernel as one letter: 8 and 4 bytes of an address or a whole number, f32, f64; a struct as s and its
# bytes.
LETTERS = {"u64": "8", "u32": "4", "f32": "f", "f64": "d"}


def parameters(ptx: str) -> dict[str, str]:
    """{kernel: a letter for each parameter}."""
    one = re.compile(r"\.param \.(?:align \d+ \.b8 \w+\[(\d+)\]|(\w+) )")

    def letters(text: str) -> str:
        return "".join(f"s{size}" if size else LETTERS[kind] for size, kind in one.findall(text))

    return {name: letters(text) for name, text in re.findall(r"\.visible \.entry (\w+)\((.*?)\)", ptx, re.S)}


def archive(products: Path) -> bytes:
    """All images that are launched, packed, after a header of JSON and its length in 8 bytes, as images.rs reads it."""
    images: dict[str, dict[str, Any]] = {}
    kernels, packed = {}, b""
    for op in launched():
        for target in (*CUBINS, PTX):
            code = image(op, target, products).read_bytes()
            small = zlib.compress(code, 9)
            place = {"at": len(packed), "packed": len(small), "bytes": len(code)}
            images.setdefault(op, {})[target] = place
            packed += small
            if target == PTX:
                letters = parameters(code.decode())
                for name, text in letters.items():
                    kernels[name] = {"op": op, "parameters": text, "tiles": attention(name)}
    header = json.dumps({"compiler": Nvrtc().version(), "images": images, "kernels": kernels}).encode()
    return len(header).to_bytes(8, "little") + header + packed


# Threads and registers of a multiprocessor, and its 1024-byte shared memory a block that the system takes (CUDA C++
# programming guide, compute capabilities).
THREADS = {"sm_80": 2048, "sm_86": 1536, "sm_89": 1536, "sm_90": 2048}
BLOCKS = {"sm_80": 32, "sm_86": 16, "sm_89": 24, "sm_90": 32}
SHARED = {"sm_80": 164 << 10, "sm_86": 100 << 10, "sm_89": 100 << 10, "sm_90": 228 << 10}
REGISTERS = 65536


def occupancy(target: str, registers: int, shared: int, threads: int) -> int:
    """Percent of the multiprocessor's threads that blocks of this size fill."""
    a_warp = -(-registers * 32 // 256) * 256
    by_registers = REGISTERS // a_warp // (threads // 32)
    by_shared = SHARED[target] // (-(-shared // 128) * 128 + 1024)
    blocks = min(by_registers, by_shared, THREADS[target] // threads, BLOCKS[target])
    return round(100 * blocks * threads / THREADS[target])


# How the kernels of attention are cut, as in kernels/attention_*.cuh, by bytes of an element and width of a head:
# warps, blocks of 16 queries a warp, keys; and groups of 16 rows, warps a group, columns.
WIDTHS = (64, 80, 96, 128, 256)
FORWARD = {
    (2, 64): (4, 2, 64), (2, 80): (4, 2, 64), (2, 96): (4, 2, 32), (2, 128): (4, 2, 32), (2, 256): (4, 1, 32),
    (4, 64): (4, 1, 32), (4, 80): (4, 1, 32), (4, 96): (4, 1, 32), (4, 128): (4, 1, 32), (4, 256): (2, 1, 16),
}  # fmt: skip
BACKWARD = {
    (2, 64): (4, 1, 64), (2, 80): (4, 1, 32), (2, 96): (4, 1, 32), (2, 128): (8, 1, 32), (2, 256): (2, 2, 32),
    (4, 64): (4, 1, 16), (4, 80): (4, 1, 16), (4, 96): (4, 1, 16), (4, 128): (2, 2, 16), (4, 256): (1, 4, 8),
}  # fmt: skip


def attention(kernel: str) -> tuple[int, int, int] | None:
    """(rows, decoding: heads, of a block, threads, dynamic shared memory) of a kernel of attention on tiles."""
    match = re.fullmatch(r"attention_(fwd|bwd_kv|bwd_q|decode)_(f32|f16|bf16)_d(\d+)", kernel)
    if not match:
        return None
    size, width = 4 if match[2] == "f32" else 2, int(match[3])
    lent = 64 if size == 4 else 0  # bytes a column and warp: f32 passes 16 rows of p from lane to lane
    if match[1] == "decode":
        heads, keys = 8, 32
        return heads, 128, 2 * keys * width * size + 4 * heads * (width + keys + 1)
    if match[1] == "fwd":
        warps, blocks, keys = FORWARD[size, width]
        rows = 16 * blocks * warps
        return rows, 32 * warps, (rows + 2 * keys) * width * size + lent * keys * blocks * warps
    groups, split, columns = BACKWARD[size, width]
    warps, queries = groups * split, 16 * columns if match[1] == "bwd_kv" else 0  # lse and delta, two stages
    return 16 * groups, 32 * warps, (32 * groups + 4 * columns) * width * size + lent * columns * warps + queries


def threads_of(kernel: str) -> int:
    """The block that the host is to launch."""
    if tiles := attention(kernel):
        return tiles[1]
    if kernel.startswith(("rms_norm", "layer_norm", "cross_entropy")):
        return 512
    return 256


def budgets(table: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """{kernel: the most registers and shared memory over all targets, and the occupancy that they give}."""
    result = {}
    for kernel in sorted(table[CUBINS[0]]):
        registers = max(table[target][kernel]["registers"] for target in CUBINS)
        tiles = attention(kernel)
        shared = max(table[target][kernel]["shared"] for target in CUBINS) + (tiles[2] if tiles else 0)
        threads = threads_of(kernel)
        filled = {target: occupancy(target, registers, shared, threads) for target in CUBINS}
        result[kernel] = {"threads": threads, "registers": registers, "shared": shared, "occupancy": filled}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", action="store_true", help="write tests/cuda_on_cpu/budgets.json")
    parser.add_argument("--archive", type=Path, help="write all images to this file, and nothing else")
    parser.add_argument("--products", type=Path, default=PRODUCTS, help="where images are made and kept")
    arguments = parser.parse_args()
    try:
        table = all_kernels(arguments.products, launched() if arguments.archive else None)
    except NoCompiler as error:
        print(error, file=sys.stderr)
        sys.exit(NO_COMPILER)
    except CompileError as error:
        sys.exit(str(error))
    if arguments.archive:
        arguments.archive.write_bytes(archive(arguments.products))
        return
    (arguments.products / "table.json").write_text(json.dumps(table, indent=1))
    print(f"{'kernel':32}{'threads':>8}{'registers':>10}{'shared':>8}   occupancy % " + " ".join(CUBINS))
    for kernel, b in budgets(table).items():
        filled = " ".join(f"{b['occupancy'][target]:5}" for target in CUBINS)
        print(f"{kernel:32}{b['threads']:8}{b['registers']:10}{b['shared']:8}{'':14}{filled}")
    spilled = {f"{t}: {k}" for t in CUBINS for k, n in table[t].items() if n["spilled"] or n["stack"]}
    if arguments.budgets:
        lines = [f'"{kernel}": {json.dumps(b)}' for kernel, b in budgets(table).items()]
        BUDGETS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    if spilled:
        sys.exit("registers spilled to memory: " + ", ".join(sorted(spilled)))


if __name__ == "__main__":
    main()
