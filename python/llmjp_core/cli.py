"""The command line: `llmjp-core COMMAND`. Each command is a module of `llmjp_core.commands`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence

from . import __version__, commands, errors

EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 128 + signal.SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. 0 done, 1 an error (said on stderr), 2 wrong usage, 130 Ctrl-C."""
    args = parser().parse_args(argv)
    try:
        return commands.load(args.command).run(args)
    except KeyboardInterrupt:
        return _interrupted(args)
    except BrokenPipeError:
        return _reader_left()
    except (errors.LlmjpError, OSError, ImportError) as error:
        return _failed(error, args)


def parser() -> argparse.ArgumentParser:
    """The whole command line, every subcommand included."""
    top = argparse.ArgumentParser(
        prog="llmjp-core",
        description="Train Japanese language models. `llmjp-core quickstart` shows the whole road in a few minutes.",
    )
    top.add_argument("--version", action="version", version=f"llmjp-core {__version__}")
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in commands.NAMES:
        commands.load(name).add_parser(subparsers)
    for name, subparser in subparsers.choices.items():
        subparser.add_argument("--debug", action="store_true", help="show the traceback of an error")
        subparser.set_defaults(command=name)
    return top


def _failed(error: BaseException, args: argparse.Namespace) -> int:
    if args.debug:
        traceback.print_exception(error)
    else:
        print(f"llmjp-core {args.command}: {_text(error)}", file=sys.stderr)
    return EXIT_ERROR


def _text(error: BaseException) -> str:
    """The message without the `[Errno 28]` of OSError: the text already says it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _interrupted(args: argparse.Namespace) -> int:
    if args.debug:
        traceback.print_exc()
    print(f"llmjp-core {args.command}: interrupted", file=sys.stderr)
    return EXIT_INTERRUPTED


def _reader_left() -> int:
    """`llmjp-core config ... | head`: not an error, and Python must not complain while it flushes stdout."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_ERROR


if __name__ == "__main__":
    sys.exit(main())
