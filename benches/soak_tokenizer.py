"""Holds a million random strings against sentencepiece: ids, pieces, places and decoded text, on every model.

    python benches/soak_tokenizer.py --strings 1000000 --seed 0 [MODEL ...]

Without models, all `.model` files below data/tokenizers of the shared folder (`LLMJP_SHARED`), and the one of the
tests. Exit code 1 and the strings that differ tell what was found.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import sentencepiece as spm

import llmjp_core as lc

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from unicode_strings import strings  # noqa: E402

BATCH = 2000
SHOWN = 5


def models(named: list[str]) -> list[Path]:
    shared = Path(os.environ.get("LLMJP_SHARED", ROOT.parent / "shared"))
    found = [*sorted((shared / "data" / "tokenizers").rglob("*.model")), ROOT / "tests" / "data" / "neko_unigram.model"]
    return [Path(path) for path in named] or found


def differences(ours: lc.Tokenizer, theirs: spm.SentencePieceProcessor, texts: list[str]) -> Iterator[tuple[str, str]]:
    """Kind and text of what differs."""
    ids = theirs.encode(texts)
    got = ours.encode_batch(texts)
    decoded = theirs.decode(ids)
    for text, want, own, back in zip(texts, ids, got, decoded, strict=True):
        if want != own:
            yield "ids", text
        if ours.decode(want) != back:
            yield "decode", text
        pieces = theirs.encode(text, out_type="proto").pieces
        tokens = [(piece.id, piece.piece, piece.begin, piece.end) for piece in pieces]
        if ours.encode_with_offsets(text.encode()) != tokens:
            yield "places", text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strings", type=int, default=1_000_000, help="on each model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    args = parser.parse_args()
    failed = False
    for path in models(args.models):
        ours, theirs = lc.Tokenizer.from_file(path), spm.SentencePieceProcessor(model_file=str(path))
        begin, done, wrong = time.monotonic(), 0, 0
        texts = itertools.islice(strings(args.seed), args.strings)
        while batch := list(itertools.islice(texts, BATCH)):
            for kind, text in differences(ours, theirs, batch):
                wrong += 1
                if wrong <= SHOWN:
                    print(f"{path.name}: {kind} of {text!r}", file=sys.stderr)
            done += len(batch)
            if sys.stderr.isatty() or done % (100 * BATCH) == 0 or done == args.strings:
                rate = done / max(time.monotonic() - begin, 1e-9)
                print(f"{path.name}: {done:,} strings, {wrong} differences, {rate:,.0f} a second", flush=True)
        failed |= wrong > 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
