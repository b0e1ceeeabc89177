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


class Watch:
    """Hands progress on: to a function, or to one line of the terminal or notebook that is written over."""

    def __init__(self, progress: bool | Callable[[Progress], None]) -> None:
        self._start = time.monotonic()
        self._line = 0
        # Jupyter shows stderr as an error, on red.
        notebook = in_notebook()
        self._stream = sys.stdout if notebook else sys.stderr
        visible = notebook or sys.stderr.isatty()
        if callable(progress):
            self._tell: Callable[[Progress], None] | None = progress
        else:
            self._tell = self._show if progress and visible else None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def observe(self, documents: int, tokens: int, skipped: int, bytes_read: int, bytes_total: int) -> None:
        if self._tell is not None:
            self._tell(Progress(documents, tokens, skipped, bytes_read, bytes_total, self.seconds))

    def close(self) -> None:
        if self._line:
            print(file=self._stream)

    def _show(self, progress: Progress) -> None:
        text = str(progress)
        print("\r" + text.ljust(self._line), end="", file=self._stream, flush=True)
        self._line = len(text)
