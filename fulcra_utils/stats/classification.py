"""Labellings with three classes per cell: macro-F1, PR-AUC, temperatures, cuts, calibration errors, conformal sets.

Pure: arrays in, arrays out. A cell is one value of one reply; cells without label (nan) never count. Three quarters of
all cells are 0, so errors are taken class by class: averaged over cells one would be small for a useless evaluator too.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from fulcra_utils.common.labels import CLASSES, NEAREST
from fulcra_utils.stats.resampling import code_clusters, draw_sums, share_interval

MIN_CELLS = 50          # labels a value needs for temperatures, cuts or a calibration error of its own
MIN_POOLED = 10         # labels that all values together need for a cut
GRID = np.arange(0.1, 0.91, 0.05)
BINS = 10               # of equal width, for calibration errors
MIN_CONFORMAL = 30      # calibration cases a class of a value needs for a conformal limit


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


def fit_temperatures(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Fit the temperature (D,) in [0.1, 10] of each value by likelihood on held-out rows; above 1 flattens.

    Logits are (N, D, 3), log-probabilities do as well; labels (N, D), nan = none. A value with fewer than 50
    labels -1 or +1 takes the temperature of all values together, 1 where these have fewer as well. Source: Guo et al.
    (2017).

    >>> logits = np.log(np.array([[[0.01, 0.01, 0.98]]] * 100))
    >>> labels = np.array([[1.0]] * 70 + [[0.0]] * 15 + [[-1.0]] * 15)
    >>> float(fit_temperatures(logits, labels).round(1)[0])
    3.0
    """
    log_p = log_softmax(logits, axis=-1)
    pooled = _fit_temperature(log_p.reshape(-1, len(CLASSES)), labels.ravel(), 1.0)
    return np.array([_fit_temperature(log_p[:, d], column, pooled) for d, column in enumerate(labels.T)])


def _fit_temperature(log_p: np.ndarray, labels: np.ndarray, default: float) -> float:
    known = ~np.isnan(labels)
    if (np.abs(labels) > 0).sum() < MIN_CELLS:
        return default
    log_p, true = log_p[known], labels[known].astype(int) + 1

    def loss(log_t: float) -> float:
        return -float(log_softmax(log_p / np.exp(log_t), axis=-1)[np.arange(len(true)), true].mean())
    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.1), np.log(10)), method="bounded").x))


def rescale(probabilities: np.ndarray, temperatures: np.ndarray) -> np.ndarray:
    """Return probabilities (N, D, 3) at other temperatures (D,)."""
    return softmax(np.log(np.maximum(probabilities, 1e-12)) / np.asarray(temperatures)[:, None], axis=-1)


def fit_cuts(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Fit where a score becomes a label, for the best F1 of -1 and +1 on held-out rows: (D, 2), below and above.

    A side of a value with fewer than 50 labels takes the cut of all values together; ±0.5 where these have fewer than
    10, which is where the released evaluator cuts.

    >>> scores = np.repeat([[0.2], [0.3], [0.0], [0.1], [-0.3]], 5, axis=0)
    >>> fit_cuts(scores, np.repeat([[1.0], [1.0], [0.0], [0.0], [-1.0]], 5, axis=0)).round(2).tolist()
    [[-0.5, 0.15]]
    """
    pooled = _fit_cut_pair(scores.ravel(), labels.ravel(), [-NEAREST, NEAREST], MIN_POOLED)
    return np.array([_fit_cut_pair(scores[:, d], labels[:, d], pooled, MIN_CELLS) for d in range(labels.shape[1])])


def _fit_cut_pair(scores: np.ndarray, labels: np.ndarray, default: list[float], min_touched: int) -> list[float]:
    known, pair = ~np.isnan(labels), list(default)
    for side, sign in enumerate((-1, 1)):
        true, said = (labels[known] == sign)[:, None], sign * scores[known, None] > GRID
        if true.sum() >= min_touched:
            quality = 2 * (true & said).sum(axis=0) / (true.sum() + said.sum(axis=0))  # F1
            best = np.flatnonzero(np.isclose(quality, quality.max()))
            pair[side] = sign * float(GRID[best[len(best) // 2]])
    return pair


def fit_threshold(p: np.ndarray, truth: np.ndarray) -> float:
    """Return the threshold of P(1) (N,) with the best balanced accuracy, the middle one of them; .5 without both kinds.

    Rows with a nan in either do not count.

    >>> fit_threshold(np.array([0.1, 0.2, 0.4, 0.9]), np.array([0, 0, 1, 1])).__round__(2)
    0.3
    """
    from sklearn.metrics import roc_curve

    known = np.isfinite(p) & np.isfinite(truth)
    if len(set(truth[known])) < 2 or len(set(p[known])) < 2:
        return 0.5
    alarms, found, ends = roc_curve(truth[known], p[known], drop_intermediate=False)
    quality = (found - alarms)[1:-1]
    best = np.flatnonzero(np.isclose(quality, quality.max()))
    return float(((ends[1:-1] + ends[2:]) / 2)[best[len(best) // 2]])


def correct_share(share: np.ndarray, sensitivity: np.ndarray, specificity: np.ndarray) -> np.ndarray:
    """Return the true share behind one that an imperfect judge finds; nan where it judges by chance.

    (share + specificity - 1) / (sensitivity + specificity - 1): Rogan & Gladen (1978). Outside [0, 1] where the judge
    finds less than it alarms falsely, or more than it can find.

    >>> round(float(correct_share(0.4, 0.8, 0.7)), 6)
    0.2
    """
    better = np.asarray(sensitivity) + specificity - 1
    return (share + specificity - 1) / np.where(better > 0, better, np.nan)


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Return how often each class is true where its probability falls into each bin (Kull et al. 2019).

    One row a class and bin that is not empty: label, bin, n, confidence (mean probability), frequency.
    """
    known = ~np.isnan(labels)
    cells = pd.concat([pd.DataFrame({"label": label, "bin": _bin(p), "p": p, "true": labels[known] == label})
                       for label, p in zip(CLASSES, probabilities[known].T, strict=True)])
    return cells.groupby(["label", "bin"]).agg(n=("p", "size"), confidence=("p", "mean"),
                                               frequency=("true", "mean")).reset_index()


def classwise_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the expected calibration error of each class, (3,) in [0, 1]; nan without labels.

    Probabilities are (N, D, 3), labels (N, D), nan = none; all values are taken together, in 10 bins of equal width.
    Source: Kull et al. (2019), whose class-wise error is the mean of the three.

    >>> p = np.array([[[0.0, 0.2, 0.8]]] * 10)
    >>> classwise_calibration_error(p, np.array([[1.0]] * 8 + [[0.0]] * 2)).round(6).tolist()
    [0.0, 0.0, 0.0]
    """
    known = ~np.isnan(labels)
    return _class_errors(probabilities[known], labels[known][None] + 1)[0]


def draw_chance_errors(probabilities: np.ndarray, labels: np.ndarray, n_draws: int = 500) -> np.ndarray:
    """Return mean class-wise errors (R,) that perfect calibration would show on so many labelled cells.

    Labels are drawn from the probabilities themselves: consistency resampling, Bröcker and Smith (2007).
    """
    p = probabilities[~np.isnan(labels)]
    drawn = (np.random.default_rng(2023).random((n_draws, len(p), 1)) > p.cumsum(1)[None, :, :2]).sum(-1)
    return _class_errors(p, drawn).mean(1)


def _class_errors(p: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return (R, 3) errors of the probabilities (M, 3) for R labellings (R, M), classes counted from 0."""
    gaps = [((true == c) - p[:, c]) @ np.eye(BINS)[_bin(p[:, c])] for c in range(len(CLASSES))]
    return np.stack([np.abs(gap).sum(1) / len(p) if len(p) else np.full(len(true), np.nan) for gap in gaps], axis=1)


def _bin(p: np.ndarray) -> np.ndarray:
    return np.minimum((p * BINS).astype(int), BINS - 1)


def fit_conformal(probabilities: np.ndarray, labels: np.ndarray, level: float = 0.9) -> np.ndarray:
    """Fit class-conditional conformal limits (D, 3) on rows that nothing else was fitted on.

    A label belongs to the set of a cell when 1 - P(label) is at most the limit of that value and label; among cells
    whose label is y, the set then holds y in at least `level` of them, whatever the evaluator's errors. nan = fewer
    than 30 cells: that label can never be ruled out. Source: Vovk (2012), conditional validity of inductive
    conformal predictors.

    >>> p = np.linspace(0.01, 0.99, 99); probabilities = np.stack([np.zeros(99), 1 - p, p], axis=-1)[:, None]
    >>> fit_conformal(probabilities, np.ones((99, 1)), level=0.9).round(2).tolist()
    [[nan, nan, 0.9]]
    """
    if not 0 < level < 1:
        raise ValueError(f"the level of label sets is {level:g}; it lies between 0 and 1.")
    limits = np.full(probabilities.shape[1:], np.nan)
    for d, c in np.ndindex(limits.shape):
        misfit = np.sort(1 - probabilities[labels[:, d] == CLASSES[c], d, c])
        rank = int(np.ceil((len(misfit) + 1) * level))
        if len(misfit) >= MIN_CONFORMAL and rank <= len(misfit):
            limits[d, c] = misfit[rank - 1]
    return limits


def measure_sets(sets: np.ndarray, labels: np.ndarray, limits: np.ndarray, dimensions: Sequence[str],
                 clusters: Sequence | None = None) -> pd.DataFrame:
    """Return coverage and size of label sets (N, D, 3) by value and class, and which could not be calibrated.

    Columns: value, label, n (test cells), coverage with low and high (95 %, `share_interval` over the prompt clusters
    (N,); without them Wilson's, as if each row had a prompt of its own), size (mean labels a set), calibrated.
    """
    cells = labels[:, :, None] == CLASSES  # (N, D, 3)
    n, sizes = cells.sum(axis=0), (cells * sets.sum(axis=2, keepdims=True)).sum(axis=0)
    shares = share_interval(*(x.reshape(-1, limits.size).astype(float) for x in (cells & sets, cells)),
                            np.arange(len(cells)) if clusters is None else clusters)
    with np.errstate(invalid="ignore"):
        columns = {"n": n, **dict(zip(("coverage", "low", "high"), shares, strict=True)), "size": sizes / n,
                   "calibrated": np.isfinite(limits)}
    index = pd.MultiIndex.from_product([dimensions, CLASSES], names=["value", "label"])
    return pd.DataFrame({name: column.ravel() for name, column in columns.items()}, index=index).reset_index()


def tabulate_support(labels: np.ndarray, dimensions: Sequence[str], test: np.ndarray | None = None,
                     calibration: np.ndarray | None = None) -> pd.DataFrame:
    """Return how many labels each value has (n_minus, n_zero, n_plus) and what can be said with so many (reading).

    Figures are measured on the labels of `test` rows and sets fitted on those of `calibration` rows; None = all rows.
    """
    rows, parts = [], [labels, *(labels if part is None else part for part in (test, calibration))]
    for name, *columns in zip(dimensions, *(part.T for part in parts), strict=True):
        counts, tested, held = ([int((column == label).sum()) for label in CLASSES] for column in columns)
        few = " and ".join(f"{sign} ({n})" for sign, n in (("-1", held[0]), ("+1", held[2])) if n < MIN_CONFORMAL)
        reading = f"enough for figures of its own, too few {few} for sets" if few else "enough for figures of its own"
        if (touched := tested[0] + tested[2]) < MIN_CELLS:
            reading = f"too few test labels for figures of its own ({touched} touched, {MIN_CELLS} needed)"
        rows.append((name, *counts, reading))
    return pd.DataFrame(rows, columns=["value", "n_minus", "n_zero", "n_plus", "reading"])
