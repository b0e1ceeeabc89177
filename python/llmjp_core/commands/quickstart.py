"""`llmjp-core quickstart`: a small Japanese model, from text to a folder that transformers opens."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from . import Subparsers

if TYPE_CHECKING:
    from ..quickstart import Result


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "quickstart",
        help="train a small Japanese model in a few minutes, measure it, plot it, export it",
        description="Trains a small Japanese model from 149 works of Aozora Bunko that come with the package, and "
        "shows what it learned. Broken off, the same command goes on; finished, it only measures again.",
    )
    parser.add_argument("--out", default="runs/quickstart", metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--restart", action="store_true", help="forget the checkpoints of an earlier run")
    parser.add_argument("--iters", type=int, metavar="N", help="training steps (default: as in the config)")


def run(args: argparse.Namespace) -> int:
    from .. import quickstart

    overrides = {} if args.iters is None else {"train_iters": args.iters}
    result = quickstart.run(args.out, overrides=overrides, restart=args.restart)
    print(table(result))
    print(next_steps(args.out))
    return 0


def table(result: Result) -> str:
    """The figures, each beside what it is compared with."""
    share = result.perplexity / result.unigram_perplexity
    plot = result.plot or "not drawn: pip install 'llmjp-core[plot]'"
    return f"""
held-out perplexity   {result.perplexity:8.1f}   ({share:.2f} x unigram; on the same tokens:)
  Kneser-Ney bigram   {result.bigram_perplexity:8.1f}
  unigram             {result.unigram_perplexity:8.1f}
bits per character    {result.bits_per_character:8.2f}
training              {result.tokens_per_sec:8,.0f} tokens/s, {result.train_seconds:.0f} s
peak memory           {result.peak_memory / 2**20:8,.0f} MiB
sample                {result.prompt}|{result.continuation}
loss curve            {plot}"""


def next_steps(out: str) -> str:
    return f"""
Next:
  llmjp-core generate {out}/hf --prompt 吾輩は猫である。 --temperature 0.8
  llmjp-core preprocess --input your.jsonl --vocab-file {out}/tokenizer.model --append-eod \\
      --output-prefix {out}/data/your
  llmjp-core train {out}/quickstart.yml {out}/paths.yml      (with your data and sizes in the two files)
"""
