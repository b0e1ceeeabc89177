"""Pictures of a run, drawn with matplotlib (`pip install llmjp-core[plot]`)."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Report = Mapping[str, Any]


class Plot:
    """A figure that shows itself in a notebook whatever backend is set, and can be saved."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the picture; the ending of the name chooses the format (.png, .svg, .pdf)."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.figure.savefig(path, dpi=150)
        return path

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.figure.savefig(picture, format="png", dpi=110)
        return picture.getvalue()


def loss_curve(
    history: Iterable[Report], *, baselines: Mapping[str, float] | None = None, title: str | None = None
) -> Plot:
    """Training and validation loss over the steps, and horizontal lines for `baselines` (name -> nats a token).

    `history` holds reports with `iteration` and `loss`, `valid_loss` or both. The axis on the right is the
    perplexity, exp(loss).
    """
    # Not pyplot: it would choose a backend for the whole process and keep the figure for ever.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    reports = list(history)
    _draw_training(axes, series(reports, "loss"))
    _draw_validation(axes, series(reports, "valid_loss"))
    for (name, loss), style in zip((baselines or {}).items(), _styles(), strict=False):
        axes.axhline(loss, label=f"{name} ({_perplexity(loss)})", linewidth=1.2, **style)
    axes.set(xlabel="step", ylabel="loss (nats a token)", title=title)
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(title="perplexity in brackets")
    _perplexity_axis(axes)
    return Plot(figure)


def bars(groups: Mapping[str, Mapping[str, float]], *, ylabel: str) -> Plot:
    """Groups of bars: group -> name -> value, each name of one colour."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    figure = Figure(figsize=(max(6.0, 1.0 + 0.35 * len(groups) * (len(names) + 1)), 4.5), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / max(1, len(names))
    for i, name in enumerate(names):
        places = [at - 0.4 + (i + 0.5) * width for at in range(len(groups))]
        axes.bar(places, [group.get(name, math.nan) for group in groups.values()], width, label=name)
    axes.set_xticks(range(len(groups)), list(groups), rotation=30, ha="right")
    axes.set(ylabel=ylabel)
    axes.grid(axis="y", alpha=0.25)
    axes.legend()
    return Plot(figure)


def series(reports: Sequence[Report], key: str) -> tuple[list[int], list[float]]:
    """The steps and values of the reports that have a finite `key`."""
    kept = [(r["iteration"], float(r[key])) for r in reports if r.get(key) is not None and math.isfinite(r[key])]
    return [step for step, _ in kept], [value for _, value in kept]


def smooth(values: Sequence[float], share: float = 0.05) -> list[float]:
    """A trailing mean over the last `share` of all values (at least one), so that nothing looks into the future."""
    width = max(1, round(len(values) * share))
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    return [(sums[i + 1] - sums[max(0, i + 1 - width)]) / min(i + 1, width) for i in range(len(values))]


def _draw_training(axes: Axes, points: tuple[list[int], list[float]]) -> None:
    steps, losses = points
    if not steps:
        return
    mean = smooth(losses)
    axes.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=0.8)
    axes.plot(steps, mean, color="tab:blue", linewidth=1.6, label=f"training ({_perplexity(mean[-1])})")


def _draw_validation(axes: Axes, points: tuple[list[int], list[float]]) -> None:
    steps, losses = points
    if steps:
        label = f"held out ({_perplexity(losses[-1])})"
        axes.plot(steps, losses, color="tab:orange", marker="o", markersize=4, linewidth=1.6, label=label)


def _styles() -> Iterable[dict[str, Any]]:
    return ({"color": color, "linestyle": line} for color in ("0.35", "0.6") for line in ("--", ":", "-."))


def _perplexity_axis(axes: Axes) -> None:
    right = axes.secondary_yaxis("right", functions=(lambda loss: loss, lambda loss: loss))
    right.set_ylabel("perplexity")
    right.yaxis.set_major_formatter(lambda loss, _: _perplexity(loss))


def _perplexity(loss: float) -> str:
    return f"{math.exp(min(loss, 700)):,.0f}"  # exp overflows above 709
