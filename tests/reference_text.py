"""Texts to tokenize, and the dataset that sentencepiece's ids and a plain loop make of them."""

from __future__ import annotations

import gzip
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_dataset as reference
import sentencepiece as spm
from reference_dataset import both_files

DATA = Path(__file__).parent / "data"
MODEL = DATA / "neko_unigram.model"
EOD = 3
PARAGRAPHS = [line for line in (DATA / "neko.txt").read_text().splitlines() if line]
REFERENCE = spm.SentencePieceProcessor(model_file=str(MODEL))


def expect(
    prefix: Path, texts: list[str], model: Any = REFERENCE, dtype: str = "uint16", eod: int = EOD
) -> tuple[bytes, bytes]:
    """The files that sentencepiece's ids give."""
    reference.write(prefix, [[np.array([*model.encode(text), eod])] for text in texts if text], dtype)
    return both_files(prefix)


def write_jsonl(path: Path, texts: list[str], **other: Any) -> Path:
    lines = [json.dumps({"id": i, "text": text, **other}, ensure_ascii=i % 2 == 0) for i, text in enumerate(texts)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def documents(count: int, seed: int = 0) -> list[str]:
    """Documents of a few paragraphs; some are empty."""
    rng = random.Random(seed)
    return ["\n".join(rng.choices(PARAGRAPHS, k=rng.randrange(5))) for _ in range(count)]


def compressed(path: Path, folder: Path, ending: str) -> Path:
    """Two members one after the other, as `cat a.gz b.gz` gives."""
    text = path.read_bytes()
    pack: Callable[[bytes], bytes] = {"gz": gzip.compress, "xz": lzma.compress, "zst": zstd}[ending]
    out = folder / f"{path.name}.{ending}"
    out.write_bytes(pack(text[:100_000]) + pack(text[100_000:]))
    return out


def zstd(text: bytes) -> bytes:
    return bytes(pytest.importorskip("zstandard").ZstdCompressor().compress(text))
