"""`lc.tokenizer_report`: its counts are those of the sentencepiece package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece as spm
from reference_text import documents, write_jsonl
from tokenizer_models import model_bytes

import llmjp_core as lc
from llmjp_core import cli, errors
from llmjp_core.tokenizer_report import language

NEKO = Path(__file__).parent / "data/neko_unigram.model"
ENGLISH = ["It is a truth universally acknowledged.", "Call me Ishmael. 😀", "naïve café"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("corpus")
    japanese = [*documents(300), "𠮷野家で鱻を食べる", ""]
    return [write_jsonl(folder / "neko.v1.jsonl", japanese), write_jsonl(folder / "english.jsonl", ENGLISH)]


def texts(path: Path) -> list[str]:
    return [text for line in path.read_text("utf-8").splitlines() if (text := json.loads(line)["text"])]


@pytest.mark.parametrize("name", ["neko", "unigram_unk", "bpe_symbols"])
def test_counts_are_sentencepieces(corpus: list[Path], tmp_path: Path, name: str) -> None:
    path = NEKO if name == "neko" else tmp_path / f"{name}.model"
    if name != "neko":
        path.write_bytes(model_bytes(name))
    theirs = spm.SentencePieceProcessor(model_file=str(path))
    rows = {(row.source, row.language): row for row in lc.tokenizer_report(path, corpus, num_threads=2).rows}
    for source, file in zip(("neko", "english"), corpus, strict=True):
        mine = [row for (s, _), row in rows.items() if s == source]
        ids = [i for text in texts(file) for i in theirs.encode(text)]
        assert sum(row.documents for row in mine) == len(texts(file))
        assert sum(row.characters for row in mine) == sum(map(len, texts(file)))
        assert sum(row.bytes for row in mine) == sum(len(text.encode()) for text in texts(file))
        assert sum(row.tokens for row in mine) == len(ids)
        assert sum(row.byte_tokens for row in mine) == sum(map(theirs.is_byte, ids))
        assert sum(row.unknown_tokens for row in mine) == sum(map(theirs.is_unknown, ids))
    (total,) = (row for row in rows.values() if row.source == "all")
    assert total.tokens == sum(row.tokens for row in rows.values()) - total.tokens


def test_unknown_characters(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", ["猫である。鱻鱻𠮷", "猫"])
    bytes_too = lc.tokenizer_report(NEKO, corpus).totals()[0]
    assert theirs_is_byte_fallback() and bytes_too.unknown_characters == 3
    assert bytes_too.byte_tokens == 3 + 3 + 4 and bytes_too.coverage == 1 - 3 / 9
    plain = lc.tokenizer_report({"unk": lc.Tokenizer.from_bytes(model_bytes("unigram_unk"))}, corpus).totals()[0]
    assert plain.byte_tokens == 0 and plain.unknown_tokens < plain.unknown_characters


def theirs_is_byte_fallback() -> bool:
    theirs = spm.SentencePieceProcessor(model_file=str(NEKO))
    return [theirs.is_byte(i) for i in theirs.encode("鱻")].count(True) == 3


def test_pieces_in_use(corpus: list[Path]) -> None:
    theirs = spm.SentencePieceProcessor(model_file=str(NEKO))
    used = {i for path in corpus for text in texts(path) for i in theirs.encode(text)}
    (pieces,) = lc.tokenizer_report(NEKO, corpus).pieces
    assert pieces.used == len(used) and pieces.vocab_size == theirs.get_piece_size()
    lengths = sorted((len(theirs.id_to_piece(i)) for i in used if not theirs.is_byte(i)), reverse=True)
    assert [len(piece) for piece, _ in pieces.longest] == lengths[:10]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("吾輩は猫である", "ja"), ("カタカナ", "ja"), ("我是猫，还没有名字。", "zh"), ("나는 고양이로소이다", "ko"),
        ("I am a cat", "latin"), ("Я кот", "cyrillic"), ("1234 ♪", "other"), ("", "other"),
        ("日本語の文に English が少し", "ja"),
    ],
)  # fmt: skip
def test_language_by_script(text: str, expected: str) -> None:
    assert language(text) == expected


def test_the_command(corpus: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.model"
    other.write_bytes(model_bytes("unigram_nfkc"))
    plot = tmp_path / "plot.png"
    args = ["tokenizer", "report", str(NEKO), *map(str, corpus), "--beside", str(other)]
    assert cli.main([*args, "--plot", str(plot)]) == 0
    shown = capsys.readouterr().out
    assert "neko, ja" in shown and "english, latin" in shown and "pieces in use" in shown
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert cli.main([*args, "--json", "--max-documents", "5"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert {row["model"] for row in numbers["rows"]} == {"neko_unigram", "other"}
    assert all(row["characters_per_token"] > 0 for row in numbers["rows"])


def test_what_cannot_be_reported(tmp_path: Path) -> None:
    bad = tmp_path / "a.jsonl"
    bad.write_text('{"text": "猫"}\n{"body": "犬"}\n', "utf-8")
    report = lc.tokenizer_report(NEKO, bad)
    assert report.errors and "a.jsonl:2" in report.errors[0] and "1 documents could not be read" in str(report)
    bad.write_text('{"text": ""}\n', "utf-8")
    with pytest.raises(errors.UnsupportedInputError, match="no document"):
        lc.tokenizer_report(NEKO, bad)
    with pytest.raises(errors.FileError):
        lc.tokenizer_report(tmp_path / "absent.model", bad)
