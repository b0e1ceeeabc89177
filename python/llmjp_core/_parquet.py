"""Rows of a Parquet file, for `lc.data.tokenize`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import UnsupportedInputError

ROWS = 256  # of one `read`: texts are long


class Rows:
    """A Parquet file's columns `keys`.

    Raises:
        UnsupportedInputError: no `pyarrow`, or no such column.
        pyarrow's errors: no Parquet file.
    """

    def __init__(self, path: Path, keys: list[str]) -> None:
        try:
            import pyarrow.parquet as pq
        except ImportError:
            raise UnsupportedInputError("reading Parquet needs pyarrow: pip install pyarrow") from None
        self._file: Any = pq.ParquetFile(path)
        columns = self._file.schema_arrow.names
        missing = [key for key in keys if key not in columns]
        if missing:
            raise UnsupportedInputError(f"no column `{missing[0]}`; there are {', '.join(columns)}")
        self._keys = keys
        self._batches: Iterator[Any] = self._file.iter_batches(batch_size=ROWS, columns=keys)

    def read(self) -> bytes | list[tuple[bytes, bytes]]:
        """The next rows; no bytes at the end.

        Where each row has a text in each column, the offsets and the texts of each column, for Rust to make lines of;
        else a JSON object a line.
        """
        for batch in self._batches:
            if batch.num_rows:
                columns = [batch.column(key) for key in self._keys]
                if all(map(_is_text, columns)):
                    return [_texts(column) for column in columns]
                rows = zip(*(column.to_pylist() for column in columns), strict=True)
                return "".join(f"{_line(dict(zip(self._keys, row, strict=True)))}\n" for row in rows).encode()
        return b""


def _is_text(column: Any) -> bool:
    import pyarrow as pa

    kind = column.type
    return not column.null_count and (pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _texts(column: Any) -> tuple[bytes, bytes]:
    """The place where each text begins and the last one ends, 8 bytes each, and the texts from the first on."""
    import pyarrow as pa

    column = column.cast(pa.large_string())
    _, offsets, texts = column.buffers()
    places = offsets.slice(8 * column.offset, 8 * (len(column) + 1)).to_pybytes()
    first, end = (int.from_bytes(place, "little") for place in (places[:8], places[-8:]))
    return places, texts.slice(first, end - first).to_pybytes() if end > first else b""


def _line(row: dict[str, Any]) -> str:
    """What is no text becomes null, which is then refused with its place."""
    return json.dumps(row, ensure_ascii=False, default=lambda _: None)
