"""Products of matrices beside torch, and what of the vector unit's rate they reach.

    python benches/matmul.py [--shapes 6x384 12x768 1.3B] [--tokens 2048] [--rounds 7] [--threads 1]
                             [--dtypes float32 bfloat16] [--results matmul]

Every linear layer of each shape, forward (NT: x·wᵀ), gradient of the input (NN: dy·w) and of the weight (TN: dyᵀ·x,
in float32 here), in float32 and bfloat16. Both take turns in one process, answers are
compared first, and medians are reported. With one thread it is the time of the processor that counts, which other
programs disturb less. The rate of the vector unit, or of that for tiles, is measured before and after each shape, with
registers alone. Results go to benches/results/{matmul}.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# (in, out) of the linear layers: of attention, of the MLP
SHAPES = {
    "6x384": [(384, 1152), (384, 384), (384, 2048), (1024, 384)],
    "12x768": [(768, 2304), (768, 768), (768, 3072), (3072, 768)],
    "1.3B": [(2048, 6144), (2048, 2048), (2048, 8192), (8192, 2048)],
}
DTYPES = ("float32", "bfloat16")
KINDS = ("NT", "NN", "TN")
# Of the largest element: both round to bfloat16, and add up in different orders.
AGREEMENT = {"float32": 1e-4, "bfloat16": 2**-7}


def contest(tokens: int, i: int, o: int, dtype: str) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """For each kind of product ours and torch's."""
    import torch

    from llmjp_core._core import torch as rust

    kind = getattr(torch, dtype)
    generator = torch.Generator().manual_seed(0)
    x, w, dy = (torch.randn(s, generator=generator).to(kind) for s in [(tokens, i), (o, i), (tokens, o)])
    y, dx, dw = torch.empty_like(dy), torch.empty_like(x), torch.empty(o, i)

    def of(call: Callable[..., None], result: torch.Tensor, *args: Any) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            call(result, *args)
            return result

        return run

    return {
        "NT": (of(rust.linear_forward, y, x, w), lambda: torch.nn.functional.linear(x, w)),
        "NN": (of(rust.linear_backward_input, dx, dy, w), lambda: dy @ w),
        "TN": (of(rust.linear_backward_weight, dw, None, dy, x), lambda: dy.t() @ x),
    }


def agree(ours: Any, plain: Any, dtype: str, what: str) -> None:
    distance = float((ours.float() - plain.float()).abs().max() / plain.float().abs().max())
    if not distance <= AGREEMENT[dtype]:
        raise SystemExit(f"{what}: answers differ by {distance:.2e} of the largest element")


def race(calls: tuple[Callable[[], Any], Callable[[], Any]], rounds: int, clock: Callable[[], float]) -> list[float]:
    seconds: list[list[float]] = [[], []]
    for _ in range(rounds):
        for own, call in zip(seconds, calls, strict=True):
            begin = clock()
            call()
            own.append(clock() - begin)
    return [statistics.median(own) for own in seconds]


def measure(name: str, dtypes: list[str], tokens: int, rounds: int, threads: int) -> list[dict[str, Any]]:
    from llmjp_core._core import ops

    clock = time.process_time if threads == 1 else time.perf_counter
    rows = []
    for dtype in dtypes:
        for i, o in SHAPES[name]:
            peaks = [ops.peak(dtype)]
            found = {}
            for kind, calls in contest(tokens, i, o, dtype).items():
                agree(calls[0](), calls[1](), dtype, f"{name} {i} -> {o} {kind} {dtype}")
                found[kind] = race(calls, rounds, clock)
            peaks.append(ops.peak(dtype))
            for kind, (ours, plain) in found.items():
                rates = [2 * tokens * i * o / seconds / 1e9 for seconds in (ours, plain)]
                share = rates[0] * 1e9 / (max(peaks) * threads)
                rows.append({"model": name, "dtype": dtype, "in": i, "out": o, "kind": kind, "llmjp_core": rates[0],
                             "torch": rates[1], "peak": max(peaks) * threads / 1e9, "share": share})  # fmt: skip
                print(line(rows[-1]), flush=True)
    return rows


def line(r: dict[str, Any]) -> str:
    return (f"| {r['model']} | {r['dtype']} | {r['in']} -> {r['out']} | {r['kind']} | {r['llmjp_core']:.0f} | "
            f"{r['torch']:.0f} | {r['llmjp_core'] / r['torch']:.2f} | {r['share']:.2f} |")  # fmt: skip


def machine(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    import llmjp_core as lc

    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.processor())  # fmt: skip
    return {
        "cpu": cpu, "instruction set": lc.info()["instruction_set"], "threads": args.threads, "tokens": args.tokens,
        "rounds": args.rounds, "load": os.getloadavg()[0], "torch": torch.__version__, "llmjp_core": lc.__version__,
    }  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """The median of each kind over all layers."""
    text = ["| dtype | product | layers | ratio | share of the vector unit |", "|---" * 5 + "|"]
    for dtype in dict.fromkeys(r["dtype"] for r in rows):
        for kind in KINDS:
            of = [r for r in rows if (r["dtype"], r["kind"]) == (dtype, kind)]
            ratio = statistics.median(r["llmjp_core"] / r["torch"] for r in of)
            share = statistics.median(r["share"] for r in of)
            text.append(f"| {dtype} | {kind} | {len(of)} | {ratio:.2f} | {share:.2f} |")
    return text


def write(rows: list[dict[str, Any]], told: dict[str, Any], results: str) -> None:
    text = [
        "# Products of matrices beside torch", "",
        "GFLOP/s, medians; NT forward, NN gradient of the input, TN gradient of the weight.", "", str(told), "",
        *summary(rows), "",
        "| model | dtype | layer | product | llmjp_core | torch | ratio | share of the vector unit |", "|---" * 8 + "|",
        *map(line, rows),
    ]  # fmt: skip
    path = HERE / f"results/{results}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"machine": told, "rows": rows}, indent=1) + "\n")
    path.with_suffix(".md").write_text("\n".join(text) + "\n")
    print("\n".join(summary(rows)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--results", default="matmul")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["LLMJP_NUM_THREADS"] = str(args.threads)
    told = machine(args)
    rows: list[dict[str, Any]] = []
    for name in args.shapes:
        rows += measure(name, args.dtypes, args.tokens, args.rounds, args.threads)
        write(rows, told, args.results)


if __name__ == "__main__":
    main()
