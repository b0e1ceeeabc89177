"""`llmjp-core preprocess`: text to a `.bin/.idx` dataset, with the options of GPT-NeoX and of Megatron-LM."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, UnsupportedModelError
from . import Subparsers

if TYPE_CHECKING:
    from ..data import Progress, Summary

SENTENCEPIECE = ("SPMTokenizer", "SentencePieceTokenizer", "GPTSentencePieceTokenizer", "Llama2Tokenizer")
HUGGINGFACE = ("HFTokenizer", "HuggingFaceTokenizer")

EPILOG = """\
Writes {output-prefix}_{key}_document.bin and .idx for each key, and prints a summary as JSON. The same text gives
the same bytes for any number of workers. Started again after Ctrl-C or a crash, it goes on where it was."""


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "preprocess",
        help="turn text into a dataset for training",
        description="Tokenizes JSON Lines or text files into a Megatron dataset.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _input(parser.add_argument_group("input"))
    _tokenizer(parser.add_argument_group("tokenizer"))
    _output(parser.add_argument_group("output"))


def _input(group: Any) -> None:
    group.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="PATH",
        help="files, folders or globs, also as a list with commas: .jsonl .json .ndjson .txt (.gz .zst .xz) .parquet",
    )
    group.add_argument(
        "--jsonl-keys", "--json-keys", nargs="+", default=["text"], metavar="KEY", help="keys that hold text (text)"
    )
    group.add_argument("--format", choices=("jsonl", "file", "line"), help="what the files are, whatever their names")
    group.add_argument("--txt", choices=("file", "line"), default="file", help="a document a .txt file, or a line")
    group.add_argument("--on-error", choices=("raise", "skip"), default="raise", help="what to do with bad documents")
    group.add_argument("--num-docs", type=int, metavar="N", help="documents in the input, if known, for the progress")
    group.add_argument("--ftfy", action="store_true", help=argparse.SUPPRESS)
    group.add_argument("--split-sentences", action="store_true", help=argparse.SUPPRESS)
    group.add_argument("--keep-newlines", action="store_true", help=argparse.SUPPRESS)
    group.add_argument("--partitions", type=int, default=1, help=argparse.SUPPRESS)
    group.add_argument("--keep-sequential-samples", action="store_true", help=argparse.SUPPRESS)


def _tokenizer(group: Any) -> None:
    group.add_argument(
        "--tokenizer-type", choices=(*SENTENCEPIECE, *HUGGINGFACE), help="default: by the name of the file"
    )
    group.add_argument(
        "--vocab-file",
        "--tokenizer-model",
        "--tokenizer-path",
        required=True,
        metavar="FILE",
        help="a SentencePiece .model, or a tokenizer.json",
    )
    group.add_argument("--append-eod", action="store_true", help="end each document with the eod token")
    group.add_argument("--eod-token", metavar="PIECE", help="the eod token, where the tokenizer does not say")
    group.add_argument("--bos", action="store_true", help="begin each document with bos (Llama2Tokenizer always does)")


def _output(group: Any) -> None:
    group.add_argument("--output-prefix", required=True, metavar="PREFIX")
    group.add_argument("--dataset-impl", choices=("mmap", "cached", "lazy"), default="mmap", help="only mmap")
    group.add_argument("--dtype", default="auto", metavar="TYPE", help="auto (u16 below 65,500 ids), u16, i32")
    group.add_argument("--workers", type=int, metavar="N", help="threads (all CPUs)")
    group.add_argument("--log-interval", type=int, metavar="N", help="print a line every N documents")


def run(args: argparse.Namespace) -> int:
    from ..data import tokenize

    _refuse(args)
    tokenizer, eod = _load(args)
    summary = tokenize(
        [path for given in args.input for path in given.split(",") if path],
        tokenizer,
        args.output_prefix,
        append_eod=args.append_eod,
        bos=args.bos or args.tokenizer_type == "Llama2Tokenizer",
        eod=eod,
        keys=args.jsonl_keys,
        dtype=args.dtype,
        workers=args.workers,
        on_error=args.on_error,
        txt=args.txt,
        format=args.format,
        progress=_lines(args.log_interval, args.num_docs) if args.log_interval else True,
    )
    _say(summary)
    print(json.dumps(summary.as_dict(), ensure_ascii=False, indent=2))
    return 0


def _refuse(args: argparse.Namespace) -> None:
    reasons = {
        "--dataset-impl": args.dataset_impl != "mmap" and "cached and lazy are legacy formats; use mmap",
        "--ftfy": args.ftfy and "text is tokenized as it is; repair it before",
        "--split-sentences": args.split_sentences and "a document is one sequence here",
        "--partitions": args.partitions > 1 and "one run uses all CPUs; leave it out",
        "--log-interval": args.log_interval is not None and args.log_interval < 1 and "at least 1",
    }
    for option, reason in reasons.items():
        if reason:
            raise ConfigError(f"{option}: {reason}")


def _load(args: argparse.Namespace) -> tuple[Any, int | None]:
    """The tokenizer, and its eod where it is asked for."""
    kind = args.tokenizer_type or ("HFTokenizer" if args.vocab_file.endswith(".json") else "SPMTokenizer")
    from .. import Tokenizer

    eod_token = args.eod_token
    if kind in HUGGINGFACE:
        eod_token = eod_token or "<|endoftext|>"  # as GPT-NeoX has it, whatever else the file names
    try:
        tokenizer = Tokenizer.from_file(args.vocab_file)
    except UnsupportedModelError as error:
        if kind not in HUGGINGFACE:
            raise
        print(f"llmjp-core preprocess: {error}; the package `tokenizers` encodes instead, slower", file=sys.stderr)
        return _load_huggingface(args)
    return tokenizer, tokenizer.eod_id(eod_token) if args.append_eod else None


def _load_huggingface(args: argparse.Namespace) -> tuple[Any, int | None]:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ConfigError("that needs the package `tokenizers` (pip install tokenizers)") from error
    try:
        tokenizer = Tokenizer.from_file(args.vocab_file)
    except Exception as error:  # the package raises plain Exception
        raise ConfigError(f"{args.vocab_file}: {error}") from error
    piece = args.eod_token or "<|endoftext|>"
    eod = tokenizer.token_to_id(piece)
    if args.append_eod and eod is None:
        raise ConfigError(f"{args.vocab_file} has no token `{piece}`; name its eod with --eod-token")
    return tokenizer, eod


def _lines(every: int, total: int | None) -> Callable[[Progress], None]:
    """Prints a line whenever another `every` documents are done."""
    printed = 0

    def show(progress: Progress) -> None:
        nonlocal printed
        if progress.documents // every > printed:
            printed = progress.documents // every
            of = f" of {total:,}" if total else ""
            print(f"{progress.documents:,}{of} documents | {progress}", file=sys.stderr, flush=True)

    return show


def _say(summary: Summary) -> None:
    """What must not go unnoticed."""
    notes = [
        (summary.skipped, "documents with errors were left out; the first: " + "".join(summary.errors[:1])),
        (sum(dataset.empty for dataset in summary.datasets), "documents without text were left out"),
        (len(summary.ignored), "files were not read: " + ", ".join(map(str, summary.ignored[:5]))),
        (summary.resumed, "run before this one was stopped; its work was taken over"),
    ]
    for count, what in notes:
        if count:
            print(f"llmjp-core preprocess: {int(count)} {what}", file=sys.stderr)
