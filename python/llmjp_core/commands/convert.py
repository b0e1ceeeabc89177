"""`llmjp-core convert`: a checkpoint becomes a folder that transformers opens."""

from __future__ import annotations

import argparse

from . import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "convert",
        help="turn a checkpoint into a Hugging Face folder",
        description="Writes config.json, safetensors and the tokenizer, so that AutoModelForCausalLM and AutoTokenizer "
        "open the folder with the same logits and ids.",
    )
    parser.add_argument("source", metavar="CHECKPOINT", help="global_step{N}, or the folder above it (the newest)")
    parser.add_argument("target", metavar="FOLDER", help="must not exist, unless --overwrite is given")
    parser.add_argument("--to", choices=["hf"], default="hf", help="the format to write")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="of the weights (default: float32)")
    parser.add_argument(
        "--tokenizer", metavar="FILE", help="a .model file (default: the one of the run, if it is there)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it holds a model")


def run(args: argparse.Namespace) -> int:
    from .. import convert

    convert(args.source, args.target, to=args.to, dtype=args.dtype, tokenizer=args.tokenizer, overwrite=args.overwrite)
    print(f"wrote {args.target}")
    return 0
