"""Launches emulated kernels on torch tensors."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

NAMES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


class KernelError(Exception):
    """What the emulation refuses: a race, a barrier that not all reach, an access out of bounds, ..."""


@dataclass
class Memory:
    """A tensor as an argument, and what the kernel may do with it."""

    tensor: torch.Tensor
    kind: int


def In(tensor: torch.Tensor) -> Memory:
    """Only read."""
    return Memory(tensor, 0)


def Out(tensor: torch.Tensor) -> Memory:
    """Written before it is read."""
    return Memory(tensor, 1)


def InOut(tensor: torch.Tensor) -> Memory:
    return Memory(tensor, 2)


def poison(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Memory for a result: NaN everywhere, so that what is not written is seen."""
    if dtype.is_floating_point:
        return torch.full(shape, float("nan"), dtype=dtype)
    return torch.full(shape, -(2**20), dtype=dtype)


class _Buffer(ctypes.Structure):
    _fields_ = [("at", ctypes.c_void_p), ("bytes", ctypes.c_size_t), ("kind", ctypes.c_int)]


C_TYPES: dict[str, Any] = {
    "p": ctypes.c_void_p, "f": ctypes.c_float, "d": ctypes.c_double,
    "i": ctypes.c_int, "u": ctypes.c_uint, "z": ctypes.c_uint64,
}  # fmt: skip


def three(size: int | Iterable[int]) -> Any:
    sizes = [size] if isinstance(size, int) else list(size)
    return (ctypes.c_uint * 3)(*sizes, *[1] * (3 - len(sizes)))


class Kernels:
    """A library made by `build.library`."""

    def __init__(self, path: Path, suffix: str = "") -> None:
        self.path, self.suffix = path, suffix
        self._library = ctypes.CDLL(str(path))
        self._library.cuda_on_cpu_signature.restype = ctypes.c_char_p
        self._library.cuda_on_cpu_struct_bytes.restype = ctypes.c_size_t
        self._library.cuda_on_cpu_bank_conflicts.restype = ctypes.c_size_t

    def __contains__(self, kernel: str) -> bool:
        return self._library.cuda_on_cpu_signature(kernel.encode()) is not None

    def signature(self, kernel: str) -> str:
        letters = self._library.cuda_on_cpu_signature(kernel.encode())
        if letters is None:
            raise KernelError(f"no kernel {kernel} in {self.path}")
        return str(letters.decode())

    def bank_conflicts(self) -> int:
        """How often load_matrices has read a bank twice at once since the last call."""
        return int(self._library.cuda_on_cpu_bank_conflicts())

    def launch(
        self,
        kernel: str,
        grid: int | Iterable[int],
        block: int | Iterable[int],
        *arguments: Any,
        shared: int = 0,
        seed: int = 0,
    ) -> None:
        """Arguments: Memory, None for a null pointer, numbers, structs of ctypes."""
        signature = self.signature(kernel)
        if len(signature) != len(arguments):
            raise TypeError(f"{kernel} takes {len(signature)} arguments, got {len(arguments)}")
        values, buffers = [], []
        for letter, argument in zip(signature, arguments, strict=True):
            if (letter == "p") != (argument is None or isinstance(argument, Memory)):
                raise TypeError(f"{kernel}: argument {len(values)} does not fit {signature}")
            if isinstance(argument, Memory):
                tensor = argument.tensor
                assert tensor.is_contiguous()
                buffers.append(_Buffer(tensor.data_ptr(), tensor.nbytes, argument.kind))
                argument = tensor.data_ptr()
            values.append(argument if letter == "s" else C_TYPES[letter](argument))
        structs = sum(ctypes.sizeof(value) for value in values if isinstance(value, ctypes.Structure))
        if structs != self._library.cuda_on_cpu_struct_bytes(kernel.encode()):
            raise TypeError(f"{kernel}: a struct of {structs} bytes does not fit")
        pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(value) for value in values])
        message = ctypes.create_string_buffer(1000)
        failed = self._library.cuda_on_cpu_launch(
            kernel.encode(), three(grid), three(block), ctypes.c_size_t(shared), pointers,
            (_Buffer * len(buffers))(*buffers), len(buffers), ctypes.c_uint64(seed), message, len(message),
        )  # fmt: skip
        if failed:
            raise KernelError(f"{kernel}: {self._with_line(message.value.decode())}")

    def _with_line(self, message: str) -> str:
        """Puts file and line for the address that the checker gives."""
        address = re.search(r" \[\+(0x[0-9a-f]+)\]$", message)
        if not address:
            return message
        found = subprocess.run(["addr2line", "-e", self.path, address[1]], capture_output=True, text=True)
        line = found.stdout.split("/")[-1].split(" ")[0].strip()
        return message[: address.start()] + (f" at {line}" if found.returncode == 0 else "")
