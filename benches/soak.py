"""Kills a training run at random moments, resumes it, and compares it with a run that was left alone.

    python benches/soak.py --minutes 30

Each cycle trains the quickstart's model for some steps in a process that is killed (`kill -9`) again and again, also
while it writes checkpoints, until the run is done. Weights, moments and the recorded losses must equal those of an
undisturbed run bit for bit. Another cycle repeats one training step for ever and watches the memory. Exit code 1 and
the folder of the run say where something differed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import llmjp_core as lc
from llmjp_core.quickstart import DATA

STEPS = 30
GROWTH = 16 * 2**20  # bytes that a run may need more after a hundred steps than after ten


def config(folder: Path, data: Path) -> list[str]:
    """Arguments of `llmjp-core train`: a small model, and a checkpoint every second step."""
    parts = [f"{part}_data_paths=[{data}]" for part in ("train", "valid", "test")]
    sizes = ["num_layers=2", "hidden_size=64", "num_attention_heads=2", "train_micro_batch_size_per_gpu=4"]
    steps = [f"train_iters={STEPS}", "checkpoint_factor=2", "keep_last_n_checkpoints=3", "eval_interval=1000"]
    paths = [f"vocab_file={DATA / 'tokenizer.model'}", f"save={folder}", f"load={folder}"]
    return [str(DATA / "quickstart.yml"), *parts, *sizes, *steps, *paths]


def start(folder: Path, data: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "llmjp_core", "train", *config(folder, data), "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def undisturbed(folder: Path, data: Path) -> float:
    """Runs to the end; returns the seconds it took."""
    begin = time.monotonic()
    code = start(folder, data).wait()
    if code:
        raise SystemExit(f"the undisturbed run ended with {code}")
    return time.monotonic() - begin


def disturbed(folder: Path, data: Path, seconds: float, chance: random.Random) -> int:
    """Kills the run at random moments until it is done; returns how often."""
    kills = 0
    while True:
        process = start(folder, data)
        try:
            code = process.wait(timeout=chance.uniform(0.2, 1.2) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            continue
        if code:
            raise SystemExit(f"a resumed run ended with {code} after {kills} kills; see {folder}")
        return kills


def state(folder: Path) -> dict[str, str]:
    """What must be equal: weights and moments at the end, and every loss on the way."""
    last = folder / f"global_step{STEPS}"
    files = {name: (last / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")}
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = {e["iteration"]: e["loss"] for e in entries if e["event"] == "train"}
    return {
        **{name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        "losses": json.dumps([losses.get(step) for step in range(1, STEPS + 1)]),
    }


def memory_grows(data: Path) -> bool:
    """Whether a hundred steps need more memory than ten, in a process of its own."""
    program = f"""
import resource, sys, llmjp_core as lc
peak = []
for steps in (10, 100):
    lc.train({str(DATA / "quickstart.yml")!r}, resume="never", progress=False, overrides={{
        "train_iters": steps, "vocab_file": {str(DATA / "tokenizer.model")!r}, "num_layers": 2, "hidden_size": 64,
        "num_attention_heads": 2, "log_dir": sys.argv[1], "checkpoint_factor": None, "eval_interval": 1000,
        **{{f"{{part}}_data_paths": [{str(data)!r}] for part in ("train", "valid", "test")}}}})
    peak.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
print(peak[1] - peak[0])
"""
    with tempfile.TemporaryDirectory() as logs:
        done = subprocess.run([sys.executable, "-c", program, logs], capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1]) > GROWTH


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    end, chance, kills, cycles = time.monotonic() + 60 * args.minutes, random.Random(args.seed), 0, 0
    folder = Path(tempfile.mkdtemp(prefix="llmjp-soak-"))
    data = folder / "data"
    lc.data.tokenize(DATA / "held_out.jsonl.gz", lc.Tokenizer.from_file(DATA / "tokenizer.model"), data, progress=False)
    seconds = undisturbed(folder / "alone", data)
    want = state(folder / "alone")
    while time.monotonic() < end:
        kills += disturbed(folder / "killed", data, seconds, chance)
        cycles += 1
        if (got := state(folder / "killed")) != want:
            print(f"cycle {cycles} differs in {[k for k in want if want[k] != got[k]]}; see {folder}", file=sys.stderr)
            return 1
        shutil.rmtree(folder / "killed")
        print(f"cycle {cycles}: equal after {kills} kills in all", flush=True)
    if memory_grows(data):
        print("memory grows with the number of steps", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    print(f"{cycles} runs, {kills} kills, every run bit-equal; memory does not grow")
    return 0


if __name__ == "__main__":
    sys.exit(main())
