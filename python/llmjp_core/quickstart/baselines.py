"""What counting alone reaches: a unigram and an interpolated Kneser-Ney bigram model over token ids.

Both give every id of the vocabulary a probability above 0, so that their perplexity is a fair one: the sum over the
vocabulary is 1 (tested), nothing is left out, and every token is predicted from the one before it.

Symbols: V vocabulary, N tokens, c(x) and c(x, y) counts in the training tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[Any]
Floats = NDArray[np.float64]


class Unigram:
    """p(y) = (c(y) + 1) / (N + V)."""

    def __init__(self, train: Ids, vocab_size: int) -> None:
        counts = np.bincount(train, minlength=vocab_size)
        self.probabilities: Floats = (counts + 1) / (counts.sum() + vocab_size)

    def log_likelihood(self, tokens: Ids) -> Floats:
        """ln p of each token but the first, which no model here predicts: (N - 1)."""
        return np.log(self.probabilities[tokens[1:]])


class KneserNeyBigram:
    """p(y | x) = max(c(x, y) - D, 0) / c(x)  +  D t(x) / c(x) · q(y),  t(x) = |{y : c(x, y) > 0}|.

    q(y) counts in how many contexts y was seen, k(y) = |{x : c(x, y) > 0}|, and is itself discounted and interpolated
    with 1/V:  q(y) = max(k(y) - D', 0) / K + D' |{y : k(y) > 0}| / K / V,  K = Σ k.
    The discounts are Ney's estimates n1 / (n1 + 2 n2) at each level (n1, n2: events seen once, twice).
    """

    def __init__(self, train: Ids, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.pairs, self.pair_counts = np.unique(self._pairs(train), return_counts=True)
        first, second = np.divmod(self.pairs, vocab_size)
        self.discount = ney_discount(self.pair_counts)
        self.context = np.bincount(first, weights=self.pair_counts, minlength=vocab_size)  # c(x)
        self.types = np.bincount(first, minlength=vocab_size)  # t(x)
        self.lower: Floats = self._lower_order(np.bincount(second, minlength=vocab_size))

    def _pairs(self, tokens: Ids) -> NDArray[np.int64]:
        ids = tokens.astype(np.int64)
        return ids[:-1] * self.vocab_size + ids[1:]

    def _lower_order(self, contexts: NDArray[np.intp]) -> Floats:
        discount, total = ney_discount(contexts), contexts.sum()
        left_over = discount * np.count_nonzero(contexts) / total
        lower: Floats = np.maximum(contexts - discount, 0) / total + left_over / self.vocab_size
        return lower

    def log_likelihood(self, tokens: Ids) -> Floats:
        """ln p of each token given the one before it: (N - 1)."""
        pairs, x, y = self._pairs(tokens), tokens[:-1], tokens[1:]
        place = np.minimum(np.searchsorted(self.pairs, pairs), len(self.pairs) - 1)
        count = np.where(self.pairs[place] == pairs, self.pair_counts[place], 0)
        seen = self.context[x] > 0
        total = np.where(seen, self.context[x], 1)
        higher = np.maximum(count - self.discount, 0) / total
        weight = np.where(seen, self.discount * self.types[x] / total, 1)  # a context never seen: q alone
        return np.log(higher + weight * self.lower[y])


def ney_discount(counts: NDArray[Any]) -> float:
    """n1 / (n1 + 2 n2); one half where nothing was seen once or twice."""
    once, twice = int(np.sum(counts == 1)), int(np.sum(counts == 2))
    return once / (once + 2 * twice) if once else 0.5


def perplexity(log_likelihood: Floats) -> float:
    """exp of the mean negative log-likelihood."""
    return float(np.exp(-log_likelihood.mean()))
