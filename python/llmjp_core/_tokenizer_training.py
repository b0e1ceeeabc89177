"""Training of tokenizers: what `lc.Tokenizer.train` and the command call, with its report and progress."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _core, _parquet
from ._progress_line import Line
from .errors import UnsupportedInputError

Paths = str | os.PathLike[str] | list[str | os.PathLike[str]] | tuple[str | os.PathLike[str], ...]


@dataclass(frozen=True)
class TrainingReport:
    """What became of the text."""

    sentences: int
    """Sentences with text in them."""
    bytes: int
    long_sentences: int
    """Sentences longer than `max_sentence_length`; each was cut into parts, none was dropped."""
    long_parts: int
    reserved_sentences: int
    """Sentences with U+2585; it counts as a character outside the alphabet."""
    used_sentences: int
    """Sentences and parts that were trained on."""
    characters: int
    """After normalisation."""
    distinct_characters: int
    alphabet: int
    """Characters that are pieces."""
    coverage: float
    """The share of all characters that the alphabet is."""
    pieces: int
    seconds: float

    def notes(self) -> list[str]:
        """What must not go unnoticed."""
        notes = []
        if self.long_sentences:
            notes.append(
                f"{self.long_sentences:,} sentences were longer than max_sentence_length and were cut into "
                f"{self.long_parts:,} parts"
            )
        if self.reserved_sentences:
            notes.append(f"{self.reserved_sentences:,} sentences have U+2585, which no piece can have")
        return notes

    def __str__(self) -> str:
        rate = self.bytes / 1e6 / self.seconds if self.seconds else 0.0
        return (
            f"{self.pieces:,} pieces from {self.sentences:,} sentences, {self.characters:,} characters, "
            f"{self.alphabet:,} of {self.distinct_characters:,} characters in the alphabet ({self.coverage:.4%}), "
            f"{self.seconds:.1f} s ({rate:.1f} MB/s)"
        )


@dataclass(frozen=True)
class TrainingProgress:
    """A moment of a training: how much of a stage is done. A total of 0 is not known."""

    stage: str
    """`read` (bytes), `words` (sentences), `merge` (pieces), `seeds`, `estimate`, `finish`."""
    done: int
    total: int
    seconds: float

    def __str__(self) -> str:
        unit = {"read": " MB", "words": " sentences", "merge": " pieces"}.get(self.stage, "")
        scale = 1e6 if self.stage == "read" else 1
        amount = f"{self.done / scale:,.0f}" + (f" of {self.total / scale:,.0f}" if self.total else "") + unit
        return f"{self.stage:8} | {amount if self.done else ''} | {self.seconds:,.0f} s"


def train(
    input: Paths | Iterable[str],
    *,
    vocab: str | os.PathLike[str] | None = None,
    input_format: str | None = None,
    json_key: str = "text",
    normalizer_from: str | os.PathLike[str] | None = None,
    progress: bool | Callable[[TrainingProgress], None] = True,
    report: Callable[[TrainingReport], None] | None = None,
    **options: Any,
) -> _core.Tokenizer:
    """`lc.Tokenizer.train`; see there."""
    start = time.monotonic()
    paths, sentences = _source(input)
    line = _Watch(progress, start)
    try:
        model, pieces, counts = _core.tokenizer_train(
            options | ({"input_format": "tsv"} if input_format == "tsv" else {}),
            inputs=paths,
            sentences=sentences,
            format={"text": "line", "tsv": "line"}.get(input_format or "", input_format),
            key=json_key,
            normalizer_from=normalizer_from,
            parquet=_parquet.Rows,
            observe=line.observe,
        )
    finally:
        line.close()
    tokenizer = _core.Tokenizer.from_bytes(model)
    result = TrainingReport(**counts, pieces=len(tokenizer), seconds=time.monotonic() - start)
    if vocab is not None:
        Path(vocab).write_text(pieces, encoding="utf-8", newline="\n")
    (report or _say)(result)
    return tokenizer


def reestimate(
    tokenizer: _core.Tokenizer,
    texts: Paths | Iterable[str],
    add_pieces: Sequence[str] | None = None,
    *,
    iterations: int = 8,
    num_threads: int | None = None,
    input_format: str | None = None,
    json_key: str = "text",
    progress: bool | Callable[[TrainingProgress], None] = True,
) -> _core.Tokenizer:
    """`lc.Tokenizer.reestimate`; see there."""
    if isinstance(add_pieces, str):
        raise UnsupportedInputError("add_pieces must be a list of str, not str")
    paths, sentences = _source(texts)
    line = _Watch(progress, time.monotonic())
    try:
        model = _core.tokenizer_reestimate(
            tokenizer,
            list(add_pieces or []),
            inputs=paths,
            sentences=sentences,
            format={"text": "line", None: None}.get(input_format, input_format),
            key=json_key,
            parquet=_parquet.Rows,
            iterations=iterations,
            num_threads=num_threads,
            observe=line.observe,
        )
    finally:
        line.close()
    return _core.Tokenizer.from_bytes(model, compat=tokenizer.compat)


def _source(input: Paths | Iterable[str]) -> tuple[list[str] | None, Iterator[str] | None]:
    """Files to read, or sentences to take."""
    if isinstance(input, str | os.PathLike):
        return [_path(input)], None
    if isinstance(input, list | tuple):
        return [_path(path) for path in input], None
    try:
        return None, iter(input)
    except TypeError:
        kind = type(input).__name__
        raise UnsupportedInputError(
            f"input must be a path, a list of paths or an iterator of str, not {kind}"
        ) from None


def _path(path: Any) -> str:
    if not isinstance(path, str | os.PathLike):
        kind = type(path).__name__
        raise UnsupportedInputError(f"a list as input holds paths, not {kind}; pass sentences as iter(sentences)")
    text = os.fsdecode(path)
    if "\n" in text or len(text) > 4096:
        raise UnsupportedInputError(f"{text[:40]!r}... is no path; pass sentences as iter(sentences)")
    return text


def _say(report: TrainingReport) -> None:
    for note in report.notes():
        print(f"llmjp_core: {note}", file=Line().stream)


class _Watch:
    """A function that is told of progress, or a line for whoever watches."""

    def __init__(self, progress: bool | Callable[[TrainingProgress], None], start: float) -> None:
        self._start, self._line = start, Line()
        self._tell = progress if callable(progress) else self._show if progress and self._line.visible else None

    @property
    def observe(self) -> Callable[[str, int, int], None] | None:
        if self._tell is None:
            return None
        tell = self._tell
        return lambda stage, done, total: tell(TrainingProgress(stage, done, total, time.monotonic() - self._start))

    def close(self) -> None:
        self._line.close()

    def _show(self, progress: TrainingProgress) -> None:
        self._line.show(str(progress))
