"""Ops of llmjp_core.torch beside torch eager and torch.compile, at the shapes of models of 125M and 1.3B parameters.

    python benches/torch_ops.py [--ops rms_norm ...] [--dtypes float32 bfloat16] [--rounds 7] [--threads 2]

Forward and backward take turns in one process. Each row is measured in two processes by turns, with glibc's usual
memory and with huge pages for it (GLIBC_TUNABLES=glibc.malloc.hugetlb=1); of the others the better of both counts, of
llmjp_core the usual one. "of the limit" is the speed beside that of a copy of the bytes that must move, or of one
large matrix product of torch, in the same rounds. Also: AdamW on 125M parameters, and the memory that
linear_cross_entropy asks for. Results go to benches/results/torch_ops.{json,md,png}.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch_drop_in import machine

HERE = Path(__file__).resolve().parent
ME = [sys.executable, str(Path(__file__).resolve())]
MALLOC = {"usual": "", "huge pages": "glibc.malloc.hugetlb=1"}
OTHERS = ("torch", "torch.compile")
DTYPES = ("float32", "bfloat16")
# (rows, width) of an op; a sequence of `rows` tokens for attention.
SMALL, LONG, LARGE = (1024, 768), (4096, 768), (2048, 2048)
SHAPES: dict[str, list[tuple[int, int]]] = {
    "rms_norm": [SMALL, LONG, LARGE],
    "layer_norm": [SMALL, LONG, LARGE],
    "swiglu": [(1024, 2048), (4096, 2048), (2048, 5504)],
    "gelu": [(1024, 3072), (2048, 8192)],
    "rotary": [SMALL, LONG, LARGE],
    "attention": [SMALL, LONG, LARGE],
    "linear": [SMALL, LONG, LARGE],
    "cross_entropy": [(512, 768)],
    "linear_cross_entropy": [SMALL, (512, 2048)],
}


# --- what the processes do


def work() -> None:
    """A row for each line of the standard input."""
    import torch

    import llmjp_core.torch as lct

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    for line in sys.stdin:
        asked = json.loads(line)
        op, dtype, rounds = asked["op"], getattr(torch, asked["dtype"]), asked["rounds"]
        if op == "adamw":
            answer = adamw(dtype, rounds)
        else:
            row = lct.benchmark(op, OTHERS, dtype=dtype, rows=asked["rows"], width=asked["width"], rounds=rounds).rows[
                0
            ]
            answer = {"shape": row.shape, "ms": row.milliseconds, "limit": row.limit, "spread": row.spread}
        print(json.dumps(answer), flush=True)
        torch.compiler.reset()


def adamw(dtype: Any, rounds: int) -> dict[str, Any]:
    """The parameters of a decoder of 12 layers x 768 with 50,000 tokens, clipped to a norm of 1."""
    import torch

    import llmjp_core.torch as lct
    from llmjp_core.torch.timing import _spread

    layer = [(768, 768)] * 4 + [(2048, 768)] * 2 + [(768, 2048)] + [(768,)] * 2
    shapes = [(50_000, 768), *layer * 12, (768,), (50_000, 768)]
    total = sum(torch.Size(shape).numel() for shape in shapes)

    def parameters() -> list[Any]:
        made = [torch.nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes]
        for p in made:
            p.grad = torch.full_like(p, 1e-3)
        return made

    mine, theirs = parameters(), parameters()
    own = lct.optim.AdamW(mine, max_grad_norm=1.0)
    other = torch.optim.AdamW(theirs, fused=True)

    def torch_step() -> None:
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        other.step()

    source, target = torch.zeros(total // 4, dtype=dtype), torch.zeros(total // 4, dtype=dtype)
    calls: dict[str, Callable[[], Any]] = {
        "llmjp_core": own.step, "torch": torch_step, "copy": lambda: target.copy_(source)
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-1, rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - begin)
    # Once for the norm; then p, m, v and the gradient are read, p, m and v written.
    limit = 8 * 4 / 2 * statistics.median(seconds.pop("copy"))
    return {
        "shape": f"{total:,} parameters",
        "ms": {name: 1e3 * statistics.median(times) for name, times in seconds.items()},
        "limit": 1e3 * limit,
        "spread": {name: _spread(times) for name, times in seconds.items()},
    }


def memory(contender: str, rows: int, width: int) -> None:
    """Prints how many bytes the first linear_cross_entropy adds to the peak of the process."""
    import torch

    from llmjp_core.torch import timing

    contest = timing.CONTESTS["linear_cross_entropy"]
    inputs = contest.inputs(rows, width, torch.float32)
    contest_call = contest.ours if contender == "llmjp_core" else contest.plain
    small = contest.inputs(8, 8, torch.float32)
    contest_call(*small).backward()  # libraries are loaded, threads started
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    contest_call(*inputs).backward()
    print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


# --- what asks them


class Process:
    def __init__(self, tunables: str, threads: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "LLMJP_NUM_THREADS": str(threads)}
        environment["GLIBC_TUNABLES"] = tunables
        self.process = subprocess.Popen(
            [*ME, "--work"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, **what: Any) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


def race(ops: list[str], dtypes: list[str], rounds: int, threads: int) -> list[dict[str, Any]]:
    processes = {name: Process(tunables, threads) for name, tunables in MALLOC.items()}
    rows = []
    for dtype in dtypes:
        for op in ops:
            for n, d in SHAPES.get(op, [(0, 0)]):
                each = {
                    name: process.ask(op=op, dtype=dtype, rows=n, width=d, rounds=rounds)
                    for name, process in processes.items()
                }
                rows.append({"op": op, "dtype": dtype, "shape": each["usual"]["shape"], "by malloc": each})
                print("|".join(cells(rows[-1])), flush=True)
    for process in processes.values():
        process.process.communicate()
    return rows


def ratio(row: dict[str, Any]) -> float:
    return best(row)[1] / float(row["by malloc"]["usual"]["ms"]["llmjp_core"])


def best(row: dict[str, Any]) -> tuple[str, float]:
    """The best of the others, under either setting: its name and its milliseconds."""
    found = [
        (f"{name}, {malloc}", float(ms))
        for malloc, answer in row["by malloc"].items()
        for name, ms in answer["ms"].items()
        if name != "llmjp_core"
    ]
    return min(found, key=lambda pair: pair[1])


def cells(row: dict[str, Any]) -> list[str]:
    usual, huge = row["by malloc"]["usual"], row["by malloc"]["huge pages"]

    def both(name: str) -> str:
        if name not in usual["ms"]:
            return ""
        return f"{usual['ms'][name]:.2f} ± {100 * usual['spread'][name]:.0f} %, {huge['ms'][name]:.2f}"

    return [
        row["op"], row["dtype"], row["shape"], *(both(name) for name in ("llmjp_core", *OTHERS)),
        f"{usual['ms']['torch'] / usual['ms']['llmjp_core']:.2f}", f"{ratio(row):.2f}",
        f"{100 * usual['limit'] / usual['ms']['llmjp_core']:.0f} %",
    ]  # fmt: skip


def markdown(results: dict[str, Any]) -> str:
    head = ["op", "dtype", "shape", *(f"{name}, ms" for name in ("llmjp_core", *OTHERS)), "to torch",
            "to the best of the others", "of the limit"]  # fmt: skip
    lines = [
        "# Ops beside torch, forward and backward",
        "",
        "Milliseconds: median ± half the distance of the quartiles with glibc's usual memory, then the median with",
        "huge pages. The ratios are of speeds, above 1 where llmjp_core is faster; the limit is a copy of the bytes",
        "that must move, or a matrix product of torch.",
        "",
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
        *("| " + " | ".join(cells(row)) + " |" for row in results["rows"]),
        "",
        "Memory that the first `linear_cross_entropy` in float32 adds to the process, MB: "
        + "; ".join(
            f"{shape}: " + ", ".join(f"{name} {bytes_ / 1e6:.0f}" for name, bytes_ in by.items())
            for shape, by in results["memory"].items()
        ),
        "",
        str(results["machine"]),
    ]
    return "\n".join(lines) + "\n"


def plot(results: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    rows = results["rows"]
    figure = Figure(figsize=(8, 0.8 + 0.24 * len(rows)))
    axes = figure.subplots()
    ratios = [ratio(row) for row in rows]
    axes.barh(range(len(rows)), ratios, color=["tab:green" if r >= 1 else "tab:red" for r in ratios])
    axes.axvline(1, color="black", linewidth=1)
    labels = [f"{row['op']} {row['dtype']} {row['shape'].split(' · ')[0]}" for row in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("speed beside the best of torch and torch.compile, forward and backward")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ops", nargs="*", default=[*SHAPES, "adamw"])
    parser.add_argument("--dtypes", nargs="*", default=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work()
        return
    if args.memory:
        memory(args.memory[0], int(args.memory[1]), int(args.memory[2]))
        return
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    path = HERE / "results/torch_ops.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"rows": []}
    measured = race(args.ops, args.dtypes, args.rounds, args.threads)
    again = {(row["op"], row["dtype"]) for row in measured}
    kept = [row for row in results["rows"] if (row["op"], row["dtype"]) not in again]
    order = [*SHAPES, "adamw"]
    results["rows"] = sorted([*kept, *measured], key=lambda r: (DTYPES.index(r["dtype"]), order.index(r["op"])))
    if "linear_cross_entropy" in args.ops or "memory" not in results:
        results["memory"] = {
            f"{rows} tokens x {width}": {
                name: int(subprocess.check_output([*ME, "--memory", name, str(rows), str(width)], text=True))
                for name in ("llmjp_core", "torch")
            }
            for rows, width in ((1024, 768), (4096, 768))
        }
    results["machine"] = machine(args.threads)
    path.write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(results))
    plot(results, path.with_suffix(".png"))
    print(markdown(results))


if __name__ == "__main__":
    main()
