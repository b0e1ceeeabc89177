"""What a call of an op of llmjp_core.torch costs beside torch's, on tensors so small that little else is left.

    python benches/torch_overhead.py [--rounds 200]

Eight tokens, a head of 64, float32, one thread; medians of rounds in which all take turns, 20 calls each. "Empty" is
an `autograd.Function` in Python that keeps its inputs, makes places for its results and computes nothing: where
gradients are wanted, no op outside torch costs less. Results go to benches/results/torch_overhead.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch_drop_in import machine

HERE = Path(__file__).resolve().parent
OPS = ("rms_norm", "layer_norm", "gelu", "swiglu", "rotary", "attention", "linear")
ROWS, WIDTH, CALLS = 8, 64, 20


def microseconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    for _ in range(CALLS):
        call()
    return 1e6 * (time.perf_counter() - begin) / CALLS


def in_turns(calls: list[Callable[[], object]], rounds: int) -> list[float]:
    times = [[microseconds(call) for call in calls] for _ in range(rounds + 10)][10:]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def measure(name: str, rounds: int) -> list[dict[str, Any]]:
    import torch

    from llmjp_core.torch.timing import CONTESTS

    contest = CONTESTS[name]
    inputs = contest.inputs(ROWS, WIDTH, torch.float32)
    leaves, plain = [x for x in inputs if x.requires_grad], [x.detach() for x in inputs]
    result = contest.plain(*plain)
    dy, empty = torch.ones_like(result), empty_function(result)
    both, all_ = (contest.ours, contest.plain), (contest.ours, contest.plain, empty)
    passes: dict[str, list[Callable[[], object]]] = {
        "forward": [lambda f=f: f(*plain) for f in both],
        "forward for gradients": [lambda f=f: f(*inputs) for f in all_],
        "forward and backward": [lambda f=f: torch.autograd.grad(f(*inputs), leaves, dy) for f in all_],
    }
    answers = []
    for which, calls in passes.items():
        times = dict(zip(("llmjp_core", "torch", "empty"), in_turns(calls, rounds), strict=False))
        answers.append({"op": name, "passes": which, **times})
    return answers


def empty_function(result: Any) -> Callable[..., Any]:
    import torch

    class Empty(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            ctx.save_for_backward(*inputs)
            return torch.empty_like(result)

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            wanted = zip(ctx.saved_tensors, ctx.needs_input_grad, strict=True)
            return tuple(torch.empty_like(x) if want else None for x, want in wanted)

    return super(torch.autograd.Function, Empty).apply  # type: ignore[misc,no-any-return]


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = ["| op | passes | llmjp_core, us | torch, us | difference, us | empty, us |", "|---" * 6 + "|"]
    for r in rows:
        ours, theirs, empty = r["llmjp_core"], r["torch"], f"{r['empty']:.1f}" if "empty" in r else ""
        lines.append(f"| {r['op']} | {r['passes']} | {ours:.1f} | {theirs:.1f} | {ours - theirs:+.1f} | {empty} |")
    return "\n".join(lines)


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for name in OPS for row in measure(name, args.rounds)]
    results = {"rows": rows, "machine": machine(1)}
    head = f"# A call on {ROWS} tokens x {WIDTH}\n\nfloat32, one thread, medians.\n\n"
    text = head + markdown(rows) + f"\n\n{results['machine']}\n"
    print(text, flush=True)
    path = HERE / "results/torch_overhead.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
