"""The three classes of a label, and the one way from scores and from probabilities to labels.

At a border the smaller claim wins: a score on its cut is 0, and of two classes equally likely 0 is taken. Two cuts,
for two kinds of scores:

- `WEAK`, ±0.3, for scores that were *given* (the released reward's, a judge's): within it the released reward takes a
  value as not expressed, and `value_distance` does the same;
- `NEAREST`, ±0.5, for scores that a model *predicts* and for means: the label is the class that lies nearest, as in
  the released evaluator.
"""

import numpy as np

CLASSES = (-1, 0, 1)
WEAK = 0.3     # a given score within ±0.3 is the label 0, as in the released reward
TOUCHED = 2.0  # a label that says no more than that the value is there
NEAREST = 0.5  # a predicted score within ±0.5 is nearest to the label 0, as in the released evaluator


def scores_to_labels(scores: np.ndarray, cuts: float | np.ndarray = WEAK) -> np.ndarray:
    """Return labels for scores: beyond a cut -1 or +1, on the cut and within it 0; nan stays nan.

    Scores have shape (N, D), of 32 bits they are compared as such. `cuts` is one number for ±cut (`WEAK` for given
    scores, `NEAREST` for predicted ones), or pairs (low, high) of shape (D, 2) or (N, D, 2), as calibration fits them.

    Examples
    --------
    >>> scores_to_labels(np.array([[-0.7, 0.3, 0.31, np.nan]])).tolist()
    [[-1.0, 0.0, 1.0, nan]]
    >>> scores_to_labels(np.array([[-0.7, 0.3]]), np.array([[-0.8, 0.2], [0.1, 0.2]])).tolist()
    [[0.0, 1.0]]
    """
    scores = np.asarray(scores)
    scores = scores if scores.dtype.kind == "f" else scores.astype(float)
    low, high = np.moveaxis(np.asarray(cuts if np.ndim(cuts) else (-cuts, cuts), scores.dtype), -1, 0)
    return np.where(np.isnan(scores), np.nan, (scores > high).astype(float) - (scores < low))


def labels_of(probabilities: np.ndarray) -> np.ndarray:
    """Return the likeliest label of each cell, shape (N, D), from probabilities or logits (N, D, 3); a tie with 0 is 0.

    >>> labels_of(np.array([[[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]]])).tolist()
    [[1, 0]]
    """
    return np.array([0, -1, 1])[probabilities[..., [1, 0, 2]].argmax(-1)]


def score_valence(probabilities: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Return GPV's scores of class probabilities (N, D, 3) of -1, 0, +1: in [-1, 1], nan where a value is not touched.

    A value is touched where P(-1) + P(+1) exceeds the threshold; the score is then their difference over their sum.

    >>> score_valence(np.array([[[0.1, 0.3, 0.6], [0.1, 0.6, 0.3]]])).round(2)
    array([[0.71,  nan]])
    """
    against, _, for_it = np.moveaxis(np.asarray(probabilities, float), -1, 0)
    touched = against + for_it
    return np.where(touched > threshold, (for_it - against) / np.maximum(touched, 1e-12), np.nan)
