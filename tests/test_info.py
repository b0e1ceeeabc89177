"""What `lc.info` says is so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import llmjp_core as lc
from llmjp_core import _core


def facts(**environment: str) -> dict[str, object]:
    command = [sys.executable, "-m", "llmjp_core", "info", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    loaded: dict[str, object] = json.loads(done.stdout)
    return loaded


def test_it_names_every_op(repository: Path) -> None:
    ops = {path.stem for path in (repository / "rust/src/ops").glob("*.rs")} - {"mod", "selftest", "backend"}
    assert set(lc.info()["kernels"]) == ops


def test_the_environment_is_followed() -> None:
    told = facts(LLMJP_ISA="baseline", LLMJP_NUM_THREADS="3", OMP_NUM_THREADS="5")
    assert told["instruction_set"] == "baseline" and told["threads"] == 3
    assert facts(LLMJP_NUM_THREADS="", OMP_NUM_THREADS="5")["threads"] == 5


def test_the_instruction_set_is_one_that_the_processor_has() -> None:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        pytest.skip("no /proc/cpuinfo to compare with")
    flags = cpuinfo.read_text().partition("flags")[2].partition("\n")[0].split()
    avx2, avx512 = {"avx2", "fma", "f16c"}, {f"avx512{part}" for part in ("f", "bw", "cd", "dq", "vl")}
    bf16 = avx2 | avx512 | {"avx512_bf16"}
    sets = {"avx2": avx2, "avx512": avx2 | avx512, "avx512bf16": bf16, "amx": bf16 | {"amx_tile", "amx_bf16"}}
    want = ["baseline", *(name for name, needed in sets.items() if needed <= set(flags))][-1]
    assert facts(LLMJP_ISA="")["instruction_set"] == want


def test_versions_are_those_of_the_packages() -> None:
    packages = lc.info()["packages"]
    import matplotlib
    import torch

    assert packages["matplotlib"]["version"] == matplotlib.__version__
    assert packages["torch"]["version"] == torch.__version__.partition("+")[0]


def test_the_table_shows_everything() -> None:
    shown = repr(lc.info())
    for text in (lc.__version__, "device          cuda", "cpu/rms_norm", "package         torch", "LLMJP_ISA"):
        assert text in shown


def test_threads_can_be_set() -> None:
    before = _core.ops.num_threads()
    try:
        _core.ops.set_num_threads(3)
        assert lc.info()["threads"] == 3
    finally:
        _core.ops.set_num_threads(before)


def test_more_threads_give_the_same_bits() -> None:
    config = lc.Model.from_spec(
        {
            "num_layers": 1, "hidden_size": 48, "num_attention_heads": 4, "num_kv_heads": 2, "head_dim": 12,
            "ffn_hidden_size": 80, "vocab_size": 131, "max_position_embeddings": 64, "norm": "rms_norm",
            "norm_eps": 1e-5, "activation": "silu", "gated": True, "position": {"rotary": {"ndims": 12, "base": 10000}},
            "parallel_residual": False, "bias": {"norm": False, "attention": False, "mlp": False},
            "tie_word_embeddings": False,
        }
    )  # fmt: skip
    ids = np.random.default_rng(0).integers(0, 131, (3, 33))
    before = _core.ops.num_threads()
    try:
        losses = []
        for threads in (1, 2, 7):
            _core.ops.set_num_threads(threads)
            losses.append(config.logits(ids).tobytes())
    finally:
        _core.ops.set_num_threads(before)
    assert len(set(losses)) == 1
