"""A study: an interpolated Kneser-Ney n-gram model, the yardstick that a small neural language model has to beat."""

from collections.abc import Sequence

import numpy as np


class KneserNey:
    """Interpolated Kneser-Ney model over token ids in [0, vocab_size), one discount for each order.

    Source: Kneser and Ney (1995); interpolated form and discounts n1 / (n1 + 2 n2) as in Chen and Goodman (1999).

    >>> model = KneserNey([[0, 1, 0, 1, 2]], vocab_size=3, order=2)
    >>> round(float(np.exp([model.score([1, w], 1) for w in range(3)]).sum()), 9)  # a distribution
    1.0
    """

    def __init__(self, texts: Sequence[Sequence[int]], vocab_size: int, order: int = 5):
        if vocab_size ** order >= 2 ** 63:
            raise ValueError(f"{vocab_size} tokens to the power {order} do not fit into 63 bits; take a lower order.")
        self.vocab_size, self.order = vocab_size, order
        grams, counts = np.unique(np.concatenate([_codes(t, vocab_size, order) for t in texts]), return_counts=True)
        self.levels = []
        for n in range(order, 0, -1):
            self.levels.insert(0, _level(grams, counts, vocab_size))
            # below the highest order a gram counts once for each different token before it
            grams, counts = np.unique(grams % vocab_size ** (n - 1), return_counts=True)

    def score(self, text: Sequence[int], start: int = 0) -> float:
        """Return the natural log probability of text[start:] given what stands before it."""
        codes = _codes(text, self.vocab_size, self.order)[start:]
        prob = np.full(len(codes), 1.0 / self.vocab_size)
        for n, level in enumerate(self.levels, start=1):
            prob = _interpolate(level, codes % self.vocab_size ** n, self.vocab_size, prob)
        return float(np.log(prob).sum())


def _codes(text: Sequence[int], vocab: int, order: int) -> np.ndarray:
    """Return one number for each token and the order - 1 before it; before the text stands token 0."""
    padded = np.concatenate([np.zeros(order - 1, dtype=np.int64), np.asarray(text, dtype=np.int64)])
    return sum(padded[order - 1 - k:len(padded) - k] * vocab ** k for k in range(order))


def _level(grams: np.ndarray, counts: np.ndarray, vocab: int) -> dict[str, np.ndarray]:
    once, twice = (counts == 1).sum(), (counts == 2).sum()
    discount = once / (once + 2 * twice) if once else 0.5
    contexts, place = np.unique(grams // vocab, return_inverse=True)
    return {"grams": grams, "counts": counts, "discount": discount, "contexts": contexts,
            "totals": np.bincount(place, weights=counts), "types": np.bincount(place)}


def _interpolate(level: dict[str, np.ndarray], codes: np.ndarray, vocab: int, lower: np.ndarray) -> np.ndarray:
    counts = _look_up(level["grams"], level["counts"], codes)
    totals = _look_up(level["contexts"], level["totals"], codes // vocab)
    types = _look_up(level["contexts"], level["types"], codes // vocab)
    seen = np.maximum(totals, 1)
    prob = (np.maximum(counts - level["discount"], 0) + level["discount"] * types * lower) / seen
    return np.where(totals > 0, prob, lower)


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
