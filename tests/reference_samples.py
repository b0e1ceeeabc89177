"""Training samples in plain numpy, written from the rules of GPT-NeoX and Megatron-LM, and sets to try them on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

import llmjp_core as lc

IGNORE = -100


def random_set(
    prefix: Path, rng: np.random.Generator, documents: int, longest: int, vocab: int = 1000
) -> list[list[int]]:
    texts = [rng.integers(0, vocab, rng.integers(0, longest + 1)).tolist() for _ in range(documents)]
    lc.data.write(prefix, texts, "uint16")
    return texts


def neox_oracle(texts: Sequence[Sequence[int]], s: int, seed: int, n: int | None) -> list[list[int]]:
    """All samples in training order, s + 1 tokens each: the stream is built whole and cut."""
    total = sum(map(len, texts))
    epochs = 1
    while n is not None and (epochs * total - 1) // s < n:
        epochs += 1
    rng = np.random.RandomState(seed)
    order = np.tile(np.arange(len(texts), dtype=np.int32), epochs)
    rng.shuffle(order)
    return cut(texts, order, s, lambda m: shuffled(rng, np.arange(m, dtype=np.uint32)))


def megatron_oracle(texts: Sequence[Sequence[int]], s: int, seed: int, n: int) -> list[list[int]]:
    total = sum(map(len, texts))
    epochs = math.ceil((n * s + 1) / total)
    before = ((epochs - 1) * total - 1) // s if epochs > 1 else 0
    separate = epochs > 1 and n - before < int(0.80 * ((total - 1) // s))
    rng = np.random.RandomState(seed)
    documents = np.arange(len(texts), dtype=np.int32)
    parts = [epochs - 1, 1] if separate else [epochs]
    order = np.concatenate([shuffled(rng, np.tile(documents, part)) for part in parts])

    def places(m: int) -> np.ndarray:
        bounds = [0, before, m] if separate else [0, m]
        ranges = [np.arange(a, b, dtype=np.uint32) for a, b in pairwise(bounds)]
        return np.concatenate([shuffled(rng, part) for part in ranges])

    return cut(texts, order, s, places)


def shuffled(rng: np.random.RandomState, array: np.ndarray) -> np.ndarray:
    rng.shuffle(array)
    return array


def cut(
    texts: Sequence[Sequence[int]], order: np.ndarray, s: int, places: Callable[[int], np.ndarray]
) -> list[list[int]]:
    stream = [token for document in order for token in texts[document]]
    samples = (len(stream) - 1) // s
    return [stream[k * s : k * s + s + 1] for k in places(samples)]


def joined(samples: lc.data.Samples, count: int) -> list[list[int]]:
    """Items as s + 1 tokens."""
    items = [samples.item(i) for i in range(count)]
    assert all(inputs[1:].tolist() == targets[:-1].tolist() for inputs, targets in items)
    return [[*inputs.tolist(), int(targets[-1])] for inputs, targets in items]


def labelled_set(
    folder: Path, rng: np.random.Generator, documents: int, longest: int
) -> tuple[list[list[int]], list[list[int]]]:
    texts = [rng.integers(1, 500, rng.integers(1, longest + 1)).tolist() for _ in range(documents)]
    labels = [[token if rng.random() < 0.5 else IGNORE for token in text] for text in texts]
    for k in range(0, documents, 4):
        labels[k] = [IGNORE] * len(texts[k])
    lc.data.write(folder / "t", texts, "uint16")
    lc.data.write(folder / "l", labels, "int32")
    return texts, labels


def labelled(folder: Path) -> list[lc.data.Source]:
    return [lc.data.Source(folder / "t", labels=folder / "l")]
