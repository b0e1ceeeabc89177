"""Perplexity of a model on tokens in a row, each predicted once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model import Model

BATCH = 16


def mean_loss(model: Model, tokens: NDArray[Any], window: int) -> float:
    """Mean negative log-likelihood (nats) of every token but the first.

    The tokens are cut into windows of `window` predictions; a model sees nothing of the window before. The last window
    is shorter. A bigram, which always sees the token before, has it a little easier: the comparison favours it.
    """
    inputs, targets = tokens[:-1].astype(np.int32), tokens[1:].astype(np.int32)
    total = sum(model.loss(inputs[cut], targets[cut]) * targets[cut].size for cut in windows(len(targets), window))
    return total / len(targets)


def windows(length: int, window: int) -> list[NDArray[np.intp]]:
    """Places (batch, window) that cover 0..length once, in batches; the last holds what is left over."""
    places = np.arange(length)
    whole = places[: length // window * window].reshape(-1, window)
    batches = [whole[i : i + BATCH] for i in range(0, len(whole), BATCH)]
    rest = places[len(whole) * window :]
    return [*batches, rest[None]] if rest.size else batches
