"""`llmjp-core preprocess`, with the options of GPT-NeoX and of Megatron-LM."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest
from reference_dataset import both_files
from reference_text import MODEL, REFERENCE, documents, expect, write_jsonl

import llmjp_core as lc
from llmjp_core import errors
from llmjp_core.commands import preprocess


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


def command(*arguments: object) -> int:
    """As the command line runs it."""
    parser = argparse.ArgumentParser()
    preprocess.add_parser(parser.add_subparsers())
    try:
        return preprocess.run(parser.parse_args(["preprocess", *map(str, arguments)]))
    except errors.LlmjpError as error:
        print(error, file=sys.stderr)
        return 1


@pytest.mark.parametrize(
    "options",
    [
        ["--jsonl-keys", "text", "--tokenizer-type", "SPMTokenizer", "--vocab-file", MODEL, "--dataset-impl", "mmap"],
        ["--json-keys", "text", "--tokenizer-type", "GPTSentencePieceTokenizer", "--tokenizer-model", MODEL],
    ],
)
def test_both_spellings(
    corpus: Path, texts: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], options: list[object]
) -> None:
    other = write_jsonl(tmp_path / "b.jsonl", ["終わり"])
    files = f"{corpus},{other}"
    out = tmp_path / "out/ja"
    assert (
        command(
            "--input",
            files,
            *options,
            "--append-eod",
            "--output-prefix",
            out,
            "--workers",
            2,
            "--log-interval",
            100,
            "--num-docs",
            9,
        )
        == 0
    )
    assert both_files(tmp_path / "out/ja_text_document") == expect(tmp_path / "x", [*texts, "終わり"])
    said = capfd.readouterr()
    summary = json.loads(said.out)
    assert summary["datasets"][0]["documents"] == sum(map(bool, texts)) + 1
    assert "of 9 documents" in said.err and "documents without text were left out" in said.err


def test_megatrons_llama_tokenizer_adds_bos(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ["猫"])
    out = tmp_path / "o"
    assert (
        command("--input", path, "--tokenizer-type", "Llama2Tokenizer", "--vocab-file", MODEL, "--output-prefix", out)
        == 0
    )
    assert lc.data.IndexedDataset(f"{out}_text_document")[0].tolist() == [1, *REFERENCE.encode("猫")]


def test_a_tokenizer_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Encoded here, with the ids of `tokenizers`, special tokens in the text included."""
    from tokenizer_jsons import hf, trained

    config = trained("bytes")
    (tmp_path / "tokenizer.json").write_text(config, encoding="utf-8")
    texts = ["吾輩は猫である。", "<|endoftext|>猫 cat", "名前は\nまだ無い"]
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    out = tmp_path / "o"
    base = ("--input", path, "--vocab-file", tmp_path / "tokenizer.json", "--output-prefix", out, "--append-eod")
    assert command(*base, "--tokenizer-type", "HFTokenizer") == 0
    reference = hf.Tokenizer.from_str(config)
    eod = reference.token_to_id("<|endoftext|>")
    want = [[*reference.encode(text, add_special_tokens=False).ids, eod] for text in texts]
    assert [document.tolist() for document in lc.data.IndexedDataset(f"{out}_text_document")] == want
    assert "tokenizers" not in capfd.readouterr().err


def test_a_tokenizer_json_that_is_not_supported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`tokenizers` encodes, and the command says so."""
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "<eod>": 1}, unk_token="[UNK]"))
    words.save(str(tmp_path / "tokenizer.json"))
    path = write_jsonl(tmp_path / "a.jsonl", ["猫"])
    base = (
        "--input",
        path,
        "--vocab-file",
        tmp_path / "tokenizer.json",
        "--output-prefix",
        tmp_path / "o",
        "--append-eod",
    )
    assert command(*base, "--eod-token", "<eod>") == 0
    assert "the package `tokenizers` encodes instead" in capfd.readouterr().err
    assert lc.data.IndexedDataset(tmp_path / "o_text_document")[0].tolist() == [0, 1]
    assert command(*base) == 1 and "--eod-token" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--dataset-impl", "lazy"], "legacy"),
        (["--ftfy"], "repair"),
        (["--split-sentences"], "sequence"),
        (["--partitions", "4"], "CPUs"),
        (["--log-interval", "0"], "at least 1"),
        (["--eod-token", "<none>", "--append-eod"], "<none>"),
        (["--dtype", "u8"], "uint8"),
    ],
)
def test_refused_options(tmp_path: Path, capfd: pytest.CaptureFixture[str], options: list[str], what: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ["猫"])
    assert command("--input", path, "--vocab-file", MODEL, "--output-prefix", tmp_path / "o", *options) == 1
    assert what in capfd.readouterr().err


def test_a_bad_line_on_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ["猫"])
    with path.open("a") as file:
        file.write("{\n")
    base = ("--input", path, "--vocab-file", MODEL, "--output-prefix", tmp_path / "o")
    assert command(*base) == 1 and "a.jsonl: line 2: bad JSON" in capfd.readouterr().err
    assert command(*base, "--on-error", "skip") == 0
    said = capfd.readouterr()
    assert "1 documents with errors" in said.err and json.loads(said.out)["skipped"] == 1
