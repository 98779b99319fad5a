"""Choose prompts for a data set: stratified by risk category, spread over meaning, away from the test prompts.

Axis letters: N prompts of the pool, H components of an embedding (unit vectors), n chosen prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

METHODS = ("random", "stratified", "k-centre", "k-means")
NO_CATEGORY = "none"


def assign_strata(categories: Sequence[Sequence[str] | None]) -> np.ndarray:
    """Return one category for each prompt: its rarest in the pool, "none" for a prompt without any.

    Parameters
    ----------
    categories : sequence of (sequence of str or None), length N

    Returns
    -------
    array of str, shape (N,)

    Source: ours; the rarest one, so that rare risks get strata of their own.

    Examples
    --------
    >>> assign_strata([["theft"], ["theft", "privacy"], []]).tolist()
    ['theft', 'privacy', 'none']
    """
    lists = [list(names) if names is not None else [] for names in categories]
    counts = Counter(name for names in lists for name in names)
    return np.array([min(names, key=lambda name: (counts[name], name)) if names else NO_CATEGORY for names in lists],
                    dtype=object)


def allot_quotas(sizes: dict[str, int], n: int) -> dict[str, int]:
    """Share n places among strata as equally as their sizes allow; what a small stratum leaves goes to the others.

    Parameters
    ----------
    sizes : dict of str to int
    n : int

    Returns
    -------
    dict of str to int
        Sums to the smaller of n and all sizes together.

    Source: ours.

    Examples
    --------
    >>> allot_quotas({"a": 100, "b": 2, "c": 100}, 12)
    {'a': 5, 'b': 2, 'c': 5}
    """
    quotas = dict.fromkeys(sizes, 0)
    for _ in range(min(n, sum(sizes.values()))):
        quotas[min((name for name in sizes if quotas[name] < sizes[name]), key=quotas.get)] += 1
    return quotas


def select_prompts(embeddings: np.ndarray, categories: Sequence[Sequence[str] | None], n: int, method: str = "k-means",
                   seed: int = 0, allowed: np.ndarray | None = None) -> np.ndarray:
    """Choose n prompts of a pool.

    Parameters
    ----------
    embeddings : array, shape (N, H)
        Unit vectors.
    categories : sequence of (sequence of str or None), length N
    n : int
    method : {"random", "stratified", "k-centre", "k-means"}
        "random" ignores categories; the others share the places among the categories. "stratified" draws at random
        within a category, "k-centre" takes the prompt farthest from all chosen ones, "k-means" the prompt nearest to
        the centre of each of as many clusters as there are places.
    seed : int
    allowed : array of bool, shape (N,), optional
        Prompts that may be chosen; see `find_leaks`.

    Returns
    -------
    array of int, shape (n,) or less
        Sorted indices into the pool; fewer when fewer are allowed.

    Raises
    ------
    ValueError
        For an unknown method, or arrays of different lengths.

    Source: ours; the paper's prompts were chosen for sparse values by a method that is not published here.

    Examples
    --------
    >>> pool = np.eye(4)[[0, 0, 0, 1]]
    >>> select_prompts(pool, [["a"]] * 4, 2, "k-centre", allowed=np.array([True, False, False, True])).tolist()
    [0, 3]
    """
    if method not in METHODS:
        raise ValueError(f"no method {method!r}; there are {', '.join(METHODS)}.")
    if len(embeddings) != len(categories):
        raise ValueError(f"there are {len(embeddings)} embeddings and {len(categories)} lists of categories.")
    rng = np.random.default_rng(seed)
    pool = np.flatnonzero(np.ones(len(embeddings), dtype=bool) if allowed is None else np.asarray(allowed, dtype=bool))
    if method == "random":
        return np.sort(rng.choice(pool, size=min(n, len(pool)), replace=False))
    strata = assign_strata(categories)
    names, counts = np.unique(strata[pool].astype(str), return_counts=True)
    quotas = allot_quotas(dict(zip(names.tolist(), counts.tolist(), strict=True)), n)
    chosen: list[int] = []
    for name in sorted(quotas, key=lambda key: (quotas[key], key)):
        members = pool[strata[pool] == name]
        chosen += _spread(embeddings, members, quotas[name], method, chosen, rng)
    return np.sort(np.array(chosen, dtype=int))


def find_leaks(embeddings: np.ndarray, test_embeddings: np.ndarray, threshold: float = 0.9) -> np.ndarray:
    """Return which prompts of a pool mean nearly the same as a test prompt (cosine of at least `threshold`).

    Parameters
    ----------
    embeddings : array, shape (N, H)
    test_embeddings : array, shape (M, H)
    threshold : float

    Returns
    -------
    array of bool, shape (N,)

    Source: ours; it comes on top of the split by near-duplicate wording.

    Examples
    --------
    >>> find_leaks(np.eye(2), np.eye(2)[:1]).tolist()
    [True, False]
    """
    return _nearest(embeddings, test_embeddings) <= 1 - threshold + 1e-6


def measure_coverage(embeddings: np.ndarray, categories: Sequence[Sequence[str] | None],
                     chosen: np.ndarray) -> dict[str, float]:
    """Return how well chosen prompts stand for a pool.

    Parameters
    ----------
    embeddings : array, shape (N, H)
        Unit vectors of the pool.
    categories : sequence of (sequence of str or None), length N
    chosen : array of int, shape (n,)

    Returns
    -------
    dict
        mean_distance: mean cosine distance of a pool prompt to the nearest chosen one (lower is better);
        category_distance: the same, averaged over categories with equal weight; worst_distance: its largest value;
        evenness: entropy of the chosen strata over the largest possible (1 = all alike);
        rarest: chosen prompts in the stratum with the fewest.

    Examples
    --------
    >>> measure_coverage(np.eye(2), [["a"], ["b"]], np.array([0]))["mean_distance"]
    0.5
    """
    strata = assign_strata(categories)
    distance = _nearest(embeddings, embeddings[chosen])
    names = np.unique(strata.astype(str))
    counts = np.array([(strata[chosen] == name).sum() for name in names])
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return {"mean_distance": float(distance.mean()),
            "category_distance": float(np.mean([distance[strata == name].mean() for name in names])),
            "worst_distance": float(distance.max()),
            "evenness": float(-(shares * np.log(shares)).sum() / np.log(len(names))) if len(names) > 1 else 1.0,
            "rarest": float(counts.min())}


def compare_selections(embeddings: np.ndarray, categories: Sequence[Sequence[str] | None], n: int, n_seeds: int = 20,
                       allowed: np.ndarray | None = None, methods: Sequence[str] = METHODS) -> pd.DataFrame:
    """Measure the coverage of several methods over several seeds, each seed also on a bootstrap of the pool.

    Parameters
    ----------
    embeddings, categories, allowed
        As in `select_prompts`.
    n : int
    n_seeds : int
        Seeds 0, 1, …; each draws the half of the pool that it works on, so that methods without chance vary too.
    methods : sequence of str

    Returns
    -------
    DataFrame
        method, seed, and the measures of `measure_coverage`.

    Source: ours.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> pool = rng.normal(size=(60, 3))
    >>> table = compare_selections(pool / np.linalg.norm(pool, axis=1, keepdims=True), [["a"]] * 60, 5, n_seeds=2)
    >>> len(table)
    8
    """
    allowed = np.ones(len(embeddings), dtype=bool) if allowed is None else np.asarray(allowed, dtype=bool)
    rows = []
    for seed in range(n_seeds):
        half = np.sort(np.random.default_rng(seed).permutation(len(embeddings))[:(len(embeddings) + 1) // 2])
        part, names = embeddings[half], [categories[i] for i in half]
        for method in methods:
            chosen = select_prompts(part, names, n, method, seed, allowed[half])
            rows.append({"method": method, "seed": seed, **measure_coverage(part, names, chosen)})
    return pd.DataFrame(rows)


def summarise_selections(comparison: pd.DataFrame, baseline: str = "random") -> pd.DataFrame:
    """Return each method's mean and its paired difference from the baseline, with 95 % t intervals over seeds.

    Parameters
    ----------
    comparison : DataFrame
        From `compare_selections`.
    baseline : str

    Returns
    -------
    DataFrame
        method, measure, mean, difference, low, high, n_seeds.

    Examples
    --------
    >>> table = pd.DataFrame({"method": ["random", "k-means"] * 2, "seed": [0, 0, 1, 1], "x": [1.0, 2, 2, 3.5]})
    >>> summarise_selections(table)[["mean", "difference"]].values.tolist()
    [[2.75, 1.25], [1.5, 0.0]]
    """
    from scipy import stats

    rows = []
    measures = [name for name in comparison if name not in {"method", "seed"}]
    base = comparison[comparison.method == baseline].set_index("seed")
    for method, table in comparison.groupby("method", sort=True):
        for name in measures:
            values = table.set_index("seed")[name]
            gap = (values - base[name]).dropna()
            error = stats.sem(gap) if len(gap) > 1 else np.nan
            reach = error * stats.t.ppf(0.975, max(len(gap) - 1, 1))
            rows.append((method, name, values.mean(), gap.mean(), gap.mean() - reach, gap.mean() + reach, len(gap)))
    return pd.DataFrame(rows, columns=["method", "measure", "mean", "difference", "low", "high", "n_seeds"])


def _spread(embeddings: np.ndarray, members: np.ndarray, quota: int, method: str, chosen: list[int],
            rng: np.random.Generator) -> list[int]:
    """Return `quota` of `members`, spread by the method."""
    if quota >= len(members):
        return members.tolist()
    if method == "stratified":
        return rng.choice(members, size=quota, replace=False).tolist()
    if method == "k-centre":
        return _farthest_first(embeddings[members], quota, embeddings[chosen], rng, members)
    return _cluster_centres(embeddings[members], quota, rng, members)


def _farthest_first(vectors: np.ndarray, quota: int, others: np.ndarray, rng: np.random.Generator,
                    members: np.ndarray) -> list[int]:
    distance = _nearest(vectors, others) if len(others) else np.full(len(vectors), np.inf)
    picked = []
    for _ in range(quota):
        best = int(np.argmax(distance)) if np.isfinite(distance).any() else int(rng.integers(len(vectors)))
        picked.append(int(members[best]))
        distance = np.minimum(distance, 1 - vectors @ vectors[best])
        distance[best] = -np.inf
    return picked


def _cluster_centres(vectors: np.ndarray, quota: int, rng: np.random.Generator, members: np.ndarray) -> list[int]:
    from sklearn.cluster import KMeans

    means = KMeans(quota, n_init=1, max_iter=30, random_state=int(rng.integers(2**31)))
    labels = means.fit_predict(vectors)
    distance = np.linalg.norm(vectors - means.cluster_centers_[labels], axis=1)
    order = np.lexsort([distance, labels])
    firsts = order[np.unique(labels[order], return_index=True)[1]]
    rest = np.setdiff1d(np.arange(len(vectors)), firsts)[:quota - len(firsts)]  # equal prompts leave clusters empty
    return members[np.concatenate([firsts, rest])].tolist()


def _nearest(vectors: np.ndarray, others: np.ndarray, chunk: int = 2000) -> np.ndarray:
    """Return the cosine distance of each vector to the nearest of the others, inf when there are none."""
    if not len(others):
        return np.full(len(vectors), np.inf)
    parts = [1 - (vectors[start:start + chunk] @ others.T).max(axis=1) for start in range(0, len(vectors), chunk)]
    return np.maximum(np.concatenate(parts), 0.0) if parts else np.empty(0)
