"""`llmjp-core config`: the resolved configuration."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .. import config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Files, `key=value` overrides and their folder: what every command with a run takes."""
    parser.add_argument("items", nargs="*", metavar="FILE|key=value", help="configuration files, then overrides")
    parser.add_argument("-d", "--conf-dir", metavar="DIR", help="folder of the files")


def split(args: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    """The files and the overrides among the items."""
    files = []
    overrides: dict[str, Any] = {}
    for item in args.items:
        path = os.path.join(args.conf_dir or "", item)
        if "=" in item and not os.path.exists(path):
            key, value = config.parse_override(item)
            if key in overrides:
                raise config.ConfigError(f"override {key!r} is given twice; remove one")
            overrides[key] = value
        else:
            files.append(path)
    return files, overrides


@contextmanager
def warnings_to_stderr() -> Iterator[None]:
    """Shows each warning once, as one line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "config",
        help="print the resolved configuration",
        description="Merges the files, checks every key, and prints all keys with their final values.",
    )
    add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="JSON instead of YAML")
    parser.add_argument("--keys", action="store_true", help="the reference of all keys instead")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.keys:
        sys.stdout.write(config.reference())
        return 0
    files, overrides = split(args)
    if not files:
        print("llmjp-core config: name at least one configuration file", file=sys.stderr)
        return 2
    with warnings_to_stderr():
        resolved = config.load(*files, overrides=overrides)
    text = json.dumps(resolved, indent=2, ensure_ascii=False) + "\n" if args.json else config.to_yaml(resolved)
    sys.stdout.write(text)
    return 0
