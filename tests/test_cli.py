"""The command line from outside: exit codes, messages, and the small commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece

from llmjp_core import __version__, cli, commands, errors

COMMANDS = {
    "quickstart", "train", "config", "plan", "tokenizer", "preprocess", "convert", "generate", "info", "selftest",
}  # fmt: skip


def run(*args: str, stdin: str | bytes = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    data = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run([sys.executable, "-m", "llmjp_core", *args], input=data, capture_output=True, cwd=cwd)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture(scope="module")
def model(repository: Path) -> str:
    return str(repository / "tests/data/neko_unigram.model")


def test_help_names_every_command() -> None:
    assert set(commands.NAMES) == COMMANDS
    shown = run("--help")
    assert shown.returncode == 0
    assert all(f"\n    {name}" in shown.stdout for name in COMMANDS), shown.stdout


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([name, "--help"])
    assert stopped.value.code == 0
    assert f"usage: llmjp-core {name}" in capsys.readouterr().out


def test_version() -> None:
    assert run("--version").stdout == f"llmjp-core {__version__}\n"


@pytest.mark.parametrize("args", [(), ("quickstrat",), ("tokenizer",), ("tokenizer", "encode"), ("convert", "a")])
def test_wrong_usage_is_2(args: tuple[str, ...]) -> None:
    done = run(*args)
    assert done.returncode == 2
    assert "usage: llmjp-core" in done.stderr


def test_an_error_is_one_line_and_1() -> None:
    done = run("tokenizer", "encode", "--model", "/absent/a.model", "あ")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "/absent/a.model" in done.stderr and "No such file" in done.stderr and "Errno" not in done.stderr


@pytest.mark.parametrize("args", [["tokenizer", "--debug", "encode"], ["tokenizer", "encode", "--debug"]])
def test_debug_shows_the_traceback(args: list[str]) -> None:
    done = run(*args, "--model", "/absent/a.model", "あ")
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr and "FileError" in done.stderr


def test_a_fault_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only expected errors become a line; a bug keeps its traceback."""

    class Broken:
        def add_parser(self, subparsers: commands.Subparsers) -> None:
            subparsers.add_parser("info")

        def run(self, args: object) -> int:
            raise ZeroDivisionError

    monkeypatch.setattr(commands, "NAMES", ("info",))
    monkeypatch.setattr(commands, "load", lambda name: Broken())
    with pytest.raises(ZeroDivisionError):
        cli.main(["info"])


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(args: object) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return 0

    monkeypatch.setattr("llmjp_core.commands.info.run", interrupted)
    assert cli.main(["info"]) == 130
    assert capsys.readouterr().err == "llmjp-core info: interrupted\n"


def test_a_closed_pipe_is_quiet(model: str) -> None:
    program = [sys.executable, "-m", "llmjp_core", "tokenizer", "encode", "--model", model]
    reader, writer = os.pipe()
    os.close(reader)
    text = ("吾輩は猫である。" * 500 + "\n").encode() * 20
    done = subprocess.run(program, input=text, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.stderr == b""


def test_os_errors_lose_their_number() -> None:
    error = errors.FileError(13, "cannot write: Permission denied", "a/b.bin")
    assert cli._text(error) == "a/b.bin: cannot write: Permission denied"


TEXTS = ["吾輩は猫である。名前はまだ無い。", "", "𠮷野家で🍣を食べる", "half width カナ　と全角"]


def test_encode_prints_the_ids_of_sentencepiece(model: str) -> None:
    reference = sentencepiece.SentencePieceProcessor(model_file=model)
    want = [" ".join(map(str, reference.encode(text))) for text in TEXTS]
    assert run("tokenizer", "encode", "--model", model, *TEXTS).stdout.split("\n") == [*want, ""]
    assert run("tokenizer", "encode", "--model", model, stdin="\n".join(TEXTS)).stdout.split("\n") == [*want, ""]


def test_encode_prints_pieces(model: str) -> None:
    reference = sentencepiece.SentencePieceProcessor(model_file=model)
    shown = run("tokenizer", "encode", "--model", model, "--pieces", TEXTS[0]).stdout
    assert shown.split() == reference.encode(TEXTS[0], out_type=str)


def test_encode_takes_bytes_that_are_not_utf8(model: str) -> None:
    done = run("tokenizer", "encode", "--model", model, stdin=b"\xff\xe3\x81\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
