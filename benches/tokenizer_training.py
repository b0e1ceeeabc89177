"""Training beside `sentencepiece`, each run in a process of its own, in turns.

    python benches/tokenizer_training.py --text CORPUS... [--megabytes 10 30] [--types bpe unigram] [--vocab 8000]
        [--rounds 1] [--only llmjp_core] [--json FILE]

The corpora (JSONL, text; .xz) are read to lines and shuffled; of each 40 lines one is held out. Prints wall and
processor seconds, peak memory of the process (the text's included) and characters a token on the held-out text; for BPE
whether both vocabularies are equal, for unigram how likely held-out text is. `--megabytes` beyond the corpora repeat
them with one character in 20 changed.
"""

from __future__ import annotations

import argparse
import json
import lzma
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as pb

import llmjp_core as lc

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from unigram_quality import log_likelihood

OPTIONS = {"byte_fallback": True, "character_coverage": 0.9995, "max_sentence_length": 16384, "num_threads": 2}


def train(trainer: str, text: str, prefix: str, kind: str, vocab: int) -> None:
    """The work of a child process; prints its costs as JSON."""
    start = time.monotonic()
    if trainer == "llmjp_core":
        tokenizer = lc.Tokenizer.train(
            text, model_type=kind, vocab_size=vocab, vocab=f"{prefix}.vocab", progress=False, **OPTIONS
        )
        tokenizer.save(f"{prefix}.model")
    else:
        spm.SentencePieceTrainer.train(
            input=text, model_prefix=prefix, model_type=kind, vocab_size=vocab, minloglevel=2, **OPTIONS
        )
    usage = resource.getrusage(resource.RUSAGE_SELF)
    costs = {"wall": time.monotonic() - start, "cpu": usage.ru_utime + usage.ru_stime, "mb": usage.ru_maxrss / 1024}
    print(json.dumps(costs))


def lines(paths: list[Path]) -> list[str]:
    found = []
    for path in paths:
        opener: Any = lzma.open if path.suffix == ".xz" else open
        with opener(path, "rt", encoding="utf-8") as file:
            for line in file:
                text = json.loads(line)["text"] if ".jsonl" in path.name else line
                found += [part for part in text.split("\n") if part and len(part.encode()) < 16384]
    random.Random(0).shuffle(found)
    return found


def write(path: Path, found: list[str], megabytes: float) -> tuple[float, int]:
    """Writes that much text; lines after the last are repeated with edits."""
    rng = random.Random(1)
    size = characters = 0
    with path.open("w", encoding="utf-8") as out:
        for turn in range(1000):
            for line in found:
                if turn:
                    other = found[rng.randrange(len(found))]
                    line = "".join(rng.choice(other) if rng.random() < 0.05 else c for c in line)
                size += len(line.encode()) + 1
                characters += len(line)
                out.write(line + "\n")
                if size > megabytes * 1e6:
                    return size / 1e6, characters
    return size / 1e6, characters


def characters_a_token(model: str, held: list[str]) -> float:
    processor = spm.SentencePieceProcessor(model_file=model)
    return sum(map(len, held)) / sum(map(len, processor.encode(held)))


def parsed(model: str) -> pb.ModelProto:
    return pb.ModelProto.FromString(Path(model).read_bytes())


def pieces(model: str) -> list[tuple[str, float]]:
    return [(piece.piece, piece.score) for piece in parsed(model).pieces]


def main() -> None:
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--text", type=Path, nargs="+", default=[])
    parser.add_argument("--megabytes", type=float, nargs="+", default=[10.0])
    parser.add_argument("--types", nargs="+", default=["bpe", "unigram"])
    parser.add_argument("--vocab", type=int, nargs="+", default=[8000])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=["llmjp_core", "sentencepiece"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.child:
        trainer, text, prefix, kind, vocab = args.child
        return train(trainer, text, prefix, kind, int(vocab))

    found = lines(args.text)
    held, found = found[::40], [line for i, line in enumerate(found) if i % 40]
    machine = f"{platform.machine()}, Python {platform.python_version()}, sentencepiece {spm.__version__}, 2 threads"
    print(machine)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for megabytes in args.megabytes:
            text = Path(folder) / "text.txt"
            size, characters = write(text, found, megabytes)
            for kind in args.types:
                for vocab in args.vocab:
                    case = {"type": kind, "vocab": vocab, "megabytes": round(size, 1), "characters": characters}
                    rows += race(case, text, held, args)
    if args.json:
        report = {"machine": machine, "date": time.strftime("%Y-%m-%d"), "options": OPTIONS, "rows": rows}
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def race(case: dict[str, Any], text: Path, held: list[str], args: argparse.Namespace) -> list[dict[str, Any]]:
    best: dict[str, dict[str, float]] = {}
    for _ in range(args.rounds):
        for trainer in args.only:
            prefix = str(text.parent / trainer)
            child = [sys.executable, __file__, "--child", trainer, str(text), prefix, case["type"], str(case["vocab"])]
            done = subprocess.run(child, capture_output=True, text=True)
            if done.returncode:
                print(f"{trainer} {case}: failed with {done.returncode}: {done.stderr[-300:]}")
                continue
            costs = json.loads(done.stdout.splitlines()[-1])
            old = best.setdefault(trainer, costs)
            best[trainer] = {key: min(value, old[key]) for key, value in costs.items()}
    rows = []
    for trainer, costs in best.items():
        model = str(text.parent / f"{trainer}.model")
        rows.append({**case, "trainer": trainer, **costs, "characters_a_token": characters_a_token(model, held)})
        if case["type"] == "unigram":
            sample = held[: max(1, len(held) * 300_000 // max(1, sum(map(len, held))))]
            rows[-1]["log_likelihood"] = log_likelihood(parsed(model), sample)
        if case["type"] == "bpe" and len(best) == 2:
            rows[-1]["equal"] = pieces(str(text.parent / "llmjp_core.model")) == pieces(
                str(text.parent / "sentencepiece.model")
            )
        row = rows[-1]
        print(
            f"{case['type']:8}{case['vocab']:7}{case['megabytes']:8.1f} MB  {trainer:14}{row['wall']:8.1f} s wall"
            f"{row['cpu']:8.1f} s cpu{row['mb']:8.0f} MB  {row['characters_a_token']:.4f} characters/token"
            + (f"  equal: {row['equal']}" if "equal" in row else "")
            + (f"  {row['log_likelihood']:.4f} nats/character" if "log_likelihood" in row else ""),
            flush=True,
        )
    return rows


if __name__ == "__main__":
    main()
