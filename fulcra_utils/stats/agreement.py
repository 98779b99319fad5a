"""Agreement among annotators: Krippendorff's alpha, Gwet's AC1, Cohen's and Fleiss' kappa, with bootstrap intervals.

Pure functions on arrays. Every statistic here is a function of sums over units, so a bootstrap over prompts needs the
sums of each prompt once and one matrix product for all draws. Axis letters: A annotators, N units (replies), L labels,
K names (values or items), P clusters (prompts), R bootstrap draws.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fulcra_utils.stats.resampling import code_clusters, draw_sums, sum_by_cluster, take_interval

SCALE = (-1.0, 0.0, 1.0)
STATISTICS = ("observed", "alpha_nominal", "alpha_ordinal", "ac1", "cohen", "fleiss")


def count_labels(ratings: np.ndarray, labels: Sequence[float]) -> np.ndarray:
    """Count how many annotators gave each of L labels to each unit: ratings (A, N), nan = not rated, to (N, L).

    A rating that is none of the labels is a ValueError that names its place.
    """
    ratings = np.asarray(ratings, dtype=float)
    counts = np.stack([(ratings == label).sum(axis=0) for label in labels], axis=-1).astype(float)
    stray = np.argwhere(np.isfinite(ratings) & ~np.isin(ratings, labels))
    if len(stray):
        a, n = stray[0]
        raise ValueError(f"annotator {a}, unit {n}: rating {ratings[a, n]:g} is none of the labels {tuple(labels)}.")
    return counts


def krippendorff_alpha(ratings: np.ndarray, level: str = "nominal", labels: Sequence[float] | None = None) -> float:
    """Return Krippendorff's alpha: 1 is perfect agreement, 0 what chance gives, negative less.

    Ratings are (A, N), nan = not rated; units with fewer than two ratings are left out; nan when all that are left are
    the same label. `level` says how far apart two labels count: nominal, ordinal or interval; `labels` are the scale in
    ascending order (None: those that occur). Source: Krippendorff (2011), coincidence form.

    >>> krippendorff_alpha(np.array([[1, 2, 3], [1, 2, 3]]))
    1.0
    """
    if level not in _DELTAS:
        raise ValueError(f"level is one of {', '.join(_DELTAS)}, not {level!r}.")
    labels = _labels(ratings, labels)
    sums = _coincidences(count_labels(ratings, labels)).sum(axis=0)
    return float(_finish_alpha(sums, level, np.asarray(labels, dtype=float)))


def gwet_ac1(ratings: np.ndarray, labels: Sequence[float] | None = None) -> float:
    """Return Gwet's AC1, which stays high when nearly all units carry one label and the annotators agree on it.

    Ratings are (A, N), nan = not rated; a unit with one rating counts for the chance term only, in which the number of
    `labels` (None: those that occur) stands; nan when no unit has two. Source: Gwet (2008), British Journal of
    Mathematical and Statistical Psychology 61.

    >>> ratings = np.repeat([[0, 0, 1, 1], [0, 1, 0, 1]], [118, 5, 2, 0], axis=1)
    >>> round(gwet_ac1(ratings), 4)
    0.9408
    """
    labels = _labels(ratings, labels)
    return float(_finish_ac1(_ac1_sums(count_labels(ratings, labels)).sum(axis=0)))


def cohen_kappa(first: np.ndarray, second: np.ndarray, labels: Sequence[float] | None = None) -> float:
    """Return Cohen's unweighted kappa of two annotators, (N,) each, over the units that both rated (nan = not rated).

    nan without such a unit, or when both give one and the same label throughout. Source: Cohen (1960).

    >>> first, second = np.repeat([[1, 1, 0, 0], [1, 0, 1, 0]], [20, 5, 10, 15], axis=1)
    >>> round(cohen_kappa(first, second), 12)
    0.4
    """
    ratings = np.stack([first, second])
    return float(_finish_cohen(_confusions(ratings, _labels(ratings, labels)).sum(axis=0)))


def measure_agreement(ratings: np.ndarray, names: Sequence[str], clusters: np.ndarray | None = None, draws: int = 1000,
                      seed: int = 0, labels: Sequence[float] = SCALE) -> pd.DataFrame:
    """Return every agreement statistic for each name and for all ("overall"), with 95 % intervals over prompts.

    Ratings are (A, N, K) for K value dimensions or items, nan = not rated; `clusters` (N,) names the prompt of each
    reply (None: each its own), `labels` is the scale in ascending order. Columns: name, statistic, value, low, high,
    n_units (with two ratings or more), n_ratings; nan where a statistic is not defined, "cohen" only for two
    annotators.

    >>> ratings = np.array([[[1.0], [0], [-1], [0]], [[1], [0], [-1], [1]]])
    >>> table = measure_agreement(ratings, ["care"], draws=50)
    >>> table[table.name == "care"][["statistic", "value"]].round(3).values.tolist()[:2]
    [['observed', 0.75], ['alpha_nominal', 0.667]]
    """
    ratings = np.asarray(ratings, dtype=float)
    if ratings.ndim != 3 or ratings.shape[2] != len(names):
        raise ValueError(f"ratings have shape {ratings.shape}, which is not (annotators, units, {len(names)} names).")
    n_units = ratings.shape[1]
    clusters = np.arange(n_units) if clusters is None else code_clusters(clusters)[0]
    if len(clusters) != n_units:
        raise ValueError(f"there are {len(clusters)} clusters for {n_units} units.")
    sums = np.stack([_cluster_sums(ratings[:, :, k], clusters, labels) for k in range(len(names))])  # (K, P, S)
    pooled = np.concatenate([sums, sums.sum(axis=0, keepdims=True)])  # (K + 1, P, S)
    drawn = _draw_sums(pooled, draws, seed)  # (R, K + 1, S)
    points = _statistics(pooled.sum(axis=1), len(ratings), labels)
    spread = _statistics(drawn, len(ratings), labels)
    rated = np.isfinite(ratings).sum(axis=0)  # (N, K)
    n_pairable, n_ratings = (rated >= 2).sum(axis=0), rated.sum(axis=0)
    n_pairable, n_ratings = np.append(n_pairable, n_pairable.sum()), np.append(n_ratings, n_ratings.sum())
    rows = []
    for k, name in enumerate([*names, "overall"]):
        for statistic in STATISTICS:
            low, high = (float(end) for end in take_interval(spread[statistic][:, k]))
            rows.append((name, statistic, float(points[statistic][k]), low, high, int(n_pairable[k]),
                         int(n_ratings[k])))
    return pd.DataFrame(rows, columns=["name", "statistic", "value", "low", "high", "n_units", "n_ratings"])


def _labels(ratings: np.ndarray, labels: Sequence[float] | None) -> Sequence[float]:
    if labels is not None:
        return labels
    found = np.unique(np.asarray(ratings, dtype=float))
    return tuple(found[np.isfinite(found)])


def _coincidences(counts: np.ndarray) -> np.ndarray:
    """Return each unit's coincidence matrix (N, L, L): ordered pairs of ratings over one less than the ratings."""
    m = counts.sum(axis=1)
    pairs = counts[:, :, None] * counts[:, None, :]
    diagonal = np.arange(counts.shape[1])
    pairs[:, diagonal, diagonal] -= counts
    return pairs / np.where(m >= 2, m - 1, np.inf)[:, None, None]


def _ac1_sums(counts: np.ndarray) -> np.ndarray:
    """Return (N, L + 3): share of each label, is rated, agreement of the unit's pairs, has pairs."""
    m = counts.sum(axis=1)
    rated, paired = m >= 1, m >= 2
    agreement = (counts * (counts - 1)).sum(axis=1) / np.where(paired, m * (m - 1), np.inf)
    return np.column_stack([counts / np.where(rated, m, np.inf)[:, None], rated, agreement, paired])


def _confusions(ratings: np.ndarray, labels: Sequence[float]) -> np.ndarray:
    """Return (N, L, L) with a one at (label of the first, label of the second annotator)."""
    first, second = (np.stack([row == label for label in labels], axis=-1).astype(float) for row in ratings)
    return first[:, :, None] * second[:, None, :]


def _fleiss_sums(counts: np.ndarray, n_annotators: int) -> np.ndarray:
    """Return (N, L + 2) over complete units: counts, their squares summed, is complete."""
    complete = counts.sum(axis=1) == n_annotators
    return np.column_stack([counts, (counts**2).sum(axis=1), np.ones(len(counts))]) * complete[:, None]


def _cluster_sums(ratings: np.ndarray, clusters: np.ndarray, labels: Sequence[float]) -> np.ndarray:
    """Return (P, S): what the statistics of one name need, summed within each cluster."""
    counts = count_labels(ratings, labels)
    parts = [_coincidences(counts).reshape(len(counts), -1), _ac1_sums(counts), _fleiss_sums(counts, len(ratings))]
    if len(ratings) == 2:
        parts.append(_confusions(ratings, labels).reshape(len(counts), -1))
    units = np.concatenate(parts, axis=1)
    return sum_by_cluster(units, clusters, clusters.max(initial=-1) + 1)


def _draw_sums(sums: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Return (R, K, S): the sums of bootstrap samples of the clusters of `sums` (K, P, S)."""
    n_names, n_clusters, n_sums = sums.shape
    flat = np.ascontiguousarray(sums.transpose(1, 0, 2).reshape(n_clusters, -1))  # (P, K * S)
    # clusters with equal sums are interchangeable: draw how often each kind comes, not which cluster
    kinds = flat.view(np.dtype((np.void, flat.dtype.itemsize * flat.shape[1]))).ravel()
    _, first, n_kind = np.unique(kinds, return_index=True, return_counts=True)
    return draw_sums(flat[first], draws, seed, n_kind).reshape(draws, n_names, n_sums)


def _statistics(sums: np.ndarray, n_annotators: int, labels: Sequence[float]) -> dict[str, np.ndarray]:
    """Return each statistic of an array of sums (..., S), shape (...)."""
    size, values = len(labels), np.asarray(labels, dtype=float)
    ends = np.cumsum([size * size, size + 3, size + 2])
    pairs, ac1, fleiss, confusion = np.split(sums, ends, axis=-1)
    pairs = pairs.reshape(*pairs.shape[:-1], size, size)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {"observed": ac1[..., -2] / ac1[..., -1], "ac1": _finish_ac1(ac1),
                 "alpha_nominal": _finish_alpha(pairs, "nominal", values),
                 "alpha_ordinal": _finish_alpha(pairs, "ordinal", values),
                 "fleiss": _finish_fleiss(fleiss, n_annotators), "cohen": np.full(sums.shape[:-1], np.nan)}
    if confusion.shape[-1]:
        found["cohen"] = _finish_cohen(confusion.reshape(*confusion.shape[:-1], size, size))
    return found


def _nominal(n: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.broadcast_to(1.0 - np.eye(len(values)), (*n.shape, len(values)))


def _ordinal(n: np.ndarray, values: np.ndarray) -> np.ndarray:
    middle = np.cumsum(n, axis=-1) - n / 2  # ratings below a label and half of those at it
    return (middle[..., :, None] - middle[..., None, :]) ** 2


def _interval_delta(n: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.broadcast_to((values[:, None] - values) ** 2, (*n.shape, len(values)))


_DELTAS = {"nominal": _nominal, "ordinal": _ordinal, "interval": _interval_delta}


def _finish_alpha(pairs: np.ndarray, level: str, values: np.ndarray) -> np.ndarray:
    n = pairs.sum(axis=-1)  # (..., L)
    total = n.sum(axis=-1)
    delta = _DELTAS[level](n, values)
    observed = (pairs * delta).sum(axis=(-1, -2))
    expected = np.einsum("...c,...k,...ck->...", n, n, delta)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected > 0, 1 - (total - 1) * observed / expected, np.nan)


def _finish_ac1(sums: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = sums[..., :-3] / sums[..., -3:-2]
        observed = sums[..., -2] / sums[..., -1]
        chance = (shares * (1 - shares)).sum(axis=-1) / max(shares.shape[-1] - 1, 1)
        return (observed - chance) / (1 - chance)


def _finish_cohen(table: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        share = table / table.sum(axis=(-1, -2), keepdims=True)
        observed = np.trace(share, axis1=-2, axis2=-1)
        chance = (share.sum(axis=-1) * share.sum(axis=-2)).sum(axis=-1)
        return np.where(chance < 1 - 1e-12, (observed - chance) / (1 - chance), np.nan)


def _finish_fleiss(sums: np.ndarray, n_annotators: int) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        counts, squares, n = sums[..., :-2], sums[..., -2], sums[..., -1]
        observed = (squares - n * n_annotators) / (n * n_annotators * (n_annotators - 1))
        chance = ((counts / (n * n_annotators)[..., None]) ** 2).sum(axis=-1)
        return np.where(chance < 1 - 1e-12, (observed - chance) / (1 - chance), np.nan)
