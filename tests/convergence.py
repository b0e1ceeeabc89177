"""Trains a tiny Hugging Face model on Japanese text for some steps; a program of its own.

    python tests/convergence.py FAMILY STEPS plain|accelerated OUT.npz [DTYPE]

`plain` is transformers and torch alone, and never imports this package.
"""

from __future__ import annotations

import sys
from pathlib import Path

import hf_models
import numpy as np
import torch

TEXT = Path(__file__).resolve().parent.parent / "python/llmjp_core/quickstart/data"
TOKENS, SEQUENCES = 48, 4


def text() -> torch.Tensor:
    """Bytes of Japanese stories."""
    import gzip

    (path,) = sorted(TEXT.glob("*train*.gz"))[:1] or sorted(TEXT.glob("*.gz"))[:1]
    with gzip.open(path) as file:
        return torch.from_numpy(np.frombuffer(file.read(400_000), np.uint8).astype(np.int64))


def main(family: str, steps: int, how: str, out: str, dtype: str = "float32") -> None:
    torch.set_num_threads(1)
    model = hf_models.build(family, getattr(torch, dtype), vocab_size=256)
    options = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    if how == "accelerated":
        import llmjp_core.torch as lct

        lct.accelerate(model)
        optimizer = lct.optim.AdamW(model.parameters(), **options, max_grad_norm=1.0)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), **options)
    data, losses = text(), []
    for step in range(steps):
        start = torch.arange(SEQUENCES)[:, None] * 50_000 + step * TOKENS
        ids = data[start + torch.arange(TOKENS)]
        loss = model(ids, labels=ids, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        if how == "plain":
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    weights = {name: p.detach().float().numpy() for name, p in model.named_parameters()}
    assert (how == "accelerated") == ("llmjp_core" in sys.modules)
    np.savez(out, losses=np.array(losses), **weights)


if __name__ == "__main__":
    family, steps, how, out, *dtype = sys.argv[1:]
    main(family, int(steps), how, out, *dtype)
