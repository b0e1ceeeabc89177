"""What the tests of `cross_entropy` and `linear_cross_entropy` share: targets, options, torch's loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.1},
    "z": {"z_loss": 1e-2},
    "ignore": {"ignore_index": 0},
    "all": {"label_smoothing": 0.2, "z_loss": 1e-3, "ignore_index": -1},
}


def targets_of(n: int, vocabulary: int, ignore_index: int = -100) -> np.ndarray:
    targets = np.random.default_rng(0).integers(0, vocabulary, n, dtype=np.int32)
    targets[1::3] = ignore_index
    return targets


def losses_of(
    logits: torch.Tensor,
    targets: np.ndarray,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    ignore_index: int = -100,
) -> torch.Tensor:
    """The loss of each token, in float32 or float64."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    t = torch.from_numpy(targets).long()
    loss = torch.nn.functional.cross_entropy(
        logits, t, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction="none"
    )
    return loss + z_loss * logits.logsumexp(-1) ** 2 * (t != ignore_index)
