"""How far a long read of text is: numbers for a callback, or a line for whoever watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from .progress import in_notebook


@dataclass(frozen=True)
class Progress:
    """A moment of `lc.data.tokenize`. Bytes are those of the input files as they lie on disk."""

    documents: int
    tokens: int
    skipped: int
    bytes_read: int
    bytes_total: int
    seconds: float

    @property
    def share(self) -> float:
        return self.bytes_read / self.bytes_total if self.bytes_total else 1.0

    @property
    def seconds_left(self) -> float | None:
        return self.seconds * (1 / self.share - 1) if self.bytes_read and self.seconds else None

    def __str__(self) -> str:
        speed = self.tokens / self.seconds if self.seconds else 0.0
        rate = self.bytes_read / 1e6 / self.seconds if self.seconds else 0.0
        left = "" if self.seconds_left is None else f" | {self.seconds_left:,.0f} s left"
        skipped = f" | {self.skipped:,} skipped" if self.skipped else ""
        return (
            f"{self.share:4.0%} | {self.documents:,} documents | {self.tokens:,} tokens | {rate:,.1f} MB/s"
            f" | {speed:,.0f} tokens/s{left}{skipped}"
        )


class Line:
    """One line of the terminal or notebook that is written over."""

    def __init__(self) -> None:
        notebook = in_notebook()
        # Jupyter shows stderr as an error, on red.
        self.stream = sys.stdout if notebook else sys.stderr
        self.visible = notebook or sys.stderr.isatty()
        self._width = 0

    def show(self, text: str) -> None:
        print("\r" + text.ljust(self._width), end="", file=self.stream, flush=True)
        self._width = len(text)

    def close(self) -> None:
        if self._width:
            print(file=self.stream)


class Watch:
    """Hands progress on: to a function, or to a line for whoever watches."""

    def __init__(self, progress: bool | Callable[[Progress], None]) -> None:
        self._start = time.monotonic()
        self._line = Line()
        if callable(progress):
            self._tell: Callable[[Progress], None] | None = progress
        else:
            self._tell = self._show if progress and self._line.visible else None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def observe(self, documents: int, tokens: int, skipped: int, bytes_read: int, bytes_total: int) -> None:
        if self._tell is not None:
            self._tell(Progress(documents, tokens, skipped, bytes_read, bytes_total, self.seconds))

    def close(self) -> None:
        self._line.close()

    def _show(self, progress: Progress) -> None:
        self._line.show(str(progress))
