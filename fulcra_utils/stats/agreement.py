"""Agreement among annotators: Krippendorff's alpha, Gwet's AC1, Cohen's and Fleiss' kappa, with bootstrap intervals;
and Dawid and Skene's estimate of what they looked at.

Pure functions on arrays. Every statistic here is a function of sums over units, so a bootstrap over prompts needs the
sums of each prompt once and one matrix product for all draws. Axis letters: A annotators, N units (replies), L labels,
K names (values or items), P clusters (prompts), R bootstrap draws.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import softmax

from fulcra_utils.common.labels import CLASSES
from fulcra_utils.stats.resampling import code_clusters, draw_sums, sum_by_cluster, take_interval

LEVELS = ("nominal", "ordinal", "interval")
STATISTICS = ("observed", "alpha_nominal", "alpha_ordinal", "ac1", "cohen", "fleiss")


def krippendorff_alpha(ratings: np.ndarray, level: str = "nominal", labels: Sequence[float] | None = None) -> float:
    """Return Krippendorff's alpha: 1 is perfect agreement, 0 what chance gives, negative less.

    Ratings are (A, N), nan = not rated; units with fewer than two ratings are left out; nan when all that are left are
    the same label. `level` says how far apart two labels count: nominal, ordinal or interval; `labels` are the scale in
    ascending order (None: those that occur). Source: Krippendorff (2011), coincidence form.

    >>> krippendorff_alpha(np.array([[1, 2, 3], [1, 2, 3]]))
    1.0
    """
    if level not in LEVELS:
        raise ValueError(f"level is one of {', '.join(LEVELS)}, not {level!r}.")
    return _measure_one(ratings, f"alpha_{level}", labels)


def gwet_ac1(ratings: np.ndarray, labels: Sequence[float] | None = None) -> float:
    """Return Gwet's AC1, which stays high when nearly all units carry one label and the annotators agree on it.

    Ratings are (A, N), nan = not rated; a unit with one rating counts for the chance term only, in which the number of
    `labels` (None: those that occur) stands; nan when no unit has two. Source: Gwet (2008), British Journal of
    Mathematical and Statistical Psychology 61.

    >>> ratings = np.repeat([[0, 0, 1, 1], [0, 1, 0, 1]], [118, 5, 2, 0], axis=1)
    >>> round(gwet_ac1(ratings), 4)
    0.9408
    """
    return _measure_one(ratings, "ac1", labels)


def cohen_kappa(first: np.ndarray, second: np.ndarray, labels: Sequence[float] | None = None) -> float:
    """Return Cohen's unweighted kappa of two annotators, (N,) each, over the units that both rated (nan = not rated).

    nan without such a unit, or when both give one and the same label throughout. Source: Cohen (1960).

    >>> first, second = np.repeat([[1, 1, 0, 0], [1, 0, 1, 0]], [20, 5, 10, 15], axis=1)
    >>> round(cohen_kappa(first, second), 12)
    0.4
    """
    return _measure_one([first, second], "cohen", labels)


def measure_agreement(ratings: np.ndarray, names: Sequence[str], clusters: np.ndarray | None = None, draws: int = 1000,
                      seed: int = 0, labels: Sequence[float] = CLASSES) -> pd.DataFrame:
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
    codes, n_clusters = code_clusters(np.arange(ratings.shape[1]) if clusters is None else clusters)
    if len(codes) != ratings.shape[1]:
        raise ValueError(f"there are {len(codes)} clusters for {ratings.shape[1]} units.")
    sums = np.stack([sum_by_cluster(_sum_units(ratings[:, :, k], labels), codes, n_clusters)
                     for k in range(len(names))])  # (K, P, S)
    pooled = np.concatenate([sums, sums.sum(axis=0, keepdims=True)])  # (K + 1, P, S)
    points = _statistics(pooled.sum(axis=1), len(ratings), labels)
    drawn = _statistics(_draw_sums(pooled, draws, seed), len(ratings), labels)  # (R, K + 1) each
    low, high = take_interval(np.stack([drawn[s] for s in STATISTICS], axis=-1))
    rated = np.isfinite(ratings).sum(axis=0)  # (N, K)
    sizes = np.stack([(rated >= 2).sum(axis=0), rated.sum(axis=0)])
    n_units, n_ratings = np.repeat(np.column_stack([sizes, sizes.sum(axis=1)]), len(STATISTICS), axis=1)
    index = pd.MultiIndex.from_product([[*names, "overall"], STATISTICS], names=["name", "statistic"])
    return pd.DataFrame({"value": np.stack([points[s] for s in STATISTICS], axis=-1).ravel(), "low": low.ravel(),
                         "high": high.ravel(), "n_units": n_units, "n_ratings": n_ratings}, index=index).reset_index()


def fit_dawid_skene(ratings: np.ndarray, labels: Sequence[float] = CLASSES, n_steps: int = 1000,
                    tolerance: float = 1e-6) -> tuple[np.ndarray, np.ndarray]:
    """Return how probable each label of a unit is (N, L), and what each annotator calls units of each label (A, L, L).

    Ratings are (A, N), nan = not rated; a unit without a rating has nan. Most likely values by EM (the two are
    estimated in turn), started from the shares of the votes, until no probability moves by more than `tolerance`. The
    only smoothing is 1e-10 in every cell of an annotator's counts: what he never did is rare and not impossible.
    Source: Dawid and Skene (1979), Applied Statistics 28, equations 2.3 to 2.5 and 3.1.

    >>> ratings = np.array([[1, 1, 0, 0, 1], [1, 1, 0, 0, 0], [1, 1, 0, 0, np.nan], [0, 1, 0, 1, 0]])
    >>> fit_dawid_skene(ratings)[0].argmax(axis=1) - 1
    array([1, 1, 0, 0, 0])
    """
    hits = _mark_labels(np.asarray(ratings, dtype=float), labels)  # (A, N, L)
    probable, rated = np.full(hits.shape[1:], np.nan), hits.any(axis=(0, 2))
    probable[rated], confusion = _alternate(hits[:, rated], n_steps, tolerance)
    return probable, confusion


def _alternate(counts: np.ndarray, n_steps: int, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Run EM on how often each annotator gave each label to each unit, (A, N, L); every unit has a rating."""
    n_annotators, _, n_labels = counts.shape
    found, flat = counts.sum(axis=0) / counts.sum(axis=(0, 2))[:, None], np.concatenate(counts, axis=1)  # (N, A * L)
    for _ in range(n_steps):
        confusion = (found.T @ flat).reshape(n_labels, n_annotators, n_labels) + 1e-10
        confusion /= confusion.sum(axis=2, keepdims=True)
        with np.errstate(divide="ignore"):  # a label that nobody gave stays impossible
            likely = np.log(found.sum(axis=0)) + flat @ np.log(confusion).reshape(n_labels, -1).T
        before, found = found, softmax(likely, axis=1)
        if np.abs(found - before).max(initial=0) <= tolerance:
            break
    return found, confusion.transpose(1, 0, 2)


def _draw_sums(sums: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Return (R, K, S): the sums of bootstrap samples of the clusters of `sums` (K, P, S)."""
    flat = np.ascontiguousarray(sums.transpose(1, 0, 2).reshape(sums.shape[1], -1))  # (P, K * S)
    # clusters with equal sums are interchangeable: draw how often each kind comes, not which cluster
    kinds = flat.view(np.dtype((np.void, flat.dtype.itemsize * flat.shape[1]))).ravel()
    _, first, n_kind = np.unique(kinds, return_index=True, return_counts=True)
    return draw_sums(flat[first], draws, seed, n_kind).reshape(draws, len(sums), sums.shape[2])


def _measure_one(ratings: np.ndarray, statistic: str, labels: Sequence[float] | None) -> float:
    ratings = np.asarray(ratings, dtype=float)
    labels = np.unique(ratings[np.isfinite(ratings)]) if labels is None else labels
    return float(_statistics(_sum_units(ratings, labels).sum(axis=0), len(ratings), labels)[statistic])


def _mark_labels(ratings: np.ndarray, labels: Sequence[float]) -> np.ndarray:
    """Return (A, N, L): 1 at the label given. ValueError names the place of a rating that is none of the labels."""
    hits = (ratings[:, :, None] == np.asarray(labels)).astype(float)
    for a, n in np.argwhere(np.isfinite(ratings) & ~hits.any(axis=2)):
        raise ValueError(f"annotator {a}, unit {n}: rating {ratings[a, n]:g} is none of the labels {tuple(labels)}.")
    return hits


def _sum_units(ratings: np.ndarray, labels: Sequence[float]) -> np.ndarray:
    """Return (N, S): what the statistics need of each unit.

    Coincidences (L, L), the ordered pairs of ratings over one less than the ratings; share of each label, is rated,
    agreement of the pairs, has pairs; of complete units counts, their squares summed, 1; of two annotators alone a one
    at their labels (L, L).
    """
    hits = _mark_labels(ratings, labels)
    counts = hits.sum(axis=0)
    m, n_units = counts.sum(axis=1), len(counts)
    rated, paired, complete = m >= 1, m >= 2, (m == len(ratings))[:, None]
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(counts.shape[1])
    agreed = (counts * (counts - 1)).sum(axis=1) / np.where(paired, m * (m - 1), np.inf)
    parts = [(pairs / np.where(paired, m - 1, np.inf)[:, None, None]).reshape(n_units, -1),
             counts / np.where(rated, m, np.inf)[:, None], rated, agreed, paired, counts * complete,
             (counts**2).sum(axis=1) * complete[:, 0], complete]
    if len(ratings) == 2:
        parts.append((hits[0][:, :, None] * hits[1][:, None, :]).reshape(n_units, -1))
    return np.column_stack(parts)


def _statistics(sums: np.ndarray, n_annotators: int, labels: Sequence[float]) -> dict[str, np.ndarray]:
    """Return each statistic of an array of sums (..., S), shape (...)."""
    size = len(labels)
    pairs, ac1, fleiss, confusion = np.split(sums, np.cumsum([size * size, size + 3, size + 2]), axis=-1)
    pairs = pairs.reshape(*pairs.shape[:-1], size, size)
    with np.errstate(divide="ignore", invalid="ignore"):
        observed, shares = ac1[..., -2] / ac1[..., -1], ac1[..., :-3] / ac1[..., -3:-2]
        counts, squares, n = fleiss[..., :-2], fleiss[..., -2], fleiss[..., -1] * n_annotators
        found = {"observed": observed, **{f"alpha_{level}": _alpha(pairs, level, labels) for level in LEVELS},
                 "ac1": _exceed(observed, (shares * (1 - shares)).sum(axis=-1) / max(size - 1, 1)),
                 "cohen": np.full(sums.shape[:-1], np.nan),
                 "fleiss": _exceed((squares - n) / (n * (n_annotators - 1)),
                                   ((counts / n[..., None]) ** 2).sum(axis=-1))}
        if confusion.shape[-1]:
            share = confusion.reshape(pairs.shape)
            share = share / share.sum(axis=(-1, -2), keepdims=True)
            chance = (share.sum(axis=-1) * share.sum(axis=-2)).sum(axis=-1)
            found["cohen"] = _exceed(np.trace(share, axis1=-2, axis2=-1), chance)
    return found


def _exceed(observed: np.ndarray, chance: np.ndarray) -> np.ndarray:
    return np.where(chance < 1 - 1e-12, (observed - chance) / (1 - chance), np.nan)


def _alpha(pairs: np.ndarray, level: str, labels: Sequence[float]) -> np.ndarray:
    """Return alpha from coincidences (..., L, L): labels differ or not, by the ratings between, or by their numbers."""
    n = pairs.sum(axis=-1)  # (..., L)
    place = np.cumsum(n, axis=-1) - n / 2 if level == "ordinal" else np.broadcast_to(labels, n.shape)
    delta = (place[..., :, None] - place[..., None, :]) ** 2.0
    delta = 1.0 * (delta > 0) if level == "nominal" else delta
    expected = np.einsum("...c,...k,...ck->...", n, n, delta)
    return np.where(expected > 0, 1 - (n.sum(axis=-1) - 1) * (pairs * delta).sum(axis=(-1, -2)) / expected, np.nan)
