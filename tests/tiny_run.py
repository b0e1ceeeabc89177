"""A run of some thousand weights on real Japanese text, for the tests of training."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import llmjp_core as lc

TESTS = Path(__file__).resolve().parent
VOCAB, TIME = 2500, 32

NEOX: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 24,
    "num_attention_heads": 3,
    "seq_length": TIME,
    "max_position_embeddings": TIME,
    "pos_emb": "rotary",
    "rotary_pct": 0.25,
    "norm": "layernorm",
    "gpt_j_residual": True,
    "no_weight_tying": True,
    "vocab_size": VOCAB,
    "make_vocab_size_divisible_by": 1,
    "init_method_std": 0.05,
    "optimizer": {"type": "Adam", "params": {"lr": 2e-3, "betas": [0.9, 0.95], "eps": 1.0e-8}},
    "weight_decay": 0.1,
    "gradient_clipping": 1.0,
    "lr_decay_style": "cosine",
    "warmup": 0.1,
    "min_lr": 2e-4,
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 2,
    "train_iters": 12,
    "eval_interval": 6,
    "eval_iters": 2,
    "log_interval": 4,
    "checkpoint_factor": 3,
    "use_wandb": False,
    "split": "80,10,10",
}

LLAMA: dict[str, Any] = {
    **NEOX,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "num_kv_heads": 2,
    "norm": "rmsnorm",
    "rms_norm_epsilon": 1e-5,
    "activation": "swiglu",
    "ffn_hidden_size": 56,
    "rotary_pct": 1.0,
    "gpt_j_residual": False,
    "use_bias_in_norms": False,
    "use_bias_in_attn_linear": False,
    "use_bias_in_mlp": False,
}


@cache
def _ids() -> tuple[tuple[int, ...], ...]:
    """Each line of the novel as ids, `<|endoftext|>` at its end."""
    tokenizer = lc.Tokenizer.from_file(TESTS / "data/neko_unigram.model")
    eod = tokenizer.encode("<|endoftext|>")[-1]
    lines = (TESTS / "data/neko.txt").read_text(encoding="utf-8").splitlines()
    return tuple((*tokenizer.encode(line), eod) for line in lines if line.strip())


def write_text(prefix: Path, skip: int = 0) -> Path:
    """The novel, without its first `skip` lines, as a dataset."""
    lc.data.write(prefix, [list(ids) for ids in _ids()[skip:]], dtype="uint16")
    return prefix


def make(folder: Path, base: dict[str, Any] = NEOX, **changes: Any) -> dict[str, Any]:
    """A configuration with its data and its `save` folder in `folder`."""
    data = folder / "text"
    if not data.with_suffix(".idx").exists():
        write_text(data)
    return {**base, "data_path": str(data), "save": str(folder / "run"), **changes}


def write(folder: Path, config: dict[str, Any], name: str = "run.yml") -> Path:
    path = folder / name
    path.write_text(json.dumps(config, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


def trained(config: dict[str, Any], **options: Any) -> lc.Run:
    return lc.train(config, progress=False, **options)


def environment(**changes: str) -> dict[str, str]:
    """For a process of its own."""
    paths = [str(TESTS.parent / "python"), str(TESTS), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p), **changes}


def command(*arguments: object, **changes: str) -> subprocess.Popen[str]:
    """`llmjp-core ...` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "llmjp_core", *map(str, arguments)],
        env=environment(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the weights and moments of a checkpoint."""
    files = ("model.safetensors", "optimizer.safetensors")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}
