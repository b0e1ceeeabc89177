"""Text to datasets: the bytes that sentencepiece and a plain loop give, whatever the threads, formats and accidents."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import reference_dataset as reference
import sentencepiece as spm
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_dataset import both_files, names
from reference_text import EOD, MODEL, PARAGRAPHS, REFERENCE, compressed, documents, expect, write_jsonl

import llmjp_core as lc
from llmjp_core import errors


@pytest.fixture(scope="module")
def tok() -> lc.Tokenizer:
    return lc.Tokenizer.from_file(MODEL)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return documents(700)


@pytest.fixture(scope="module")
def corpus(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 1.4 MB: six chunks."""
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "neko.jsonl", texts)


@pytest.fixture(scope="module")
def expected(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    return expect(tmp_path_factory.mktemp("expected") / "d", texts)


# --- the bytes


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_any_number_of_workers_gives_the_reference_bytes(
    corpus: Path, expected: tuple[bytes, bytes], texts: list[str], tok: lc.Tokenizer, tmp_path: Path, workers: int
) -> None:
    summary = lc.data.tokenize(corpus, tok, tmp_path / "d", workers=workers)
    assert both_files(tmp_path / "d") == expected
    assert names(tmp_path) == {"d.bin", "d.idx"}
    full = [text for text in texts if text]
    assert (summary.documents, summary.empty, summary.lines) == (len(full), len(texts) - len(full), len(texts))
    assert summary.characters == sum(map(len, full)) and not summary.skipped and not summary.resumed
    report = lc.data.verify(tmp_path / "d", tok.vocab_size)
    assert (report.bin_sha256, report.tokens) == (summary.datasets[0].bin_sha256, summary.tokens)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_real_japanese_with_llm_jps_tokenizer(shared: Path, tmp_path: Path, workers: int) -> None:
    model = shared / "data/tokenizers/llm-jp/llm-jp-tokenizer-100k.ver3.0b1.model"
    sample = shared / "data/corpus/sample_small.jsonl"
    theirs = spm.SentencePieceProcessor(model_file=str(model))
    texts = [json.loads(line)["text"] for line in sample.open(encoding="utf-8")]
    expected = expect(tmp_path / "theirs", texts, theirs, "int32", theirs.piece_to_id("<EOD|LLM-jp>"))
    ours = lc.Tokenizer.from_file(model)
    lc.data.tokenize(sample, ours, tmp_path / "ours", workers=workers, eod=theirs.piece_to_id("<EOD|LLM-jp>"))
    assert both_files(tmp_path / "ours") == expected


@pytest.mark.parametrize("ending", ["gz", "zst", "xz"])
def test_compressed_files(
    corpus: Path, expected: tuple[bytes, bytes], tok: lc.Tokenizer, tmp_path: Path, ending: str
) -> None:
    lc.data.tokenize(compressed(corpus, tmp_path, ending), tok, tmp_path / "d")
    assert both_files(tmp_path / "d") == expected


@settings(max_examples=10, deadline=None)
@given(st.lists(st.text(max_size=60), min_size=20, max_size=60), st.booleans())
def test_any_unicode_survives_json(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], ascii_only: bool
) -> None:
    texts = ["猫", *texts]
    folder = tmp_path_factory.mktemp("unicode")
    lines = [json.dumps({"text": text}, ensure_ascii=ascii_only) for text in texts]
    (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8", newline="\n")
    lc.data.tokenize(folder / "a.jsonl", lc.Tokenizer.from_file(MODEL), folder / "d")
    assert both_files(folder / "d") == expect(folder / "theirs", texts)


def test_lines_as_editors_leave_them(tok: lc.Tokenizer, tmp_path: Path) -> None:
    """Byte order mark, CRLF, blank lines, no newline at the end, spaces around, nested and unused values."""
    second = ' {"a": [{"text": 1}, 1e999, -0.5], "text": "\\u543e\\ud83d\\ude00"} '
    text = '\ufeff{"text": "猫"}\r\n\r\n  \n' + second + '\r\n{"text":"輩"}'
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8", newline="")
    summary = lc.data.tokenize(tmp_path / "a.jsonl", tok, tmp_path / "d")
    assert both_files(tmp_path / "d") == expect(tmp_path / "theirs", ["猫", "吾😀", "輩"])
    assert (summary.lines, summary.blank_lines) == (5, 2)


def test_one_huge_line_among_small_ones(tok: lc.Tokenizer, tmp_path: Path) -> None:
    texts = ["小", "\n".join(PARAGRAPHS * 20), "中", "大" * 300_000, "終"]
    lc.data.tokenize(write_jsonl(tmp_path / "a.jsonl", texts), tok, tmp_path / "d", workers=3)
    assert both_files(tmp_path / "d") == expect(tmp_path / "theirs", texts)


def test_begin_end_and_type(tok: lc.Tokenizer, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ["猫である"])
    ids = REFERENCE.encode("猫である")
    for options, want, dtype in (
        ({"append_eod": False}, ids, "uint16"),
        ({}, [*ids, EOD], "uint16"),
        ({"bos": True, "eod": 2}, [REFERENCE.bos_id(), *ids, 2], "uint16"),
        ({"dtype": "i32"}, [*ids, EOD], "int32"),
        ({"dtype": "uint16"}, [*ids, EOD], "uint16"),
    ):
        dataset = lc.data.tokenize(path, tok, tmp_path / "d", **options).datasets[0].open()  # type: ignore[arg-type]
        assert (dataset[0].tolist(), dataset.dtype.name) == (want, dtype)


@pytest.mark.parametrize(("vocabulary", "dtype"), [(65_499, "uint16"), (65_500, "int32")])
def test_the_type_follows_the_vocabulary(tmp_path: Path, vocabulary: int, dtype: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ["ab"])
    made = lc.data.tokenize(path, Characters(vocabulary), tmp_path / "d", append_eod=False)
    assert made.datasets[0].dtype == dtype


def test_several_keys(tok: lc.Tokenizer, tmp_path: Path) -> None:
    rows = [{"text": "猫", "title": "題"}, {"title": "", "text": "犬"}, {"text": "鳥", "title": "名", "x": None}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    summary = lc.data.tokenize(tmp_path / "a.jsonl", tok, tmp_path / "d", keys=["title", "text"])
    assert both_files(tmp_path / "d_title_document") == expect(tmp_path / "x", ["題", "名"])
    assert both_files(tmp_path / "d_text_document") == expect(tmp_path / "y", ["猫", "犬", "鳥"])
    assert [d.empty for d in summary.datasets] == [1, 0] and summary.documents == 2


# --- which files


def test_folders_globs_and_their_order(tok: lc.Tokenizer, tmp_path: Path) -> None:
    sub = tmp_path / "in/sub"
    sub.mkdir(parents=True)
    (tmp_path / "in/b.txt").write_text("二\n行")
    write_jsonl(tmp_path / "in/a.jsonl", ["一"])
    write_jsonl(sub / "c.json", ["三"])
    (tmp_path / "in/.hidden.txt").write_text("隠")
    (tmp_path / "in/readme.md").write_text("読")
    (tmp_path / "in/empty.txt").write_text("")
    whole = lc.data.tokenize(tmp_path / "in", tok, tmp_path / "d")
    assert both_files(tmp_path / "d") == expect(tmp_path / "x", ["一", "二\n行", "三"])
    assert [p.name for p in whole.inputs] == ["a.jsonl", "b.txt", "empty.txt", "c.json"]
    assert [p.name for p in whole.ignored] == ["readme.md"] and whole.empty == 1
    lc.data.tokenize([str(tmp_path / "in/**/*.json*"), tmp_path / "in/b.txt"], tok, tmp_path / "d", txt="line")
    assert both_files(tmp_path / "d") == expect(tmp_path / "x", ["一", "三", "二", "行"])
    lc.data.tokenize(tmp_path / "in/readme.md", tok, tmp_path / "d", format="file")
    assert both_files(tmp_path / "d") == expect(tmp_path / "x", ["読"])


def test_inputs_that_cannot_be_meant(tok: lc.Tokenizer, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ["一"])
    (tmp_path / "b.md").write_text("二")
    (tmp_path / "empty").mkdir()
    for inputs, error, what in (
        (tmp_path / "none.jsonl", errors.FileError, "none.jsonl"),
        (tmp_path / "*.none", errors.UnsupportedInputError, "no file matches"),
        (tmp_path / "b.md", errors.UnsupportedInputError, "jsonl"),
        (tmp_path / "empty", errors.UnsupportedInputError, "no file in it"),
        ([path, path], errors.UnsupportedInputError, "twice"),
        ([], errors.UnsupportedInputError, "no input"),
    ):
        with pytest.raises(error, match=what):
            lc.data.tokenize(inputs, tok, tmp_path / "d")  # type: ignore[arg-type]
    assert not list(tmp_path.glob("d.*"))


# --- bad documents


BAD_LINES = {
    '{"text": "a"': "bad JSON, column 12",
    '{"txt": "a"}': "no key `text`",
    '{"text": null}': "null, expected a string",
    '{"text": 5}': "integer `5`, expected a string",
    '{"text": {"a": 1}}': "map, expected a string",
    '[{"text": "a"}]': "one object a line",
    '{"text": "\\ud800"}': "hex escape",
    '{"text": "a"} {"text": "b"}': "trailing characters",
    '{"text": "a\tb"}': "control character",
    "text": "bad JSON, column 2",
}


@pytest.mark.parametrize("line", BAD_LINES)
@pytest.mark.parametrize("workers", [1, 3])
def test_a_bad_line_is_named(corpus: Path, tok: lc.Tokenizer, tmp_path: Path, line: str, workers: int) -> None:
    """Two of them: the first is reported, whichever thread is faster."""
    lines = corpus.read_text().splitlines()
    lines[600:600] = [line]
    lines.append("{")
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(errors.CorruptDatasetError) as raised:
        lc.data.tokenize([corpus, tmp_path / "a.jsonl"], tok, tmp_path / "d", workers=workers)
    assert f"{tmp_path}/a.jsonl: line 601: " in str(raised.value) and BAD_LINES[line] in str(raised.value)
    assert not list(tmp_path.glob("d.*"))


def test_bad_documents_are_skipped_and_counted(tok: lc.Tokenizer, tmp_path: Path) -> None:
    rows: list[bytes] = [json.dumps({"text": f"{i}匹の猫"}).encode() for i in range(6)]
    broken = [line.encode() for line in BAD_LINES] + [b'{"text": "\xff"}']
    mixed = [x for pair in zip(broken, rows * 2, strict=False) for x in pair]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(mixed))
    (tmp_path / "b.txt").write_bytes("良い".encode() + b"\xe3\x81")
    summary = lc.data.tokenize([tmp_path / "a.jsonl", tmp_path / "b.txt"], tok, tmp_path / "d", on_error="skip")
    good = [json.loads(row)["text"] for row in mixed[1::2]]
    assert both_files(tmp_path / "d") == expect(tmp_path / "x", good)
    assert summary.skipped == len(summary.errors) == len(broken) + 1
    for i, (error, line) in enumerate(zip(summary.errors, broken, strict=False)):
        assert error.startswith(f"{tmp_path}/a.jsonl:{2 * i + 1}: "), error
        assert BAD_LINES.get(line.decode(errors="replace"), "invalid UTF-8 at byte 10") in error
    assert summary.errors[-1] == f"{tmp_path}/b.txt: invalid UTF-8 at byte 6"
    with pytest.raises(errors.CorruptDatasetError, match=r"b\.txt: invalid UTF-8 at byte 6"):
        lc.data.tokenize(tmp_path / "b.txt", tok, tmp_path / "e")


def test_nothing_left_is_an_error(tok: lc.Tokenizer, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ["", ""])
    with path.open("a") as file:
        file.write("\n{\n")
    with pytest.raises(
        errors.UnsupportedInputError, match="4 lines, of which 1 blank; 2 documents without text, 1 with errors"
    ):
        lc.data.tokenize(path, tok, tmp_path / "d", on_error="skip")
    (tmp_path / "e.txt").write_text("")
    with pytest.raises(errors.UnsupportedInputError, match="no document"):
        lc.data.tokenize(tmp_path / "e.txt", tok, tmp_path / "d")
    assert names(tmp_path) == {"a.jsonl", "e.txt"}


@pytest.mark.parametrize("ending", ["gz", "zst", "xz"])
def test_compressed_data_cut_anywhere(tok: lc.Tokenizer, tmp_path: Path, ending: str) -> None:
    whole = compressed(write_jsonl(tmp_path / "a.jsonl", documents(200)), tmp_path, ending)
    content = whole.read_bytes()
    rng = random.Random(1)
    # A cut between the two members cannot be seen; none of these falls there.
    for cut in [*rng.sample(range(30, len(content)), 25), len(content) - 1]:
        whole.write_bytes(content[:cut])
        with pytest.raises(errors.CorruptDatasetError, match=rf"a\.jsonl\.{ending}: damaged or cut"):
            lc.data.tokenize(whole, tok, tmp_path / "d")
    whole.write_bytes(b"not compressed at all, but long enough to be looked at")
    with pytest.raises(errors.CorruptDatasetError, match="damaged"):
        lc.data.tokenize(whole, tok, tmp_path / "d")
    assert not list(tmp_path.glob("d.*"))


# --- options


def test_contradicting_options(tok: lc.Tokenizer, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ["一"])
    (tmp_path / "b.txt").write_text("二")
    for options, error, what in (
        ({"workers": 0}, errors.ConfigError, "worker"),
        ({"dtype": "u8"}, errors.ConfigError, "uint8 holds ids up to 255"),
        ({"dtype": "f32"}, errors.UnsupportedInputError, "f32"),
        ({"eod": 2500}, errors.ConfigError, "eod id 2500"),
        ({"on_error": "ignore"}, errors.ConfigError, "on_error"),
        ({"txt": "words"}, errors.UnsupportedInputError, "words"),
        ({"inputs": tmp_path / "b.txt", "keys": ["a", "b"]}, errors.ConfigError, "no keys"),
        ({"keys": []}, errors.ConfigError, "keys"),
        ({"keys": ["text", "text"]}, errors.ConfigError, "two keys"),
    ):
        with pytest.raises(error, match=what):
            lc.data.tokenize(**{"inputs": path, "tok": tok, "out_prefix": tmp_path / "d", **options})  # type: ignore[arg-type]
    assert not list(tmp_path.glob("d*"))


class Characters:
    """A tokenizer of somebody's own."""

    def __init__(self, vocab_size: int = 1 << 16, fail_at: str = "") -> None:
        self.vocab_size, self.fail_at = vocab_size, fail_at

    def encode(self, text: str) -> list[int]:
        if self.fail_at and self.fail_at in text:
            raise LookupError(self.fail_at)
        return [ord(c) for c in text]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_tokenizer_of_ones_own(tmp_path: Path, workers: int) -> None:
    texts = documents(100)
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    lc.data.tokenize(path, Characters(), tmp_path / "d", eod=0, workers=workers)
    theirs = [[np.array([*map(ord, text), 0])] for text in texts if text]
    reference.write(tmp_path / "x", theirs, "int32")
    assert both_files(tmp_path / "d") == both_files(tmp_path / "x")
    with pytest.raises(LookupError, match="吾輩"):
        lc.data.tokenize(path, Characters(fail_at="吾輩"), tmp_path / "e", eod=0, workers=workers)
    with pytest.raises(errors.TokenizerError, match=r"id .* vocabulary has 128"):
        lc.data.tokenize(path, Characters(vocab_size=128), tmp_path / "e", eod=0, workers=workers)
    with pytest.raises(errors.ConfigError, match="eod"):
        lc.data.tokenize(path, Characters(), tmp_path / "e")
    with pytest.raises(errors.UnsupportedInputError, match="encode"):
        lc.data.tokenize(path, object(), tmp_path / "e")
    assert not list(tmp_path.glob("e.*"))


def test_other_libraries_tokenizers(tmp_path: Path) -> None:
    texts = documents(30)
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    lc.data.tokenize(path, REFERENCE, tmp_path / "d", eod=EOD)
    assert both_files(tmp_path / "d") == expect(tmp_path / "x", texts)
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "<|endoftext|>": 1}, unk_token="[UNK]"))
    lc.data.tokenize(path, words, tmp_path / "w", eod=1)
    assert set(lc.data.IndexedDataset(tmp_path / "w")[0].tolist()) == {0, 1}
    fast = pytest.importorskip("transformers").PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<|endoftext|>"
    )
    lc.data.tokenize(path, fast, tmp_path / "f")
    assert both_files(tmp_path / "f") == both_files(tmp_path / "w")
