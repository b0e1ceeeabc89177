"""The counting baselines are probabilities, and equal a slow count written from the formula."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from llmjp_core.quickstart.baselines import KneserNeyBigram, Unigram, ney_discount, perplexity

VOCAB = 13


@pytest.fixture(scope="module")
def train() -> np.ndarray:
    """Skewed tokens in which some ids never occur and one occurs only at the end (a context never seen)."""
    random = np.random.default_rng(7)
    tokens = np.minimum(random.geometric(0.35, 400), 9).astype(np.uint16)
    return np.append(tokens, np.uint16(11))


def every_pair() -> np.ndarray:
    """x y for all x and y; the log-likelihoods of the ys stand at even places."""
    tokens = np.empty(2 * VOCAB * VOCAB, dtype=np.uint16)
    tokens[::2], tokens[1::2] = np.divmod(np.arange(VOCAB * VOCAB), VOCAB)
    return tokens


def test_both_sum_to_one(train: np.ndarray) -> None:
    assert Unigram(train, VOCAB).probabilities.sum() == pytest.approx(1, abs=1e-12)
    table = np.exp(KneserNeyBigram(train, VOCAB).log_likelihood(every_pair())[::2]).reshape(VOCAB, VOCAB)
    assert table.min() > 0
    np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-12)


def test_the_bigram_is_its_formula(train: np.ndarray) -> None:
    table = np.exp(KneserNeyBigram(train, VOCAB).log_likelihood(every_pair())[::2]).reshape(VOCAB, VOCAB)
    pairs = Counter(zip(train[:-1].tolist(), train[1:].tolist(), strict=True))
    contexts = Counter(y for _, y in pairs)
    high = discount(list(pairs.values()))
    low = discount(list(contexts.values()))
    for x in range(VOCAB):
        total = sum(n for (a, _), n in pairs.items() if a == x)
        types = sum(1 for a, _ in pairs if a == x)
        for y in range(VOCAB):
            q = max(contexts[y] - low, 0) / len(pairs) + low * len(contexts) / len(pairs) / VOCAB
            p = max(pairs[x, y] - high, 0) / total + high * types / total * q if total else q
            assert table[x, y] == pytest.approx(p, rel=1e-12)


def discount(counts: list[int]) -> float:
    return counts.count(1) / (counts.count(1) + 2 * counts.count(2))


def test_perplexity_of_certain_and_uniform_guesses() -> None:
    assert perplexity(np.zeros(5)) == 1
    assert perplexity(np.full(5, math.log(1 / 8))) == pytest.approx(8)


def test_the_discount_without_rare_events() -> None:
    assert ney_discount(np.array([5, 9])) == 0.5
    assert ney_discount(np.array([1, 1, 2])) == 0.5
    assert ney_discount(np.array([1, 1, 1, 2])) == 0.6


def test_the_bigram_learns_order(train: np.ndarray) -> None:
    """On tokens that follow a fixed order it must be far better than the unigram; on its training data at least."""
    cycle = np.tile(np.arange(VOCAB, dtype=np.uint16), 50)
    unigram, bigram = Unigram(cycle, VOCAB), KneserNeyBigram(cycle, VOCAB)
    assert perplexity(bigram.log_likelihood(cycle)) < 1.1 < perplexity(unigram.log_likelihood(cycle))
