"""Two theories side by side: the same replies scored under both, what they share, and which tells more of the reward.

Axis letters: N replies, D and E dimensions of the first and the second theory, M pairs of replies, B bootstrap draws. A
row that misses a score under either theory is left out.
"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd

from fulcra_utils.stats.comparison import adjust_p, bootstrap_correlations, correlate
from fulcra_utils.stats.probes import answer_pairs, assign_folds, pair_replies, probe_preference
from fulcra_utils.stats.resampling import bootstrap_means, summarise_draws, take_interval

MIN_PROMPTS = 10  # with fewer, a bootstrap over prompts knows nothing of their spread


def cross_dimensions(first: pd.DataFrame, second: pd.DataFrame, clusters: np.ndarray, n_draws: int = 1000,
                     seed: int = 2023) -> pd.DataFrame:
    """Correlate every dimension of one theory with every dimension of the other, on replies complete under both.

    `first` (N, D), `second` (N, E), a column a dimension, nan = not scored; `clusters` (N,) the prompt of each reply.
    Returns first, second, r (Pearson), low, high (bootstrap over prompts), p_adjusted (robust over prompts, by Holm's
    rule over all pairs), n: nan where a dimension does not vary, no interval and no p with fewer than 10 prompts.

    >>> x = pd.DataFrame({"a": [1.0, 0.0, -1.0, 0.5]})
    >>> cross_dimensions(x, -x, np.arange(4), n_draws=50).r.tolist()
    [-1.0]
    """
    x, y, prompts = _complete(first, second, clusters)
    r, p = correlate(x, y, prompts)
    low = high = np.full_like(r, np.nan)
    if len(np.unique(prompts)) >= MIN_PROMPTS:
        low, high = take_interval(bootstrap_correlations(x, y, prompts, n_draws, seed))
    p = adjust_p(p.ravel(), "holm") if np.isfinite(low).any() else low.ravel()
    index = pd.MultiIndex.from_product([first.columns, second.columns], names=["first", "second"])
    return pd.DataFrame({"r": r.ravel(), "low": low.ravel(), "high": high.ravel(), "p_adjusted": p,
                         "n": len(x)}, index=index).reset_index()


def correlate_canonically(first: np.ndarray, second: np.ndarray, clusters: np.ndarray, n_draws: int = 1000,
                          seed: int = 2023, n_components: int = 3, n_folds: int = 5,
                          penalty: float = 0.1) -> pd.DataFrame:
    """Find the mixtures of both theories' dimensions that go together most, and how much holds on new prompts.

    `penalty` is added to the variances of the standardised dimensions and keeps directions without variance out.
    Returns component (from 1), fitted (on all rows; optimistic), held_out, low, high (prompts drawn again, nothing
    refitted); no rows with fewer prompts than twice the folds or without variance. Source: Hotelling (1936),
    regularised after Vinod (1976); the held-out estimate is ours.

    >>> x = np.random.default_rng(0).normal(size=(200, 2))
    >>> correlate_canonically(x, x[:, :1] + 0.01, np.arange(200), n_draws=50).held_out.round(2).tolist()
    [1.0]
    """
    x, y, prompts = _complete(first, second, clusters)
    x, y = (v[:, v.std(axis=0) > 1e-12] if len(v) else v for v in (x, y))
    k = min(n_components, x.shape[1], y.shape[1])
    if k == 0 or len(np.unique(prompts)) < 2 * n_folds:
        return pd.DataFrame(columns=["component", "fitted", "held_out", "low", "high"])
    a, b = _fit_canonical(x, y, penalty, k)
    fitted = np.diagonal(correlate(_scale(x, x) @ a, _scale(y, y) @ b)[0])
    u, v = np.zeros((len(x), k)), np.zeros((len(x), k))
    folds = assign_folds(prompts, n_folds, seed)
    for fold in np.unique(folds):
        test = folds == fold
        a, b = _fit_canonical(x[~test], y[~test], penalty, k)
        # mixtures of different folds may be turned round together: centred within the fold, their products agree
        for side, values, mix in ((u, x, a), (v, y, b)):
            mixed = _scale(values[test], values[~test]) @ mix
            side[test] = mixed - mixed.mean(axis=0)
    low, high = take_interval(np.diagonal(bootstrap_correlations(u, v, prompts, n_draws, seed), axis1=1, axis2=2))
    return pd.DataFrame({"component": np.arange(1, k + 1), "fitted": fitted,
                         "held_out": np.diagonal(correlate(u, v)[0]), "low": low, "high": high})


def compare_predictions(features: Mapping[str, np.ndarray], rewards: np.ndarray, prompts: np.ndarray,
                        clusters: np.ndarray, n_permutations: int = 100, n_draws: int = 1000,
                        seed: int = 2023) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ask which theory tells better which of two replies to a prompt has the higher reward.

    `features` holds value vectors (N, K) of the same replies by theory, `rewards` (N,) with nan = unknown; pairs are
    replies to one prompt, folds and draws keep `clusters` whole. Returns theory, accuracy, low, high, null, p, n_pairs,
    n_clusters, all on the same pairs and folds (see `probe_preference`); and first, second, difference (of accuracies),
    low, high, p (two-sided, from the bootstrap over prompts), without rows when there are too few prompts. Source:
    pairwise task of GPLA (arXiv 2502.02444); the paired test over prompts is ours.

    >>> random = np.random.default_rng(0)
    >>> x, prompts = random.normal(size=(200, 1)), np.repeat(np.arange(100), 2)
    >>> _, table = compare_predictions({"good": x, "bad": random.normal(size=(200, 1))}, x[:, 0], prompts, prompts,
    ...                                n_permutations=5, n_draws=200)
    >>> bool(table.difference[0] > 0.3), bool(table.p[0] < 0.05)
    (True, True)
    """
    complete = np.all([np.isfinite(x).all(axis=1) for x in features.values()], axis=0)
    pairs = pair_replies(prompts, np.where(complete, rewards, np.nan))
    wins, groups = np.greater(*np.asarray(rewards)[pairs.T]), np.asarray(clusters)[pairs[:, 0]]
    gaps = {name: np.subtract(*np.asarray(x)[pairs.T]) for name, x in features.items()}
    found = pd.DataFrame([{"theory": name, **probe_preference(x, wins, groups, n_permutations=n_permutations,
                                                              n_draws=n_draws, seed=seed)} for name, x in gaps.items()])
    right = {name: answer_pairs(x, wins, groups, seed=seed) for name, x in gaps.items()
             if found.accuracy.notna().all()}
    rows = []
    for first, second in combinations(right, 2):
        gap = right[first] - right[second]
        drawn = bootstrap_means(gap, groups, n_draws, seed)[:, 0]
        p = min(1.0, 2 * (1 + min((drawn <= 0).sum(), (drawn >= 0).sum())) / (1 + n_draws))
        rows.append((first, second, *summarise_draws(gap.mean(), drawn).values(), p))
    return found, pd.DataFrame(rows, columns=["first", "second", "difference", "low", "high", "p"])


def describe_prediction(accuracies: pd.DataFrame, differences: pd.DataFrame) -> str:
    """Say in words which theory tells more of the reward, and whether the difference is sure."""
    if differences.empty:
        return "Too few prompts have replies with different rewards, so the theories cannot be compared here."
    parts = []
    for row in differences.itertuples():
        sure = "leaves out 0" if row.low > 0 or row.high < 0 else "holds 0, so neither is ahead"
        parts.append(f"*{row.first}* minus *{row.second}*: {100 * row.difference:+.1f} points ({100 * row.low:+.1f} to "
                     f"{100 * row.high:+.1f}), the interval {sure}")
    return f"On the same {accuracies.n_pairs.max():,} pairs, " + "; ".join(parts) + "."


def _complete(first: np.ndarray, second: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, ...]:
    x, y = np.asarray(first, float), np.asarray(second, float)
    keep = np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1)
    return x[keep], y[keep], np.asarray(clusters)[keep]


def _scale(values: np.ndarray, by: np.ndarray) -> np.ndarray:
    return (values - by.mean(axis=0)) / np.where(by.std(axis=0) > 1e-12, by.std(axis=0), 1)


def _fit_canonical(x: np.ndarray, y: np.ndarray, penalty: float, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mixtures (D, k) and (E, k) of standardised dimensions with the largest correlations."""
    x, y = _scale(x, x), _scale(y, y)
    roots = []
    for values in (x, y):
        size, turn = np.linalg.eigh(values.T @ values / len(values) + penalty * np.eye(values.shape[1]))
        roots.append(turn / np.sqrt(size) @ turn.T)
    u, _, vt = np.linalg.svd(roots[0] @ (x.T @ y / len(x)) @ roots[1])
    return roots[0] @ u[:, :k], roots[1] @ vt[:k].T
