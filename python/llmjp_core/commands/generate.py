"""`llmjp-core generate`: a model continues a text."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from . import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "generate",
        help="continue a text with a model",
        description="Continues each prompt. Without --temperature the most likely token is taken each time.",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="a folder of transformers, a checkpoint, or a folder of checkpoints"
    )
    parser.add_argument(
        "--prompt", action="append", metavar="TEXT", help="may be repeated (default: each line of stdin)"
    )
    parser.add_argument(
        "--tokenizer", metavar="FILE", help="a .model file (default: the one that belongs to the model)"
    )
    parser.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="default: %(default)s")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="X", help="0 is greedy (default)")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="draw from the K likeliest (0: all)")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="draw from the likeliest that sum to P")
    parser.add_argument("--num-samples", type=int, default=1, metavar="N", help="continuations of each prompt")
    parser.add_argument("--seed", type=int, default=0, help="of the first sample; the next has the next (default: 0)")


def run(args: argparse.Namespace) -> int:
    from .. import Model, Tokenizer
    from ..convert import find, tokenizer_of
    from ..errors import TokenizerError

    folder = find(Path(args.model))
    model_file = args.tokenizer or tokenizer_of(folder)
    if model_file is None:
        raise TokenizerError(f"{folder}: no tokenizer belongs to it; name one with --tokenizer FILE")
    model, tokenizer = Model.load(folder), Tokenizer.from_file(model_file)
    for prompt in args.prompt or lines():
        for sample in range(args.num_samples):
            text = model.generate(
                tokenizer,
                prompt,
                max_new_tokens=args.max_new_tokens,
                temperature=args.temperature,
                top_k=args.top_k,
                top_p=args.top_p,
                seed=args.seed + sample,
            )
            print(text, flush=True)
    return 0


def lines() -> Iterator[str]:
    return (line.rstrip("\n") for line in sys.stdin)
