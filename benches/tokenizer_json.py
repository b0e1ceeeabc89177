"""Encoding speed of a `tokenizer.json` on one core beside `tokenizers` and other packages, in turns in one run.

    python benches/tokenizer_json.py MODEL... --text corpus.jsonl [--megabytes 8] [--rounds 5] [--out results/x]

A `.model` is exported to a folder for transformers first. Prints megabytes per CPU-second, the best of the rounds, the
ratio to `tokenizers`, and how many texts have the ids of `tokenizers`. Those of tiktoken, splintr, gigatoken, fastokens
and kitoken take part that are installed (`pip install splintr-rs gigatoken fastokens kitoken tiktoken`) and take the
model. `--out` writes a Markdown table and the same as JSON.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizer import grouped, processor, race, read

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


Encode = Callable[[list[str]], list[list[int]]]


def peers(path: Path) -> tuple[dict[str, Encode], dict[str, str]]:
    """Who encodes the model, and why the others do not."""

    def splintr() -> Encode:
        import splintr

        encode = splintr.from_json(str(path)).encode_ordinary
        special = len(encode(""))  # what it appends to every text
        return lambda texts: [encode(text)[: -special or None] for text in texts]

    def gigatoken() -> Encode:
        import gigatoken

        return gigatoken.Tokenizer(str(path)).encode_batch_list  # type: ignore[no-any-return]

    def fastokens() -> Encode:
        import fastokens

        encode = fastokens.Tokenizer.from_file(str(path)).encode
        return lambda texts: [encode(text, add_special_tokens=False).ids for text in texts]

    def kitoken() -> Encode:
        import kitoken

        encode = kitoken.Kitoken.from_tokenizers_file(str(path)).encode
        return lambda texts: [encode(text, False) for text in texts]

    def tiktoken() -> Encode:
        found = tiktoken_of(json.loads(path.read_text(encoding="utf-8")))
        if found is None:
            raise ValueError("not byte-level BPE with GPT-2's words")
        return lambda texts: [found.encode_ordinary(text) for text in texts]

    found: dict[str, Encode] = {}
    refused: dict[str, str] = {}
    for load in (tiktoken, splintr, gigatoken, fastokens, kitoken):
        try:
            found[load.__name__] = load()
            found[load.__name__](["日本の首都は東京です。"])
        except ImportError:
            pass
        except Exception as error:  # whatever a peer raises at a model it does not take
            found.pop(load.__name__, None)
            refused[load.__name__] = str(error).splitlines()[0][:100]
    return found, refused


def json_race(path: Path, documents: list[str], rounds: int) -> list[dict[str, Any]]:
    import tokenizers

    with tempfile.TemporaryDirectory() as folder:
        ours: lc.Tokenizer = lc.Tokenizer.from_file(path)
        file = path
        if path.suffix == ".model":
            ours.export(Path(folder) / "hf")
            file = Path(folder) / "hf" / "tokenizer.json"
            ours = lc.Tokenizer.from_file(file)
        theirs = tokenizers.Tokenizer.from_file(str(file))
        others, refused = peers(file)
    contenders: dict[str, Encode] = {
        "tokenizers": lambda texts: [theirs.encode(text, add_special_tokens=False).ids for text in texts],
        "llmjp_core encode": lambda texts: [ours.encode(text) for text in texts],
        **others,
    }
    lines = [line for text in documents for line in text.split("\n") if line]
    rows = []
    for what, texts in (("documents", documents), ("lines", lines)):
        size = sum(len(text.encode()) for text in texts) / 1e6
        want = contenders["tokenizers"](texts)
        equal = {}
        for who, encode in contenders.items():
            equal[who] = sum([*a] == b for a, b in zip(encode(texts), want, strict=True)) / len(texts)
        works: dict[str, Callable[[Any], object]] = {**contenders}
        works["llmjp_core encode_flat"] = lambda group: ours.encode_flat(group, 1)
        equal["llmjp_core encode_flat"] = equal["llmjp_core encode"]
        best = race(works, grouped(texts), rounds)
        for who, seconds in best.items():
            row = {"model": path.name, "what": what, "who": who, "value": size / seconds}
            rows.append({**row, "ratio": best["tokenizers"] / seconds, "equal": equal[who]})
            print(
                f"{path.name:40}{what:10} {who:24}{size / seconds:9.1f} MB/s {rows[-1]['ratio']:8.1f} x tokenizers"
                f"  {equal[who]:.2%} equal",
                flush=True,
            )
    for who, why in refused.items():
        print(f"{path.name:40}{who} does not take it: {why}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--text", type=Path, required=True, help="JSONL(.xz) with a field `text`")
    parser.add_argument("--megabytes", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    documents = read(args.text, args.megabytes)
    rows = [row for model in args.models for row in json_race(model, documents, args.rounds)]
    if args.out:
        write(args.out, rows)


def write(out: Path, rows: list[dict[str, Any]]) -> None:
    names = ("tokenizers", "tiktoken", "splintr-rs", "gigatoken", "fastokens", "kitoken")
    versions = {name: version for name in names if (version := version_of(name))}
    head = f"{time.strftime('%Y-%m-%d')}, {processor()}, one core, Python {platform.python_version()}, " + ", ".join(
        f"{name} {version}" for name, version in versions.items()
    )
    table = "| model | what | who | MB/s | ratio to tokenizers | equal |\n|---|---|---|---:|---:|---:|\n"
    for row in rows:
        cells = (
            row["model"],
            row["what"],
            row["who"],
            f"{row['value']:.1f}",
            f"{row['ratio']:.1f}",
            f"{row['equal']:.2%}",
        )
        table += f"| {' | '.join(cells)} |\n"
    method = (
        "CPU time, contenders in turns, the best of the rounds for each group of texts: a package that remembers words "
        "has seen them before. Equal: texts with the ids of `tokenizers`. Made by `benches/tokenizer_json.py`."
    )
    text = f"# A tokenizer.json beside other packages\n\n{head}. {method}\n\n{table}"
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    report = {"machine": head, "rows": rows}
    out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
