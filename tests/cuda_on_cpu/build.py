"""Makes a shared library of kernels/*.cu and the emulation with the host's C++ compiler.

Products lie in target/cuda_on_cpu, named by the hash of what they are made from.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
KERNELS = ROOT / "kernels"
PRODUCTS = ROOT / "target/cuda_on_cpu"

COMPILER = os.environ.get("CXX", "g++")
# No contraction: an fma stands where the kernel says so. -g1: lines for the messages of the checker.
FLAGS = [
    "-std=c++17", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-strict-aliasing",
    "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-function", f"-I{HERE}", f"-I{HERE / 'include'}",
]  # fmt: skip
# checked: each access goes through checker.cpp. sanitized: the compiler's own AddressSanitizer and UBSan.
VARIANTS = {
    "checked": ["-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0"],
    "sanitized": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
}
RUNTIME = ["runtime.cpp", "checker.cpp", "matrices.cpp"]


class BuildError(Exception):
    pass


def sources() -> dict[str, str]:
    """The text of each op's .cu by the op's name."""
    return {path.stem: path.read_text() for path in sorted(KERNELS.glob("*.cu"))}


def flat(op: str) -> str:
    """The text of an op with the kernels' own headers put in, each once."""
    seen: set[str] = set()

    def put_in(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        text = (KERNELS / name).read_text().replace("#pragma once", "")
        return re.sub(r'^#include "([^"]+)"$', lambda match: put_in(match[1]), text, flags=re.M)

    return put_in(f"{op}.cu")


@cache
def compiler_version() -> str:
    if not shutil.which(COMPILER):
        raise BuildError(f"no C++ compiler {COMPILER}")
    return subprocess.run([COMPILER, "--version"], capture_output=True, text=True, check=True).stdout


@cache
def headers() -> str:
    paths = [*KERNELS.glob("*.cuh"), *HERE.glob("*.h"), *HERE.glob("include/*.h")]
    return "".join(path.name + path.read_text() for path in sorted(paths))


def run(arguments: list[str]) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{' '.join(arguments)}\n{done.stderr}")
    return done.stdout


def made(kind: str, text: str, flags: list[str], suffix: str) -> Path:
    """Where the product of `text` belongs."""
    key = hashlib.sha256("\0".join([compiler_version(), *flags, text]).encode()).hexdigest()[:20]
    return PRODUCTS / f"{kind}-{key}{suffix}"


def finish(product: Path, make: list[str]) -> Path:
    """Runs `make` with a name beside the product's, so that nobody sees half of it."""
    aside = product.with_name(f"{product.name}.{os.getpid()}")
    run([*make, "-o", str(aside)])
    aside.replace(product)
    return product


def compiled(kind: str, source: Path, text: str, flags: list[str]) -> Path:
    product = made(kind, text + headers(), flags, ".o")
    if not product.exists():
        finish(product, [COMPILER, *flags, "-c", str(source)])
    return product


def entries(source: Path, flags: list[str]) -> list[str]:
    """The names of the kernels, after the preprocessor has written them out."""
    text = run([COMPILER, *flags, "-E", "-P", str(source)])
    return re.findall(r'extern "C"\s+__attribute__\(\(visibility\("default"\)\)\)\s+void\s+(\w+)', text)


def kernel_object(name: str, text: str, variant: str) -> Path:
    flags = [*FLAGS, *VARIANTS[variant], f"-I{KERNELS}"]
    key = made(f"{name}-{variant}", text + headers(), flags, ".o")
    if not key.exists():
        source = key.with_suffix(f".{os.getpid()}.cpp")
        text = f'#line 1 "{name}.cu"\n{text}'  # for the messages
        source.write_text(text)
        listed = "".join(f"ENTRY({entry})\n" for entry in entries(source, flags))
        source.write_text(f'{text}\n#include "registry.h"\n{listed}')
        finish(key, [COMPILER, *flags, "-c", str(source)])
        source.unlink()
    return key


def library(
    texts: Mapping[str, str], variant: str = "checked", name: str = "kernels", more: Sequence[str] = ()
) -> Path:
    """A library of the given .cu texts, and of `more` C++ files beside this one."""
    PRODUCTS.mkdir(parents=True, exist_ok=True)
    # The emulation itself is not checked by itself.
    own = [*FLAGS, *(VARIANTS[variant] if variant == "sanitized" else [])]
    with ThreadPoolExecutor(2) as pool:
        runtime = [pool.submit(compiled, f, HERE / f, (HERE / f).read_text(), own) for f in (*RUNTIME, *more)]
        kernels = [pool.submit(kernel_object, op, text, variant) for op, text in texts.items()]
        objects = [future.result() for future in [*runtime, *kernels]]
    product = made(f"{name}-{variant}", " ".join(map(str, objects)), own, ".so")
    if not product.exists():
        link = VARIANTS[variant] if variant == "sanitized" else []
        finish(product, [COMPILER, "-shared", *link, *map(str, objects), "-ldl"])
    return product


# The stand-ins' names: one library, so that they share streams and memory.
STAND_INS = ("libcuda.so.1", "libcublasLt.so.12")


def driver(texts: Mapping[str, str]) -> Path:
    """A folder with stand-ins for NVIDIA's driver and cuBLASLt over the given .cu texts."""
    made = library(texts, name="driver", more=["driver.cpp", "cublaslt.cpp"])
    folder = made.with_suffix("")
    folder.mkdir(exist_ok=True)
    for name in STAND_INS:
        aside = folder / f"{name}.{os.getpid()}"
        aside.unlink(missing_ok=True)
        aside.symlink_to(made)
        aside.replace(folder / name)
    return folder
