"""Structure of a value space: the circle of values, and how well items measure their value.

Pure functions, arrays in, numbers out. Axis letters: N rows, D value dimensions, K items of one value.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import orthogonal_procrustes
from scipy.optimize import isotonic_regression
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist, squareform

from fulcra_utils.stats.resampling import code_clusters, draw_clusters, take_interval

MIN_CIRCLE = 6  # with five values only 12 circular orders exist: no test at 5 % could ever succeed


def measure_dissimilarity(vectors: np.ndarray, centre: bool = False) -> np.ndarray:
    """Measure how unlike two values are: sqrt(2 (1 - r)), 0 for r = 1 and 2 for r = -1.

    Parameters
    ----------
    vectors : (N, D) array
        Complete.
    centre : bool
        Subtract each row's mean first (Schwartz's correction for the general level of a respondent).

    Returns
    -------
    (D, D) array
        Symmetric, 0 on the diagonal; nan for a constant column.

    Raises
    ------
    ValueError
        When cells are missing or there are fewer than 3 rows.

    Source: the chord distance of standardised columns; centring after Schwartz (1992).

    Examples
    --------
    >>> measure_dissimilarity([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0]]).round(6)
    array([[0., 2.],
           [2., 0.]])
    """
    vectors = np.asarray(vectors, float)
    if len(vectors) < 3 or np.isnan(vectors).any():
        raise ValueError("dissimilarities need at least three rows without missing cells")
    if centre:
        vectors = vectors - vectors.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.atleast_2d(np.corrcoef(vectors, rowvar=False))
    distance = np.sqrt(np.clip(2 * (1 - r), 0, 4))
    np.fill_diagonal(distance, 0)
    return distance


def scale_values(dissimilarity: np.ndarray, n_starts: int = 10, seed: int = 0,
                 ordinal: bool = False) -> tuple[np.ndarray, float]:
    """Place the values in the plane by multidimensional scaling from several starts.

    Parameters
    ----------
    dissimilarity : (D, D) array
        Symmetric, complete.
    n_starts : int
        Random starts besides the classical (Torgerson) one; the solution with the lowest stress is kept.
    ordinal : bool
        Fit the order of the dissimilarities only. Two clear groups of values then collapse into two points with stress
        0 (a known degenerate solution), which is why the sizes are fitted by default.

    Returns
    -------
    places : (D, 2) array
        Centred, mean squared distance from the centre 1.
    stress : float
        Kruskal's Stress-1, 0 = perfect.

    Raises
    ------
    ValueError
        When cells are missing.

    Source: Kruskal (1964), Psychometrika 29 (ties may be untied: his primary approach); SMACOF of de Leeuw (1977).

    Examples
    --------
    >>> line = np.abs(np.subtract.outer(np.arange(4.0), np.arange(4.0)))
    >>> places, stress = scale_values(line, n_starts=2)
    >>> places.shape, stress < 0.01
    ((4, 2), True)
    """
    dissimilarity = np.asarray(dissimilarity, float)
    if np.isnan(dissimilarity).any():
        raise ValueError("a dissimilarity is missing: leave constant values out first")
    rng = np.random.default_rng(seed)
    starts = [_scale_classically(dissimilarity), *rng.normal(size=(n_starts, len(dissimilarity), 2))]
    found = [_majorise(dissimilarity, start, ordinal) for start in starts]
    places, stress = min(found, key=lambda pair: pair[1])
    return places / np.sqrt((places**2).sum(axis=1).mean() or 1), stress


def place_on_circle(places: np.ndarray, n_places: int) -> np.ndarray:
    """Return the points of the theory's circle.

    Parameters
    ----------
    places : (D,) int array
        Place of each value, 0 … n_places - 1, evenly spread.

    Returns
    -------
    (D, 2) array

    Source: Schwartz (1992), values evenly spread round the circle.

    Examples
    --------
    >>> place_on_circle([0, 1], 4).round(6)
    array([[1., 0.],
           [0., 1.]])
    """
    angles = 2 * np.pi * np.asarray(places) / n_places
    return np.column_stack([np.cos(angles), np.sin(angles)])


def fit_circle(places: np.ndarray, ideal: np.ndarray) -> float:
    """Return how well a configuration fits the ideal one after shift, turn, mirror and stretch (Procrustes R²).

    Parameters
    ----------
    places, ideal : (D, 2) arrays

    Returns
    -------
    float
        1 = same shape, 0 = nothing in common; 1 minus SciPy's `procrustes` disparity.

    Source: Gower (1975), Psychometrika 40.

    Examples
    --------
    >>> square = place_on_circle(range(4), 4)
    >>> round(fit_circle(3 * square[:, ::-1] + 5, square), 6)
    1.0
    """
    return float(1 - procrustes(ideal, places)[2])


def count_inversions(places: np.ndarray, ideal: np.ndarray) -> int:
    """Count how many pairs of values stand in the wrong order round the circle.

    Both are read as circular orders of angles; every turn and mirror image of the ideal order is tried and the
    fewest inversions count.

    Parameters
    ----------
    places, ideal : (D, 2) arrays

    Returns
    -------
    int
        0 = the theory's order.

    Source: ours: Kendall's distance, made circular.

    Examples
    --------
    >>> hexagon = place_on_circle(range(6), 6)
    >>> count_inversions(hexagon[[1, 0, 2, 3, 4, 5]], hexagon)
    1
    """
    ours, theirs = (np.argsort(np.arctan2(*(np.asarray(m) - np.mean(m, axis=0)).T[::-1])) for m in (places, ideal))
    n = len(ours)
    position = np.empty(n, int)
    position[theirs] = np.arange(n)
    walk = position[ours]
    turned = (walk[(np.arange(n)[:, None] + np.arange(n)) % n][:, None, :] + np.arange(n)[None, :, None]) % n
    orders = np.concatenate([turned.reshape(-1, n), turned.reshape(-1, n)[:, ::-1]])
    first, second = np.triu_indices(n, 1)
    return int((orders[:, first] > orders[:, second]).sum(axis=1).min())


def assess_circle(vectors: np.ndarray, ideal: np.ndarray, centre: bool = False, n_starts: int = 10,
                  n_permutations: int = 999, seed: int = 0) -> dict[str, float | np.ndarray]:
    """Test the theory's circle on value vectors, against shuffled value names and shuffled columns.

    Parameters
    ----------
    vectors : (N, D) array
        Complete, values that vary, D >= 6.
    ideal : (D, 2) array
        Their points on the theory's circle.
    centre : bool
        Centre each row first.
    n_permutations : int
        Shuffles of the value names (for fit and order); a quarter as many shuffles of the columns (for stress).

    Returns
    -------
    dict
        places (D, 2), turned onto the ideal; stress, stress_p (share of shuffled data with as little stress,
        data and shuffles from the classical start alone: more starts, less stress); fit (R²),
        fit_null (95 % quantile under shuffled names), fit_p; inversions, inversions_null (median), inversions_p.

    Raises
    ------
    ValueError
        With fewer than 6 values.

    Source: Schwartz (1992) for the circle; permutation of names: ours.

    Examples
    --------
    >>> ideal = place_on_circle(range(8), 8)
    >>> rows = np.random.default_rng(0).normal(size=(200, 2)) @ ideal.T
    >>> result = assess_circle(rows, ideal, n_starts=4, n_permutations=99)
    >>> result["inversions"], result["fit"] > 0.95, result["fit_p"]
    (0, True, 0.01)
    """
    ideal = np.asarray(ideal, float)
    if len(ideal) < MIN_CIRCLE:
        raise ValueError(f"a circle of {len(ideal)} values cannot be tested: at least {MIN_CIRCLE} are needed")
    rng = np.random.default_rng(seed)
    places, stress = scale_values(measure_dissimilarity(vectors, centre), n_starts, seed)
    orders = [rng.permutation(len(ideal)) for _ in range(n_permutations)]
    fit, inversions = fit_circle(places, ideal), count_inversions(places, ideal)
    fits = np.array([fit_circle(places, ideal[o]) for o in orders])
    counts = np.array([count_inversions(places, ideal[o]) for o in orders])
    single, *shuffled = (scale_values(measure_dissimilarity(x, centre), 0)[1] for x in
                         (vectors, *(rng.permuted(vectors, axis=0) for _ in range(max(19, n_permutations // 4)))))
    return {"places": _turn_onto(places, ideal), "stress": stress, "stress_p": _p_value(np.array(shuffled) <= single),
            "fit": fit, "fit_null": float(np.quantile(fits, 0.95)), "fit_p": _p_value(fits >= fit - 1e-12),
            "inversions": inversions, "inversions_null": float(np.median(counts)),
            "inversions_p": _p_value(counts <= inversions)}


def cronbach_alpha(items: np.ndarray) -> float:
    """Return Cronbach's alpha of the items of one value.

    Parameters
    ----------
    items : (N, K) array
        Complete rows; rows with nan are left out.

    Returns
    -------
    float
        At most 1, may be negative; nan with fewer than 2 items or 3 rows, or when the sum does not vary.

    Source: Cronbach (1951), Psychometrika 16.

    Examples
    --------
    >>> round(cronbach_alpha([[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]]), 6)
    1.0
    """
    items = _complete(items)
    n, k = items.shape
    if k < 2 or n < 3:
        return np.nan
    return _alpha_of(np.cov(items, rowvar=False))


def mcdonald_omega(items: np.ndarray) -> float:
    """Return McDonald's omega of a one-factor model of the items (maximum likelihood).

    Parameters
    ----------
    items : (N, K) array
        Rows with nan are left out.

    Returns
    -------
    float
        In [0, 1]; nan with fewer than 3 items, fewer rows than 3 K, a constant item, or when an item's own variance
        vanishes (Heywood case).

    Source: McDonald (1999), Test theory; EM for the factor model of Rubin & Thayer (1982).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> items = rng.normal(size=(20000, 1)) + rng.normal(size=(20000, 4))
    >>> round(mcdonald_omega(items), 2)
    0.8
    """
    items = _complete(items)
    n, k = items.shape
    if k < 3 or n < 3 * k or (np.ptp(items, axis=0) == 0).any():
        return np.nan
    spread = items.std(axis=0)
    loadings, own = _fit_factor(np.corrcoef(items, rowvar=False))
    if (own < 1e-3).any():
        return np.nan
    true = (loadings * spread).sum() ** 2
    return float(true / (true + (own * spread**2).sum()))


def spearman_brown(items: np.ndarray) -> float:
    """Return the Spearman-Brown reliability of two items: 2 r / (1 + r).

    Parameters
    ----------
    items : (N, 2) array
        Rows with nan are left out.

    Returns
    -------
    float
        nan with fewer than 3 rows or a constant item.

    Raises
    ------
    ValueError
        When there are not two items.

    Source: Spearman (1910), Brown (1910); for two items Eisinga et al. (2013).

    Examples
    --------
    >>> round(spearman_brown([[1.0, 1.0], [2.0, 3.0], [3.0, 2.0]]), 4)
    0.6667
    """
    items = _complete(items)
    if items.shape[1] != 2:
        raise ValueError(f"Spearman-Brown here is for two items, not {items.shape[1]}")
    if len(items) < 3 or (np.ptp(items, axis=0) == 0).any():
        return np.nan
    r = np.corrcoef(items, rowvar=False)[0, 1]
    return float(2 * r / (1 + r)) if r > -1 + 1e-12 else np.nan


def estimate_reliability(items: np.ndarray, clusters: np.ndarray, min_rows: int = 50, n_draws: int = 500,
                         seed: int = 0) -> dict[str, float | int | str]:
    """Estimate how reliably the items of one value measure it, or say why that cannot be done.

    Parameters
    ----------
    items : (N, K) array
        Item labels in {-1, 0, 1}; nan = not annotated.
    clusters : (N,) array
        Prompt of each row.
    min_rows : int
        Rows in which at least one item is not 0.

    Returns
    -------
    dict
        n_items (that vary), n_expressed, method ("alpha and omega", "Spearman-Brown", "not estimable"), reliability
        (alpha, or Spearman-Brown) with low and high (bootstrap over prompts), omega, why. Unknown numbers are nan.

    Source: thresholds ours, fixed beforehand; items are ticked when they apply, so alpha is a lower bound that may
    well be negative.

    Examples
    --------
    >>> estimate_reliability(np.ones((9, 3)), range(9))["method"]
    'not estimable'
    """
    items, kept = np.asarray(items, float), np.isfinite(items).all(axis=1)
    items, codes = items[kept], code_clusters(np.asarray(clusters)[kept])[0]
    items = items[:, np.ptp(items, axis=0) > 0] if len(items) else items[:, :0]
    expressed = int((items != 0).any(axis=1).sum())
    found = {"n_items": items.shape[1], "n_expressed": expressed, "method": "not estimable", "reliability": np.nan,
             "low": np.nan, "high": np.nan, "omega": np.nan, "why": ""}
    if items.shape[1] < 2 or expressed < min_rows:
        few = f"{items.shape[1]} item(s) vary" if items.shape[1] < 2 else f"expressed in {expressed} rows"
        return found | {"why": f"{few}; needed are 2 items and {min_rows} rows"}
    measure = spearman_brown if items.shape[1] == 2 else cronbach_alpha
    low, high = take_interval(_resample(measure, items, codes, n_draws, seed))
    method = "Spearman-Brown" if items.shape[1] == 2 else "alpha and omega"
    return found | {"method": method, "reliability": measure(items), "low": float(low), "high": float(high),
                    "omega": mcdonald_omega(items)}


def check_sign_rule(items: np.ndarray, item_matrix: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Check the rule that a value's label is the sign of the sum of its item labels.

    Parameters
    ----------
    items : (N, I) array
        In {-1, 0, 1}.
    item_matrix : (I, D) array
        1 where an item belongs to a value.
    vectors : (N, D) array
        Labels; nan = not annotated.

    Returns
    -------
    agree, counted : (N, D) bool arrays
        Cells in which the rule gives the label, and annotated cells in which rule or label is not 0.

    Source: the released labels (facts: sign of the summed item labels).

    Examples
    --------
    >>> agree, counted = check_sign_rule([[1, -1, 1], [0, 0, 0]], [[1, 0], [1, 0], [0, 1]], [[1, 1], [0, 0]])
    >>> agree.sum(axis=0), counted.sum(axis=0)
    (array([0, 1]), array([1, 1]))
    """
    rule = np.sign(np.asarray(items, float) @ np.asarray(item_matrix, float))
    vectors = np.asarray(vectors, float)
    counted = np.isfinite(vectors) & ((rule != 0) | (vectors != 0))
    return counted & (rule == np.sign(vectors)), counted


def _fit_order(wanted: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Return the numbers nearest to the distances that rise with the wanted dissimilarities."""
    order = np.lexsort((distances, wanted))
    fitted = np.empty(len(distances))
    fitted[order] = isotonic_regression(distances[order]).x
    return fitted


def _fit_size(wanted: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Return the multiple of the wanted dissimilarities that is nearest to the distances."""
    return wanted * (wanted @ distances) / max(wanted @ wanted, 1e-300)


def _scale_classically(dissimilarity: np.ndarray) -> np.ndarray:
    """Return Torgerson's solution: the plane of the two largest eigenvalues of the double-centred squares."""
    squares = dissimilarity**2
    centred = squares - squares.mean(axis=0) - squares.mean(axis=1)[:, None] + squares.mean()
    size, axes = np.linalg.eigh(-centred / 2)
    return axes[:, -2:] * np.sqrt(np.clip(size[-2:], 1e-6, None))


def _majorise(dissimilarity: np.ndarray, places: np.ndarray, ordinal: bool,
              n_steps: int = 500) -> tuple[np.ndarray, float]:
    """Return the places and Stress-1 that SMACOF reaches from a start."""
    fit = _fit_order if ordinal else _fit_size
    n, wanted, stress = len(places), squareform(dissimilarity, checks=False), np.inf
    for _ in range(n_steps):
        distances = pdist(places)
        fitted = fit(wanted, distances)
        before, stress = stress, np.sqrt(((distances - fitted) ** 2).sum() / max((distances**2).sum(), 1e-300))
        if before - stress < 1e-6:
            break
        fitted = fitted * np.sqrt(len(fitted) / max((fitted**2).sum(), 1e-300))
        ratio = squareform(np.divide(fitted, distances, out=np.zeros(len(fitted)), where=distances > 1e-12))
        places = (np.diag(ratio.sum(axis=1)) - ratio) @ places / n  # Guttman transform
    return places - places.mean(axis=0), float(stress)


def _complete(items: np.ndarray) -> np.ndarray:
    items = np.asarray(items, float)
    return items[np.isfinite(items).all(axis=1)]


def _alpha_of(covariance: np.ndarray) -> float:
    k, total = len(covariance), covariance.sum()
    return float(k / (k - 1) * (1 - np.trace(covariance) / total)) if total > 1e-12 else np.nan


def _fit_factor(correlation: np.ndarray, n_steps: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    """Return loadings and own variances of a one-factor model by EM."""
    size, axes = np.linalg.eigh(correlation)
    loadings = axes[:, -1] * np.sqrt(size[-1]) * 0.9
    own = np.clip(1 - loadings**2, 1e-4, None)
    for _ in range(n_steps):
        weights = loadings / own / (1 + (loadings**2 / own).sum())
        carried = correlation @ weights
        before, loadings = loadings, carried / (1 - weights @ loadings + weights @ carried)
        own = np.clip(1 - loadings * carried, 1e-6, None)
        if np.abs(loadings - before).max() < 1e-9:
            break
    return loadings, own


def _resample(measure, items: np.ndarray, codes: np.ndarray, n_draws: int, seed: int) -> np.ndarray:
    """Return a statistic of the items for each bootstrap draw of prompts."""
    weights = draw_clusters(codes.max() + 1, n_draws, seed)[:, codes].astype(int)
    return np.array([measure(np.repeat(items, w, axis=0)) for w in weights])


def _turn_onto(places: np.ndarray, ideal: np.ndarray) -> np.ndarray:
    """Return the configuration turned, mirrored and stretched onto the ideal."""
    a, b = places - places.mean(axis=0), ideal - ideal.mean(axis=0)
    turn, size = orthogonal_procrustes(a, b)
    return a @ turn * (size / (a**2).sum())


def _p_value(as_extreme: np.ndarray) -> float:
    return float((1 + as_extreme.sum()) / (1 + len(as_extreme)))
