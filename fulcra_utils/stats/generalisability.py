"""How much of a score is due to what: variance components of crossed and nested facets, and what follows from them.

Arrays in, numbers out. Axis letters: N rows, D values, G clusters (prompts), B draws, L levels of a term, K terms.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats as sps

from fulcra_utils.stats.comparison import bootstrap_correlations, correlate
from fulcra_utils.stats.resampling import (
    as_matrix,
    bootstrap_means,
    code_clusters,
    draw_sums,
    share_interval,
    sum_by_cluster,
    take_interval,
)

MOST_CLUSTERS = 2_000     # more prompts than these are drawn in bundles of prompts
MIN_PROMPTS = 5           # percentiles of draws of fewer are far too narrow, of two alike values without width


def estimate_components(values: np.ndarray, terms: Mapping[str, Sequence], clusters: Sequence, n_draws: int = 500,
                        seed: int = 0) -> np.ndarray:
    """Estimate the variance of each term of a random model, (1 + B, K, D): first of all rows, then of prompts drawn.

    `values` (N, D) are complete; `terms` name the level (N,) of each row, from coarse to fine; the last one is what is
    left, a level a row. A term lies within clusters (N,) or its levels are found in many of them. Variances may be
    negative; all nan where terms cannot be told apart, as may happen in a draw. Source: Henderson's method 1 (1953),
    sums of squares set equal to what is expected of them: unbiased, and in a balanced design the analysis of variance.
    What has few levels (models) may be a fixed effect: its variance is then that of the levels at hand, divisor L - 1.

    >>> rows = {"person": [0, 0, 1, 1], "rest": [0, 1, 2, 3]}
    >>> estimate_components(np.array([[1.0], [3.0], [5.0], [7.0]]), rows, [0, 0, 1, 1], 0).ravel()
    array([7., 2.])
    """
    values = np.asarray(values, float)
    values, (codes, n_clusters) = values - values.mean(axis=0), code_clusters(clusters)
    codes, n_clusters = codes % MOST_CLUSTERS, min(n_clusters, MOST_CLUSTERS)
    levels = [code_clusters(np.zeros(len(values)))[0], *(code_clusters(level)[0] for level in terms.values())]
    parts = [_sum_term(values, level, levels[1:], codes, n_clusters) for level in levels]
    flat = [part.reshape(n_clusters, -1) for some, _ in parts for part in some]
    drawn = np.hstack(flat)
    drawn = np.vstack([drawn.sum(axis=0), draw_sums(drawn, n_draws, seed)])
    columns = iter(np.split(drawn, np.cumsum([part.shape[1] for part in flat])[:-1], axis=1))
    whole = [([next(columns).reshape(len(drawn), *part.shape[1:]) for part in some], joints) for some, joints in parts]
    squares, expected = zip(*(_expect_term(*one) for one in whole), strict=True)
    left = np.stack(expected[1:], axis=1) - expected[0][:, None]            # (1 + B, K, K)
    is_clear = np.isfinite(left).all(axis=(1, 2))
    is_clear[is_clear] = np.linalg.cond(left[is_clear]) < 1e8
    found = np.full((len(drawn), len(terms), values.shape[1]), np.nan)
    found[is_clear] = np.linalg.solve(left[is_clear], (np.stack(squares[1:], axis=1) - squares[0][:, None])[is_clear])
    return found


def _sum_term(values: np.ndarray, level: np.ndarray, levels: Sequence[np.ndarray], codes: np.ndarray,
              n_clusters: int) -> tuple[list[np.ndarray], list[tuple[int, np.ndarray]]]:
    """Return sums over the rows of each cluster from which `_expect_term` knows a term's squares and expectations.

    Within clusters: squares (G, D) and expectations (G, K). Else for its levels sums (G, L, D), counts (G, L), squared
    counts of what lies within clusters (G, L, K), and counts (G, J) for each term that does not, with whose level
    each of the J is: (place of the term, (J,)).
    """
    joint = code_clusters(codes * (level.max() + 1) + level)[0]          # a level in a cluster
    first = np.unique(joint, return_index=True)[1]
    owner, whose = codes[first], level[first]
    sums, n = sum_by_cluster(values, joint, len(first)), np.bincount(joint)
    finer = [code_clusters(joint * (other.max() + 1) + other)[0] for other in levels]
    counts = [(np.bincount(one), np.unique(one, return_index=True)[1]) for one in finer]
    squares = np.column_stack([np.bincount(joint[where], count.astype(float)**2) for count, where in counts])
    if len(first) == level.max() + 1:
        return [sum_by_cluster(sums**2 / n[:, None], owner, n_clusters),
                sum_by_cluster(squares / n[:, None], owner, n_clusters)], []
    place = owner * (level.max() + 1) + whose
    spread = [np.zeros((n_clusters * (level.max() + 1), *part.shape[1:])) for part in (sums, n, squares)]
    for whole, part in zip(spread, (sums, n, squares), strict=True):
        whole[place] = part
    spread, joints = [whole.reshape(n_clusters, level.max() + 1, *whole.shape[1:]) for whole in spread], []
    for k, other in enumerate(levels):
        if len(np.unique(codes * (other.max() + 1) + other)) > other.max() + 1:
            both = code_clusters(level * (other.max() + 1) + other)[0]
            spread.append(np.zeros((n_clusters, both.max() + 1)))
            np.add.at(spread[-1], (codes, both), 1)
            joints.append((k, level[np.unique(both, return_index=True)[1]]))
    return spread, joints


def _expect_term(sums: Sequence[np.ndarray], joints: Sequence[tuple[int, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return a term's squares (1 + B, D) and what each variance adds to their expectation, (1 + B, K)."""
    if len(sums) == 2:
        return sums[0], sums[1]
    total, n, squares, *counts = sums
    n = np.where(n > 0, n, np.nan)
    for (k, whose), count in zip(joints, counts, strict=True):
        squares[..., k] = count**2 @ np.eye(n.shape[1])[whose]
    return np.nansum(total**2 / n[..., None], axis=1), np.nansum(squares / n[..., None], axis=1)


def widen_level(n_clusters: int, level: float = 0.95) -> float:
    """Return the level at which percentiles of draws of few clusters cover `level` (Hesterberg 2015, expanded).

    >>> round(widen_level(40), 3), round(widen_level(100_000), 3)
    (0.959, 0.95)
    """
    half = np.sqrt(n_clusters / (n_clusters - 1)) * sps.t.ppf((1 + level) / 2, n_clusters - 1)
    return float(1 - 2 * sps.norm.sf(half))


def mean_ends(values: np.ndarray, clusters: Sequence, n_draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends (K,) of a 95 % bootstrap interval of column means (N, K), widened where prompts are few.

    nan in a column is left out; its ends are nan where fewer than `MIN_PROMPTS` clusters have a number.

    >>> low, high = mean_ends(np.arange(8.0)[:, None], np.arange(8), 200, 0)
    >>> bool(low[0] < 2.2 and high[0] > 4.8)
    True
    """
    n = (sum_by_cluster(np.isfinite(as_matrix(values)), *code_clusters(clusters)) > 0).sum(axis=0)
    draws = np.where(n < MIN_PROMPTS, np.nan, bootstrap_means(values, clusters, n_draws, seed))
    return tuple(np.transpose([take_interval(column, widen_level(max(k, 2))) for column, k in zip(
        draws.T, n, strict=True)]))


def detect_difference(sd: np.ndarray, n: np.ndarray, power: float = 0.8) -> np.ndarray:
    """Return the smallest mean difference that n pairs show with this power, two-sided at 5 %; sd is of one pair.

    nan below 3 pairs; t quantiles stand in for normal ones, which is a little careful (Cohen 1988, section 2.4).

    >>> round(float(detect_difference(1.0, 34)), 2)
    0.5
    """
    free = np.where(np.asarray(n) > 2, np.asarray(n) - 1.0, np.nan)
    return (sps.t.ppf(0.975, free) + sps.t.ppf(power, free)) * np.asarray(sd) / np.sqrt(free + 1)


def count_flips(scores: np.ndarray, groups: Sequence, parts: Sequence, clusters: Sequence,
                pooled: bool = False) -> tuple[np.ndarray, ...]:
    """Return the share of pairs of rows of a group whose signs differ, low and high (D,), between and within its parts.

    Of all pairs of rows (N, D) in a group (N,) those of two parts (N,) count first, (share, low, high), then those of
    one part. 0 and nan differ from nothing; intervals over clusters (N,). `pooled`: of all columns together, D = 1.

    >>> between, within = count_flips(np.array([[1.0], [2.0], [-1.0]]), [0, 0, 0], [0, 0, 1], [0, 0, 0])
    >>> between[0], within[0]
    (array([1.]), array([0.]))
    """
    scores = np.asarray(scores, float)
    part, n_parts = code_clusters(np.asarray(parts))
    group, n_groups = code_clusters(np.asarray(groups))
    cell = code_clusters(group * n_parts + part)[0]
    first = np.unique(cell, return_index=True)[1]
    plus, minus, n = (sum_by_cluster(one, cell, len(first)) for one in (scores > 0, scores < 0, np.isfinite(scores)))
    within, all_within = plus * minus, n * (n - 1) / 2
    owner = group[first]
    whole = [sum_by_cluster(x, owner, n_groups) for x in (plus, minus, n, within, all_within)]
    between, all_between = whole[0] * whole[1] - whole[3], whole[2] * (whole[2] - 1) / 2 - whole[4]
    start = np.unique(group, return_index=True)[1]
    ids = np.asarray(clusters)
    if pooled:
        between, all_between, within, all_within = (
            x.sum(axis=1, keepdims=True) for x in (between, all_between, within, all_within))
    return (share_interval(between, all_between, ids[start]), share_interval(within, all_within, ids[first]))


def explain_scores(scores: np.ndarray, controls: np.ndarray, clusters: Sequence, n_draws: int = 500,
                   seed: int = 0) -> tuple[float, np.ndarray]:
    """Return which share of the variance of scores (N,) controls (N, C) explain linearly, R² and its draws (B,).

    Controls that do not vary explain nothing. A draw is nan where it cannot tell of a control that counts in R²: one
    that does not vary in it, or that departs from its commonest value in too few prompts (`bootstrap_correlations`).

    >>> x = np.arange(6.0)
    >>> round(explain_scores(2 * x, np.column_stack([x, np.ones(6)]), range(6), 5)[0], 6)
    1.0
    """
    told = np.column_stack([controls, scores])
    codes = code_clusters(clusters)[0] % MOST_CLUSTERS
    whole = np.concatenate([correlate(told, told)[0][None], bootstrap_correlations(told, told, codes, n_draws, seed)])
    varies = np.isfinite(whole[0, -1])
    is_known, whole = varies[-1] & np.isfinite(whole[:, -1, varies]).all(axis=1), np.nan_to_num(whole)
    own, shared = whole[:, :-1, :-1], whole[:, :-1, -1:]
    found = (shared.transpose(0, 2, 1) @ np.linalg.pinv(own, rcond=1e-9, hermitian=True) @ shared)[:, 0, 0]
    found = np.where(is_known, np.clip(found, 0, 1), np.nan)
    return float(found[0]), found[1:]
