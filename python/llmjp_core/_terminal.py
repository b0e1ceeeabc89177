"""The live view in a terminal, drawn with rich."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .progress import Meter, Report, clock_time, sparkline


class TerminalView:
    """A bar, the figures of the last step, and the losses as a row of small bars."""

    def __init__(self, meter: Meter, stream: TextIO) -> None:
        self.meter = meter
        console = Console(file=stream)
        # rich redraws four times a second by itself, whatever the pace of the steps.
        self._live = Live(console=console, get_renderable=self._draw, refresh_per_second=4)
        self._live.start()

    def update(self, report: Report) -> None:
        self.meter.take(report)

    def note(self, line: str) -> None:
        self._live.console.print(Text(line))

    def close(self) -> None:
        self._live.stop()

    def _draw(self) -> Group:
        meter = self.meter
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=max(meter.total, 1), completed=meter.done, width=40),
            f"{meter.share:4.0%}",
            f"step {meter.done}/{meter.total}",
            Text(clock_time(meter.elapsed), style="dim"),
        )
        figures = Text()
        for name, value in meter.fields():
            figures.append(f"{name} ", style="dim").append(f"{value}  ", style="bold")
        return Group(bar, figures, Text(sparkline(meter.losses), style="cyan"))
