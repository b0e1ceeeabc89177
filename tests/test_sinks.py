"""Figures under GPT-NeoX's names: read back with TensorBoard's reader and W&B's own files."""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run

import llmjp_core as lc
from llmjp_core import sinks

EVERY_STEP = ["train/learning_rate", "train/lm_loss", "train/grad_norm", "data/epoch", "data/tokens"]
EVERY_INTERVAL = [
    "runtime/samples_per_sec", "runtime/iteration_time", "runtime/steps_per_sec", "runtime/tokens_per_sec",
    "runtime/tokens_per_sec_per_gpu", "runtime/flops_per_sec_per_gpu", "memory/peak", "timers/optimizer",
    "timers/forward-backward", "timers/batch generator",
]  # fmt: skip
REPORT: dict[str, Any] = {
    "iteration": 200, "loss": 3.25, "learning_rate": 1.5e-4, "grad_norm": 0.5, "loss_scale": None, "skipped": False,
    "nan": False, "samples": 8, "tokens": 1024, "seconds": 0.5, "timers": {"optimizer": 0.125}, "note": None,
    "epoch": 0.5, "consumed_tokens": 204_800,
}  # fmt: skip


def summary(*reports: dict[str, Any], peak: float | None = None) -> sinks.Summary:
    s = sinks.Summary(sinks.Flops(neox=2e9, full=1e9, causal=0.5e9, hardware=1.5e9, peak_tflops=peak))
    for report in reports:
        s.add({**REPORT, **report})
    return s


def test_the_console_line_is_neoxs() -> None:
    console = sinks.Console(500, print)
    s = summary({"iteration": 199, "loss": 3.75}, {})
    assert console.line(s) == (
        " samples/sec: 16.000 | iteration      200/     500 | elapsed time per iteration (ms): 500.0 |"
        " learning rate: 1.500E-04 | approx flops per GPU: 4.1TFLOPS | lm_loss: 3.500000E+00 |"
        " number of skipped iterations:   0 | number of nan iterations:   0 |"
    )


def test_the_console_line_of_fp16_with_a_peak() -> None:
    nan = {"loss": float("nan"), "skipped": True, "nan": True}
    s = summary({"loss_scale": 4096.0, **nan}, {"loss_scale": 2048.0}, peak=4.096)
    line = sinks.Console(500, print).line(s)
    assert "| MFU (full attention): 50.00% | MFU (causal): 25.00% | HFU: 75.00% | lm_loss: 3.250000E+00 |" in line
    assert line.endswith("loss scale: 2048.0 | number of skipped iterations:   1 | number of nan iterations:   1 |")


def test_the_time_line() -> None:
    lines: list[str] = []
    sinks.Console(500, lines.append).interval(summary({}, {}))
    assert lines[1] == "time (ms) | optimizer: 125.00"


@pytest.mark.parametrize(
    ("value", "text"), [(3.0, "3.0FLOPS"), (1.25e12, "1.2TFLOPS"), (4e21, "4.0ZFLOPS")]
)  # fmt: skip
def test_human_flops(value: float, text: str) -> None:
    assert sinks.human_flops(value) == text


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def test_tensorboard_reads_what_happened(tmp_path: Path) -> None:
    board = tmp_path / "board"
    config = tiny_run.make(tmp_path, tensorboard_dir=str(board), exit_interval=6, checkpoint_factor=6)
    tiny_run.trained(config)
    # A process that was lost after step 6: what it wrote beyond is hidden after the resume.
    lost = sinks.TensorBoard(board, 6)
    lost.log(7, {"train/lm_loss": 99.0})
    lost.close()
    run = tiny_run.trained({**config, "exit_interval": None})
    tags = scalars(board)
    assert set(EVERY_STEP + EVERY_INTERVAL) <= set(tags)
    losses = tags["train/lm_loss"]
    assert list(losses) == list(range(1, 13))
    np.testing.assert_allclose(list(losses.values()), run.history["loss"], rtol=1e-6)
    np.testing.assert_allclose(list(tags["train/learning_rate"].values()), run.history["learning_rate"], rtol=1e-6)
    assert list(tags["runtime/tokens_per_sec"]) == [4, 8, 12]
    valid = {int(i): v for i, v in zip(run.history.steps("valid_loss"), run.history["valid_loss"], strict=True)}
    assert tags["validation/lm_loss"] == pytest.approx(valid, rel=1e-6)
    assert tags["validation/lm_loss_ppl"][12] == pytest.approx(np.exp(valid[12]), rel=1e-5)
    assert list(tags["test/lm_loss"]) == [12]
    assert "train/loss_scale" not in tags


def test_gradient_norms_of_each_parameter(tmp_path: Path) -> None:
    config = tiny_run.make(tmp_path, tensorboard_dir=str(tmp_path / "board"), log_grad_norm=True, train_iters=3)
    run = tiny_run.trained(config)
    tags = scalars(tmp_path / "board")
    norms = {tag.removeprefix("gradient_norms/"): values for tag, values in tags.items() if "gradient_norms/" in tag}
    assert set(norms) == set(run.model.tensors())
    for step in (1, 2, 3):
        whole = np.sqrt(sum(values[step] ** 2 for values in norms.values()))
        assert whole == pytest.approx(run.history["grad_norm"][step - 1], rel=1e-5)


def log_records(data: bytes) -> Iterator[bytes]:
    """The records of a `.wandb` file: LevelDB's log format (blocks of 32 KiB) after a header of 7 bytes."""
    assert data[:4] == b":W&B"
    place, record = 7, b""
    while place + 7 <= len(data):
        room = 32768 - place % 32768
        if room < 7:
            place += room
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        if kind == 0:
            break
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def whole_run(path: Path) -> list[Any]:
    """All messages: another process writes them, and on a busy machine it is not through when the run has finished."""
    from wandb.proto import wandb_internal_pb2

    for _ in range(600):
        records = [wandb_internal_pb2.Record.FromString(data) for data in log_records(path.read_bytes())]
        if records and records[-1].HasField("exit"):
            return records
        time.sleep(0.1)
    raise AssertionError(f"{path} has no end")


def wandb_records(folder: Path) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    """The configuration and the history of an offline run, read with the package's own messages."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    config: dict[str, Any] = {}
    steps: dict[int, dict[str, Any]] = {}
    for record in whole_run(path):
        for item in record.run.config.update:
            config[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        if record.HasField("history"):
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            steps.setdefault(int(row["_step"]), {}).update(row)
    return config, steps


def test_wandb_offline_holds_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = tiny_run.make(tmp_path, use_wandb=True, wandb_project="tiny", wandb_run_name="neko", train_iters=8)
    run = tiny_run.trained(config)
    settings, steps = wandb_records(tmp_path / "run")
    assert settings["hidden_size"] == 24 and settings["train_iters"] == 8
    assert set(steps) == set(range(1, 9))
    assert [steps[i]["train/lm_loss"] for i in range(1, 9)] == pytest.approx(list(run.history["loss"]))
    assert set(EVERY_STEP + EVERY_INTERVAL) <= set(steps[8])
    assert steps[8]["validation/lm_loss"] == pytest.approx(run.history["valid_loss"][-1])
    entries = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [entry["event"] for entry in entries].count("wandb") == 1


def test_wandb_is_on_only_where_a_key_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    assert not sinks.wandb_wanted({"use_wandb": None})
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password 0123\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert sinks.wandb_wanted({"use_wandb": None})
    assert not sinks.wandb_wanted({"use_wandb": None, "wandb_host": "https://wandb.example.org"})
    assert not sinks.wandb_wanted({"use_wandb": False})
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert sinks.wandb_wanted({"wandb_host": "https://wandb.example.org"})


@pytest.mark.parametrize(
    ("package", "changes"), [("wandb", {"use_wandb": True}), ("tensorboard", {"tensorboard_dir": "board"})]
)
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, changes: dict[str, Any]
) -> None:
    for name in [m for m in sys.modules if m.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(lc.errors.ConfigError, match=f"pip install {package}"):
        tiny_run.trained(tiny_run.make(tmp_path, **changes))
    # And the folder is free again.
    assert tiny_run.trained(tiny_run.make(tmp_path, train_iters=1, lr_decay_iters=12)).status == "finished"


def test_all_sinks_are_closed_though_one_fails() -> None:
    closed = []

    class Failing(sinks.Console):
        def close(self) -> None:
            closed.append(self)
            raise OSError("disk full")

    both = sinks.Sinks([Failing(1, print), Failing(1, print)], 10, summary({}).flops)
    with pytest.raises(OSError, match="disk full"):
        both.close()
    assert len(closed) == 2
