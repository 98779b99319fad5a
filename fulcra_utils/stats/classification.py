"""Scores of a labelling with three classes per cell: macro-F1, PR-AUC, intervals by resampling prompts.

Pure: arrays in, arrays out. A cell is one value of one reply; cells without label (nan) never count.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fulcra_utils.common.labels import CLASSES
from fulcra_utils.stats.resampling import code_clusters, draw_sums


def count_confusions(labels: np.ndarray, predicted: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """Count (true, predicted) classes by group and value: (G, D, 3, 3).

    Labels and predictions are (N, D) in {-1, 0, 1}; a nan in either is not counted; groups (N,) are numbered from 0.
    """
    labels, predicted = np.asarray(labels, dtype=float), np.asarray(predicted)
    groups = np.zeros(len(labels), dtype=np.intp) if groups is None else np.asarray(groups)
    counts = np.zeros((int(groups.max(initial=0)) + 1, labels.shape[1], len(CLASSES), len(CLASSES)), dtype=np.int64)
    rows, dims = np.nonzero(~np.isnan(labels) & ~np.isnan(predicted))
    true = labels[rows, dims].astype(int) + 1
    np.add.at(counts, (groups[rows], dims, true, predicted[rows, dims].astype(int) + 1), 1)
    return counts


def f1_by_class(counts: np.ndarray) -> np.ndarray:
    """Return F1 = 2 TP / (true + predicted) of each class, (..., 3), nan for one that neither occurs nor is said."""
    counts = np.asarray(counts, dtype=float)
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    total = counts.sum(-1) + counts.sum(-2)
    return np.divide(2 * hits, total, out=np.full(total.shape, np.nan), where=total > 0)


def macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean F1 of the classes -1, 0, +1 over all labelled cells together; nan without any.

    Labels and predictions are (N, D), nan = not counted. A class that neither occurs nor is predicted is left out.

    >>> macro_f1(np.array([[1.0, 0.0, -1.0]]), np.array([[1, 0, 0]])).__round__(4)
    0.5556
    """
    f1 = f1_by_class(count_confusions(labels, predicted).sum((0, 1)))
    return float(np.nanmean(f1)) if np.isfinite(f1).any() else np.nan


def bootstrap_macro_f1(labels: np.ndarray, predictions: dict[str, np.ndarray], groups: Sequence,
                       n_draws: int = 1000, seed: int = 2023) -> dict[str, np.ndarray]:
    """Return the pooled macro-F1 (R,) of several labellings, by name, in the same samples of prompt clusters.

    The classes are those of `macro_f1` on all rows. A sample without a true cell of one of them estimates another mean
    and is nan, for every name alike: to average what is left (scikit-learn's default labels) is biased upward, to count
    0 (its `zero_division=0` with fixed labels) downward. A class that is only predicted is 0 in every sample, as on all
    rows.

    >>> labels = np.array([[1.0, 0.0, -1.0], [0.0, -1.0, 1.0]])
    >>> bootstrap_macro_f1(labels, {"perfect": labels}, groups=[0, 1], n_draws=3)["perfect"].tolist()
    [1.0, 1.0, 1.0]
    """
    ids, result = code_clusters(groups)[0], {}
    for name, predicted in predictions.items():
        counts = count_confusions(labels, predicted, ids).sum(1)                       # (G, 3, 3)
        drawn = draw_sums(counts.reshape(len(counts), -1), n_draws, seed).reshape(-1, 3, 3)
        counted, occurs = counts.sum((0, 1)) + counts.sum((0, 2)) > 0, counts.sum((0, 2)) > 0
        f1 = np.where(occurs, np.where(drawn.sum(2) > 0, f1_by_class(drawn), np.nan), 0)[:, counted]
        result[name] = f1.mean(1) if f1.size else np.full(n_draws, np.nan)
    return result


def average_precision(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the area under the precision-recall curve of each value and class, (D, 3); nan without the class."""
    from sklearn.metrics import average_precision_score
    result = np.full(probabilities.shape[1:], np.nan)
    for d, c in np.ndindex(result.shape):
        known = ~np.isnan(labels[:, d])
        truth = labels[known, d] == CLASSES[c]
        if truth.any():
            result[d, c] = average_precision_score(truth, probabilities[known, d, c])
    return result


def tabulate_quality(labels: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray,
                     dimensions: Sequence[str]) -> pd.DataFrame:
    """Return one row per value and class: value, label, n (true cells), n_predicted, precision, recall, f1, pr_auc.

    Undefined numbers are nan.
    """
    counts = count_confusions(labels, predicted).sum(0)
    hits, true, said = np.diagonal(counts, axis1=1, axis2=2), counts.sum(2), counts.sum(1)
    with np.errstate(invalid="ignore"):
        columns = {"n": true, "n_predicted": said, "precision": hits / said, "recall": hits / true,
                   "f1": f1_by_class(counts), "pr_auc": average_precision(labels, probabilities)}
    index = pd.MultiIndex.from_product([dimensions, CLASSES], names=["value", "label"])
    return pd.DataFrame({name: column.ravel() for name, column in columns.items()}, index=index).reset_index()
