"""`llmjp-core plan`: parameters, memory, arithmetic and fitting cards before anything runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

from .. import config
from .config import add_arguments, split, warnings_to_stderr


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "plan",
        help="print what a run needs",
        description="Prints parameters, bytes by kind, FLOPs a token and which cards hold the run.",
    )
    add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="JSON instead of tables")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    files, overrides = split(args)
    if not files:
        print("llmjp-core plan: name at least one configuration file", file=sys.stderr)
        return 2
    with warnings_to_stderr():
        resolved = config.load(*files, overrides=overrides)
    result = config.plan(resolved)
    text = json.dumps(result, indent=2, ensure_ascii=False) if args.json else "\n".join(lines(result))
    sys.stdout.write(text + "\n")
    return 0


def lines(plan: dict[str, Any]) -> Iterator[str]:
    """The plan as readable tables."""
    yield "Parameters"
    for name, count in plan["parameters"].items():
        yield f"  {name.replace('_', ' '):<28}{count:>22,}"
    batch = plan["batch"]
    yield ""
    yield (
        f"Memory in {plan['precision']}, micro-batch {batch['micro_batch_size']} x {batch['seq_length']} tokens, "
        + (f"recompute every {plan['recompute_layers']} layers" if plan["recompute_layers"] else "no recompute")
    )
    for name, count in plan["bytes"].items():
        yield f"  {name:<28}{gib(count):>22}"
    yield ""
    yield "FLOPs a token, forward and backward"
    for name, flops in plan["flops_per_token"].items():
        yield f"  {name:<28}{flops:>22.4e}   {plan['conventions'][name]}"
    yield ""
    yield f"Batch: {batch['tokens_per_step']:,} tokens a step ({batch['gradient_accumulation_steps']} micro-batches)"
    if batch["tokens"] is not None:
        yield f"Run: {batch['tokens']:,} tokens, {batch['tokens_per_parameter']:.1f} a parameter"
    yield ""
    yield "Cards (less 1 GiB for the driver and workspaces)"
    for card in plan["fits"]:
        verdict = "fits" if card["fits"] else ("fits with recompute" if card["fits_with_recompute"] else "too small")
        yield f"  {card['card']:<10}{verdict:<22}largest micro-batch {card['largest_micro_batch']}"
    yield ""
    yield plan["suggestion"]


def gib(count: int) -> str:
    """Bytes in binary units."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024  # type: ignore[assignment]
    return f"{count:,.2f} GiB"
