"""Training with accelerated models: the loss curve of the unpatched model, and two processes like one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import distributed
import numpy as np
import pytest

TESTS = Path(__file__).resolve().parent
# (steps, loss, weights): the most that the curves may differ, relative.
LIMITS = {"float32": (200, 1e-5, 1e-4), "bfloat16": (200, 1e-2, 2e-2)}


def run(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent / 'python'}{os.pathsep}{TESTS}"}
    return subprocess.Popen([sys.executable, *arguments], env=environment, text=True, stderr=subprocess.PIPE)


def wait(*processes: subprocess.Popen[str]) -> None:
    try:
        for process in processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors
    finally:
        for process in processes:  # none waits for one that failed
            process.kill()


def relative(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """The difference of all weights together."""
    keys = [key for key in a if key != "losses"]
    difference = sum(float(np.square(a[k].astype(np.float64) - b[k]).sum()) for k in keys)
    return float(difference / sum(float(np.square(a[k].astype(np.float64)).sum()) for k in keys)) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_the_loss_curve_of_the_unpatched_model(family: str, dtype: str, tmp_path: Path) -> None:
    """Two processes; the one without us never imports us."""
    steps, loss_limit, weight_limit = LIMITS[dtype]
    results = []
    for how in ("plain", "accelerated"):
        wait(run(str(TESTS / "convergence.py"), family, str(steps), how, str(tmp_path / f"{how}.npz"), dtype))
        results.append(dict(np.load(tmp_path / f"{how}.npz")))
    plain, ours = results
    assert plain["losses"][-1] < 0.7 * plain["losses"][0]  # it learns
    assert np.abs(ours["losses"] / plain["losses"] - 1).max() <= loss_limit
    assert relative(plain, ours) <= weight_limit


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_train_like_one(kind: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    out = tmp_path / "two.npz"
    wait(*(run(str(TESTS / "distributed.py"), kind, str(rank), port, str(out)) for rank in range(2)))
    two = dict(np.load(out))
    module = distributed.model()
    losses = distributed.train(module, slice(0, 4), 1.0 if kind == "ddp" else None)
    np.testing.assert_allclose(two["losses"], [float(loss) for loss in losses], rtol=2e-6)
    one = {name: p.detach().numpy() for name, p in module.named_parameters()}
    assert relative(one, {name: two[name] for name in one}) <= 1e-5
