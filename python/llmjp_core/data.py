"""Megatron datasets: made from text, read, checked, and cut into training samples.

lc.data.tokenize("corpus/*.jsonl.gz", tok, "out/ja")     # text -> out/ja.bin, out/ja.idx
lc.data.verify("out/ja", vocab_size=tok.vocab_size)       # every byte of it
lc.data.IndexedDataset("out/ja")[0]                       # the ids of the first document
parts = lc.data.samples("out/ja", seq_length=2048, count=10_000)
inputs, targets = parts.train[0]                          # as the trainer reads them
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from . import _core
from ._core import IndexedDataset as IndexedDataset
from ._core import Samples as Samples
from ._progress_line import Progress as Progress
from .errors import ConfigError, UnsupportedInputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    PathLike = str | os.PathLike[str]
    Ids = Sequence[int] | npt.NDArray[np.integer[Any]]

Flavor = Literal["neox", "megatron"]
Packing = Literal["packed", "pack_until_overflow", "unpacked"]


@dataclass(frozen=True)
class Dataset:
    """What was written: `{prefix}.bin` and `{prefix}.idx`."""

    prefix: Path
    dtype: str
    sequences: int
    documents: int
    tokens: int
    bin_bytes: int
    idx_bytes: int
    bin_sha256: str
    idx_sha256: str

    def open(self) -> IndexedDataset:
        return IndexedDataset(self.prefix)


@dataclass(frozen=True)
class TokenizedDataset(Dataset):
    """A dataset made from the texts under one key, and what the texts were."""

    key: str
    empty: int
    """Documents without text or tokens: left out."""
    text_bytes: int
    characters: int


@dataclass(frozen=True)
class Summary:
    """What `tokenize` did. Its totals are those of the first key."""

    datasets: tuple[TokenizedDataset, ...]
    inputs: tuple[Path, ...]
    ignored: tuple[Path, ...]
    """Files in given folders whose names say no format: not read."""
    lines: int
    blank_lines: int
    skipped: int
    """Documents left out because of an error (with `on_error="skip"`)."""
    errors: tuple[str, ...]
    """The first thousand of these errors, each with file and line."""
    resumed: bool
    seconds: float

    @property
    def prefix(self) -> Path:
        return self.datasets[0].prefix

    @property
    def documents(self) -> int:
        return self.datasets[0].documents

    @property
    def tokens(self) -> int:
        return self.datasets[0].tokens

    @property
    def characters(self) -> int:
        return self.datasets[0].characters

    @property
    def empty(self) -> int:
        return self.datasets[0].empty

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return plain


@dataclass(frozen=True)
class Report:
    """What `verify` found in a sound dataset."""

    prefix: Path
    dtype: str
    sequences: int
    documents: int
    tokens: int
    empty: int
    longest: int
    min_id: int | None
    max_id: int | None
    bin_bytes: int
    idx_bytes: int
    bin_sha256: str
    idx_sha256: str


def tokenize(
    inputs: PathLike | Sequence[PathLike],
    tok: Any,
    out_prefix: PathLike,
    append_eod: bool = True,
    *,
    bos: bool = False,
    eod: int | None = None,
    key: str = "text",
    keys: Sequence[str] | None = None,
    dtype: str = "auto",
    workers: int | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    txt: Literal["file", "line"] = "file",
    format: Literal["jsonl", "file", "line"] | None = None,
    progress: bool | Callable[[Progress], None] = True,
    sync_seconds: float = 10.0,
) -> Summary:
    """Turns text into `{out_prefix}.bin` and `.idx`, one document after the other.

    `inputs` are files, folders (all below them) or globs, in this order: JSON Lines (`.jsonl`, `.json`,
    `.ndjson`) with the text under `key`, or `.txt` (`txt`: a document a file, or a line), each also with
    `.gz`, `.zst`, `.xz`; `.parquet` with the text in the column `key` (needs `pyarrow`). `format` overrides
    what the names say. With `keys` each key becomes a dataset of its own, `{out_prefix}_{key}_document`.

    `tok` is an `lc.Tokenizer`, one of `transformers`, `tokenizers` or `sentencepiece`, or anything with
    `encode(text) -> ids` and `vocab_size`. `eod` (default: the tokenizer's) ends each document.

    The same input gives the same bytes for any number of `workers` (default: `LLMJP_NUM_THREADS`, else all
    CPUs), in constant memory, and the files appear whole or not at all. Killed or interrupted, the same call
    goes on where it was, from what was made durable every `sync_seconds` (`lc.Tokenizer` only). Empty
    documents are left out and counted.

    Raises `CorruptDatasetError` naming file and line of bad JSON, a missing key, a value that is no string
    or invalid UTF-8, unless `on_error="skip"`, which counts and lists them in the summary;
    `UnsupportedInputError` where no document is left; `FileError` where a file cannot be read or written.
    """
    from . import _parquet
    from ._progress_line import Watch
    from ._tokenizers import adapt

    given = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    prefix = os.fspath(out_prefix)
    outputs = [(key, prefix)] if keys is None else [(name, f"{prefix}_{name}_document") for name in keys]
    tokenizer = adapt(tok)
    watch = Watch(progress)
    try:
        made = _core.data_tokenize(
            tokenizer.encode,
            [os.fspath(path) for path in given],
            outputs,
            dtype=None if dtype == "auto" else dtype,
            vocab_size=tokenizer.vocab_size,
            bos=tokenizer.bos() if bos else None,
            eod=(tokenizer.eod() if eod is None else eod) if append_eod else None,
            workers=workers,
            skip_errors=_choice("on_error", on_error, ("raise", "skip")) == "skip",
            format=format,
            txt=txt,
            tokenizer=tokenizer.identity,
            sync_seconds=sync_seconds,
            observe=watch.observe,
            parquet=_parquet.Rows,
        )
    finally:
        watch.close()
    lists = {name: tuple(made[name]) for name in ("inputs", "ignored", "errors")}
    datasets = tuple(TokenizedDataset(**dataset) for dataset in made["datasets"])
    return Summary(**{**made, **lists, "datasets": datasets, "seconds": watch.seconds})


@dataclass(frozen=True)
class Document:
    text: str
    path: Path
    line: int | None
    """From 1; None where the file is the document."""


def documents(
    inputs: PathLike | Sequence[PathLike],
    *,
    key: str = "text",
    on_error: Literal["raise"] | Callable[[str], None] = "raise",
    txt: Literal["file", "line"] = "file",
    format: Literal["jsonl", "file", "line"] | None = None,
) -> Iterator[Document]:
    """The documents of text files, one after the other, in constant memory.

    `inputs`, `key`, `txt` and `format` as for `tokenize`. Blank lines are passed over.

    Raises `CorruptDatasetError` naming file and line of a document that cannot be used, unless `on_error` is
    a function: then it is told, and the document is left out; `FileError` where a file cannot be read.
    """
    from . import _parquet

    if not callable(on_error):
        _choice("on_error", on_error, ("raise",))
    given = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    reader = _core.DocumentReader(
        [os.fspath(path) for path in given],
        key=key, skip_errors=callable(on_error), format=format, txt=txt, parquet=_parquet.Rows,
    )  # fmt: skip
    while (batch := reader.next_batch()) is not None:
        texts, paths, lines, errors = batch
        for error in errors:
            if callable(on_error):
                on_error(error)
        yield from map(Document, texts, paths, lines)


def verify(prefix: PathLike, vocab_size: int | None = None) -> Report:
    """Reads all of a dataset: index, sizes, pointers, document bounds, and every id (below `vocab_size`).

    Raises `CorruptDatasetError` naming the file and the first place that is wrong.
    """
    return Report(**_core.data_verify(os.fspath(prefix), vocab_size))


class Builder:
    """Writes a dataset of your own ids, a sequence at a time.

    with lc.data.Builder("out/mine", dtype="uint16") as builder:
        builder.add([5, 3, 7])
        builder.end_document()
    builder.dataset.tokens

    The files appear when the block ends, and not at all where it raises.
    """

    dataset: Dataset

    def __init__(self, prefix: PathLike, dtype: Any = "int32") -> None:
        import numpy as np

        self._core = _core.DatasetBuilder(os.fspath(prefix), np.dtype(dtype).name)

    def add(self, ids: Ids) -> None:
        """Appends one sequence."""
        self._core.add(_ids(ids))

    def end_document(self) -> None:
        """The sequences since the last call are one document."""
        self._core.end_document()

    def finish(self) -> Dataset:
        self.dataset = Dataset(**self._core.finish())
        return self.dataset

    def __enter__(self) -> Builder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self._core.abandon()


def write(prefix: PathLike, documents: Iterable[Ids | Sequence[Ids]], dtype: Any = "int32") -> Dataset:
    """Writes documents: each the ids of one sequence, or a list of such sequences."""
    with Builder(prefix, dtype) as builder:
        for document in documents:
            for sequence in _sequences(document):
                builder.add(sequence)
            builder.end_document()
    return builder.dataset


def split(documents: int, split: str = "969, 30, 1", flavor: Flavor = "neox") -> tuple[range, range, range]:
    """The documents of train, valid and test, as GPT-NeoX or Megatron-LM cut them."""
    a, b, c, d = _core.data_split(split, documents, flavor)
    return range(a, b), range(b, c), range(c, d)


def weights_by_num_documents(documents: Sequence[int], alpha: float = 0.3) -> list[float]:
    """The weights that `weight_by_num_documents` gives to sets with so many documents."""
    return _core.data_weights(list(documents), alpha)


@dataclass(frozen=True)
class Source:
    """One set of a blend, and the labels (negative: no loss) that mirror it."""

    prefix: PathLike
    weight: float = 1.0
    labels: PathLike | None = None


@dataclass(frozen=True)
class Parts:
    """The three sequences of samples of a run. A part without documents is None."""

    train: Samples
    valid: Samples | None
    test: Samples | None
    fingerprint: str
    """Changes with the content of the datasets."""
    warnings: tuple[str, ...]


def samples(
    data_path: PathLike | None = None,
    *,
    seq_length: int,
    count: int | Sequence[int | None] | None = None,
    split: str = "969, 30, 1",
    train: Sequence[PathLike | Source] = (),
    valid: Sequence[PathLike | Source] = (),
    test: Sequence[PathLike | Source] = (),
    seed: int = 1234,
    packing: Packing = "packed",
    allow_chopped: bool = True,
    flavor: Flavor = "neox",
    weight_by_num_documents: bool = False,
    weighted_sampler_alpha: float = 1.0,
    eod_mask_loss: bool = False,
    eod: int | None = None,
    vocab_size: int | None = None,
) -> Parts:
    """The samples that a training run would read, in its order.

    Either one `data_path`, cut by `split`, or lists of `train`, `valid`, `test` sets, blended by weight.
    `count` is how many samples are wanted of each part (one number for all; None is one epoch). An item is
    `(inputs, targets)`, both int32 of `seq_length`; a target of -100 takes no part in the loss.
    """
    if (data_path is None) == (not train):
        raise ConfigError("give either data_path or a list of train sets")
    counts = list(count) if isinstance(count, Sequence) else [count] * 3
    if len(counts) != 3:
        raise ConfigError(f"count has {len(counts)} numbers; one, or three for train, valid and test")
    made = _core.data_samples(
        None if data_path is None else (os.fspath(data_path), split),
        tuple([_source(source) for source in part] for part in (train, valid, test)),
        seq_length=seq_length,
        seed=seed,
        samples=counts,
        packing=packing,
        allow_chopped=allow_chopped,
        flavor=flavor,
        weight_by_num_documents=weight_by_num_documents,
        weighted_sampler_alpha=weighted_sampler_alpha,
        eod_mask_loss=eod_mask_loss,
        eod=eod,
        vocab_size=2**31 - 1 if vocab_size is None else vocab_size,
    )
    return Parts(**{**made, "warnings": tuple(made["warnings"])})


def _source(source: PathLike | Source) -> tuple[str, str | None, float]:
    if not isinstance(source, Source):
        return os.fspath(source), None, 1.0
    return os.fspath(source.prefix), None if source.labels is None else os.fspath(source.labels), source.weight


def _sequences(document: Ids | Sequence[Ids]) -> Iterator[Ids]:
    nested = isinstance(document, (list, tuple)) and bool(document) and hasattr(document[0], "__len__")
    yield from document if nested else [document]  # type: ignore[misc]


def _ids(ids: Ids) -> npt.NDArray[np.int64]:
    import numpy as np

    array = np.asarray(ids)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise UnsupportedInputError(f"a sequence is one row of integers, not {array.dtype} of shape {array.shape}")
    return np.ascontiguousarray(array, dtype=np.int64)


def _choice(name: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise ConfigError(f"{name} `{value}`: {' or '.join(choices)}")
    return value


__all__ = [
    "Builder",
    "Dataset",
    "IndexedDataset",
    "Parts",
    "Progress",
    "Report",
    "Samples",
    "Source",
    "Summary",
    "TokenizedDataset",
    "samples",
    "split",
    "tokenize",
    "verify",
    "weights_by_num_documents",
    "write",
]
