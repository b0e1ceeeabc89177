"""The loss curve: right numbers in it, a picture out of it, no backend chosen for the user."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from llmjp_core import plots

HISTORY = [
    {"iteration": 1, "loss": 8.0},
    {"iteration": 2, "loss": float("nan")},
    {"iteration": 3, "loss": 6.0, "valid_loss": 6.5},
    {"iteration": 4, "loss": 5.0},
    {"iteration": 5, "valid_loss": 5.5},
]


def test_series_leaves_out_what_is_not_finite() -> None:
    assert plots.series(HISTORY, "loss") == ([1, 3, 4], [8.0, 6.0, 5.0])
    assert plots.series(HISTORY, "valid_loss") == ([3, 5], [6.5, 5.5])


def test_smoothing_is_a_trailing_mean() -> None:
    values = np.random.default_rng(0).normal(size=100).tolist()
    smoothed = plots.smooth(values, share=0.05)
    assert smoothed == pytest.approx([np.mean(values[max(0, i - 4) : i + 1]) for i in range(100)])
    assert plots.smooth([3.0, 1.0]) == [3.0, 1.0]
    assert plots.smooth([]) == []


def test_the_curve_has_the_losses_and_the_baselines() -> None:
    axes = plots.loss_curve(HISTORY, baselines={"unigram": math.log(650)}, title="t").figure.axes[0]
    drawn = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    assert list(drawn["training (148)"]) == [8.0, 6.0, 5.0]
    assert list(drawn["held out (245)"]) == [6.5, 5.5]
    assert list(drawn["unigram (650)"]) == [math.log(650)] * 2
    assert axes.get_title() == "t"


def test_the_picture_is_a_png_with_something_in_it(tmp_path: Path) -> None:
    plot = plots.loss_curve(HISTORY)
    path = plot.save(tmp_path / "deep/er/loss.png")
    pixels = imread(path)
    assert pixels.shape[:2] == (675, 1200)
    assert pixels[..., :3].std() > 0.05
    assert plot._repr_png_().startswith(b"\x89PNG")


def test_an_empty_history_is_an_empty_picture(tmp_path: Path) -> None:
    assert plots.loss_curve([]).save(tmp_path / "a.png").stat().st_size > 1000


def test_no_backend_is_chosen() -> None:
    lines = [
        "import sys",
        "from llmjp_core import plots",
        "plots.loss_curve([{'iteration': 1, 'loss': 2.0}])._repr_png_()",
        "sys.exit('matplotlib.pyplot' in sys.modules)",
    ]
    assert subprocess.run([sys.executable, "-c", "\n".join(lines)]).returncode == 0
