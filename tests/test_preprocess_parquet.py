"""Parquet as input: the bytes of the same text in JSON Lines, rows named where they are wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reference_dataset import both_files
from reference_text import MODEL, documents, write_jsonl

import llmjp_core as lc
from llmjp_core import errors


@pytest.fixture(scope="module")
def tok() -> lc.Tokenizer:
    return lc.Tokenizer.from_file(MODEL)


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


@pytest.mark.parametrize("options", [{}, {"compression": "zstd", "row_group_size": 100}, {"use_dictionary": False}])
def test_the_bytes_of_json_lines(tmp_path: Path, tok: lc.Tokenizer, options: dict[str, Any]) -> None:
    texts = documents(700)
    jsonl = write_jsonl(tmp_path / "a.jsonl", texts)
    parquet = write(tmp_path / "a.parquet", {"id": list(range(len(texts))), "text": texts}, **options)
    expected = lc.data.tokenize(jsonl, tok, tmp_path / "j")
    seen: list[Any] = []
    summary = lc.data.tokenize(parquet, tok, tmp_path / "p", workers=2, progress=seen.append)
    assert both_files(tmp_path / "p") == both_files(tmp_path / "j")
    assert (summary.documents, summary.lines, summary.empty) == (expected.documents, len(texts), expected.empty)
    assert seen[-1].bytes_read == seen[-1].bytes_total == parquet.stat().st_size


KINDS = {
    "string": pa.string(),
    "large_string": pa.large_string(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
    "string_view": pa.string_view(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nulls", [False, True])
def test_every_kind_of_text_column(tmp_path: Path, tok: lc.Tokenizer, kind: str, nulls: bool) -> None:
    """Characters that JSON escapes, empty texts, several batches and row groups; nulls are named, the rest is kept."""
    inside = ['"', "\\", "\n", "\x00", "\x1f", "\r\n", "", "\u2028", "😀", '\\"', "x" * 100, "猫" * 300]
    texts: list[str | None] = [f"{a}{i}{b}" if i % 7 else a for i in range(10) for a in inside for b in inside]
    if nulls:
        texts[700] = None
    path = write(tmp_path / "a.parquet", {"text": pa.array(texts, KINDS[kind])}, row_group_size=500)
    wrong: list[str] = []
    found = list(lc.data.documents(path, on_error=wrong.append))
    assert [(d.line, d.text) for d in found] == [(i, text) for i, text in enumerate(texts, 1) if text is not None]
    assert len(wrong) == nulls and all(f"{path}:701: " in error for error in wrong)


def test_texts_that_are_no_utf8_are_named(tmp_path: Path, tok: lc.Tokenizer) -> None:
    """Parquet files of other programs may hold any bytes."""
    content = write(tmp_path / "a.parquet", {"text": ["猫である", "abcdefgh", "犬"]}, compression="none").read_bytes()
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(content.replace(b"abcdefgh", b"abcd\xffgh?"))
    with pytest.raises(errors.CorruptDatasetError, match=r"bad\.parquet: line 2: invalid UTF-8 at byte \d+"):
        lc.data.tokenize(bad, tok, tmp_path / "d")


def test_several_columns_and_formats_in_one_run(tmp_path: Path, tok: lc.Tokenizer) -> None:
    texts = documents(40)
    write(tmp_path / "in1.parquet", {"a": texts[:20], "b": texts[20:]})
    lc.data.tokenize(tmp_path / "in1.parquet", tok, tmp_path / "d", keys=["b", "a"])
    for key, part in (("a", texts[:20]), ("b", texts[20:])):
        lc.data.tokenize(write_jsonl(tmp_path / "one.jsonl", part), tok, tmp_path / "one")
        assert both_files(tmp_path / f"d_{key}_document") == both_files(tmp_path / "one")


def test_rows_without_text_are_named(tmp_path: Path, tok: lc.Tokenizer) -> None:
    path = write(tmp_path / "a.parquet", {"text": ["猫", None, "犬"]})
    with pytest.raises(errors.CorruptDatasetError, match=r"a\.parquet: line 2: .*text"):
        lc.data.tokenize(path, tok, tmp_path / "d")
    summary = lc.data.tokenize(path, tok, tmp_path / "d", on_error="skip")
    assert (summary.documents, summary.skipped) == (2, 1)
    numbers = write(tmp_path / "n.parquet", {"text": pa.array([1, 2], pa.timestamp("s"))})
    with pytest.raises(errors.CorruptDatasetError, match=r"n\.parquet: line 1"):
        lc.data.tokenize(numbers, tok, tmp_path / "d")


def test_what_cannot_be_read_is_refused(tmp_path: Path, tok: lc.Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", {"body": ["猫"]})
    with pytest.raises(errors.UnsupportedInputError, match=r"a\.parquet: no column `text`; there are body"):
        lc.data.tokenize(path, tok, tmp_path / "d")
    with pytest.raises(errors.UnsupportedInputError, match="leave `format` out"):
        lc.data.tokenize(path, tok, tmp_path / "d", format="line")
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(errors.CorruptDatasetError, match=r"cut\.parquet"):
        lc.data.tokenize(cut, tok, tmp_path / "d")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(errors.UnsupportedInputError, match="pip install pyarrow"):
        lc.data.tokenize(path, tok, tmp_path / "d", key="body")
    assert {p.suffix for p in tmp_path.iterdir()} == {".parquet"}, "nothing is left behind"
