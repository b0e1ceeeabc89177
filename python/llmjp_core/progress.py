"""The live view of a run: one bar in a terminal, in Jupyter, or plain lines where nobody watches.

    view = progress.open_view(total=500)
    view.update({"iteration": 1, "loss": 8.3, "learning_rate": 1e-4, "tokens_per_sec": 6000.0, "grad_norm": 1.2})
    view.note("saved runs/a/global_step100")
    view.close()

A report may leave out every key but `iteration`; keys that a view does not know are ignored.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TextIO

Kind = Literal["auto", "terminal", "notebook", "plain", "none"]
Report = Mapping[str, Any]

BARS = "▁▂▃▄▅▆▇█"
SPARKLINE_WIDTH = 40


class View(Protocol):
    """What the run loop talks to."""

    def update(self, report: Report) -> None:
        """Shows the state after one step."""

    def note(self, line: str) -> None:
        """Shows a line that stays: an evaluation, a checkpoint, a warning."""

    def close(self) -> None:
        """Leaves the last state on the screen; later calls do nothing."""


def open_view(total: int, *, done: int = 0, kind: Kind = "auto", stream: TextIO | None = None) -> View:
    """A view of a run of `total` steps of which `done` lie behind.

    `auto` is Jupyter's display in a notebook, `rich` in a terminal where it is installed, else plain lines.
    """
    stream = stream or sys.stdout
    meter = Meter(total, done)
    match _choose(stream) if kind == "auto" else kind:
        case "notebook":
            from ._notebook import NotebookView

            return NotebookView(meter)
        case "terminal":
            from ._terminal import TerminalView

            return TerminalView(meter, stream)
        case "plain":
            return PlainView(meter, stream)
        case "none":
            return NoView()
        case other:
            raise ValueError(f"no view of the kind {other!r}: choose auto, terminal, notebook, plain or none")


def _choose(stream: TextIO) -> Kind:
    if in_notebook():
        return "notebook"
    if stream.isatty() and importlib.util.find_spec("rich"):
        return "terminal"
    return "plain"


def in_notebook() -> bool:
    """Whether this is a Jupyter kernel (and not an IPython terminal)."""
    # A kernel has imported IPython long ago; importing it here would cost 0.3 s for nothing.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


class Meter:
    """What all views show: the latest report, the losses so far and the time that is left."""

    def __init__(self, total: int, done: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.done = total, done
        self.report: dict[str, Any] = {}
        self.losses: list[float] = []
        self._clock = clock
        self._start = clock()
        # (time, step) of the last steps: the rate follows a machine that became slower.
        self._recent: deque[tuple[float, int]] = deque([(self._start, done)], maxlen=50)

    def take(self, report: Report) -> None:
        self.report.update(report)
        self.done = int(report["iteration"])
        self._recent.append((self._clock(), self.done))
        loss = report.get("loss")
        if loss is not None and math.isfinite(loss):
            self.losses.append(float(loss))

    @property
    def elapsed(self) -> float:
        return self._clock() - self._start

    @property
    def remaining(self) -> float | None:
        """Seconds until the last step, from the pace of the last 50; None before the first."""
        (then, first), (now, last) = self._recent[0], self._recent[-1]
        return (now - then) / (last - first) * (self.total - self.done) if last > first else None

    @property
    def share(self) -> float:
        return self.done / self.total if self.total else 1.0

    def fields(self) -> list[tuple[str, str]]:
        """(name, text) of what is known, in the order shown."""
        known = [(name, self.report.get(key), style) for key, name, style in _FIELDS]
        shown = [(name, style(value)) for name, value, style in known if value is not None]
        left = self.remaining
        return [*shown, ("ETA", clock_time(left))] if left is not None else shown

    def line(self) -> str:
        """All in one line, for a log."""
        return " | ".join([f"step {self.done}/{self.total}", *(f"{name} {text}" for name, text in self.fields())])


_FIELDS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("loss", "loss", "{:.4f}".format),
    ("valid_loss", "valid", "{:.4f}".format),
    ("learning_rate", "lr", "{:.2e}".format),
    ("grad_norm", "grad", "{:.3f}".format),
    ("tokens_per_sec", "tokens/s", "{:,.0f}".format),
)


def clock_time(seconds: float) -> str:
    """75 -> 1:15, 3675 -> 1:01:15."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def sparkline(values: Sequence[float], width: int = SPARKLINE_WIDTH) -> str:
    """The values as a row of bars, each the mean of an equal part; the lowest is ▁, the highest █."""
    if not values:
        return ""
    count = min(width, len(values))
    cuts = [i * len(values) // count for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(cuts)]
    low, span = min(means), max(means) - min(means) or 1.0
    return "".join(BARS[round((mean - low) / span * (len(BARS) - 1))] for mean in means)


class PlainView:
    """A line now and then: the first step, the last, and one every `every` seconds between."""

    def __init__(self, meter: Meter, stream: TextIO, every: float = 10.0) -> None:
        self.meter, self.stream, self.every = meter, stream, every
        self._shown: float | None = None

    def update(self, report: Report) -> None:
        self.meter.take(report)
        now = self.meter.elapsed
        if self._shown is None or now - self._shown >= self.every or self.meter.done >= self.meter.total:
            self._shown = now
            self.note(self.meter.line())

    def note(self, line: str) -> None:
        print(line, file=self.stream, flush=True)

    def close(self) -> None:
        pass


class NoView:
    """Shows nothing."""

    def update(self, report: Report) -> None:
        pass

    def note(self, line: str) -> None:
        pass

    def close(self) -> None:
        pass
