"""A hundred steps from the same weights on the same real text: our losses are torch's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run

import llmjp_core as lc

STEPS = 100


def reference(folder: Path, config: dict[str, Any], tokens: Path, **changes: Any) -> dict[str, np.ndarray]:
    params = config["optimizer"]["params"]
    spec = {
        "model": str(folder / "run/global_step0"),
        "tokens": str(tokens),
        "out": str(folder / "reference.json"),
        "lr": params["lr"],
        "betas": params["betas"],
        "eps": params["eps"],
        "weight_decay": config["weight_decay"],
        "exempt_weight_decay": 0.0,
        "clip": config["gradient_clipping"],
        "min_lr": config["min_lr"],
        "warmup": config["warmup"],
        "train_iters": config["train_iters"],
        **changes,
    }
    path = folder / "spec.json"
    path.write_text(json.dumps(spec))
    script = tiny_run.TESTS / "reference_training.py"
    subprocess.run([sys.executable, str(script), str(path)], check=True, cwd=folder, timeout=300)
    return {key: np.array(value) for key, value in json.loads((folder / "reference.json").read_text()).items()}


def save_tokens(folder: Path, config: dict[str, Any]) -> Path:
    """Every micro-batch of the run: (steps, micro-batches, sequences, time)."""
    micro, accumulation = config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"]
    count = config["train_iters"] * micro * accumulation
    parts = lc.data.samples(config["data_path"], seq_length=tiny_run.TIME, count=count, split=config["split"])
    inputs, targets = (np.stack(both) for both in zip(*(parts.train.item(i) for i in range(count)), strict=True))
    shape = (config["train_iters"], accumulation, micro, tiny_run.TIME)
    path = folder / "tokens.npz"
    np.savez(path, inputs=inputs.reshape(shape), targets=targets.reshape(shape))
    return path


@pytest.mark.parametrize(
    ("base", "accumulation"), [(tiny_run.NEOX, 2), (tiny_run.LLAMA, 3)], ids=["neox, 2 micro-batches", "llama, 3"]
)
def test_losses_are_those_of_torch(tmp_path: Path, base: dict[str, Any], accumulation: int) -> None:
    config = tiny_run.make(
        tmp_path, base, train_iters=STEPS, gradient_accumulation_steps=accumulation, checkpoint_factor=1000,
        extra_save_iters=[0], eval_iters=0, weight_decay=0.5,
    )  # fmt: skip
    run = tiny_run.trained(config)
    tokens = save_tokens(tmp_path, config)
    theirs = reference(tmp_path, config, tokens)
    ours = run.history["loss"]
    assert ours[-10:].mean() < 0.9 * ours[0], "it learns"
    np.testing.assert_allclose(ours, theirs["losses"], rtol=1e-4)
    np.testing.assert_allclose(run.history["grad_norm"], theirs["norms"], rtol=5e-3)
    # And the comparison sees a wrong optimizer: decay on norms and biases too.
    wrong = reference(tmp_path, config, tokens, exempt_weight_decay=0.5)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(ours, wrong["losses"], rtol=1e-4)
