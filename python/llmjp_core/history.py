"""`metrics.jsonl`: what happened in a run, one JSON object a line, only ever appended to.

    {"event": "start", "iteration": 0, ...}         a process begins, after step 0
    {"event": "train", "iteration": 1, "loss": ...} a step
    {"event": "validation", "iteration": 100, "valid_loss": ...}
    {"event": "save", "iteration": 100, "path": ...}
    {"event": "end", "iteration": 500, "reason": "finished"}

A process that goes on from step N says so in its `start`; what an earlier one did beyond N is not part of the run
any more. A value that is not finite is `null`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from .errors import FileError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Entry = Mapping[str, Any]
REPORTS = ("train", "validation", "test")


class History(Sequence[dict[str, Any]]):
    """The reports of a run in their order: steps (`loss`, `learning_rate`, ...) and evaluations (`valid_loss`).

    `history[3]` is a report, `history["loss"]` an array over all reports that have it, and `history.steps("loss")`
    the steps they belong to.
    """

    def __init__(self, reports: Iterable[Entry] = ()) -> None:
        self._reports = [dict(report) for report in reports]

    def append(self, report: Entry) -> None:
        self._reports.append(dict(report))

    @overload
    def __getitem__(self, key: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, key: slice) -> list[dict[str, Any]]: ...
    @overload
    def __getitem__(self, key: str) -> npt.NDArray[np.float64]: ...
    def __getitem__(self, key: int | slice | str) -> dict[str, Any] | list[dict[str, Any]] | npt.NDArray[np.float64]:
        if not isinstance(key, str):
            return self._reports[key]
        import numpy as np

        values = [report[key] for report in self._reports if key in report]
        if not values and self._reports:
            raise KeyError(key)
        return np.array([math.nan if value is None else value for value in values], dtype=np.float64)

    def steps(self, key: str) -> npt.NDArray[np.int64]:
        """The iterations of the reports that have `key`."""
        import numpy as np

        return np.array([report["iteration"] for report in self._reports if key in report], dtype=np.int64)

    def keys(self) -> list[str]:
        """Every name that some report has."""
        return list(dict.fromkeys(key for report in self._reports for key in report))

    def __len__(self) -> int:
        return len(self._reports)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._reports)

    def __repr__(self) -> str:
        return f"History({len(self)} reports, {', '.join(self.keys())})"


class MetricsFile:
    """The open `metrics.jsonl` of a run."""

    def __init__(self, path: Path, start: Entry) -> None:
        """Opens or creates the file, drops the half line of a killed process, and writes the `start` entry."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _cut_half_line(path)
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise _file_error(path, error) from error
        self.write({"event": "start", **start})

    def write(self, entry: Entry) -> None:
        """Appends one line; it is with the operating system when this returns."""
        line = json.dumps({key: _plain(value) for key, value in entry.items()}, ensure_ascii=False, allow_nan=False)
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            raise _file_error(self.path, error) from error

    def close(self) -> None:
        self._file.close()


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The entries of the run that `metrics.jsonl` tells of, without those that a later start made void."""
    entries: list[dict[str, Any]] = []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _file_error(Path(path), error) from error
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break  # a process was killed while it wrote
            raise FileError(0, f"line {number} is no JSON: {error}", str(path)) from error
        if entry["event"] == "start":
            entries = [e for e in entries if e["iteration"] <= entry["iteration"]]
            if entry["iteration"] == 0:
                entries = []
        entries.append(entry)
    return entries


def reports(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """The steps and evaluations among the entries."""
    return [dict(entry) for entry in entries if entry["event"] in REPORTS]


def _cut_half_line(path: Path) -> None:
    if not path.exists():
        return
    with open(path, "rb+") as file:
        end = file.seek(0, os.SEEK_END)
        start = max(0, end - (1 << 20))
        file.seek(start)
        tail = file.read()
        if tail and not tail.endswith(b"\n"):
            file.truncate(start + tail.rfind(b"\n") + 1)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _file_error(path: Path, error: OSError) -> FileError:
    return FileError(error.errno or 0, f"cannot write the metrics: {error.strerror or error}", str(path))
