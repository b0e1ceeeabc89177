"""Progress, Ctrl-C, kill -9, full disks: what a long run may meet."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from reference_dataset import both_files, names, run_python
from reference_text import MODEL, PARAGRAPHS, compressed, documents, expect, write_jsonl

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


def test_progress_is_told(corpus: Path, tok: lc.Tokenizer, tmp_path: Path) -> None:
    told: list[lc.data.Progress] = []
    summary = lc.data.tokenize(corpus, tok, tmp_path / "d", progress=told.append)
    assert told[-1].share == 1.0 and told[-1].tokens == summary.tokens and told[-1].documents == summary.documents
    assert told == sorted(told, key=lambda p: p.bytes_read) and "tokens/s" in str(told[-1])

    def stop(progress: lc.data.Progress) -> None:
        raise StopIteration("enough")

    with pytest.raises(StopIteration, match="enough"):
        lc.data.tokenize(corpus, tok, tmp_path / "e", progress=stop)
    assert not list(tmp_path.glob("e.*"))


RUN = """
import sys
import llmjp_core as lc
tok = lc.Tokenizer.from_file(sys.argv[1])
print("ready", flush=True)
made = lc.data.tokenize(sys.argv[2:-1], tok, sys.argv[-1], workers=2, sync_seconds=0, progress=False)
print("resumed" if made.resumed else "fresh")
"""


def start(inputs: list[Path], prefix: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, *map(str, [MODEL, *inputs, prefix])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_killed_runs_go_on(corpus: Path, texts: list[str], tok: lc.Tokenizer, tmp_path: Path) -> None:
    """kill -9 at random moments until it gets through: three files, plain and compressed."""
    more = documents(700, seed=5)
    packed = compressed(write_jsonl(tmp_path / "more.jsonl", more), tmp_path, "gz")
    (tmp_path / "z.txt").write_text("\n".join(PARAGRAPHS))
    expected = expect(tmp_path / "x", [*texts, *more, "\n".join(PARAGRAPHS)])
    rng = random.Random(time.time_ns())
    kills, word, left = 0, "", False
    while not word:
        left = (tmp_path / "d.journal.partial").exists()
        process = start([corpus, packed, tmp_path / "z.txt"], tmp_path / "d")
        if kills < 8:
            time.sleep(rng.uniform(0.0, 0.25) * (kills + 1) / 4)
            process.kill()
        out, err = process.communicate(timeout=120)
        assert process.returncode in (0, -signal.SIGKILL), err
        kills += process.returncode != 0
        word = out.strip()
    assert both_files(tmp_path / "d") == expected
    assert not list(tmp_path.glob("*.partial")) and not list(tmp_path.glob("*.tmp"))
    assert word == ("resumed" if left else "fresh")


def test_another_job_does_not_take_over(
    corpus: Path, expected: tuple[bytes, bytes], tok: lc.Tokenizer, tmp_path: Path
) -> None:
    """Parts of a killed run are worthless once an input, the tokenizer or an option changed."""
    mine = tmp_path / "a.jsonl"
    mine.write_bytes(corpus.read_bytes())
    leave_parts(mine, tok, tmp_path / "d")
    os.utime(mine, ns=(1, 1))
    assert not lc.data.tokenize(mine, tok, tmp_path / "d").resumed
    assert both_files(tmp_path / "d") == expected
    leave_parts(mine, tok, tmp_path / "e")
    assert not lc.data.tokenize(mine, tok, tmp_path / "e", append_eod=False).resumed
    leave_parts(mine, tok, tmp_path / "f")
    assert lc.data.tokenize(mine, tok, tmp_path / "f", workers=5, on_error="skip").resumed
    assert both_files(tmp_path / "f") == expected
    leave_parts(mine, tok, tmp_path / "g")
    os.truncate(tmp_path / "g.bin.partial", 10)
    assert not lc.data.tokenize(mine, tok, tmp_path / "g").resumed
    assert both_files(tmp_path / "g") == expected


def leave_parts(path: Path, tok: lc.Tokenizer, prefix: Path) -> None:
    """An error after work was made durable keeps it for the next run."""

    def stop(progress: lc.data.Progress) -> None:
        if Path(f"{prefix}.journal.partial").exists():
            raise StopIteration

    with pytest.raises(StopIteration):
        lc.data.tokenize(path, tok, prefix, sync_seconds=0, progress=stop)
    assert not Path(f"{prefix}.idx").exists()


def test_two_processes_do_not_write_one_set(corpus: Path, tok: lc.Tokenizer, tmp_path: Path) -> None:
    met: list[str] = []

    def meanwhile(progress: lc.data.Progress) -> None:
        with pytest.raises(errors.UnsupportedInputError, match="another process"):
            lc.data.tokenize(corpus, tok, tmp_path / "d")
        met.append("yes")

    lc.data.tokenize(corpus, tok, tmp_path / "d", progress=meanwhile)
    assert met and names(tmp_path) == {"d.bin", "d.idx"}


def test_ctrl_c_ends_at_once(corpus: Path, tmp_path: Path) -> None:
    big = tmp_path / "big.jsonl"
    big.write_bytes(corpus.read_bytes() * 60)
    process = start([big], tmp_path / "d")
    time.sleep(0.3)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in err and process.returncode != 0
    assert time.monotonic() - sent < 5  # the interpreter's own end included, on a busy machine
    assert not (tmp_path / "d.idx").exists()


def test_a_full_disk_leaves_nothing(corpus: Path, tok: lc.Tokenizer, tmp_path: Path) -> None:
    script = """
import resource, sys
import llmjp_core as lc
tok = lc.Tokenizer.from_file(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, 1 << 19))
try:
    lc.data.tokenize(sys.argv[2], tok, sys.argv[3], sync_seconds=float(sys.argv[4]))
except lc.errors.FileError as error:
    print("refused", error.errno)
"""
    lc.data.tokenize(write_jsonl(tmp_path / "a.jsonl", ["猫"]), tok, tmp_path / "d")
    before = both_files(tmp_path / "d")
    for sync_seconds in (0, 1000):
        done = run_python(script, MODEL, corpus, tmp_path / "d", sync_seconds)
        assert done.stdout.split() == ["refused", "27"], done.stderr
        assert names(tmp_path) == {"a.jsonl", "d.bin", "d.idx"} and both_files(tmp_path / "d") == before


def test_memory_does_not_grow_with_the_input(tmp_path: Path) -> None:
    script = r"""
import re, sys
import llmjp_core as lc
tok = lc.Tokenizer.from_file(sys.argv[1])
lc.data.tokenize(sys.argv[2], tok, sys.argv[3], workers=2)
print(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
"""
    line = json.dumps({"text": "猫", "other": "x" * 4000}) + "\n"
    peaks = []
    for count in (2_000, 30_000):  # 8 and 120 MB
        (tmp_path / "a.jsonl").write_text(line * count)
        done = run_python(script, MODEL, tmp_path / "a.jsonl", tmp_path / "d")
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 20, peaks
