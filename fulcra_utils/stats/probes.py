"""Probes: what value vectors alone tell about a preference, a reward or a risk, next to what a control tells.

A probe is a small linear model, fitted and judged on different prompts, with a bootstrap interval over prompts and a
permutation null that keeps the replies to one prompt together. Pure functions; axis letters: N rows, M pairs, K
features, C classes, B draws.
"""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from fulcra_utils.stats.resampling import bootstrap_means, bootstrap_sums, code_clusters, take_interval


def assign_folds(clusters: np.ndarray, n_folds: int = 5, seed: int = 0) -> np.ndarray:
    """Deal whole clusters into folds of nearly equal numbers of clusters: the fold of each row, (N,)."""
    codes, n_clusters = code_clusters(clusters)
    if n_clusters < n_folds:
        raise ValueError(f"{n_clusters} prompts cannot be dealt into {n_folds} folds")
    return np.random.default_rng(seed).permutation(np.arange(n_clusters) % n_folds)[codes]


def permute_clusters(clusters: np.ndarray, n_permutations: int, seed: int = 0) -> np.ndarray:
    """Shuffle whole clusters among clusters of the same size: row indices (n_permutations, N).

    Row n gets what row `indices[p, n]` had; the rows of one prompt stay together, in mixed order. Clusters whose size
    occurs once are shuffled among each other, and a single one gets any cluster's: as many rows as it has are drawn,
    with replacement where the other has fewer.
    """
    codes, rng = code_clusters(clusters)[0], np.random.default_rng(seed)
    order, sizes = np.argsort(codes, kind="stable"), np.bincount(codes)
    moved = np.empty((n_permutations, len(codes)), int)
    for size in np.unique(sizes):
        blocks = order[sizes[codes[order]] == size].reshape(-1, size)
        for p in range(n_permutations):
            moved[p, blocks] = rng.permuted(rng.permutation(blocks), axis=1)
    rows, alone = np.split(order, np.cumsum(sizes)[:-1]), np.flatnonzero(np.bincount(sizes)[sizes] == 1)
    for p in range(n_permutations if len(sizes) > 1 else 0):
        others = rng.permutation(alone) if len(alone) > 1 else rng.integers(len(sizes), size=len(alone))
        for mine, other in zip(alone, others, strict=True):
            moved[p, rows[mine]] = rng.choice(rows[other], sizes[mine], replace=sizes[mine] > sizes[other])
    return moved


def pair_replies(prompts: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return all pairs of replies to one prompt with different scores: row indices (M, 2), the lower one first.

    >>> pair_replies(["a", "b", "a", "a"], [1.0, 5.0, 2.0, 1.0])
    array([[0, 2],
           [2, 3]])
    """
    table = pd.DataFrame({"prompt": code_clusters(prompts)[0], "score": scores}, dtype=float).dropna()
    pairs = [pair for rows in table.groupby("prompt").groups.values() for pair in combinations(rows, 2)]
    first, second = np.array(pairs, int).reshape(-1, 2).T
    return np.column_stack([first, second])[table.score[first].to_numpy() != table.score[second].to_numpy()]


def fit_preference(differences: np.ndarray, wins: np.ndarray, penalty: float = 1.0, start: np.ndarray | None = None
                   ) -> np.ndarray:
    """Fit a Bradley-Terry model whose strengths are linear in the features: weights w (K,), by Newton's method.

    P(first is preferred) = 1 / (1 + exp(-w · (x_first - x_second))); no constant, so swapping the two replies swaps the
    answer. The ridge penalty/2 · |w|² keeps w finite under perfect separation. `start` are weights near to the result:
    they save time. Source: Bradley & Terry (1952).

    >>> w = fit_preference([[1.0], [1.0], [1.0], [1.0]], [1, 1, 1, 0], penalty=1e-9)
    >>> round(float(w[0]), 4)                                         # log(3 / 1)
    1.0986
    """
    x, y = np.asarray(differences, float), np.asarray(wins, float)
    w = np.zeros(x.shape[1]) if start is None else start
    for _ in range(25):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        curve = (x * (p * (1 - p))[:, None]).T @ x + penalty * np.eye(len(w))
        step = np.linalg.solve(curve, x.T @ (y - p) - penalty * w)
        w = w + step / max(1.0, np.abs(step).max() / 5)
        if np.abs(step).max() < 1e-8:
            break
    return w


def answer_pairs(differences: np.ndarray, wins: np.ndarray, clusters: np.ndarray, n_folds: int = 5,
                 seed: int = 2023) -> np.ndarray:
    """Return whether the preference model of the other folds finds the preferred reply of each pair, (M,).

    1 right, 0 wrong, 0.5 undecided; features are scaled by their root mean square.
    """
    x, y = np.asarray(differences, float), np.asarray(wins, float)
    x = x / np.sqrt(np.where((x**2).any(axis=0), (x**2).mean(axis=0), 1))
    folds, margin = assign_folds(clusters, n_folds, seed), np.zeros(len(y))
    for fold in np.unique(folds):
        test = folds == fold
        margin[test] = x[test] @ fit_preference(x[~test], y[~test])
    return np.where(np.abs(margin) < 1e-12, 0.5, (margin > 0) == (y > 0.5))


def probe_preference(differences: np.ndarray, wins: np.ndarray, clusters: np.ndarray, n_folds: int = 5,
                     n_permutations: int = 200, n_draws: int = 2000, seed: int = 0) -> dict[str, float]:
    """Measure how well features alone tell which of two replies is preferred, on prompts not used for fitting.

    Differences are (M, K), first minus second; wins (M,) are 1 where the first is preferred. accuracy is the share of
    right pairs, low to high a bootstrap over prompts of the out-of-fold answers (the refitting is not resampled), null
    the 95 % quantile when the preferences of whole prompts are turned round at random, p its p value. All nan with
    fewer prompts than twice the folds. Source: pairwise task of GPLA (2502.02444).

    >>> d = np.random.default_rng(0).normal(size=(200, 1))
    >>> found = probe_preference(d, d[:, 0] > 0, np.arange(200), n_permutations=19)
    >>> found["accuracy"], found["p"]
    (1.0, 0.05)
    """
    x, y = np.asarray(differences, float), np.asarray(wins, float)
    codes, n_clusters = code_clusters(clusters) if len(y) else (np.empty(0, int), 0)
    sizes = {"n_pairs": len(y), "n_clusters": n_clusters}
    if n_clusters < 2 * n_folds:
        return dict.fromkeys(("accuracy", "low", "high", "null", "p"), np.nan) | sizes
    rng = np.random.default_rng(seed)
    turned = [np.zeros(len(y)), *(rng.integers(0, 2, n_clusters)[codes] for _ in range(n_permutations))]
    right, *nulls = (answer_pairs(x, np.where(t == 1, 1 - y, y), codes, n_folds, seed) for t in turned)
    draws = bootstrap_means(right, codes, n_draws, seed)[:, 0]
    return _describe("accuracy", right.mean(), draws, np.mean(np.reshape(nulls, (-1, len(y))), axis=1)) | sizes


def measure_gain(base: np.ndarray, more: np.ndarray, wins: np.ndarray, clusters: np.ndarray, n_folds: int = 5,
                 n_draws: int = 2000, seed: int = 0) -> dict[str, float]:
    """Measure how many more preferences are told right when features are added, paired over the same pairs.

    gain is the difference of the accuracies, with its own interval; nan with fewer prompts than twice the folds.
    """
    y, (codes, n_clusters) = np.asarray(wins, float), code_clusters(clusters)
    if n_clusters < 2 * n_folds:
        return dict.fromkeys(("gain", "low", "high"), np.nan)
    first, second = (answer_pairs(x, y, codes, n_folds, seed) for x in (base, more))
    low, high = take_interval(bootstrap_means(second - first, codes, n_draws, seed)[:, 0])
    return {"gain": float((second - first).mean()), "low": float(low), "high": float(high)}


def predict_ridge(features: np.ndarray, targets: np.ndarray, folds: np.ndarray, penalty: float = 1.0) -> np.ndarray:
    """Predict targets (N, P) from standardised features (N, K) by ridge regressions fitted on the other folds.

    >>> x = np.arange(6.0)[:, None]
    >>> predict_ridge(x, 2 * x, np.array([0, 1, 0, 1, 0, 1]), penalty=1e-9).round(3).ravel()
    array([ 0.,  2.,  4.,  6.,  8., 10.])
    """
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import PredefinedSplit, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model, targets = make_pipeline(StandardScaler(), Ridge(penalty, solver="cholesky")), np.asarray(targets, float)
    predicted = cross_val_predict(model, np.asarray(features, float), targets, cv=PredefinedSplit(folds))
    return predicted.reshape(targets.shape)  # scikit-learn drops the axis of a single target


def fit_logistic(features: np.ndarray, truth: np.ndarray) -> Any:
    """Fit a logistic regression of labels (N,) on standardised features (N, K): scikit-learn's pipeline of the two.

    >>> fit_logistic(np.arange(4.0)[:, None], [0, 0, 1, 1]).predict_proba([[1.5]]).round(3).tolist()
    [[0.5, 0.5]]
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression()).fit(features, truth)


def probe_number(features: np.ndarray, target: np.ndarray, clusters: np.ndarray, n_folds: int = 5,
                 n_permutations: int = 200, n_draws: int = 2000, seed: int = 0) -> dict[str, float]:
    """Measure how well features (N, K) predict a number (N,) on new prompts: cross-validated R².

    1 = perfect, 0 = no better than the mean, may be negative; the null shuffles whole prompts, the rest is as in
    `probe_preference`. nan with fewer prompts than twice the folds or a constant target.
    """
    y, (codes, n_clusters) = np.asarray(target, float), code_clusters(clusters)
    sizes = {"n_rows": len(y), "n_clusters": n_clusters}
    if n_clusters < 2 * n_folds or np.ptp(y) == 0:
        return dict.fromkeys(("r2", "low", "high", "null", "p"), np.nan) | sizes
    shuffled = y[np.vstack([np.arange(len(y)), permute_clusters(codes, n_permutations, seed)])].T
    errors = (shuffled - predict_ridge(features, shuffled, assign_folds(codes, n_folds, seed))) ** 2
    spread = (shuffled - shuffled.mean(axis=0)) ** 2    # other rows where clusters are of unlike sizes
    r2 = 1 - errors.sum(axis=0) / np.maximum(spread.sum(axis=0), 1e-12)
    sums = bootstrap_sums(np.column_stack([errors[:, 0], spread[:, 0]]), codes, n_draws, seed)
    draws = 1 - np.divide(*sums.T, out=np.full(n_draws, np.nan), where=sums[:, 1] > 0)
    return _describe("r2", r2[0], draws, r2[1:]) | sizes


def probe_category(features: np.ndarray, categories: np.ndarray, clusters: np.ndarray, n_folds: int = 5,
                   n_permutations: int = 200, n_draws: int = 2000, seed: int = 0) -> dict[str, float]:
    """Measure how well features tell the category of a row on new prompts: balanced accuracy, 1 / C = chance.

    Least-squares classifier with equal priors (Hastie et al. 2009, section 4.2): linear in the labels, so that all
    permutations are one solve. nan with one category or too few prompts; the rest is as in `probe_preference`.

    >>> x = np.repeat(np.eye(3), 20, axis=0)
    >>> probe_category(x, x.argmax(axis=1), np.arange(60), n_permutations=19)["accuracy"]
    1.0
    """
    (labels, k), (codes, n_clusters) = code_clusters(categories), code_clusters(clusters)
    sizes = {"n_rows": len(labels), "n_clusters": n_clusters}
    if n_clusters < 2 * n_folds or k < 2:
        return dict.fromkeys(("accuracy", "low", "high", "null", "p"), np.nan) | sizes
    moved = np.vstack([np.arange(len(labels)), permute_clusters(codes, n_permutations, seed)])
    wanted = labels[moved].T    # (N, 1 + permutations), each with numbers of its own where clusters are of unlike sizes
    counts = np.array([np.bincount(column, minlength=k) for column in wanted.T])
    weights = len(labels) / np.maximum(counts, 1)   # (1 + permutations, C)
    onehot = (np.eye(k)[wanted] * weights).reshape(len(labels), -1)
    answers = predict_ridge(features, onehot, assign_folds(codes, n_folds, seed))
    answers = answers.reshape(*wanted.shape, k).argmax(axis=2)
    scores = (weights[np.arange(len(weights)), wanted] * (answers == wanted)).mean(axis=0) / (counts > 0).sum(axis=1)
    right = np.where(np.eye(k)[labels] > 0, (answers[:, 0] == labels)[:, None], np.nan)
    draws = bootstrap_means(right, codes, n_draws, seed).mean(axis=1)
    return _describe("accuracy", scores[0], draws, scores[1:]) | sizes


def _describe(name: str, observed: float, draws: np.ndarray, nulls: np.ndarray) -> dict[str, float]:
    """Return a score with its interval, the 95 % quantile of its null and the permutation p value."""
    (low, high), null, p = take_interval(draws), np.nan, np.nan
    if len(nulls):
        null, p = np.quantile(nulls, 0.95), (1 + np.sum(nulls >= observed - 1e-12)) / (1 + len(nulls))
    return {name: float(observed), "low": float(low), "high": float(high), "null": float(null), "p": float(p)}
