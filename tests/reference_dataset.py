"""The dataset format in plain numpy, written from the format's table alone, and helpers that tests share."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

CODES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "uint16": 8}


def write(prefix: Path, documents: Sequence[Sequence[np.ndarray]], dtype: str) -> None:
    """documents -> sequences -> ids."""
    sequences = [np.asarray(s, dtype=dtype) for document in documents for s in document]
    lengths = np.array([len(s) for s in sequences], dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths.astype(np.int64))])[: len(sequences)] * np.dtype(dtype).itemsize
    bounds = np.concatenate([[0], np.cumsum([len(document) for document in documents])]).astype(np.int64)
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, CODES[dtype], len(sequences), len(bounds))
    Path(f"{prefix}.bin").write_bytes(b"".join(s.tobytes() for s in sequences))
    index = head + lengths.tobytes() + offsets.astype(np.int64).tobytes() + bounds.tobytes()
    Path(f"{prefix}.idx").write_bytes(index)


def read(prefix: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """Sequences and document bounds."""
    index = Path(f"{prefix}.idx").read_bytes()
    version, code, n, d = struct.unpack_from("<QBQQ", index, 9)
    assert index[:9] == b"MMIDIDX\0\0" and version == 1
    dtype = np.dtype({v: k for k, v in CODES.items()}[code])
    lengths = np.frombuffer(index, np.int32, n, 34)
    offsets = np.frombuffer(index, np.int64, n, 34 + 4 * n)
    bounds = np.frombuffer(index, np.int64, d, 34 + 12 * n)
    tokens = Path(f"{prefix}.bin").read_bytes()
    pairs = zip(lengths, offsets, strict=True)
    return [np.frombuffer(tokens, dtype, length, offset) for length, offset in pairs], bounds


def both_files(prefix: Path) -> tuple[bytes, bytes]:
    return Path(f"{prefix}.bin").read_bytes(), Path(f"{prefix}.idx").read_bytes()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def run_python(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a script in a process of its own."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
