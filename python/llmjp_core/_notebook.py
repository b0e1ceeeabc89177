"""The live view in Jupyter: one HTML block that is updated in place."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence

from IPython.display import HTML, display

from .progress import Meter, Report, clock_time

WIDTH, HEIGHT = 480, 80
EVERY = 0.25  # seconds between two updates: a browser needs no more


class NotebookView:
    """A bar, the figures of the last step, and the curve of the losses."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self._notes: list[str] = []
        self._shown = time.monotonic()
        self._open = True
        self._handle = display(HTML(self.html()), display_id=True)

    def update(self, report: Report) -> None:
        self.meter.take(report)
        if time.monotonic() - self._shown >= EVERY:
            self._show()

    def note(self, line: str) -> None:
        self._notes.append(line)
        self._show()

    def close(self) -> None:
        if self._open:
            self._show()
            self._open = False

    def _show(self) -> None:
        if self._open:
            self._shown = time.monotonic()
            self._handle.update(HTML(self.html()))

    def html(self) -> str:
        meter = self.meter
        cells = "".join(
            f"<td style='padding-right:1em'>{html.escape(name)} <b>{html.escape(text)}</b></td>"
            for name, text in meter.fields()
        )
        notes = html.escape("\n".join(self._notes[-8:]))
        return (
            f"<progress value='{meter.done}' max='{max(meter.total, 1)}' style='width:{WIDTH}px'></progress> "
            f"step {meter.done}/{meter.total}, {clock_time(meter.elapsed)}"
            f"<table><tr>{cells}</tr></table>{curve(meter.losses)}<pre>{notes}</pre>"
        )


def curve(values: Sequence[float]) -> str:
    """The values as an SVG line; nothing for less than two."""
    if len(values) < 2:
        return ""
    step = max(1, len(values) // WIDTH)
    shown = values[::step]
    low, span = min(shown), max(shown) - min(shown) or 1.0
    points = " ".join(
        f"{i / (len(shown) - 1) * WIDTH:.1f},{(1 - (value - low) / span) * (HEIGHT - 4) + 2:.1f}"
        for i, value in enumerate(shown)
    )
    line = f"<polyline points='{points}' fill='none' stroke='#1f77b4' stroke-width='1.5'/>"
    return f"<svg width='{WIDTH}' height='{HEIGHT}' role='img'>{line}</svg>"
