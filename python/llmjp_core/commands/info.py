"""`llmjp-core info`: what runs where."""

from __future__ import annotations

import argparse
import json

from . import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("info", help="show versions, processor, threads and which kernel serves which op")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    from ..info import info

    facts = info()
    print(json.dumps(facts, indent=2) if args.json else facts)
    return 0
