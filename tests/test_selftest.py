"""The selftest runs every op, and says so when one is wrong."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import llmjp_core as lc
from llmjp_core import _core, cli, errors

WRONG = [("rms_norm.y", 1e-7, 1e-6, True), ("rms_norm.dx", float("nan"), 1e-6, False)]


def test_every_op_is_right_here() -> None:
    checks = lc.selftest()
    assert all(check.passed and check.error <= check.bound for check in checks)
    tested = {check.name.partition(".")[0] for check in checks}
    missing = set(lc.info()["kernels"]) - tested
    assert missing == set(), f"no check of {missing}; there are {sorted(tested)}"


def test_the_fallback_is_right_too() -> None:
    command = [sys.executable, "-m", "llmjp_core", "selftest", "--verbose"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LLMJP_ISA": "baseline"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(baseline kernels)" in done.stdout and "WRONG" not in done.stdout


def test_a_wrong_result_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(_core.ops, "selftest", lambda: WRONG)
    with pytest.raises(errors.InternalError, match=r"rms_norm\.dx \(nan, may be 1\.0e-06\)"):
        lc.selftest()
    assert [check.passed for check in lc.selftest(strict=False)] == [True, False]
    assert cli.main(["selftest"]) == 1
    assert "WRONG rms_norm.dx" in capsys.readouterr().out
