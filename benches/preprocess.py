"""JSON Lines to a Megatron dataset beside the loop of Megatron-LM and GPT-NeoX, in turns in one run.

    python benches/preprocess.py MODEL... --text corpus.jsonl... [--megabytes 320] [--rounds 3] [--out OUT]

The peer is one process of their `preprocess_data.py`: json.loads, the `sentencepiece` package, numpy, bytes to a file.
Both files of both must be equal. The documents, repeated in another order until there are enough, are cut into parts;
of each part the best of the rounds counts, so that a busy machine disturbs both alike. Megabytes (of JSON Lines, and
of the texts in them) per CPU-second, all threads and the kernel's time included, start-up left out. `command` is the
whole of `llmjp-core preprocess` on all parts in a process of its own, start-up included; `2 threads` compares the wall
time of one worker on one CPU with that of two on two. `--out` writes OUT.json and OUT.md.
"""

from __future__ import annotations

import argparse
import filecmp
import gzip
import json
import lzma
import os
import platform
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece as spm
from tokenizer import EOD_NAMES, cpu_seconds, eod_piece, processor, wall_seconds

import llmjp_core as lc

FORMATS = ("jsonl", "ascii", "gz", "zst", "parquet")


# --- the peer


def texts_of(path: Path) -> Iterator[str]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        for batch in pq.ParquetFile(path).iter_batches(columns=["text"]):
            yield from batch.column("text").to_pylist()
        return
    with opened(path) as lines:
        for line in lines:
            yield json.loads(line)["text"]


def opened(path: Path) -> Any:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    if path.suffix == ".zst":
        import zstandard

        return zstandard.open(path, "rt", encoding="utf-8")
    return lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8")


def megatron(path: Path, model: spm.SentencePieceProcessor, prefix: Path, eod: int) -> None:
    """Empty documents are left out, as llmjp_core does."""
    dtype, code = (np.uint16, 8) if model.vocab_size() < 65_500 else (np.int32, 4)
    sizes: list[int] = []
    with Path(f"{prefix}.bin").open("wb") as out:
        for text in texts_of(path):
            ids = model.encode(text)
            if ids:
                ids.append(eod)
                out.write(np.array(ids, dtype=dtype).tobytes(order="C"))
                sizes.append(len(ids))
    lengths = np.array(sizes, dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.int64) * np.dtype(dtype).itemsize])
    with Path(f"{prefix}.idx").open("wb") as index:
        index.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, code, len(sizes), len(sizes) + 1))
        for array in (lengths, offsets.astype(np.int64), np.arange(len(sizes) + 1, dtype=np.int64)):
            index.write(array.tobytes(order="C"))


# --- the texts


def write_parts(sources: list[Path], folder: Path, megabytes: float, parts: int) -> list[Path]:
    """The documents as JSON Lines with all their fields, in files of about the same size."""
    lines = []
    for source in sources:
        with opened(source) as file:
            lines += [line.encode() for line in file]
    rng, chosen, size = random.Random(0), [], 0
    while size < megabytes * 1e6:
        rng.shuffle(lines)
        for line in lines:
            chosen.append(line)
            size += len(line)
            if size >= megabytes * 1e6:
                break
    paths, left = [], iter(chosen)
    for number in range(parts):
        paths.append(folder / f"part{number}.jsonl")
        written = 0
        with paths[-1].open("wb") as out:
            while (written < size / parts or number == parts - 1) and (line := next(left, b"")):
                out.write(line)
                written += len(line)
    return paths


def in_format(name: str, path: Path) -> Path:
    """The same documents in another format."""
    if name == "jsonl":
        return path
    out = path.with_suffix({"ascii": ".ascii.jsonl", "parquet": ".parquet"}.get(name, f".jsonl.{name}"))
    if name == "gz":
        out.write_bytes(gzip.compress(path.read_bytes(), 6))
    elif name == "zst":
        import zstandard

        out.write_bytes(zstandard.ZstdCompressor(3).compress(path.read_bytes()))
    else:
        rows = [json.loads(line) for line in path.open(encoding="utf-8")]
        if name == "ascii":  # what json.dumps writes unless told otherwise
            out.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="ascii")
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.table({key: [row[key] for row in rows] for key in ("id", "text")}), out)
    return out


def sizes(path: Path) -> tuple[int, int]:
    """Bytes of JSON Lines, and of the texts."""
    return path.stat().st_size, sum(len(text.encode()) for text in texts_of(path))


# --- the runs


def tokenize(path: Path | list[Path], tok: lc.Tokenizer, prefix: Path, eod: int, workers: int = 1) -> None:
    lc.data.tokenize(path, tok, prefix, eod=eod, workers=workers, progress=False)


def race(parts: list[Path], model: Path, eod: int, folder: Path, rounds: int) -> dict[str, float]:
    """CPU-seconds of both for all parts: of each part the best of the rounds."""
    tok, peer = lc.Tokenizer.from_file(model), spm.SentencePieceProcessor(model_file=str(model))
    runs: dict[str, Callable[[Path], None]] = {
        "megatron": lambda part: megatron(part, peer, folder / "megatron", eod),
        "llmjp_core": lambda part: tokenize(part, tok, folder / "llmjp_core", eod),
    }
    total = dict.fromkeys(runs, 0.0)
    for part in parts:
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                seconds[name].append(cpu_seconds(lambda: run(part)))  # noqa: B023
        for ending in (".bin", ".idx"):
            if not filecmp.cmp(f"{folder / 'megatron'}{ending}", f"{folder / 'llmjp_core'}{ending}", shallow=False):
                raise SystemExit(f"{model.name}, {part.name}: the {ending} files differ")
        for name in runs:
            total[name] += min(seconds[name])
    return total


def command(parts: list[Path], model: Path, eod: str, folder: Path, rounds: int) -> float:
    """CPU-seconds of the command."""
    line = [sys.executable, "-m", "llmjp_core", "preprocess", "--input", *map(str, parts), "--workers", "1"]
    line += ["--vocab-file", str(model), "--append-eod", "--eod-token", eod, "--output-prefix", str(folder / "command")]
    best = float("inf")
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(line, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def two_threads(parts: list[Path], model: Path, eod: int, folder: Path, rounds: int) -> float:
    """Wall time of one worker on one CPU over that of two on two."""
    if not hasattr(os, "sched_setaffinity") or len(cpus := sorted(os.sched_getaffinity(0))) < 2:
        return float("nan")
    tok, best = lc.Tokenizer.from_file(model), {1: float("inf"), 2: float("inf")}
    try:
        for _ in range(rounds):
            for threads in best:
                os.sched_setaffinity(0, cpus[:threads])  # of this thread and those it starts
                spent = wall_seconds(lambda: tokenize(parts, tok, folder / "threads", eod, threads))  # noqa: B023
                best[threads] = min(best[threads], spent)
    finally:
        os.sched_setaffinity(0, cpus)
    return best[1] / best[2]


def measure(model: Path, parts: list[Path], folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    ours = lc.Tokenizer.from_file(model)
    eod_name = eod_piece(ours, args.eod_token)
    eod = ours.eod_id(eod_name)
    rows: list[dict[str, Any]] = []

    def add(what: str, who: str, measured: list[Path], seconds: float, peer: float | None) -> None:
        file, text = (sum(column) / 1e6 for column in zip(*map(sizes, measured), strict=True))
        row = {"model": model.name, "what": what, "who": who, "jsonl_mb": file, "text_mb": text, "seconds": seconds,
               "jsonl_mb_per_s": file / seconds, "text_mb_per_s": text / seconds,
               "ratio": None if peer is None else peer / seconds}  # fmt: skip
        rows.append(row)
        ratio = "" if peer is None else f"{peer / seconds:6.2f} x"
        print(f"  {what:<10}{who:<12}{file:8.1f} MB{file / seconds:8.1f} MB/s"
              f"{text / seconds:8.1f} MB/s of text{ratio}", flush=True)  # fmt: skip

    print(f"{model.name}: {len(ours)} pieces, documents end in {eod_name}")
    for name in args.formats:
        measured = parts if name == "jsonl" else parts[: args.other_parts]
        inputs = [in_format(name, part) for part in measured]
        for who, seconds in (times := race(inputs, model, eod, folder, args.rounds)).items():
            # The same JSON Lines for all formats, but that with \\u escapes has a size of its own.
            add(name, who, inputs if name == "ascii" else measured, seconds, times["megatron"])
    add("command", "llmjp_core", parts, command(parts, model, eod_name, folder, args.rounds), None)
    speedup = two_threads(parts, model, eod, folder, args.rounds)
    print(f"  2 threads, wall: {speedup:.2f} x one")
    return [*rows, {"model": model.name, "what": "2 threads", "who": "llmjp_core", "speedup": speedup}]


def write(out: Path, rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    import pyarrow

    machine = {
        "date": time.strftime("%Y-%m-%d"), "processor": processor(), "cores": os.cpu_count(),
        "load": os.getloadavg()[0], "rounds": args.rounds, "texts": [path.name for path in args.text],
        "versions": {"llmjp_core": lc.__version__, "python": platform.python_version(), "numpy": np.__version__,
                     "sentencepiece": spm.__version__, "pyarrow": pyarrow.__version__},
    }  # fmt: skip
    out.with_suffix(".json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        "# JSON Lines to a Megatron dataset, beside Megatron's loop",
        "",
        f"{machine['date']}, {machine['processor']}, {machine['cores']} cores, load average {machine['load']:.1f}, "
        f"{versions}. MB of JSON Lines (uncompressed), and of the texts in them, per CPU-second of all threads; the "
        "peer is a loop of json.loads, sentencepiece and numpy; equal files; in turns, the best of "
        f"{args.rounds} rounds for each part. Made by `benches/preprocess.py`.",
        "",
        "| model | input | who | MB | MB/s | MB/s of text | ratio to Megatron's loop |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        if "speedup" in row:
            speedup = f"{row['speedup']:.2f} x one"
            lines.append(f"| {row['model']} | 2 threads on 2 CPUs, wall | llmjp_core | | {speedup} | | |")
            continue
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        lines.append(f"| {row['model']} | {row['what']} | {row['who']} | {row['jsonl_mb']:.0f} | "
                     f"{row['jsonl_mb_per_s']:.1f} | {row['text_mb_per_s']:.1f} | {ratio} |")  # fmt: skip
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="+")
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="JSONL(.xz, .gz, .zst) with a field `text`")
    parser.add_argument("--megabytes", type=float, default=320.0, help="of JSON Lines")
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--other-parts", type=int, default=2, help="of the formats other than plain JSON Lines")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS, metavar="FORMAT")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--eod-token", metavar="PIECE", help=f"default: the first there is of {', '.join(EOD_NAMES)}")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        parts = write_parts(args.text, Path(folder), args.megabytes, args.parts)
        rows = [row for model in args.model for row in measure(model, parts, Path(folder), args)]
    if args.out:
        write(args.out, rows, args)


if __name__ == "__main__":
    main()
