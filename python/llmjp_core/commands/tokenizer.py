"""`llmjp-core tokenizer encode`: the ids of a text."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from . import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("tokenizer", help="encode text with a SentencePiece model")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    encode = actions.add_parser("encode", help="print the ids of texts", description="Prints one line of ids a text.")
    encode.add_argument("texts", nargs="*", metavar="TEXT", help="default: each line of the standard input")
    encode.add_argument("--model", required=True, metavar="FILE", help="a SentencePiece .model file")
    encode.add_argument("--pieces", action="store_true", help="print the pieces instead of the ids")
    # Also on the inner command; SUPPRESS keeps a --debug given before it.
    encode.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    from .. import Tokenizer

    tokenizer = Tokenizer.from_file(args.model)
    for text in args.texts or lines():
        items = tokenizer.encode_as_pieces(text) if args.pieces else tokenizer.encode(text)
        print(*items)
    return 0


def lines() -> Iterable[bytes]:
    """The standard input without its line ends, as bytes: what is not UTF-8 is the tokenizer's to judge."""
    return (line.rstrip(b"\n") for line in sys.stdin.buffer)
