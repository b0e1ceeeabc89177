"""`info`: what runs where on this machine."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from . import _core

OPS = (
    "activation", "adamw", "add", "attention", "cast", "cross_entropy", "embedding", "gated_mlp", "grad_norm",
    "layer_norm", "linear", "linear_cross_entropy", "rms_norm", "rotary",
)  # fmt: skip
OPTIONAL = {
    "rich": "live view in a terminal",
    "matplotlib": "plots",
    "ipykernel": "notebooks",
    "tensorboard": "TensorBoard logs",
    "wandb": "Weights & Biases logs",
    "torch": "only for tests and benchmarks",
    "transformers": "only for tests and benchmarks",
}
VARIABLES = ("LLMJP_ISA", "LLMJP_NUM_THREADS", "OMP_NUM_THREADS", "LLMJP_CUDA_CODE", "CUDA_VISIBLE_DEVICES")


class Info(dict[str, Any]):
    """The facts as a mapping; shown, it is a table."""

    def __repr__(self) -> str:
        return "\n".join(_lines(self))


def info() -> Info:
    """Version, processor, threads, the kernel of each op, devices, optional packages."""
    isa = _core.ops.isa()
    return Info(
        version=_core.__version__,
        python=f"{platform.python_version()} ({sys.platform} {platform.machine()})",
        processor=_processor(),
        instruction_set=isa,
        threads=_core.ops.num_threads(),
        kernels={op: f"cpu/{op}, {isa}" for op in OPS},
        devices={"cpu": "available", **_gpus()},
        cuda_kernels=_cuda_kernels(),
        packages={name: {"version": _version(name), "for": use} for name, use in OPTIONAL.items()},
        environment={name: os.environ.get(name) for name in VARIABLES},
    )


def _gpus() -> dict[str, str]:
    missing = _core.cuda.missing()
    return {"cuda": missing} if missing else {f"cuda:{i}": _gpu(i) for i in range(_core.cuda.device_count())}


def _gpu(number: int) -> str:
    name, (major, minor), memory, target = _core.cuda.properties(number)
    kernels = f"kernels for {target}" if target else "too old for the kernels"
    return f"{name} (compute capability {major}.{minor}, {memory / 2**30:.0f} GiB), {kernels}"


def _cuda_kernels() -> dict[str, str]:
    """By op. Only the selftest launches them so far."""
    compiler, targets, ops, _ = _core.cuda.built()
    return {op: f"cuda/{op}, {' '.join(targets)} (NVRTC {compiler})" for op in ops}


def _version(package: str) -> str | None:
    """Asks the installer's records: importing torch only to see its version takes seconds."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _lines(facts: Mapping[str, Any]) -> Iterator[str]:
    yield f"llmjp-core {facts['version']}, Python {facts['python']}"
    yield f"processor       {facts['processor']}, {facts['threads']} threads, kernels for {facts['instruction_set']}"
    for name, state in facts["devices"].items():
        yield f"device          {name}: {state}"
    for kernel in [*facts["kernels"].values(), *facts["cuda_kernels"].values()]:
        yield f"op              {kernel}"
    for name, package in facts["packages"].items():
        yield f"package         {name} {package['version'] or '(absent)'}: {package['for']}"
    for name, value in facts["environment"].items():
        yield f"environment     {name}" + (" is not set" if value is None else f"={value}")
