"""A run that goes on is the run that never stopped, bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_run

import llmjp_core as lc


def losses(run: lc.Run) -> list[tuple[int, float]]:
    return [(r["iteration"], r["loss"]) for r in run.history if r["event"] == "train"]


def evaluations(run: lc.Run) -> list[tuple[int, float]]:
    return [(r["iteration"], r["valid_loss"]) for r in run.history if r["event"] == "validation"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_killed_at_random_moments(tmp_path: Path, precision: str) -> None:
    """At least 20 kills, some of them in the middle of a checkpoint."""
    changes: dict[str, Any] = {"train_iters": 400, "checkpoint_factor": 4, "keep_last_n_checkpoints": 2}
    if precision == "fp16":
        changes["fp16"] = {"enabled": True, "initial_scale_power": 16, "loss_scale_window": 20, "hysteresis": 1}
    alone, killed = (tiny_run.make(tmp_path, save=str(tmp_path / name), **changes) for name in ("alone", "killed"))
    expected = tiny_run.trained(alone)
    path = tmp_path / "killed.json"
    path.write_text(json.dumps(killed))
    done = subprocess.run(
        [sys.executable, str(tiny_run.TESTS / "killed_run.py"), str(path), "5"],
        env=tiny_run.environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["kills"] >= 20 and counts["hits"] >= 5, counts
    run = tiny_run.trained(killed)  # all is done: reads the result
    assert losses(run) == losses(expected) and len(losses(run)) == 400
    assert evaluations(run) == evaluations(expected)
    assert tiny_run.digests(tmp_path / "killed/global_step400") == tiny_run.digests(tmp_path / "alone/global_step400")
    left = {entry.name for entry in (tmp_path / "killed").iterdir()}
    assert left == {entry.name for entry in (tmp_path / "alone").iterdir()}, "no leftovers"


def test_the_comparison_can_fail(tmp_path: Path) -> None:
    one = tiny_run.trained(tiny_run.make(tmp_path, save=str(tmp_path / "a")))
    other = tiny_run.trained(tiny_run.make(tmp_path, save=str(tmp_path / "b"), seed=4321))
    assert losses(one) != losses(other)
    assert tiny_run.digests(tmp_path / "a/global_step12") != tiny_run.digests(tmp_path / "b/global_step12")


def test_another_batch_size_goes_on_at_the_same_sample(tmp_path: Path) -> None:
    config = tiny_run.make(tmp_path, exit_interval=3)
    tiny_run.trained(config)
    again = tiny_run.trained({**config, "gradient_accumulation_steps": 4, "exit_interval": None})
    consumed = again.history["consumed_samples"]
    assert list(consumed[:5]) == [4, 8, 12, 20, 28]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 3}, "num_layers is 2 there, 3 here"),
        ({"seed": 5}, "seed is 1234 there, 5 here"),
        ({"rotary_pct": 0.5}, "rotary_pct is 0.25 there, 0.5 here"),
        ({"min_lr": 0.0}, r"min_lr is 0.0002 there, 0.0 here.*override_lr_scheduler"),
        ({"train_iters": 20}, r"end_iter is 12 there, 20 here"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    config = tiny_run.make(tmp_path, exit_interval=3)
    tiny_run.trained(config)
    with pytest.raises(lc.errors.CheckpointError, match=message):
        tiny_run.trained({**config, **changes})


def test_the_schedule_may_change_on_purpose(tmp_path: Path) -> None:
    config = tiny_run.make(tmp_path, exit_interval=3, checkpoint_factor=1)
    tiny_run.trained(config)
    with_ours = tiny_run.trained({**config, "min_lr": 1e-3, "override_lr_scheduler": True, "exit_interval": 6})
    assert with_ours.history["learning_rate"][-1] > 1.5e-3
    kept = tiny_run.trained({**config, "iteration": 3, "use_checkpoint_lr_scheduler": True, "exit_interval": 6})
    assert kept.history["learning_rate"][-1] < 1.6e-3


def test_other_data_is_noticed(tmp_path: Path) -> None:
    config = tiny_run.make(tmp_path, exit_interval=3)
    tiny_run.trained(config)
    tiny_run.write_text(tmp_path / "text", skip=1)
    with pytest.raises(lc.errors.CheckpointError, match="other data"):
        tiny_run.trained(config)


def test_never_and_must(tmp_path: Path) -> None:
    config = tiny_run.make(tmp_path, train_iters=3)
    with pytest.raises(lc.errors.CheckpointError, match="no checkpoint to go on from"):
        tiny_run.trained(config, resume="must")
    tiny_run.trained(config)
    with pytest.raises(lc.errors.CheckpointError, match="holds checkpoints already"):
        tiny_run.trained(config, resume="never")
    assert tiny_run.trained(config, resume="must").iteration == 3


def test_a_moved_run_goes_on(tmp_path: Path) -> None:
    config = tiny_run.make(tmp_path, exit_interval=6)
    tiny_run.trained(config)
    (tmp_path / "run").rename(tmp_path / "moved")
    run = tiny_run.trained({**config, "save": str(tmp_path / "moved")})
    assert run.iteration == 12 and run.checkpoint == tmp_path / "moved/global_step12"
    assert len(losses(run)) == 12
