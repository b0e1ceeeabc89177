"""Encoding speed on one core beside `sentencepiece` and Hugging Face, in turns in one run.

    python benches/tokenizer.py MODEL [--text corpus.jsonl] [--megabytes 8] [--rounds 5]

Prints megabytes per CPU-second, the best of the rounds, and the ratio to sentencepiece; ids are
compared before anything is timed. Of a `tokenizer.json` the peers are `tokenizers` and, for
byte-level BPE with GPT-2's words, `tiktoken` where it is installed.
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


GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def tiktoken_of(config: dict[str, Any]) -> Any:
    """The same tokenizer in tiktoken, or None where it cannot be or tiktoken is not there."""
    steps = config["pre_tokenizer"] or {}
    if steps.get("type") != "ByteLevel" or steps["add_prefix_space"] or not steps.get("use_regex", True):
        return None
    try:
        import tiktoken
    except ImportError:
        return None
    own = [*range(33, 127), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in own]
    letters = {chr(byte): byte for byte in own} | {chr(256 + i): byte for i, byte in enumerate(rest)}
    special = {token["content"] for token in config["added_tokens"]}
    vocab = {token: id for token, id in config["model"]["vocab"].items() if token not in special}
    ranks = {bytes(letters[letter] for letter in token): id for token, id in vocab.items()}
    return tiktoken.Encoding("bench", pat_str=GPT2_WORDS, mergeable_ranks=ranks, special_tokens={})


def json_race(path: Path, documents: list[str], size: float, rounds: int) -> None:
    import tokenizers

    ours, theirs = lc.Tokenizer.from_file(path), tokenizers.Tokenizer.from_file(str(path))
    tik = tiktoken_of(json.loads(path.read_text(encoding="utf-8")))
    lines = [line for text in documents for line in text.split("\n") if line]
    for name, texts in (("documents", documents), ("lines", lines)):
        part = texts[: max(1, len(texts) // 8)]
        scale = sum(len(text.encode()) for text in texts) / sum(len(text.encode()) for text in part)
        want = [theirs.encode(text, add_special_tokens=False).ids for text in part]
        same = sum(a == b for a, b in zip(ours.encode_batch(part), want, strict=True))
        print(f"{name}: {same}/{len(part)} with the ids of tokenizers; MB/s of CPU time, one core")
        contenders: dict[str, Callable[[], object]] = {
            "tokenizers, an eighth": lambda part=part: [  # type: ignore[misc]
                theirs.encode(text, add_special_tokens=False).ids for text in part
            ],
            "llmjp_core encode": lambda texts=texts: [ours.encode(t) for t in texts],  # type: ignore[misc]
            "llmjp_core encode_flat": lambda texts=texts: ours.encode_flat(texts, 1),  # type: ignore[misc]
        }
        if tik is not None:
            contenders["tiktoken"] = lambda texts=texts: [tik.encode_ordinary(t) for t in texts]  # type: ignore[misc]
        best = dict.fromkeys(contenders, float("inf"))
        for _ in range(rounds):
            for contender, work in contenders.items():
                best[contender] = min(best[contender], cpu_seconds(work))
        best["tokenizers, an eighth"] *= scale
        for contender, seconds in best.items():
            print(
                f"  {contender:<34}{size / seconds:9.1f}   {best['tokenizers, an eighth'] / seconds:6.2f} x tokenizers"
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True, help="JSONL(.xz) with a field `text`")
    parser.add_argument("--megabytes", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hf", action="store_true", help="also Hugging Face tokenizers, from our export")
    args = parser.parse_args()

    if args.model.suffix == ".json":
        documents = read(args.text, args.megabytes)
        size = sum(len(text.encode()) for text in documents) / 1e6
        print(f"{platform.machine()}, Python {platform.python_version()}: {args.model}, {size:.1f} MB")
        json_race(args.model, documents, size, args.rounds)
        return
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
