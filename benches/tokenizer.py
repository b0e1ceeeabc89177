"""Encoding, decoding and loading on one core beside `sentencepiece` and Hugging Face, in turns in one run.

    python benches/tokenizer.py MODEL... --text corpus.jsonl... [--megabytes 8] [--rounds 5] [--out results/tokenizer]

Megabytes (or million tokens) per CPU-second and the ratio to sentencepiece; ids are compared before
anything is timed. The texts are cut into groups; of each the best of the rounds counts, so that a
busy machine disturbs all contenders alike. `--out` writes OUT.json and OUT.md.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece as spm

import llmjp_core as lc

CALLS = 2000


def read(path: Path, megabytes: float) -> list[str]:
    texts, size = [], 0
    opener: Any = lzma.open if path.suffix == ".xz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            texts.append(json.loads(line)["text"])
            size += len(texts[-1].encode())
            if size > megabytes * 1e6:
                break
    return texts


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def wall_seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


Work = Callable[[Any], object]


def race(
    contenders: dict[str, Work],
    groups: list[Any],
    rounds: int,
    clock: Callable[[Callable[[], object]], float] = cpu_seconds,
) -> dict[str, float]:
    """Seconds for all groups: of each group the best of the rounds."""
    best = {name: [float("inf")] * len(groups) for name in contenders}
    for _ in range(rounds):
        for number, group in enumerate(groups):
            for name, work in contenders.items():
                best[name][number] = min(best[name][number], clock(lambda: work(group)))  # noqa: B023
    return {name: sum(seconds) for name, seconds in best.items()}


def grouped(texts: list[str], size: int = 200_000) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    filled = 0
    for text in texts:
        if filled > size:
            groups.append([])
            filled = 0
        groups[-1].append(text)
        filled += len(text)
    return groups


EOD_NAMES = ("<|endoftext|>", "<EOD|LLM-jp>", "</s>")


def eod_piece(tok: lc.Tokenizer, asked: str | None = None) -> str:
    """What a user of the model would name as the end of a document."""
    names = [asked] if asked else EOD_NAMES
    found = next((name for name in names if tok.piece_to_id(name) is not None), None)
    if found is None:
        raise SystemExit(f"the model has none of {', '.join(names)}; name its end of a document with --eod-token")
    return found


def preprocess_speed(model: Path, documents: list[str], megabytes: float, rounds: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "text.jsonl"
        lines = (json.dumps({"text": text}, ensure_ascii=False) for text in documents)
        source.write_text("\n".join(lines) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "llmjp_core", "preprocess", "--input", str(source), "--workers", "1"]
        best = float("inf")
        for turn in range(rounds):
            rest = [
                "--tokenizer-model",
                str(model),
                "--output-prefix",
                str(Path(folder) / f"out{turn}"),
                "--append-eod",
                "--eod-token",
                eod_piece(lc.Tokenizer.from_file(model)),
            ]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command + rest, check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return megabytes / best


def hugging_face(ours: lc.Tokenizer) -> Any:
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        ours.export(folder)
        return AutoTokenizer.from_pretrained(folder).backend_tokenizer


def measure(model: Path, documents: list[str], args: argparse.Namespace) -> list[dict[str, Any]]:
    ours, ref = lc.Tokenizer.from_file(model), spm.SentencePieceProcessor(model_file=str(model))
    hf = hugging_face(ours) if args.hf else None
    lines = [line for text in documents for line in text.split("\n") if line]
    size = sum(len(text.encode()) for text in documents) / 1e6
    rows: list[dict[str, Any]] = []

    def add(what: str, unit: str, values: dict[str, float], base: str = "sentencepiece") -> None:
        for who, value in values.items():
            ratio = value / values[base] if base in values else None
            rows.append({"model": model.name, "what": what, "who": who, "unit": unit, "value": value, "ratio": ratio})
            print(f"  {what:<16}{who:<32}{value:10.3f} {unit:<8}{'' if ratio is None else f'{ratio:6.2f} x'}")

    print(f"{model.name}: {len(ours)} pieces, {len(documents)} documents, {size:.1f} MB")
    for name, texts in (("documents", documents), ("lines", lines)):
        wrong = sum(a != b for a, b in zip(ours.encode_batch(texts), ref.encode(texts), strict=True))
        if wrong:
            raise SystemExit(f"{model.name}: {wrong} of {len(texts)} {name} have other ids than sentencepiece")
        contenders: dict[str, Work] = {
            "sentencepiece": lambda group: [ref.encode(text) for text in group],
            "sentencepiece, list": ref.encode,
            "llmjp_core encode": lambda group: [ours.encode(text) for text in group],
            "llmjp_core encode_batch": lambda group: ours.encode_batch(group, 1),
            "llmjp_core encode_flat": lambda group: ours.encode_flat(group, 1),
        }
        if hf is not None:
            contenders["Hugging Face"] = lambda group: [hf.encode(text, add_special_tokens=False) for text in group]
        add(name, "MB/s", {who: size / s for who, s in race(contenders, grouped(texts), args.rounds).items()})

    part = documents[: max(1, len(documents) // 8)]
    part_size = sum(len(text.encode()) for text in part) / 1e6
    contenders = {
        "sentencepiece": lambda group: [ref.encode(text, out_type="proto") for text in group],
        "llmjp_core, lists": lambda group: [ours.encode_with_offsets(text) for text in group],
        "llmjp_core, flat, bytes": lambda group: ours.encode_flat(group, 1, return_offsets="bytes"),
        "llmjp_core, flat, characters": lambda group: ours.encode_flat(group, 1, return_offsets="characters"),
    }
    for name, part in (("offsets", documents[: max(1, len(documents) // 4)]), ("offsets, lines", lines[::4])):
        part_size = sum(len(text.encode()) for text in part) / 1e6
        add(name, "MB/s", {who: part_size / s for who, s in race(contenders, grouped(part), args.rounds).items()})

    for text in ("短い文", "今日は天気がいいので、少し散歩に行きました。"):
        many = {
            "sentencepiece": lambda text: [ref.encode(text) for _ in range(CALLS)],
            "llmjp_core": lambda text: [ours.encode(text) for _ in range(CALLS)],
        }
        calls = {who: CALLS / s / 1e6 for who, s in race(many, [text], args.rounds).items()}
        add(f"{len(text)} characters", "Mcalls/s", calls)

    ids = ours.encode_batch(documents)
    tokens = sum(map(len, ids)) / 1e6
    arrays = [np.array(i, dtype=np.uint32) for i in ids]
    pairs = [list(zip(ids[at : at + 50], arrays[at : at + 50], strict=True)) for at in range(0, len(ids), 50)]
    contenders = {
        "sentencepiece": lambda group: [ref.decode(plain) for plain, _ in group],
        "llmjp_core, lists": lambda group: [ours.decode(plain) for plain, _ in group],
        "llmjp_core, arrays": lambda group: [ours.decode(array) for _, array in group],
    }
    add("decode", "Mtok/s", {who: tokens / s for who, s in race(contenders, pairs, args.rounds).items()})

    contenders = {
        "sentencepiece": lambda _: spm.SentencePieceProcessor(model_file=str(model)),
        "llmjp_core": lambda _: lc.Tokenizer.from_file(model),
    }
    add("load", "s", race(contenders, [None], args.rounds))

    contenders = {
        "one": lambda group: ours.encode_flat(group, 1),
        "two": lambda group: ours.encode_flat(group, 2),
    }
    wall = race(contenders, grouped(documents, 1_000_000), args.rounds * 3, wall_seconds)
    add("2 threads", "x one", {"llmjp_core (wall)": wall["one"] / wall["two"]})
    if args.preprocess:
        add("preprocess", "MB/s", {"llmjp_core": preprocess_speed(model, documents, size, args.rounds)})
    return rows


def write(out: Path, rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    machine = {
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), "sentencepiece": spm.__version__, "numpy": np.__version__},
        "texts": [path.name for path in args.text],
        "rounds": args.rounds,
    }
    out.with_suffix(".json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    lines = [
        "# Tokenizing beside sentencepiece",
        "",
        f"{machine['date']}, {machine['processor']}, {machine['cores']} cores, load average {machine['load']:.1f}, "
        f"sentencepiece {spm.__version__}, Python {platform.python_version()}. CPU seconds of one core, contenders in "
        "turns, the best of the rounds for each group of texts. Made by `benches/tokenizer.py`.",
        "",
        "| model | what | who | value | unit | ratio to sentencepiece |",
        "|---|---|---|---:|---|---:|",
    ]
    for row in rows:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        lines.append(
            f"| {row['model']} | {row['what']} | {row['who']} | {row['value']:.3f} | {row['unit']} | {ratio} |"
        )
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path, nargs="+")
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="JSONL(.xz) with a field `text`")
    parser.add_argument("--megabytes", type=float, default=8.0, help="of each file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hf", action="store_true", help="also Hugging Face tokenizers, from our export")
    parser.add_argument("--preprocess", action="store_true", help="also JSON Lines to .bin, in a process of its own")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    documents = [text for path in args.text for text in read(path, args.megabytes)]
    rows = [row for model in args.model for row in measure(model, documents, args)]
    if args.out:
        write(args.out, rows, args)


if __name__ == "__main__":
    main()
