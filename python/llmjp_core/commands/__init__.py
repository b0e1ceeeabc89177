"""The commands, one module each: `add_parser(subparsers)` and `run(args) -> exit code`.

A module imports at its top only what is light: the command line loads all of them to print its help.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any, Protocol, cast

NAMES = (
    "quickstart", "train", "config", "plan", "tokenizer", "preprocess", "convert", "generate", "info", "selftest",
)  # fmt: skip
"""In the order of the help."""

Subparsers = Any
"""What `ArgumentParser.add_subparsers` returns; argparse keeps its class to itself."""


class Command(Protocol):
    """What a module in this package offers."""

    def add_parser(self, subparsers: Subparsers) -> None: ...
    def run(self, args: argparse.Namespace) -> int: ...


def load(name: str) -> Command:
    return cast(Command, import_module(f"{__name__}.{name}"))
