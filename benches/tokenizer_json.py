"""Encoding speed of a `tokenizer.json` on one core beside `tokenizers` and tiktoken, in turns in one run.

    python benches/tokenizer_json.py tokenizer.json --text corpus.jsonl [--megabytes 8] [--rounds 5]

Prints megabytes per CPU-second, the best of the rounds, and the ratio to `tokenizers`; ids are compared first. tiktoken
takes part where it is installed and the model is byte-level BPE with GPT-2's words.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizer import cpu_seconds, read

import llmjp_core as lc

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
    args = parser.parse_args()
    documents = read(args.text, args.megabytes)
    json_race(args.model, documents, sum(len(text.encode()) for text in documents) / 1e6, args.rounds)


if __name__ == "__main__":
    main()
