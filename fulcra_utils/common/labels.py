"""The three classes of a label, and the cuts that turn scores and probabilities into labels."""

from __future__ import annotations

import numpy as np

CLASSES = (-1, 0, 1)
WEAK = 0.3     # a given score within ±0.3 is the label 0, as in the released reward
NEAREST = 0.5  # a predicted score within ±0.5 is nearest to the label 0, as in the released evaluator


def scores_to_labels(scores: np.ndarray, cuts: float | np.ndarray = WEAK) -> np.ndarray:
    """Return labels for scores: beyond a cut -1 or +1, on the cut and within it 0; nan stays nan.

    The only way from scores to labels; scores of 32 bits are compared as such.

    Parameters
    ----------
    scores : ndarray, shape (N, D)
    cuts : float, or ndarray, shape (D, 2) or (N, D, 2)
        One number for ±cut, or pairs (low, high).

    Examples
    --------
    >>> scores_to_labels(np.array([[-0.7, 0.3, 0.31, np.nan]])).tolist()
    [[-1.0, 0.0, 1.0, nan]]
    """
    scores = np.asarray(scores)
    scores = scores if scores.dtype.kind == "f" else scores.astype(float)
    low, high = np.moveaxis(np.asarray(cuts if np.ndim(cuts) else (-cuts, cuts), scores.dtype), -1, 0)
    return np.where(np.isnan(scores), np.nan, (scores > high).astype(float) - (scores < low))


def labels_of(probabilities: np.ndarray) -> np.ndarray:
    """Return the likeliest label of each cell, shape (N, D), from probabilities or logits (N, D, 3); a tie with 0 is 0.

    Examples
    --------
    >>> labels_of(np.array([[[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]]])).tolist()
    [[1, 0]]
    """
    return np.array([0, -1, 1])[probabilities[..., [1, 0, 2]].argmax(-1)]
