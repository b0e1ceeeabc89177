"""The battery again with the instruction set that every CPU has; and `selftest` with both."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmjp_core._core import ops

HERE = Path(__file__).resolve().parent
ALL = ("baseline", "avx2", "avx512", "avx512bf16", "amx")
FILES = ["test_isa.py", "test_rms_norm.py", "test_activation.py", "test_attention.py", "test_linear.py"]
FILES += ["test_cross_entropy.py", "test_linear_cross_entropy.py", "test_adamw.py", "test_cast.py"]


def run(isa: str, *command: str) -> str:
    environment = {**os.environ, "LLMJP_ISA": isa}
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=HERE.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_variable_is_obeyed() -> None:
    if os.environ.get("LLMJP_ISA", "").lower() == "baseline":
        assert ops.isa() == "baseline"
    else:
        assert ops.isa() in ALL


def test_selftest_passes() -> None:
    checks = ops.selftest()
    names = [name for name, *_ in checks]
    assert len(set(names)) == len(names)
    parts = {"embedding", "linear", "rms_norm", "layer_norm", "rotary", "attention", "activation", "gated_mlp", "add"}
    assert {name.split(".")[0] for name in names} == parts | {
        "cross_entropy",
        "linear_cross_entropy",
        "adamw",
        "grad_norm",
        "cast",
    }
    assert [check for check in checks if not check[3]] == []


@pytest.mark.skipif(os.environ.get("LLMJP_ISA", "").lower() == "baseline", reason="this is the second run")
def test_baseline_passes_the_battery() -> None:
    out = run("baseline", "-m", "pytest", "-x", "-p", "no:cacheprovider", *(str(HERE / name) for name in FILES))
    assert " passed" in out and "failed" not in out


@pytest.mark.parametrize("less", ALL[1:-1])
def test_less_can_be_asked_for(less: str) -> None:
    if ops.isa() not in ALL[ALL.index(less) + 1 :]:
        pytest.skip(f"{ops.isa()} is in use, which is not above {less}")
    told = "from llmjp_core import _core; print(_core.ops.isa(), all(check[3] for check in _core.ops.selftest()))"
    assert run(less, "-c", told).split() == [less, "True"]
