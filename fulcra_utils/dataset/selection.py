"""Choose prompts for a data set: stratified by risk category, spread over meaning, away from the test prompts.

Axis letters: N prompts of the pool, H components of an embedding (unit vectors), n chosen prompts.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

METHODS = ("random", "stratified", "k-centre", "k-means")
NO_CATEGORY = "none"


def assign_strata(categories: Sequence[Sequence[str] | None]) -> np.ndarray:
    """Return one category for each prompt: its rarest in the pool, so that rare risks get strata; "none" without any.

    >>> assign_strata([["theft"], ["theft", "privacy"], []]).tolist()
    ['theft', 'privacy', 'none']
    """
    lists = [list(names) if names is not None else [] for names in categories]
    counts = Counter(name for names in lists for name in names)
    return np.array([min(names, key=lambda name: (counts[name], name)) if names else NO_CATEGORY for names in lists],
                    dtype=object)


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
    names, counts = np.unique(strata[pool].astype(str), return_counts=True)
    quotas = allot_quotas(dict(zip(names.tolist(), counts.tolist(), strict=True)), n)
    chosen: list[int] = []
    for name in sorted(quotas, key=lambda key: (quotas[key], key)):
        members = pool[strata[pool] == name]
        chosen += _spread(embeddings, members, quotas[name], method, chosen, rng)
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
    """Measure the coverage of several methods over seeds 0, 1, …; one row a method and seed.

    Each seed draws the half of the pool that it works on, so that methods without chance vary too.
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
    """Return each method's mean and its paired difference from the baseline, with 95 % t intervals over seeds."""
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
