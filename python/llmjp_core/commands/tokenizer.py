"""`llmjp-core tokenizer train`, `encode` and `report`: make a SentencePiece model, and see what it does to text."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from . import Subparsers

FLAGS = (
    "split_by_unicode_script", "split_by_whitespace", "split_by_number", "split_digits", "treat_whitespace_as_suffix",
    "allow_whitespace_only_pieces", "auto_character_coverage", "byte_fallback", "hard_vocab_limit",
    "shuffle_input_sentence", "add_dummy_prefix", "remove_extra_whitespaces", "vocabulary_output_piece_score",
    "use_all_vocab",
)  # fmt: skip
"""Options that are true or false; the bare flag means true."""
VALUES = {
    "vocab_size": "pieces of all kinds (8000)",
    "model_type": "unigram or bpe (unigram)",
    "character_coverage": "share of all characters that are pieces (0.9995)",
    "normalization_rule_name": "nmt_nfkc, nfkc, nmt_nfkc_cf, nfkc_cf or identity (nmt_nfkc)",
    "user_defined_symbols": "comma-separated pieces that are always whole",
    "control_symbols": "comma-separated pieces that no text becomes",
    "pretokenization_delimiter": "text that no piece crosses",
    "required_chars": "characters that are pieces whatever the coverage",
    "input_sentence_size": "train on a sample of so many sentences (0: all)",
    "max_sentence_length": "bytes; longer sentences are cut (4192)",
    "max_sentencepiece_length": "characters of a piece (16)",
    "num_threads": "all CPUs; changes no result",
    "seed_sentencepiece_size": "unigram: candidates at the start (1000000)",
    "shrinking_factor": "unigram: what a round of pruning keeps (0.75)",
    "num_sub_iterations": "unigram: rounds of estimation before each pruning (2)",
    "unk_id": "0",
    "bos_id": "1; -1 for none",
    "eos_id": "2; -1 for none",
    "pad_id": "-1: none",
    "unk_piece": "<unk>",
    "bos_piece": "<s>",
    "eos_piece": "</s>",
    "pad_piece": "<pad>",
    "unk_surface": "what an unknown piece decodes to",
}
"""The other options of training."""


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("tokenizer", help="train a SentencePiece model, or encode text with one")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_train(actions)
    _add_report(actions)
    encode = actions.add_parser("encode", help="print the ids of texts", description="Prints one line of ids a text.")
    encode.add_argument("texts", nargs="*", metavar="TEXT", help="default: each line of the standard input")
    encode.add_argument("--model", required=True, metavar="FILE", help="a SentencePiece .model file")
    encode.add_argument("--pieces", action="store_true", help="print the pieces instead of the ids")
    _add_debug(encode)


def _add_train(actions: Subparsers) -> None:
    train = actions.add_parser(
        "train",
        help="make a model from text",
        description="Writes PREFIX.model and PREFIX.vocab. The flags are those of SentencePiece.",
    )
    train.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="PATH",
        help="files, folders or globs, also comma-separated: .txt (a sentence a line), .jsonl (.gz .zst .xz)",
    )
    train.add_argument("--model_prefix", required=True, metavar="PREFIX")
    train.add_argument(
        "--input_format",
        choices=("text", "jsonl", "tsv"),
        help="what the files are, whatever their names; tsv: a sentence, a tab and its count a line",
    )
    train.add_argument("--json_key", default="text", metavar="KEY", help="key that holds text in .jsonl (text)")
    train.add_argument("--normalizer_from", metavar="FILE", help="normalise as this .model does")
    for name, help in VALUES.items():
        train.add_argument(f"--{name}", default=argparse.SUPPRESS, metavar="VALUE", help=help.replace("%", "%%"))
    for name in FLAGS:
        train.add_argument(f"--{name}", nargs="?", const="true", default=argparse.SUPPRESS, metavar="true|false")
    _add_debug(train)


def _add_report(actions: Subparsers) -> None:
    report = actions.add_parser(
        "report",
        help="tokens a character, unknown text and pieces in use on a corpus",
        description="Prints a table by source and language: each input file is a source.",
    )
    report.add_argument("model", metavar="MODEL", help="a SentencePiece .model file")
    report.add_argument("corpus", nargs="+", metavar="CORPUS", help="files, folders or globs, as for preprocess")
    report.add_argument("--beside", nargs="+", default=[], metavar="MODEL", help="other models to compare with")
    report.add_argument("--key", default="text", help="key that holds the text in JSON Lines (text)")
    report.add_argument("--max-documents", type=int, metavar="N", help="only the first N of the corpus")
    report.add_argument("--plot", metavar="FILE", help="draw characters a token, as .png, .svg or .pdf")
    report.add_argument("--json", action="store_true", help="print all numbers as JSON instead")
    _add_debug(report)


def _add_debug(parser: argparse.ArgumentParser) -> None:
    # Also on the inner command; SUPPRESS keeps a --debug given before it.
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    return {"train": _train, "encode": _encode, "report": _report}[args.action](args)


def _train(args: argparse.Namespace) -> int:
    from .. import Tokenizer

    given = vars(args)
    options = {name: given[name] for name in (*VALUES, *FLAGS) if name in given}
    tokenizer = Tokenizer.train(
        [path for paths in args.input for path in paths.split(",") if path],
        vocab=f"{args.model_prefix}.vocab",
        input_format=args.input_format,
        json_key=args.json_key,
        normalizer_from=args.normalizer_from,
        report=lambda report: print("\n".join([*report.notes(), str(report)]), file=sys.stderr),
        **options,
    )
    tokenizer.save(f"{args.model_prefix}.model")
    return 0


def _report(args: argparse.Namespace) -> int:
    import json

    from .. import tokenizer_report

    models = [args.model, *args.beside]
    report = tokenizer_report(models, args.corpus, key=args.key, max_documents=args.max_documents)
    print(json.dumps(report.as_dict(), ensure_ascii=False, indent=2) if args.json else report)
    if args.plot:
        print(f"saved {report.plot().save(args.plot)}", file=sys.stderr)
    return 0


def _encode(args: argparse.Namespace) -> int:
    from .. import Tokenizer

    tokenizer = Tokenizer.from_file(args.model)
    for text in args.texts or lines():
        items = tokenizer.encode_as_pieces(text) if args.pieces else tokenizer.encode(text)
        print(*items)
    return 0


def lines() -> Iterable[bytes]:
    """The standard input without its line ends, as bytes: what is not UTF-8 is the tokenizer's to judge."""
    return (line.rstrip(b"\n") for line in sys.stdin.buffer)
