"""Structure of a value space: the circle of values, and how well items measure their value.

Pure functions, arrays in, numbers out. Axis letters: N rows, D value dimensions, K items of one value.
"""

import warnings

import numpy as np
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist, squareform
from sklearn.exceptions import ConvergenceWarning

from fulcra_utils.stats.factors import shuffle_columns
from fulcra_utils.stats.resampling import draw_rows, take_interval

MIN_CIRCLE = 6  # with five values only 12 circular orders exist: no test at 5 % could ever succeed


def measure_dissimilarity(vectors: np.ndarray, centre: bool = False) -> np.ndarray:
    """Measure how unlike two values are: sqrt(2 (1 - r)), 0 for r = 1 and 2 for r = -1.

    `centre` subtracts each row's mean first (Schwartz's correction for the general level of a respondent). A missing
    cell or a value that does not vary is a ValueError.

    >>> measure_dissimilarity([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0]]).round(6)
    array([[0., 2.],
           [2., 0.]])
    """
    vectors = np.asarray(vectors, float)
    vectors = vectors - vectors.mean(axis=1, keepdims=True) if centre else vectors
    with np.errstate(invalid="ignore", divide="ignore"):
        distance = np.sqrt(np.clip(2 * (1 - np.corrcoef(vectors, rowvar=False)), 0, 4))
    if np.isnan(distance).any():
        raise ValueError("dissimilarities need rows without missing cells and values that vary")
    np.fill_diagonal(distance, 0)
    return distance


def scale_values(dissimilarity: np.ndarray, n_starts: int = 10, seed: int = 0) -> tuple[np.ndarray, float]:
    """Place values in the plane by multidimensional scaling: places (D, 2) and Kruskal's Stress-1 (0 = perfect).

    The best of the classical start (Torgerson) and `n_starts` random ones; centred, mean squared distance from the
    centre 1. Sizes are fitted, not only their order: by order alone two clear groups of values collapse into two points
    without stress. Source: Kruskal (1964), Psychometrika 29; SMACOF of de Leeuw (1977).

    >>> line = np.abs(np.subtract.outer(np.arange(4.0), np.arange(4.0)))
    >>> places, stress = scale_values(line, n_starts=2)
    >>> places.shape, stress < 0.01
    ((4, 2), True)
    """
    squares = dissimilarity**2
    centred = squares - squares.mean(axis=0) - squares.mean(axis=1)[:, None] + squares.mean()
    size, axes = np.linalg.eigh(-centred / 2)
    starts = [axes[:, -2:] * np.sqrt(np.clip(size[-2:], 1e-6, None)),
              *np.random.default_rng(seed).normal(size=(n_starts, len(dissimilarity), 2))]
    places, stress = min((_majorise(dissimilarity, start) for start in starts), key=lambda pair: pair[1])
    return places / np.sqrt((places**2).sum(axis=1).mean() or 1), stress


def place_on_circle(places: np.ndarray, n_places: int) -> np.ndarray:
    """Return the points (D, 2) of the theory's circle for places 0 … n_places - 1, evenly spread (Schwartz 1992)."""
    angles = 2 * np.pi * np.asarray(places) / n_places
    return np.column_stack([np.cos(angles), np.sin(angles)])


def count_inversions(places: np.ndarray, ideal: np.ndarray) -> int:
    """Count how many pairs of values stand in the wrong order round the circle: Kendall's distance, made circular.

    Every turn and mirror image of the ideal order is tried and the fewest inversions count.

    >>> hexagon = place_on_circle(range(6), 6)
    >>> count_inversions(hexagon[[1, 0, 2, 3, 4, 5]], hexagon)
    1
    """
    ours, theirs = (np.argsort(np.arctan2(*(np.asarray(m) - np.mean(m, axis=0)).T[::-1])) for m in (places, ideal))
    n = len(ours)
    walk = np.argsort(theirs)[ours]
    turned = (walk[(np.arange(n)[:, None] + np.arange(n)) % n][:, None, :] + np.arange(n)[None, :, None]) % n
    orders = np.concatenate([turned.reshape(-1, n), turned.reshape(-1, n)[:, ::-1]])
    first, second = np.triu_indices(n, 1)
    return int((orders[:, first] > orders[:, second]).sum(axis=1).min())


def assess_circle(vectors: np.ndarray, ideal: np.ndarray, centre: bool = False, n_starts: int = 10,
                  n_permutations: int = 999, seed: int = 0,
                  clusters: np.ndarray | None = None) -> dict[str, float | np.ndarray]:
    """Test the theory's circle on value vectors, against shuffled value names and shuffled columns.

    Vectors are (N, D), complete, of at least 6 values that vary (else a ValueError), `ideal` their points on the
    circle. places (D, 2) are turned onto the ideal; stress_p is the share of shuffled data with as little stress (data
    and shuffles from the classical start alone: more starts, less stress; whole prompts are shuffled where `clusters`
    names each row's, whose rows are alike); fit (R²) has fit_null (95 % quantile under shuffled names) and fit_p,
    inversions has its null's median and p. A quarter as many shuffles of columns as of names. Source: Schwartz (1992).

    >>> ideal = place_on_circle(range(8), 8)
    >>> rows = np.random.default_rng(0).normal(size=(200, 2)) @ ideal.T
    >>> result = assess_circle(rows, ideal, n_starts=4, n_permutations=99)
    >>> result["inversions"], result["fit"] > 0.95, result["fit_p"]
    (0, True, 0.01)
    """
    if len(ideal) < MIN_CIRCLE:
        raise ValueError(f"a circle of {len(ideal)} values cannot be tested: at least {MIN_CIRCLE} are needed")
    rng = np.random.default_rng(seed)
    places, stress = scale_values(measure_dissimilarity(vectors, centre), n_starts, seed)
    orders = [rng.permutation(len(ideal)) for _ in range(n_permutations)]
    _, turned, misfit = procrustes(ideal, places)
    fit, inversions = float(1 - misfit), count_inversions(places, ideal)
    fits = np.array([1 - procrustes(ideal[o], places)[2] for o in orders])
    counts = np.array([count_inversions(places, ideal[o]) for o in orders])
    single, *shuffled = (scale_values(measure_dissimilarity(x, centre), 0)[1] for x in
                         (vectors, *(shuffle_columns(vectors, clusters, rng)
                                     for _ in range(max(19, n_permutations // 4)))))
    return {"places": turned * np.linalg.norm(ideal - ideal.mean(axis=0)) + ideal.mean(axis=0), "stress": stress,
            "stress_p": _p_value(np.array(shuffled) <= single), "fit": fit, "fit_null": float(np.quantile(fits, 0.95)),
            "fit_p": _p_value(fits >= fit - 1e-12), "inversions": inversions,
            "inversions_null": float(np.median(counts)), "inversions_p": _p_value(counts <= inversions)}


def cronbach_alpha(items: np.ndarray, standardise: bool = False) -> float:
    """Return Cronbach's alpha (1951) of the items (N, K), complete, of one value; at most 1, may be negative.

    Of two items, standardised, it is the Spearman-Brown reliability 2 r / (1 + r) (Eisinga et al. 2013). nan with fewer
    than 2 items, when the sum does not vary, or when an item to be standardised does not.

    >>> round(cronbach_alpha([[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]]), 6)
    1.0
    >>> round(cronbach_alpha([[1.0, 1.0], [2.0, 3.0], [3.0, 2.0]], standardise=True), 4)
    0.6667
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        covariance = np.atleast_2d((np.corrcoef if standardise else np.cov)(items, rowvar=False))
    k, total = len(covariance), covariance.sum()
    return float(k / (k - 1) * (1 - np.trace(covariance) / total)) if k > 1 and total > 1e-12 else np.nan


def mcdonald_omega(items: np.ndarray) -> float:
    """Return McDonald's omega, in [0, 1], of a one-factor model of the items (N, K), by maximum likelihood.

    The items are complete; nan with fewer than 3 of them, fewer rows than 3 K, a constant item, or when an item's own
    variance vanishes (Heywood case). Source: McDonald (1999), Test theory.

    >>> rng = np.random.default_rng(0)
    >>> items = rng.normal(size=(20000, 1)) + rng.normal(size=(20000, 4))
    >>> round(mcdonald_omega(items), 2)
    0.8
    """
    n, k = items.shape
    if k < 3 or n < 3 * k or (np.ptp(items, axis=0) == 0).any():
        return np.nan
    from sklearn.decomposition import FactorAnalysis
    spread = items.std(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)     # an own variance on its way to 0: nan below
        model = FactorAnalysis(1, svd_method="lapack", tol=1e-10, max_iter=5000).fit(
            (items - items.mean(axis=0)) / spread)
    own = model.noise_variance_
    if (own < 1e-3).any():
        return np.nan
    true = (model.components_[0] * spread).sum() ** 2
    return float(true / (true + (own * spread**2).sum()))


def estimate_reliability(items: np.ndarray, clusters: np.ndarray, min_rows: int = 50, n_draws: int = 500,
                         seed: int = 0) -> dict[str, float | int | str]:
    """Estimate how reliably the items (N, K), complete, of one value measure it, or say why that cannot be done.

    n_items (that vary), n_expressed (rows in which one is not 0; `min_rows` are needed), method ("alpha and omega",
    "Spearman-Brown", "not estimable"), reliability with low and high, omega, why. Items are ticked when they apply, so
    alpha is a lower bound that may well be negative.
    """
    items = items[:, np.ptp(items, axis=0) > 0]
    n_items, expressed = items.shape[1], int((items != 0).any(axis=1).sum())
    found = {"n_items": n_items, "n_expressed": expressed, "method": "not estimable", "reliability": np.nan,
             "low": np.nan, "high": np.nan, "omega": np.nan, "why": ""}
    if n_items < 2 or expressed < min_rows:
        few = f"{n_items} item(s) vary" if n_items < 2 else f"expressed in {expressed} rows"
        return found | {"why": f"{few}; needed are 2 items and {min_rows} rows"}
    is_pair = n_items == 2
    low, high = take_interval([cronbach_alpha(items[rows], is_pair) for rows in draw_rows(clusters, n_draws, seed)])
    return found | {"method": "Spearman-Brown" if is_pair else "alpha and omega", "low": float(low),
                    "high": float(high), "reliability": cronbach_alpha(items, is_pair), "omega": mcdonald_omega(items)}


def _majorise(dissimilarity: np.ndarray, places: np.ndarray, n_steps: int = 500) -> tuple[np.ndarray, float]:
    """Return the places and Stress-1 that SMACOF reaches from a start."""
    n, wanted, stress = len(places), squareform(dissimilarity, checks=False), np.inf
    for _ in range(n_steps):
        distances = pdist(places)
        fitted = wanted * (wanted @ distances) / max(wanted @ wanted, 1e-300)    # the nearest multiple
        before, stress = stress, np.sqrt(((distances - fitted) ** 2).sum() / max((distances**2).sum(), 1e-300))
        if before - stress < 1e-6:
            break
        fitted = fitted * np.sqrt(len(fitted) / max((fitted**2).sum(), 1e-300))
        ratio = squareform(np.divide(fitted, distances, out=np.zeros(len(fitted)), where=distances > 1e-12))
        places = (np.diag(ratio.sum(axis=1)) - ratio) @ places / n  # Guttman transform
    return places - places.mean(axis=0), float(stress)


def _p_value(as_extreme: np.ndarray) -> float:
    return float((1 + as_extreme.sum()) / (1 + len(as_extreme)))
