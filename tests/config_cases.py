"""What the tests of configurations share: a small run, a writer of files, loaders."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st

import llmjp_core as lc
from llmjp_core.errors import ConfigError

BASE: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "seq_length": 16,
    "max_position_embeddings": 32,
    "vocab_size": 1000,
    "pos_emb": "rotary",
    "train_micro_batch_size_per_gpu": 2,
    "train_iters": 100,
    "optimizer": {"type": "Adam", "params": {"lr": 0.001}},
}

THREE: dict[str, Any] = {f"{part}_data_paths": ["a"] for part in ("train", "valid", "test")}

TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcdeあい", min_size=1), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip

Write = Callable[..., Path]


def flow(value: Any) -> str:
    """One line of YAML 1.1."""
    return yaml.dump([value], default_flow_style=True, width=10**6, allow_unicode=True).strip()[1:-1]


def writer(folder: Path) -> Write:
    """Writes BASE with changes, one key a line, and raw text; `None` leaves a key out."""

    def write(name: str = "run.yml", text: str = "", base: dict[str, Any] = BASE, **changes: Any) -> Path:
        keys = {key: value for key, value in {**base, **changes}.items() if value is not None}
        path = folder / name
        path.write_text("".join(f"{key}: {flow(value)}\n" for key, value in keys.items()) + text, "utf-8")
        return path

    return write


def load(*sources: Any, **overrides: Any) -> dict[str, Any]:
    """Loads and forbids warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return lc.config.load(*sources, overrides=overrides)


def refused(*sources: Any, **overrides: Any) -> str:
    """The message of the refusal that must come."""
    with pytest.raises(ConfigError) as error:
        lc.config.load(*sources, overrides=overrides)
    return str(error.value)
