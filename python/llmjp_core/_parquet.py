"""Rows of a Parquet file as JSON Lines, for `lc.data.tokenize`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import UnsupportedInputError

ROWS = 256  # of one `read`: texts are long


class Lines:
    """A Parquet file's columns `keys`, a JSON object a row.

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

    def read(self) -> bytes:
        """The lines of the next rows, none at the end."""
        for batch in self._batches:
            if batch.num_rows:
                columns = [batch.column(key).to_pylist() for key in self._keys]
                rows = (dict(zip(self._keys, row, strict=True)) for row in zip(*columns, strict=True))
                return "".join(f"{_line(row)}\n" for row in rows).encode()
        return b""


def _line(row: dict[str, Any]) -> str:
    """What is no text becomes null, which is then refused with its place."""
    return json.dumps(row, ensure_ascii=False, default=lambda _: None)
