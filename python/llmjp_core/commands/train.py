"""`llmjp-core train a.yml b.yml key=value`: trains, or goes on."""

from __future__ import annotations

import argparse
import signal
from typing import TYPE_CHECKING

from .config import add_arguments, split

if TYPE_CHECKING:
    from . import Subparsers

EPILOG = """\
Started again, the same command goes on from the newest checkpoint in `save`. Ctrl-C writes one and stops.
Example: llmjp-core train configs/quickstart.yml train_iters=200 save=runs/a
"""


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train the run that GPT-NeoX YAML files describe",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.add_argument(
        "--resume", choices=("auto", "never", "must"), default="auto", help="go on from a checkpoint (auto)"
    )
    parser.add_argument("--quiet", action="store_true", help="no bar and no lines; metrics.jsonl has everything")


def run(args: argparse.Namespace) -> int:
    from ..errors import ConfigError
    from ..run import train

    files, overrides = split(args)
    if not files:
        raise ConfigError("name at least one configuration file")
    result = train(*files, overrides=overrides, resume=args.resume, progress=not args.quiet)
    if not args.quiet:
        print(result)
    exits = {"interrupted": 128 + signal.SIGINT, "terminated": 128 + signal.SIGTERM}
    return exits.get(result.status, 0)
