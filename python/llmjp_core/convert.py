"""`convert`: from a checkpoint of a run to a folder that transformers opens."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .errors import CheckpointError, ConfigError
from .model import Model

PathLike = str | os.PathLike[str]
MANIFEST = "manifest.json"


def convert(
    source: PathLike,
    target: PathLike,
    *,
    to: str = "hf",
    dtype: str | None = None,
    tokenizer: PathLike | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes the weights of `source` to the folder `target`, with config and tokenizer; returns `target`.

    `source` is a checkpoint (`.../global_step1000`), the folder that holds checkpoints (the newest is taken), or a
    folder of transformers (to change its dtype). `dtype` is float32, bfloat16 or float16. `tokenizer` is a `.model`
    file; by default the run's own, where its file still exists, or the one beside the weights.
    """
    if to != "hf":
        raise ConfigError(f"cannot convert to {to!r}; known formats: hf")
    from . import Tokenizer

    folder = find(Path(source))
    model_file = Path(tokenizer) if tokenizer is not None else tokenizer_of(folder)
    spoken = Tokenizer.from_file(model_file) if model_file else None
    Model.load(folder).save(target, dtype=dtype, tokenizer=spoken, overwrite=overwrite)
    return Path(target)


def find(source: Path) -> Path:
    """The folder with the weights: `source` itself, or the newest checkpoint in it."""
    if (source / "config.json").is_file() or (source / MANIFEST).is_file():
        return source
    latest = source / "latest"
    if latest.is_file():
        return source / latest.read_text(encoding="utf-8").strip()
    if not source.is_dir():
        raise CheckpointError(f"{source}: no such folder")
    raise CheckpointError(f"{source}: neither a checkpoint (manifest.json), nor a folder of checkpoints (latest), "
                          "nor a folder of transformers (config.json)")  # fmt: skip


def tokenizer_of(folder: Path) -> Path | None:
    """The `.model` file that belongs to the weights in `folder`, where it can be found."""
    beside = folder / "tokenizer.model"
    if beside.is_file():
        return beside
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return None
    config: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8")).get("config") or {}
    named = config.get("vocab_file")
    return Path(named) if named and Path(named).is_file() else None
