"""A training step of Hugging Face models: accelerated by llmjp_core.torch, torch eager, and torch.compile.

    python benches/torch_drop_in.py [--models llama-6x384 gpt_neox-6x384 ...] [--rounds 5] [--threads 2]

Each is a process, so that peak memory is its own; they take turns, begin with the same weights and read the same
batches, and their losses must agree. Medians are reported, also where we lose. Results go to
benches/results/torch_drop_in.{json,md}. The ops alone: benches/torch_ops.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# layers, width, MLP width, heads, vocabulary, tokens a sequence, sequences
SHAPES = {"6x384": (6, 384, 1024, 6, 32_000, 512, 4), "12x768": (12, 768, 2048, 12, 32_000, 512, 1)}
CONTENDERS = ("llmjp_core", "torch", "torch.compile")
AGREEMENT = 1e-4


def build(name: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig

    family, shape = name.rsplit("-", 1)
    layers, width, inner, heads, vocabulary, tokens, sequences = SHAPES[shape]
    common = {
        "num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads, "vocab_size": vocabulary,
        "max_position_embeddings": tokens,
    }  # fmt: skip
    config = (
        LlamaConfig(**common, intermediate_size=inner)
        if family == "llama"
        else GPTNeoXConfig(**common, intermediate_size=4 * width)
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").train()
    return model, torch.randint(0, vocabulary, (64, sequences, tokens))


def stepper(contender: str, name: str) -> Callable[[], float]:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model, batches = build(name)
    if contender == "llmjp_core":
        import llmjp_core.torch as lct

        lct.accelerate(model)
        optimizer: Any = lct.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, max_grad_norm=1.0)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    call = torch.compile(model) if contender == "torch.compile" else model
    each = iter(batches)

    def step() -> float:
        ids = next(each)
        loss = call(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        if contender != "llmjp_core":
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)  # here, as transformers' Trainer does: no gradients beside activations
        return float(loss.detach())

    return step


def work(contender: str, name: str) -> None:
    """One step for each line of the standard input."""
    step = stepper(contender, name)
    for _ in sys.stdin:
        begin = time.perf_counter()
        loss = step()
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        print(json.dumps({"seconds": seconds, "loss": loss, "peak": peak}), flush=True)


def race(name: str, rounds: int, threads: int) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "LLMJP_NUM_THREADS": str(threads)}
    me = [sys.executable, str(Path(__file__).resolve()), "--work"]
    processes = {
        c: subprocess.Popen([*me, c, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for c in CONTENDERS
    }
    answers: dict[str, list[dict[str, float]]] = {c: [] for c in CONTENDERS}
    for _ in range(rounds + 2):  # two to warm up and compile
        for contender, process in processes.items():
            assert process.stdin and process.stdout
            process.stdin.write("\n")
            process.stdin.flush()
            answers[contender].append(json.loads(process.stdout.readline()))
    for process in processes.values():
        process.communicate()
    for step in range(rounds + 2):
        losses = [answers[c][step]["loss"] for c in CONTENDERS]
        if max(losses) - min(losses) > AGREEMENT * min(losses):
            raise SystemExit(f"{name}: losses of step {step} disagree: {dict(zip(CONTENDERS, losses, strict=True))}")
    *_, tokens, sequences = SHAPES[name.rsplit("-", 1)[1]]
    return {
        c: {
            "seconds": statistics.median(a["seconds"] for a in answers[c][2:]),
            "spread": [min(a["seconds"] for a in answers[c][2:]), max(a["seconds"] for a in answers[c][2:])],
            "tokens_per_second": tokens * sequences / statistics.median(a["seconds"] for a in answers[c][2:]),
            "peak_bytes": answers[c][-1]["peak"],
        }
        for c in CONTENDERS
    }


def machine(threads: int) -> dict[str, Any]:
    import torch
    import transformers

    import llmjp_core as lc

    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.processor())  # fmt: skip
    return {
        "cpu": cpu, "threads": threads, "load": os.getloadavg()[0], "torch": torch.__version__,
        "transformers": transformers.__version__, "llmjp_core": lc.__version__, "python": platform.python_version(),
    }  # fmt: skip


def models_table(results: dict[str, Any]) -> str:
    lines = [
        "| model | " + " | ".join(f"{c}, tokens/s" for c in CONTENDERS) + " | ratio | peak, GB: "
        + ", ".join(CONTENDERS) + " | memory ratio |",
        "|---" * 7 + "|",
    ]  # fmt: skip
    for name, result in results.items():
        speeds = [result[c]["tokens_per_second"] for c in CONTENDERS]
        peaks = [result[c]["peak_bytes"] / 1e9 for c in CONTENDERS]
        lines.append(
            f"| {name} | " + " | ".join(f"{s:.0f}" for s in speeds) + f" | {speeds[0] / max(speeds[1:]):.2f} | "
            + ", ".join(f"{p:.2f}" for p in peaks) + f" | {peaks[0] / min(peaks[1:]):.2f} |"
        )  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["llama-6x384", "gpt_neox-6x384", "llama-12x768"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", nargs=2, metavar=("CONTENDER", "MODEL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(*args.work)
        return
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    path = HERE / "results/torch_drop_in.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    models = {name: race(name, args.rounds, args.threads) for name in args.models}
    results = {"models": {**results.get("models", {}), **models}, "machine": machine(args.threads)}
    write(path, results)


def write(path: Path, results: dict[str, Any]) -> None:
    """What was measured so far; models that were not measured now stay as they were."""
    head = "Medians; the ratio is against the better of the others. float32."
    lines = ["# A training step of Hugging Face models", "", head, "", models_table(results["models"]), ""]
    text = "\n".join([*lines, str(results["machine"])])
    print(text, flush=True)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text(text + "\n")


if __name__ == "__main__":
    main()
