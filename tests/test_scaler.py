"""fp16 loss scaling, against traces recorded from DeepSpeed's class."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import tiny_run

import llmjp_core as lc
from llmjp_core._core import LossScaler

STEPS = "OOOgggggggOggggOOg"
STAGE_1 = [
    4096, 4096, 2048, 1024, 1024, 1024, 1024, 2048, 2048, 2048, 4096, 4096, 4096, 4096, 4096, 8192, 8192, 4096, 4096,
]  # fmt: skip
STAGE_0 = [
    4096, 2048, 1024, 512, 512, 512, 512, 1024, 1024, 1024, 2048, 1024, 1024, 1024, 1024, 2048, 1024, 512, 512,
]  # fmt: skip


def trace(scaler: LossScaler, steps: str = STEPS) -> list[float]:
    scales = [scaler.scale]
    for step in steps:
        scaler.update(step == "O")
        scales.append(scaler.scale)
    return scales


def test_golden_traces() -> None:
    assert trace(LossScaler(0.0, 12, 3, 2, 1.0, True)) == STAGE_1
    assert trace(LossScaler(0.0, 12, 3, 1, 1.0, False)) == STAGE_0
    assert trace(LossScaler(0.0, 12, 4, 2, 1.0, True)) != STAGE_1, "another window is noticed"


def test_the_floor() -> None:
    assert trace(LossScaler(0.0, 1, 3, 1, 1.0, False), "OOOO") == [2, 1, 1, 1, 1]
    with pytest.raises(lc.errors.NonFiniteError, match="min_loss_scale"):
        trace(LossScaler(0.0, 1, 3, 1, 1.0, True), "OOOO")


def test_a_fixed_scale_never_moves() -> None:
    assert set(trace(LossScaler(128.0, 12, 3, 2, 1.0, True))) == {128.0}


def test_a_run_lowers_its_scale_and_the_schedule_waits(tmp_path: Path) -> None:
    fp16 = {"enabled": True, "initial_scale_power": 24, "loss_scale_window": 4, "hysteresis": 1}
    run = tiny_run.trained(tiny_run.make(tmp_path, fp16=fp16, train_iters=16))
    steps = [report for report in run.history if report["event"] == "train"]
    skipped = next(i for i, report in enumerate(steps) if not report["skipped"])
    assert 0 < skipped < 12
    assert [report["loss_scale"] for report in steps[: skipped + 1]] == [2.0 ** (24 - k) for k in range(skipped + 1)]
    warm = {report["learning_rate"] for report in steps[: skipped + 1]}
    assert len(warm) == 1, "a skipped step does not move the schedule"
    assert "gradient of `" in steps[0]["note"]
    assert math.isfinite(steps[-1]["loss"]) and steps[-1]["loss"] < steps[skipped]["loss"]
    assert run.summary()["skipped"] == sum(report["skipped"] for report in steps)
