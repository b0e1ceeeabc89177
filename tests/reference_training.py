"""AdamW training of a `transformers` model, in a process that never imports llmjp_core.

    python reference_training.py SPEC.json

reads the initial weights (a folder of transformers), the tokens of all micro-batches (.npz) and the settings, and
writes the loss of every step.
"""

import json
import math
import sys
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def learning_rate(n: int, c: dict[str, Any]) -> float:
    """GPT-NeoX's cosine after n updates."""
    w = c["warmup"] * c["train_iters"]
    if n <= w:
        return c["lr"] * max(1, n) / w
    share = (n - w) / (c["train_iters"] - w)
    return c["min_lr"] + (c["lr"] - c["min_lr"]) / 2 * (1 + math.cos(math.pi * share))


def optimizer(model: torch.nn.Module, c: dict[str, Any]) -> torch.optim.AdamW:
    """Norms and biases do not decay."""
    exempt = {
        id(p)
        for module in model.modules()
        for name, p in module.named_parameters(recurse=False)
        if name == "bias" or "Norm" in type(module).__name__
    }
    groups = [
        {"params": [p for p in model.parameters() if (id(p) in exempt) != decays], "weight_decay": decay}
        for decays, decay in ((True, c["weight_decay"]), (False, c["exempt_weight_decay"]))
    ]
    return torch.optim.AdamW(groups, lr=c["lr"], betas=tuple(c["betas"]), eps=c["eps"])


def main(path: str) -> None:
    with open(path) as file:
        c = json.load(file)
    torch.manual_seed(0)
    torch.set_num_threads(2)
    model = AutoModelForCausalLM.from_pretrained(c["model"], dtype=torch.float32, attn_implementation="eager")
    adamw = optimizer(model, c)
    tokens = np.load(c["tokens"])
    inputs, targets = torch.tensor(tokens["inputs"]).long(), torch.tensor(tokens["targets"]).long()
    losses, norms = [], []
    for step in range(c["train_iters"]):
        total = 0.0
        for micro in range(inputs.shape[1]):
            logits = model(input_ids=inputs[step, micro]).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets[step, micro].flatten())
            (loss / inputs.shape[1]).backward()
            total += loss.item() / inputs.shape[1]
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), c["clip"])))
        for group in adamw.param_groups:
            group["lr"] = learning_rate(step, c)
        adamw.step()
        adamw.zero_grad()
        losses.append(total)
    assert "llmjp_core" not in sys.modules
    with open(c["out"], "w") as file:
        json.dump({"losses": losses, "norms": norms}, file)


if __name__ == "__main__":
    main(sys.argv[1])
