"""A training step beside transformers + torch: tokens/s and peak memory, interleaved in one run.

    python benches/train_step.py [--shape quickstart] [--rounds 7] [--threads 2]

Each contender is a process of its own, so that peak memory is its own. They begin with the same weights, read the same
batches, and take turns; the losses of every step must agree, or the benchmark fails. torch runs eagerly (scaled dot
product attention, AdamW(fused=True), clipping at 1) and never imports us. Results are written to benches/results/.
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
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
COMMON = {
    "pos_emb": "rotary", "norm": "layernorm", "gpt_j_residual": True, "no_weight_tying": True,
    "init_method": "small_init", "output_layer_init_method": "wang_init", "tokenizer_type": "SPMTokenizer",
    "optimizer": {"type": "Adam", "params": {"lr": 1e-3, "betas": [0.9, 0.95], "eps": 1e-8}}, "weight_decay": 0.1,
    "gradient_clipping": 1.0, "lr_decay_style": "constant", "warmup": 0.0, "seed": 1234, "train_iters": 10_000,
    "eval_interval": 100_000,
}  # fmt: skip
SHAPES: dict[str, dict[str, int]] = {
    "quickstart": {
        "num_layers": 4, "hidden_size": 192, "num_attention_heads": 6, "vocab_size": 4096,
        "seq_length": 128, "max_position_embeddings": 128, "train_micro_batch_size_per_gpu": 16,
    },
    "12x768": {
        "num_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "vocab_size": 32_000,
        "seq_length": 512, "max_position_embeddings": 512, "train_micro_batch_size_per_gpu": 2,
    },
}  # fmt: skip
STEPS_A_TURN = {"quickstart": 8, "12x768": 2}
# The same arithmetic in another order drifts apart slowly.
AGREEMENT = 2e-3


# --- the contenders, each in its own process


def ours(folder: Path) -> Iterator[Callable[[], float]]:
    from llmjp_core import _core

    config = (folder / "config.json").read_text()
    yield lambda: 0.0
    trainer = _core.Trainer(config, "never")
    yield lambda: float(trainer.step()["loss"])


def torch(folder: Path) -> Iterator[Callable[[], float]]:
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    yield lambda: 0.0
    model = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32).train()
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, fused=True)
    batches = iter(np.load(folder / "batches.npy", mmap_mode="r"))

    def step() -> float:
        inputs, targets = (torch.from_numpy(part.astype(np.int64)) for part in next(batches))
        logits = model(inputs, use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach())

    yield step


CONTENDERS = {"ours": ours, "torch": torch}


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def work(name: str, folder: Path) -> None:
    """Answers each line `steps` of the standard input with the time and the losses of that many steps."""
    contender = CONTENDERS[name](folder)
    next(contender)
    imported = peak()
    step = next(contender)
    for line in sys.stdin:
        begin = time.perf_counter()
        losses = [step() for _ in range(int(line))]
        answer = {"seconds": time.perf_counter() - begin, "losses": losses, "peak": peak(), "imported": imported}
        print(json.dumps(answer), flush=True)


# --- the race


class Contender:
    def __init__(self, name: str, folder: Path, threads: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "LLMJP_NUM_THREADS": str(threads)}
        command = [sys.executable, str(Path(__file__).resolve()), "--work", name, "--folder", str(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self.last: dict[str, Any] = {}

    def turn(self, steps: int) -> float:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a contender ended with {self.process.wait()}")
        self.last = json.loads(line)
        self.losses += self.last["losses"]
        return float(self.last["seconds"])

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def prepare(shape: str, folder: Path, steps: int) -> None:
    """The same data, weights and batches for both."""
    import llmjp_core as lc

    sizes = SHAPES[shape]
    batch, time_, vocab = sizes["train_micro_batch_size_per_gpu"], sizes["seq_length"], sizes["vocab_size"]
    random = np.random.default_rng(0)
    # Frequencies like those of words: one over rank.
    ids = np.minimum(np.exp(random.uniform(0, np.log(vocab), (steps * batch + 8, time_ + 1))), vocab - 1).astype(int)
    lc.data.write(folder / "data", ids, dtype=np.uint16)
    paths = {f"{part}_data_paths": [str(folder / "data")] for part in ("train", "valid", "test")}
    config = lc.config.load({**COMMON, **sizes, **paths, "eval_iters": 0})
    (folder / "config.json").write_text(json.dumps(config))
    lc.Model.from_config(config).save(folder / "hf")
    parts = lc.data.samples(
        train=[folder / "data"],
        seq_length=time_,
        count=[config["train_iters"] * batch, None, None],
        seed=config["seed"],
    )
    items = [parts.train.item(i) for i in range(steps * batch)]
    batches = np.array(items, dtype=np.int32).reshape(steps, batch, 2, time_).transpose(0, 2, 1, 3)
    np.save(folder / "batches.npy", batches)


def race(shape: str, rounds: int, threads: int) -> dict[str, Any]:
    steps = STEPS_A_TURN[shape]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(shape, folder, steps * (rounds + 1))
        contenders = {name: Contender(name, folder, threads) for name in CONTENDERS}
        for contender in contenders.values():
            contender.turn(steps)  # warm-up
        for _ in range(rounds):
            for contender in contenders.values():
                contender.seconds.append(contender.turn(steps))
        for contender in contenders.values():
            contender.close()
    check(contenders)
    tokens = steps * SHAPES[shape]["seq_length"] * SHAPES[shape]["train_micro_batch_size_per_gpu"]
    return result(shape, tokens, contenders)


def check(contenders: dict[str, Contender]) -> None:
    """Both trained the same model on the same data."""
    for number, (a, b) in enumerate(zip(contenders["ours"].losses, contenders["torch"].losses, strict=True), 1):
        if not abs(a - b) <= AGREEMENT * abs(b):
            raise SystemExit(f"step {number}: our loss is {a}, torch's {b}: this benchmark times a wrong answer")


def result(shape: str, tokens: int, contenders: dict[str, Contender]) -> dict[str, Any]:
    speeds = {name: [tokens / s for s in c.seconds] for name, c in contenders.items()}
    ratios = [a / b for a, b in zip(speeds["ours"], speeds["torch"], strict=True)]
    memory = {name: c.last["peak"] for name, c in contenders.items()}
    imported = {name: c.last["imported"] for name, c in contenders.items()}
    return {
        "shape": shape,
        "tokens_per_sec": {name: statistics.median(each) for name, each in speeds.items()},
        "speed_ratio": statistics.median(ratios),
        "speed_ratio_range": [min(ratios), max(ratios)],
        "peak_bytes": memory,
        "peak_bytes_after_imports": imported,
        "memory_ratio": memory["ours"] / memory["torch"],
        "last_losses": {name: c.losses[-1] for name, c in contenders.items()},
    }


# --- the report


def machine(threads: int) -> dict[str, Any]:
    from importlib.metadata import version

    import llmjp_core as lc

    facts = lc.info()
    return {
        "processor": facts["processor"],
        "threads": threads,
        "kernels": facts["instruction_set"],
        "system": platform.platform(),
        "versions": {"llmjp-core": lc.__version__, **{p: version(p) for p in ("torch", "transformers", "numpy")}},
        "load_before": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
    }


def table(facts: dict[str, Any], results: list[dict[str, Any]]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines = [
        "# A training step beside transformers + torch",
        "",
        f"{facts['date']}, {facts['processor']}, {facts['threads']} threads, {facts['kernels']} kernels, "
        f"{facts['system']}, load average before the run {facts['load_before']:.1f}.",
        f"{versions}. f32, AdamW, torch eager with fused AdamW. Made by `benches/train_step.py`; "
        "medians of rounds that took turns.",
        "",
        "| shape | ours tokens/s | torch tokens/s | ratio (range) | ours peak MiB | torch peak MiB | ratio |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for r in results:
        speed, memory, (low, high) = r["tokens_per_sec"], r["peak_bytes"], r["speed_ratio_range"]
        speeds = f"{speed['ours']:,.0f} | {speed['torch']:,.0f} | {r['speed_ratio']:.2f} ({low:.2f}-{high:.2f})"
        sizes = f"{memory['ours'] / 2**20:,.0f} | {memory['torch'] / 2**20:,.0f} | {r['memory_ratio']:.2f}"
        lines.append(f"| {r['shape']} | {speeds} | {sizes} |")
    after = results[0]["peak_bytes_after_imports"]
    lines += ["", f"Peak memory is that of the whole process; importing alone takes {after['ours'] / 2**20:,.0f} MiB "
              f"(ours) and {after['torch'] / 2**20:,.0f} MiB (torch and transformers)."]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, action="append", help="default: all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--work", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work(args.work, args.folder)
    facts = machine(args.threads)
    results = [race(shape, args.rounds, args.threads) for shape in args.shape or SHAPES]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "train_step.json").write_text(json.dumps({"machine": facts, "results": results}, indent=2) + "\n")
    (args.out / "train_step.md").write_text(table(facts, results))
    print(table(facts, results))


if __name__ == "__main__":
    main()
