"""What tokenizers make of a corpus: tokens a character, unknown text, pieces in use.

report = lc.tokenizer_report(["mine.model", "llm-jp.model"], "corpus/*.jsonl.gz")
print(report)
report.plot().save("report.png")
report.as_dict()
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import _core, data
from .errors import UnsupportedInputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from .plots import Plot

    Counts = npt.NDArray[np.int64]

PathLike = str | os.PathLike[str]

LONGEST = 10
BATCH = 256  # documents encoded at a time


@dataclass(frozen=True)
class Row:
    """One model on the documents of one source and language."""

    model: str
    source: str
    language: str
    documents: int
    characters: int
    bytes: int
    tokens: int
    unknown_tokens: int
    byte_tokens: int
    """Tokens that are single bytes, because no piece has the character."""
    unknown_characters: int
    """Characters that no piece has: they became unknown or bytes."""

    @property
    def characters_per_token(self) -> float:
        return self.characters / self.tokens if self.tokens else 0.0

    @property
    def tokens_per_character(self) -> float:
        return self.tokens / self.characters if self.characters else 0.0

    @property
    def coverage(self) -> float:
        """Share of the characters that pieces have."""
        return 1 - self.unknown_characters / self.characters if self.characters else 1.0

    @property
    def byte_rate(self) -> float:
        return self.byte_tokens / self.tokens if self.tokens else 0.0

    @property
    def unknown_rate(self) -> float:
        return self.unknown_tokens / self.tokens if self.tokens else 0.0


@dataclass(frozen=True)
class Pieces:
    """Which pieces of a model the corpus uses."""

    model: str
    vocab_size: int
    used: int
    longest: tuple[tuple[str, int], ...]
    """The longest pieces in use, each with its number of tokens."""


@dataclass(frozen=True)
class TokenizerReport:
    """Rows of all models, first by source and language, the totals last."""

    rows: tuple[Row, ...]
    pieces: tuple[Pieces, ...]
    errors: tuple[str, ...]
    """Documents that could not be read, with file and line: left out."""

    def totals(self) -> list[Row]:
        """One row a model, over all documents."""
        return [row for row in self.rows if row.source == ALL]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        plain = asdict(self)
        for row, values in zip(self.rows, plain["rows"], strict=True):
            values |= {name: getattr(row, name) for name in RATES}
        return plain

    def plot(self) -> Plot:
        """Characters a token by source and language, a bar a model (needs matplotlib)."""
        from . import plots

        groups: dict[str, dict[str, float]] = {}
        for row in self.rows:
            groups.setdefault(_group(row), {})[row.model] = row.characters_per_token
        return plots.bars(groups, ylabel="characters a token (more is shorter)")

    def __str__(self) -> str:
        lines = [_line(HEADINGS), *(_line(cells) for cells in self._cells())]
        for pieces in self.pieces:
            longest = ", ".join(f"{piece} ({count:,})" for piece, count in pieces.longest)
            lines += [
                "",
                f"{pieces.model}: {pieces.used:,} of {pieces.vocab_size:,} pieces in use"
                f" ({pieces.used / pieces.vocab_size:.1%}); the longest: {longest}",
            ]
        if self.errors:
            lines += ["", f"{len(self.errors):,} documents could not be read, the first: {self.errors[0]}"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        def row(cells: Iterable[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        return f"<table>{row(HEADINGS, 'th')}{''.join(row(cells, 'td') for cells in self._cells())}</table>"

    def _cells(self) -> Iterator[tuple[str, ...]]:
        for row in self.rows:
            yield (
                _group(row), row.model, f"{row.characters:,}", f"{row.tokens:,}", f"{row.characters_per_token:.3f}",
                f"{row.tokens_per_character:.3f}", f"{row.unknown_rate:.3%}", f"{row.byte_rate:.3%}",
                f"{row.coverage:.4%}",
            )  # fmt: skip


ALL = "all"
RATES = ("characters_per_token", "tokens_per_character", "unknown_rate", "byte_rate", "coverage")
HEADINGS = ("text", "model", "characters", "tokens", "chars/token", "tokens/char", "unknown", "bytes", "coverage")


def _group(row: Row) -> str:
    return f"{row.source}, {row.language}" if row.language else row.source


def _line(cells: Sequence[str]) -> str:
    return f"{cells[0]:<32} {cells[1]:<32} " + " ".join(f"{cell:>12}" for cell in cells[2:])


def tokenizer_report(
    models: PathLike | _core.Tokenizer | Sequence[PathLike | _core.Tokenizer] | Mapping[str, _core.Tokenizer],
    inputs: PathLike | Sequence[PathLike],
    *,
    key: str = "text",
    txt: Literal["file", "line"] = "file",
    max_documents: int | None = None,
    num_threads: int | None = None,
) -> TokenizerReport:
    """Encodes all documents of `inputs` (as for `lc.data.tokenize`) with each model.

    Args:
        models: files, tokenizers, or tokenizers by name.
        max_documents: only the first so many of the corpus.
        num_threads: changes no result.

    Sources are the input files; a language is told by the script of a document's letters.

    Raises:
        TokenizerError, FileError: a model that cannot be read.
        UnsupportedInputError: no document.
    """
    counters = [_Counter(name, tokenizer) for name, tokenizer in _named(models).items()]
    errors: list[str] = []
    documents = islice(data.documents(inputs, key=key, txt=txt, on_error=errors.append), max_documents)
    while batch := list(islice(documents, BATCH)):
        groups: dict[tuple[str, str], list[str]] = {}
        for document in batch:
            if document.text:
                groups.setdefault((source(document.path), language(document.text)), []).append(document.text)
        for group, texts in groups.items():
            for counter in counters:
                counter.count(group, texts, num_threads)
    if not counters or not counters[0].groups:
        raise UnsupportedInputError("no model or no document to report on")
    keys = sorted(counters[0].groups)
    rows = [counter.row(*group) for group in keys for counter in counters]
    rows += [counter.total() for counter in counters]
    return TokenizerReport(tuple(rows), tuple(counter.pieces() for counter in counters), tuple(errors))


def _named(models: Any) -> dict[str, _core.Tokenizer]:
    if isinstance(models, Mapping):
        return dict(models)
    given = [models] if isinstance(models, str | os.PathLike | _core.Tokenizer) else list(models)
    named: dict[str, _core.Tokenizer] = {}
    for i, model in enumerate(given):
        if isinstance(model, _core.Tokenizer):
            named[f"model {i + 1}"] = model
        else:
            name = Path(model).name.removesuffix(".model")
            named[f"{name} ({i + 1})" if name in named else name] = _core.Tokenizer.from_file(model)
    return named


def source(path: Path) -> str:
    """The file's name without its endings."""
    return path.name.split(".")[0] or path.name


_LETTERS = {
    "kana": "[\u3041-\u30ff\uff66-\uff9d]",
    "han": "[\u3400-\u9fff\U00020000-\U0003ffff]",
    "ko": "[\u1100-\u11ff\uac00-\ud7a3]",
    "latin": "[A-Za-z\u00c0-\u024f]",
    "cyrillic": "[\u0400-\u04ff]",
}
_PATTERNS = {name: re.compile(pattern) for name, pattern in _LETTERS.items()}
_SAMPLE = 4000  # characters looked at


def language(text: str) -> str:
    """`ja`, `zh`, `ko`, `latin` or `cyrillic` by the script of most letters, else `other`.

    Where a twentieth of the letters is kana, Chinese characters are Japanese.
    """
    counts = {name: len(pattern.findall(text, 0, _SAMPLE)) for name, pattern in _PATTERNS.items()}
    total = sum(counts.values())
    if not total:
        return "other"
    kana, han = counts.pop("kana"), counts.pop("han")
    counts["ja" if kana * 20 >= total else "zh"] = kana + han
    return max(counts, key=lambda name: counts[name])


class _Counter:
    """The tokens of one model by source and language."""

    def __init__(self, name: str, tokenizer: _core.Tokenizer) -> None:
        self.name, self.tokenizer = name, tokenizer
        self.groups: dict[tuple[str, str], Counts] = {}
        """Counts of each id."""
        self.sizes: dict[tuple[str, str], Counts] = {}
        """Documents, characters, bytes, characters that are unknown."""
        strings = [tokenizer.id_to_piece(i) for i in range(tokenizer.vocab_size)]
        values = {i: int(p[3:5], 16) for i, p in enumerate(strings) if re.fullmatch("<0x[0-9A-F]{2}>", p)}
        # A model has all bytes or none; fewer are pieces that merely look like bytes.
        self.bytes = values if len(values) == 256 else {}
        self.strings = strings

    def count(self, group: tuple[str, str], texts: list[str], num_threads: int | None) -> None:
        import numpy as np

        ids, offsets = self.tokenizer.encode_flat(texts, num_threads)
        counts = np.bincount(ids, minlength=self.tokenizer.vocab_size)
        unknown = self._unknown(ids, offsets, texts)
        size = (len(texts), sum(map(len, texts)), sum(len(text.encode()) for text in texts), unknown)
        self.groups[group] = self.groups.get(group, 0) + counts
        self.sizes[group] = self.sizes.get(group, 0) + np.array(size)

    def _unknown(self, ids: npt.NDArray[np.uint32], offsets: Counts, texts: list[str]) -> int:
        """Characters of unknown tokens: a token may be several of them."""
        import numpy as np

        unk = self.tokenizer.unk_id
        places = np.flatnonzero(ids == unk) if unk is not None else np.empty(0, np.int64)
        affected = np.unique(np.searchsorted(offsets, places, side="right") - 1)
        tokens = (token for i in affected for token in self.tokenizer.encode_with_offsets(texts[i]))
        return sum(end - begin for id, _, begin, end in tokens if id == unk)

    def row(self, source: str, language: str) -> Row:
        return self._row(source, language, self.groups[source, language], self.sizes[source, language])

    def total(self) -> Row:
        return self._row(ALL, "", sum(self.groups.values()), sum(self.sizes.values()))

    def _row(self, source: str, language: str, counts: Any, sizes: Any) -> Row:
        unk = self.tokenizer.unk_id
        documents, characters, size, unknown = map(int, sizes)
        # A character has one byte that does not continue another.
        fallen = sum(int(counts[i]) for i, value in self.bytes.items() if value & 0xC0 != 0x80)
        return Row(
            self.name, source, language, documents, characters, size, int(counts.sum()),
            unknown_tokens=int(counts[unk]) if unk is not None else 0,
            byte_tokens=sum(int(counts[i]) for i in self.bytes),
            unknown_characters=unknown + fallen,
        )  # fmt: skip

    def pieces(self) -> Pieces:
        counts: Any = sum(self.groups.values())
        used = [int(i) for i in counts.nonzero()[0]]
        named = sorted((i for i in used if i not in self.bytes), key=lambda i: (-len(self.strings[i]), i))
        longest = tuple((self.strings[i], int(counts[i])) for i in named[:LONGEST])
        return Pieces(self.name, self.tokenizer.vocab_size, len(used), longest)
