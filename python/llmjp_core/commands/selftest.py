"""`llmjp-core selftest`: every op against its reference on this machine."""

from __future__ import annotations

import argparse

from . import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("selftest", help="check every op against its reference on this machine")
    parser.add_argument("--device", default="cpu", help="cpu (the default), cuda or cuda:1: those with a CUDA kernel")
    parser.add_argument("-v", "--verbose", action="store_true", help="show each result")


def run(args: argparse.Namespace) -> int:
    from ..selftest import kernels, selftest

    checks = selftest(device=args.device, strict=False)
    wrong = [check for check in checks if not check.passed]
    for check in checks if args.verbose else wrong:
        state = "ok   " if check.passed else "WRONG"
        print(f"{state} {check.name:40} error {check.error:.1e} of at most {check.bound:.1e}")
    print(f"{len(checks) - len(wrong)} of {len(checks)} results are right ({kernels(args.device)} kernels)")
    return 1 if wrong else 0
