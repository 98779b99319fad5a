"""Clusters of value vectors that no known risk category explains.

Three questions, each with its own null: is a cluster denser than independent values would make it (columns shuffled
over prompts, clustered again), does it come back in bootstrap samples of prompts, does a known category explain it
(categories shuffled over prompts)? Pure functions; axis letters: N rows, D values, C categories, K clusters, G prompts.
"""

import warnings

import numpy as np
import pandas as pd
from scipy import stats as sps
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_mutual_info_score
from threadpoolctl import threadpool_limits

from fulcra_utils.common.labels import NEAREST, scores_to_labels
from fulcra_utils.stats.comparison import adjust_p
from fulcra_utils.stats.factors import shuffle_columns
from fulcra_utils.stats.resampling import code_clusters, draw_rows, sum_by_cluster


def cluster_vectors(vectors: np.ndarray, n_clusters: int, seed: int = 0, n_starts: int = 2) -> np.ndarray:
    """Group complete value vectors (N, D) by k-means++: the cluster of each row, 0 … K-1, K at most `n_clusters`."""
    vectors = np.asarray(vectors, float)
    k = min(n_clusters, len(np.unique(vectors.round(6), axis=0)))
    with warnings.catch_warnings(), threadpool_limits(1):  # small problems: threads only wait for each other
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = KMeans(k, n_init=n_starts, random_state=seed).fit(vectors).labels_
    return np.unique(labels, return_inverse=True)[1]


def measure_density(vectors: np.ndarray, labels: np.ndarray, prompts: np.ndarray, seed: int = 0) -> np.ndarray:
    """Measure how much denser each cluster is than independent values would make it: (K,), 0 = no denser.

    Around each cluster's centre lies a ball with the root mean square distance of its members as radius (at least 0.3).
    The statistic is -log10 of the Poisson chance to find as many rows in it as there are, when the columns are shuffled
    independently, whole prompts (N,) at a time, capped at 300: configural frequency analysis (von Eye 2002) with a ball
    as configuration.

    >>> rows = np.repeat([[1.0, -1.0], [-1.0, 1.0]], 20, axis=0)
    >>> measure_density(rows, np.repeat([0, 1], 20), np.arange(40)) > 1.5
    array([ True,  True])
    """
    size, rng = np.bincount(labels), np.random.default_rng(seed)
    centres = sum_by_cluster(vectors, labels, len(size)) / size[:, None]
    radius = np.maximum(np.sqrt(np.bincount(labels, ((vectors - centres[labels]) ** 2).sum(axis=1)) / size), 0.3)
    found, *shuffled = ((cdist(rows, centres, "sqeuclidean") <= radius**2 + 1e-9).sum(axis=0)
                        for rows in (vectors, *(shuffle_columns(vectors, prompts, rng) for _ in range(10))))
    expected = (np.sum(shuffled, axis=0) + 0.5) / 10
    return np.minimum(-sps.poisson.logsf(found - 1, expected) / np.log(10), 300)


def assess_density(vectors: np.ndarray, labels: np.ndarray, prompts: np.ndarray, n_clusters: int,
                   n_permutations: int = 99, seed: int = 0) -> np.ndarray:
    """Test each cluster's density against the densest cluster of data without any association: p values (K,).

    Each permutation shuffles every column, clusters again and keeps its best statistic: the p values hold for all
    clusters at once (Westfall & Young 1993) and account for the fact that k-means looked for dense places. Prompts (N,)
    are shuffled whole, for replies to one are alike, which makes clusters of them in any data.

    >>> rows = np.repeat([[1.0, -1.0], [-1.0, 1.0]], 20, axis=0)
    >>> assess_density(rows, np.repeat([0, 1], 20), np.arange(40), 4, n_permutations=19)
    array([0.05, 0.05])
    """
    found, best, rng = measure_density(vectors, labels, prompts, seed), [], np.random.default_rng(seed)
    for p in range(n_permutations):
        shuffled = shuffle_columns(vectors, prompts, rng)
        again = cluster_vectors(shuffled, n_clusters, seed + p)
        best.append(measure_density(shuffled, again, prompts, seed + p).max())
    return (1 + (np.array(best)[None, :] >= found[:, None]).sum(axis=1)) / (1 + n_permutations)


def measure_stability(vectors: np.ndarray, labels: np.ndarray, prompts: np.ndarray, n_clusters: int,
                      n_draws: int = 50, seed: int = 0) -> np.ndarray:
    """Return how well each cluster comes back in bootstrap samples of prompts, (K,): mean best Jaccard.

    Below 0.6 a cluster is not to be trusted (Hennig 2007); nan for one that no draw contained.

    >>> rows = np.repeat([[0.0], [1.0]], 10, axis=0)
    >>> measure_stability(rows, np.repeat([0, 1], 10), np.arange(20), 2, n_draws=5)
    array([1., 1.])
    """
    overlaps = np.full((n_draws, labels.max() + 1), np.nan)
    for b, rows in enumerate(draw_rows(prompts, n_draws, seed)):
        kept = np.unique(rows)
        found, overlap = _best_jaccard(labels[kept], cluster_vectors(vectors[kept], n_clusters, seed + b, n_starts=1))
        overlaps[b, found] = overlap
    return pd.DataFrame(overlaps).mean().to_numpy()


def measure_recurrence(vectors: np.ndarray, labels: np.ndarray, n_clusters: int, seed: int = 0) -> np.ndarray:
    """Return how well each cluster comes back with half to one and a half times as many, (K,): mean best Jaccard."""
    numbers = [max(2, n_clusters * k // 4) for k in (2, 3, 5, 6)]
    return np.mean([_best_jaccard(labels, cluster_vectors(vectors, k, seed + k))[1] for k in numbers], axis=0)


def compare_categories(labels: np.ndarray, categories: np.ndarray, prompts: np.ndarray, n_permutations: int = 500,
                       seed: int = 0) -> dict[str, np.ndarray]:
    """Test which clusters a known category explains; categories (N, C) are 1 where the row's prompt touches one.

    purity (K,): share of the commonest category; category: its column; p: chance that any category is as far above its
    overall share (standardised) when categories are shuffled over prompts; p_adjusted: Benjamini-Hochberg over the
    clusters. Without any category: purity 0, category -1, p 1.

    >>> labels, prompts = np.repeat([0, 1], 30), np.arange(60)
    >>> found = compare_categories(labels, labels[:, None], prompts, n_permutations=99)
    >>> found["purity"], found["p"]
    (array([0., 1.]), array([1.  , 0.01]))
    """
    (codes, n_prompts), size, rng = code_clusters(prompts), np.bincount(labels), np.random.default_rng(seed)
    if not categories.any():
        ones = np.ones(len(size))
        return {"purity": 0 * ones, "category": -ones.astype(int), "p": ones, "p_adjusted": ones}
    table = sum_by_cluster(np.eye(len(size))[labels], codes, n_prompts).T
    by_prompt = sum_by_cluster(categories, codes, n_prompts) / np.bincount(codes)[:, None]
    orders = [rng.permutation(n_prompts) for _ in range(n_permutations)]
    share, *drawn = shares = np.array([np.eye(len(size))[labels].T @ categories,
                                       *(table @ by_prompt[order] for order in orders)]) / size[:, None]
    mean, spread = np.mean(drawn, axis=0), np.std(drawn, axis=0)
    excess, *null = np.divide(shares - mean, spread, out=np.zeros(shares.shape), where=spread > 0).max(axis=2)
    p = (1 + (null >= excess - 1e-9).sum(axis=0)) / (1 + n_permutations)
    return {"purity": share.max(axis=1), "category": share.argmax(axis=1), "p": p, "p_adjusted": adjust_p(p)}


def measure_information(labels: np.ndarray, categories: np.ndarray, prompts: np.ndarray, n_permutations: int = 99,
                        seed: int = 0) -> dict[str, float]:
    """Return the adjusted mutual information of clusters and categories (0 = chance, 1 = the same partition).

    With it stands its null (95 % quantile with categories shuffled over prompts). Source: Vinh et al. (2010).
    """
    codes, n_prompts = code_clusters(prompts)
    by_prompt = np.asarray(categories)[np.unique(codes, return_index=True)[1]]
    ami, rng = float(adjusted_mutual_info_score(categories, labels)), np.random.default_rng(seed)
    nulls = [adjusted_mutual_info_score(by_prompt[rng.permutation(n_prompts)][codes], labels)
             for _ in range(n_permutations)]
    return {"ami": ami, "null": float(np.quantile(nulls, 0.95))}


def match_profile(vectors: np.ndarray, profile: np.ndarray) -> np.ndarray:
    """Find the rows (N, D) that show every part of a profile (D,) in {-1, 0, 1}; 0 = any value will do.

    >>> match_profile([[1, -1, 0], [1, 0, 0]], [1, -1, 0])
    array([ True, False])
    """
    vectors, profile = np.asarray(vectors, float), np.asarray(profile, float)
    named = profile != 0
    return (scores_to_labels(vectors[:, named], NEAREST) == np.sign(profile[named])).all(axis=1)


def _best_jaccard(labels: np.ndarray, again: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the clusters present in `labels`, and for each its largest overlap with a cluster of `again`."""
    table = sps.contingency.crosstab(labels, again)
    (rows, _), counts = table.elements, table.count
    union = counts.sum(axis=1, keepdims=True) + counts.sum(axis=0) - counts
    return rows, (counts / union).max(axis=1)
