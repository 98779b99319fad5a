"""Choose prompts for a data set: stratified by risk category, spread over meaning, away from the test prompts.

Axis letters: N prompts of the pool, H components of an embedding (unit vectors), n chosen prompts.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

METHODS = ("random", "stratified", "k-centre", "k-means")


def assign_strata(categories: Sequence[Sequence[str] | None]) -> np.ndarray:
    """Return one category for each prompt: its rarest in the pool, so that rare risks get strata.

    "none" where somebody looked and found no risk, "unrated" where nobody did.

    >>> assign_strata([["theft"], ["theft", "privacy"], [], None]).tolist()
    ['theft', 'privacy', 'none', 'unrated']
    """
    counts = Counter(name for names in categories if names is not None for name in names)
    rarest = ["unrated" if names is None else min(names, key=lambda name: (counts[name], name), default="none")
              for names in categories]
    return np.array(rarest, dtype=object)


def allot_quotas(sizes: dict[str, int], n: int) -> dict[str, int]:
    """Share n places among strata as equally as their sizes allow; what a small stratum leaves goes to the others.

    >>> allot_quotas({"a": 100, "b": 2, "c": 100}, 12)
    {'a': 5, 'b': 2, 'c': 5}
    """
    quotas = dict.fromkeys(sizes, 0)
    for _ in range(min(n, sum(sizes.values()))):
        quotas[min((name for name in sizes if quotas[name] < sizes[name]), key=quotas.get)] += 1
    return quotas


def select_prompts(embeddings: np.ndarray, categories: Sequence[Sequence[str] | None], n: int, method: str = "k-means",
                   seed: int = 0, allowed: np.ndarray | None = None) -> np.ndarray:
    """Choose n prompts of a pool and return their indices, sorted; fewer when fewer are `allowed`, booleans (N,).

    `embeddings`, shape (N, H), are unit vectors, `categories` N lists of risk categories. Method "random" ignores
    categories; the others share the places among them: "stratified" draws at random within a category, "k-centre" takes
    the prompt farthest from all chosen ones, "k-means" the prompt nearest to the centre of each of as many clusters as
    there are places. The paper chose prompts for sparse values by a method that is not published. ValueError for an
    unknown method or other lengths.

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
    quotas, chosen = allot_quotas(Counter(sorted(strata[pool])), n), []
    for name in sorted(quotas, key=lambda key: (quotas[key], key)):
        members = pool[strata[pool] == name]
        if quotas[name] >= len(members):
            chosen += members.tolist()
        elif method == "stratified":
            chosen += rng.choice(members, size=quotas[name], replace=False).tolist()
        else:
            spread = _farthest_first if method == "k-centre" else _cluster_centres
            chosen += members[spread(embeddings[members], quotas[name], embeddings[chosen], rng)].tolist()
    return np.sort(np.array(chosen, dtype=int))


def find_leaks(embeddings: np.ndarray, test_embeddings: np.ndarray, threshold: float = 0.9) -> np.ndarray:
    """Return which prompts (N,) of a pool mean nearly the same as a test prompt: cosine of at least `threshold`.

    It comes on top of the split by near-duplicate wording.
    """
    return _nearest(embeddings, test_embeddings) <= 1 - threshold + 1e-6


def measure_coverage(embeddings: np.ndarray, categories: Sequence[Sequence[str] | None],
                     chosen: np.ndarray) -> dict[str, float]:
    """Return how well chosen prompts (indices) stand for a pool of unit vectors (N, H).

    mean_distance: mean cosine distance of a pool prompt to the nearest chosen one (lower is better); category_distance:
    the same, averaged over categories with equal weight; worst_distance: its largest value; evenness: entropy of the
    chosen strata over the largest possible (1 = all alike); rarest: chosen prompts in the stratum with the fewest.

    >>> measure_coverage(np.eye(2), [["a"], ["b"]], np.array([0]))["mean_distance"]
    0.5
    """
    strata = assign_strata(categories)
    distance = _nearest(embeddings, embeddings[chosen])
    names = sorted(set(strata))
    counts = np.array([(strata[chosen] == name).sum() for name in names])
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return {"mean_distance": float(distance.mean()),
            "category_distance": float(np.mean([distance[strata == name].mean() for name in names])),
            "worst_distance": float(distance.max()),
            "evenness": float(-(shares * np.log(shares)).sum() / np.log(len(names))) if len(names) > 1 else 1.0,
            "rarest": float(counts.min())}


def compare_selections(embeddings: np.ndarray, categories: Sequence[Sequence[str] | None], n: int, n_seeds: int = 20,
                       allowed: np.ndarray | None = None) -> pd.DataFrame:
    """Measure the coverage of several methods over seeds 0, 1, …; one row a method and seed.

    Each seed draws the half of the pool that it works on, so that methods without chance vary too.
    """
    rows = []
    for seed in range(n_seeds):
        half = np.sort(np.random.default_rng(seed).permutation(len(embeddings))[:(len(embeddings) + 1) // 2])
        part, names = embeddings[half], [categories[i] for i in half]
        for method in METHODS:
            chosen = select_prompts(part, names, n, method, seed, None if allowed is None else allowed[half])
            rows.append({"method": method, "seed": seed, **measure_coverage(part, names, chosen)})
    return pd.DataFrame(rows)


def summarise_selections(comparison: pd.DataFrame) -> pd.DataFrame:
    """Return each method's mean and its paired difference from random choice, with 95 % t intervals over seeds."""
    from scipy import stats

    rows, tables = [], {method: table.set_index("seed") for method, table in comparison.groupby("method")}
    for method, table in tables.items():
        for name in table.columns.drop("method"):
            gap = (table[name] - tables["random"][name]).dropna()
            error = stats.sem(gap) if len(gap) > 1 else np.nan
            mean, reach = gap.mean(), error * stats.t.ppf(0.975, max(len(gap) - 1, 1))
            rows.append((method, name, table[name].mean(), mean, mean - reach, mean + reach, len(gap)))
    return pd.DataFrame(rows, columns=["method", "measure", "mean", "difference", "low", "high", "n_seeds"])


def _farthest_first(vectors: np.ndarray, quota: int, others: np.ndarray, rng: np.random.Generator) -> list[int]:
    """Return as many vectors as the quota: each the farthest from the others and from those before it."""
    distance, picked = _nearest(vectors, others), []
    for _ in range(quota):
        picked.append(int(np.argmax(distance)) if np.isfinite(distance).any() else int(rng.integers(len(vectors))))
        distance = np.minimum(distance, 1 - vectors @ vectors[picked[-1]])
        distance[picked[-1]] = -np.inf
    return picked


def _cluster_centres(vectors: np.ndarray, quota: int, _: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return as many vectors as the quota: the nearest to the centre of each cluster."""
    from sklearn.cluster import KMeans

    means = KMeans(quota, n_init=1, max_iter=30, random_state=int(rng.integers(2**31)))
    labels = means.fit_predict(vectors)
    order = np.lexsort([np.linalg.norm(vectors - means.cluster_centers_[labels], axis=1), labels])
    firsts = order[np.unique(labels[order], return_index=True)[1]]
    # equal prompts leave clusters empty
    return np.concatenate([firsts, np.setdiff1d(np.arange(len(vectors)), firsts)[:quota - len(firsts)]])


def _nearest(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the cosine distance of each vector to the nearest of the others, inf when there are none."""
    parts = [1 - (vectors[start:start + 2000] @ others.T).max(axis=1, initial=-np.inf)
             for start in range(0, len(vectors), 2000)]
    return np.maximum(np.concatenate([vectors[:0, 0], *parts]), 0.0)
