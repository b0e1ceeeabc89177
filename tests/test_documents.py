"""`lc.data.documents`: every text with its place, from every format."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reference_text import compressed, documents, write_jsonl

import llmjp_core as lc
from llmjp_core import errors


def test_texts_and_places(tmp_path: Path) -> None:
    texts = documents(700)  # several chunks
    jsonl = write_jsonl(tmp_path / "a.jsonl", texts)
    found = list(lc.data.documents(jsonl))
    assert [document.text for document in found] == texts
    assert [(d.path, d.line) for d in found] == [(jsonl, i) for i in range(1, len(texts) + 1)]
    (tmp_path / "b.txt").write_text("一\n\n二\r\n", "utf-8")
    pq.write_table(pa.table({"text": texts[:3]}), tmp_path / "c.parquet")
    whole = list(lc.data.documents([tmp_path / "b.txt", tmp_path / "c.parquet"]))
    assert [(d.text, d.line) for d in whole] == [
        ("一\n\n二\r\n", None),
        *((text, i + 1) for i, text in enumerate(texts[:3])),
    ]
    lines = list(lc.data.documents(tmp_path / "b.txt", txt="line"))
    assert [(d.text, d.line) for d in lines] == [("一", 1), ("二", 3)]


@pytest.mark.parametrize("how", ["gz", "zst", "xz"])
def test_compressed(tmp_path: Path, how: str) -> None:
    texts = documents(50)
    packed = compressed(write_jsonl(tmp_path / "a.jsonl", texts), tmp_path, how)
    assert [document.text for document in lc.data.documents(packed)] == texts


def test_errors_are_raised_or_told(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "猫"}\n{"body": "犬"}\n{"text": 3}\n{"text": "鳥"}\n'.encode() + b'{"text": "\xff"}\n')
    with pytest.raises(errors.CorruptDatasetError, match=r"a\.jsonl: line 2: the object has no key `text`"):
        list(lc.data.documents(path))
    told: list[str] = []
    assert [d.text for d in lc.data.documents(path, on_error=told.append)] == ["猫", "鳥"]
    assert [message.split(":")[1] for message in told] == ["2", "3", "5"]
    with pytest.raises(errors.FileError, match="missing"):
        next(lc.data.documents(tmp_path / "missing.jsonl"))
    with pytest.raises(errors.ConfigError, match="on_error"):
        next(lc.data.documents(path, on_error="skip"))  # type: ignore[arg-type]
