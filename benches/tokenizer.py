"""Encoding speed on one core beside `sentencepiece` and Hugging Face, in turns in one run.

    python benches/tokenizer.py MODEL [--text corpus.jsonl] [--megabytes 8] [--rounds 5]

Prints megabytes per CPU-second, the best of the rounds, and the ratio to sentencepiece; ids are
compared before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import lzma
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece as spm

import llmjp_core as lc


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


def race(contenders: dict[str, Callable[[], object]], size: float, rounds: int, base: str) -> None:
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(rounds):
        for name, work in contenders.items():
            best[name] = min(best[name], cpu_seconds(work))
    for name, seconds in best.items():
        print(f"  {name:<34}{size / seconds:9.1f}   {best[base] / seconds:6.2f} x {base}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True, help="JSONL(.xz) with a field `text`")
    parser.add_argument("--megabytes", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hf", action="store_true", help="also Hugging Face tokenizers, from our export")
    args = parser.parse_args()

    ours = lc.Tokenizer.from_file(args.model)
    load = min(wall_seconds(lambda: lc.Tokenizer.from_file(args.model)) for _ in range(5))
    ref = spm.SentencePieceProcessor(model_file=str(args.model))
    documents = read(args.text, args.megabytes)
    lines = [line for text in documents for line in text.split("\n") if line]
    size = sum(len(text.encode()) for text in documents) / 1e6
    print(f"{platform.machine()}, Python {platform.python_version()}, sentencepiece {spm.__version__}")
    print(f"{args.model.name}: {len(ours)} pieces, loaded in {load:.3f} s; {len(documents)} documents, {size:.1f} MB")

    folder: Any = None
    hf: Any = None
    if args.hf:
        import tempfile

        from transformers import AutoTokenizer

        folder = tempfile.TemporaryDirectory()
        ours.export(folder.name)
        hf = AutoTokenizer.from_pretrained(folder.name).backend_tokenizer

    for name, texts in (("documents", documents), ("lines", lines)):
        same = sum(a == b for a, b in zip(ours.encode_batch(texts), ref.encode(texts), strict=True))
        print(f"{name}: {same}/{len(texts)} with the ids of sentencepiece; MB/s of CPU time, one core")
        contenders: dict[str, Callable[[], object]] = {
            "sentencepiece": lambda texts=texts: [ref.encode(t) for t in texts],  # type: ignore[misc]
            "sentencepiece, list": lambda texts=texts: ref.encode(texts),  # type: ignore[misc]
            "llmjp_core encode": lambda texts=texts: [ours.encode(t) for t in texts],  # type: ignore[misc]
            "llmjp_core encode_batch": lambda texts=texts: ours.encode_batch(texts, 1),  # type: ignore[misc]
            "llmjp_core encode_flat": lambda texts=texts: ours.encode_flat(texts, 1),  # type: ignore[misc]
        }
        if hf is not None:
            part = texts[: len(texts) // 4]
            contenders["Hugging Face (first quarter) x 4"] = lambda part=part: [  # type: ignore[misc]
                hf.encode_batch_fast(part, add_special_tokens=False) for _ in range(4)
            ]
        race(contenders, size, args.rounds, "sentencepiece")

    ids = ours.encode_batch(documents)
    tokens = sum(map(len, ids)) / 1e6
    print("decode: million tokens/s of CPU time")
    contenders = {
        "sentencepiece": lambda: [ref.decode(i) for i in ids],
        "llmjp_core": lambda: [ours.decode(i) for i in ids],
    }
    race(contenders, tokens, args.rounds, "sentencepiece")
    one, two = (
        min(wall_seconds(lambda n=n: ours.encode_flat(documents, n)) for _ in range(args.rounds)) for n in (1, 2)
    )  # type: ignore[misc]
    print(f"2 threads: {one / two:.2f} x one (wall)")


if __name__ == "__main__":
    main()
