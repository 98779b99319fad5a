"""Comparisons and correlations of value vectors: adjusted p values, paired and mixed differences, components."""

import warnings

import numpy as np
from scipy import stats as sps

from fulcra_utils.stats.resampling import as_matrix, bootstrap_sums, code_clusters, sum_by_cluster


def adjust_p(p: np.ndarray, method: str = "bh") -> np.ndarray:
    """Adjust the p values of one declared family; nan = not tested, stays nan and does not count.

    "bh": Benjamini & Hochberg (1995), share of false findings; "holm": Holm (1979), any false finding.

    >>> adjust_p([0.01, 0.04, 0.03, np.nan])
    array([0.03, 0.04, 0.04,  nan])
    """
    p = np.asarray(p, float)
    adjusted, tested = np.full(p.shape, np.nan), np.isfinite(p)
    if method not in ("bh", "holm"):
        raise ValueError(f"method not recognized: {method}")
    known = p[tested]
    if method == "bh":
        adjusted[tested] = sps.false_discovery_control(known) if len(known) else known
    else:       # statsmodels collects garbage at each call, which takes a second once torch is loaded
        order = np.argsort(known)
        known[order] = np.maximum.accumulate(known[order] * np.arange(len(known), 0, -1))
        adjusted[tested] = np.minimum(known, 1)
    return adjusted


def compare_paired(first: np.ndarray, second: np.ndarray, level: float = 0.95,
                   clusters: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Compare two models on the same prompts, (N, D) each, value by value, by a t interval with prompts as the unit.

    `clusters` (N,) are groups of near-duplicate prompts: errors sum over a group first and G - 1 is the number of
    degrees of freedom (Liang & Zeger 1986). Returned (D,) arrays: n, difference first - second, low, high, t, p, effect
    (Cohen's d_z: mean over standard deviation of the differences). All but n and difference are nan with fewer than two
    groups, t, p and effect with constant differences, everything in a column that misses a cell.

    >>> result = compare_paired([[3.0], [5.0], [4.0]], [[1.0], [2.0], [3.0]])
    >>> [round(float(result[k][0]), 3) for k in ("difference", "t", "effect")]
    [2.0, 3.464, 2.0]
    """
    first, second = as_matrix(first), as_matrix(second)
    if first.shape != second.shape:
        raise ValueError(f"paired rows must have one shape, not {first.shape} and {second.shape}")
    d, (codes, n_groups) = first - second, code_clusters(np.arange(len(first)) if clusters is None else clusters)
    n, free = len(d) or np.nan, n_groups - 1 if n_groups > 1 else np.nan
    mean = d.sum(axis=0) / n
    mean *= np.abs(mean) > 1e-12 * (1 + np.abs(first).max(axis=0, initial=0) + np.abs(second).max(axis=0, initial=0))
    sums = np.array([np.bincount(codes, column) for column in (d - mean).T])
    error = np.sqrt((free + 1) / free * (sums**2).sum(axis=1)) / n
    error *= error > 1e-12 * (1 + np.abs(mean))  # constant differences are sure
    half, t = sps.t.ppf((1 + level) / 2, free) * error, mean / np.where(error == 0, np.nan, error)
    spread = np.sqrt(((d - mean) ** 2).sum(axis=0) / (n - 1 or np.nan))
    return {"n": np.full(mean.shape, len(d)), "difference": mean, "low": mean - half, "high": mean + half, "t": t,
            "p": 2 * sps.t.sf(np.abs(t), free), "effect": mean / np.where(np.isnan(t), np.nan, spread)}


def adjust_difference(difference: np.ndarray, controls: np.ndarray, clusters: np.ndarray) -> dict[str, np.ndarray]:
    """Return the paired difference (D,) that is left when both replies are alike in the controls, low and high (95 %).

    The differences (N, D) are regressed on those of the controls (N, C), refusal and log-length; the constant is what
    remains when those are 0. Standard errors are robust, scores summed over `clusters` (N,). nan where fewer than
    C + 2 clusters are there, or the controls always differ alike, so that nothing tells what they explain.

    >>> d = adjust_difference(np.array([[1.0], [2.0], [3.1], [4.0]]), np.arange(4.0)[:, None], np.arange(4))
    >>> round(float(d["difference"][0]), 2)
    1.01
    """
    import statsmodels.api as sm

    design = np.column_stack([np.ones(len(difference)), controls[:, (controls != 0).any(axis=0)]])
    codes, n_clusters = code_clusters(clusters)
    result = np.full((3, difference.shape[1]), np.nan)
    is_told = n_clusters > design.shape[1] == np.linalg.matrix_rank(design)
    for k, column in enumerate(difference.T):
        if is_told and np.ptp(column) > 0:
            fit = sm.OLS(column, design).fit(use_t=True, cov_type="cluster", cov_kwds={"groups": codes})
            half = sps.t.ppf(0.975, n_clusters - design.shape[1]) * fit.bse[0]     # few clusters: not G - 1
            result[:, k] = fit.params[0], fit.params[0] - half, fit.params[0] + half
    return dict(zip(("difference", "low", "high"), result, strict=True))


def fit_mixed(values: np.ndarray, indicator: np.ndarray, prompts: np.ndarray) -> dict[str, float | np.ndarray]:
    """Fit one value (N,) on columns such as model and refusal (N, K), with the prompt as random intercept (REML).

    effect, low, high (95 %), p are (K,); icc is the share of the left-over variance that lies between prompts. All nan
    and converged False when it cannot be fitted: a constant column, fewer rows than 3 + K, no prompt with two rows.
    Source: Laird & Ware (1982).

    >>> y = np.array([0.0, 1.1, 0.5, 1.4, 0.1, 1.3, 0.9, 1.8])
    >>> fit = fit_mixed(y, np.tile([[0.0], [1.0]], (4, 1)), np.repeat(np.arange(4), 2))
    >>> round(float(fit["effect"][0]), 3)
    1.025
    """
    import statsmodels.api as sm

    (codes, n_groups), design = code_clusters(prompts), np.column_stack([np.ones(len(values)), indicator])
    n, k = design.shape
    failed = dict.fromkeys(("effect", "low", "high", "p"), np.full(k - 1, np.nan)) | {"icc": np.nan, "converged": False}
    if n < 2 + k or n_groups == n or np.ptp(values) == 0 or np.linalg.matrix_rank(design) < k:
        return failed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # boundary and convergence: told by `converged` and icc = 0
            fit = sm.MixedLM(values, design, groups=codes).fit()
            between = float(np.asarray(fit.cov_re)[0, 0])
            (low, high), p = np.asarray(fit.conf_int())[1:k].T, np.asarray(fit.pvalues[1:k])
            if not np.isfinite([low, high]).all():  # next to a variance of 0 the library may lose all errors
                ratio, sums = between / fit.scale, sum_by_cluster(design, codes, n_groups)
                shrunk = (ratio / (1 + ratio * np.bincount(codes)))[:, None] * sums
                error = np.sqrt(fit.scale * np.diag(np.linalg.inv(design.T @ design - sums.T @ shrunk)))[1:]
                low, high = (fit.fe_params[1:] + sign * sps.norm.ppf(0.975) * error for sign in (-1, 1))
                p = 2 * sps.norm.sf(np.abs(fit.fe_params[1:] / error))
    except (np.linalg.LinAlgError, ValueError):
        return failed
    return {"effect": fit.fe_params[1:], "low": low, "high": high, "p": p, "icc": between / (between + fit.scale),
            "converged": bool(fit.converged)}


def correlate(x: np.ndarray, y: np.ndarray, clusters: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Correlate every column of x (N, D) with every column of y (N, R): r and p, (D, R) each.

    Pearson, so point-biserial where y is 0/1, and Spearman for ranks. With `clusters` (the prompt of each row) p comes
    from the cluster-robust t of the standardised slope, G - 1 degrees of freedom (Liang & Zeger 1986, with the
    small-sample factor of Stata), without them from Student's t. nan where a column is constant or fewer than 3 rows
    (clusters) are left, p also where a column is `_is_rare`; unequal lengths or missing cells are a ValueError.

    >>> r, p = correlate([[1.0], [2.0], [3.0], [4.0]], [[0], [0], [1], [1]])
    >>> round(float(r[0, 0]), 4), round(float(p[0, 0]), 4)
    (0.8944, 0.1056)
    """
    x, y = as_matrix(x), as_matrix(y)
    if len(x) != len(y) or np.isnan(x).any() or np.isnan(y).any():
        raise ValueError(f"x has {len(x)} rows and y has {len(y)}: they must be the same rows, without missing cells")
    n, nothing = len(x), np.full((x.shape[1], y.shape[1]), np.nan)
    if n < 3:
        return nothing, nothing
    zx, zy = np.column_stack([_standardise(column) for column in x.T]), _standardise(y)
    r = (zx[:, :, None] * zy[:, None]).sum(axis=0) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        if clusters is None:
            return r, 2 * sps.t.sf(np.abs(r) * np.sqrt((n - 2) / np.clip(1 - r**2, 0, None)), n - 2)
        codes, n_clusters = code_clusters(clusters)
        if n_clusters < 3:
            return r, nothing
        slopes = zy[:, None] * (zx[:, :, None] - r * zy[:, None])  # (N, D, R)
        scores = sum_by_cluster(slopes.reshape(n, -1), codes, n_clusters)
        error = np.sqrt(n_clusters / (n_clusters - 1) * (n - 1) / (n - 2) * (scores**2).sum(axis=0)) / n
        p = 2 * sps.t.sf(np.abs(r / error.reshape(r.shape)), n_clusters - 1)
        return r, np.where(_is_rare(x, codes, n_clusters)[:, None] | _is_rare(y, codes, n_clusters), np.nan, p)


def _is_rare(x: np.ndarray, codes: np.ndarray, n_clusters: int) -> np.ndarray:
    """Return (D,) whether too few prompts (10, or half of them) depart from a column's commonest value to tell chance.

    Of two columns that have nothing to do with each other, one of them with a 1 in one prompt of a hundred, 84 % had
    p < .05 without this rule, 11 % with a 1 in five.
    """
    if not len(x):
        return np.zeros(x.shape[1], bool)
    common = sps.mode(x, axis=0).mode
    return (sum_by_cluster(x != common, codes, n_clusters) > 0).sum(axis=0) < min(10, n_clusters / 2)


def _standardise(x: np.ndarray) -> np.ndarray:
    """Return z scores by column; a constant column becomes nan."""
    centred = x - x.mean(axis=0)
    spread = np.sqrt((centred**2).mean(axis=0))
    return centred / np.where(spread > 1e-9 * (1 + np.abs(x).max(axis=0)), spread, np.nan)


def bootstrap_correlations(x: np.ndarray, y: np.ndarray, clusters: np.ndarray, n_draws: int = 2000,
                           seed: int = 0) -> np.ndarray:
    """Draw the correlations of `correlate` again over prompts: (B, D, R).

    nan where a column becomes constant, in all draws where it `_is_rare`. For Spearman give ranks; they are then taken
    once, on all rows.

    >>> x = np.arange(8.0)[:, None]
    >>> draws = bootstrap_correlations(x, x, np.arange(8), n_draws=50)
    >>> draws.shape, bool(np.allclose(draws, 1))
    ((50, 1, 1), True)
    """
    rare = [_is_rare(as_matrix(m), *code_clusters(clusters)) for m in (x, y)]
    x, y = (as_matrix(m) - as_matrix(m).mean(axis=0) for m in (x, y))
    d, k = x.shape[1], y.shape[1]
    products = (x[:, :, None] * y[:, None]).reshape(len(x), d * k)
    drawn = bootstrap_sums(np.hstack([np.ones((len(x), 1)), x, x**2, y, y**2, products]), clusters, n_draws, seed)
    n, *means = np.split(drawn, np.cumsum([1, d, d, k, k]), axis=1)
    mean_x, square_x, mean_y, square_y, product = (m / n for m in means)
    var_x, var_y = (square_x - mean_x**2)[:, :, None], (square_y - mean_y**2)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        r = (product.reshape(-1, d, k) - mean_x[:, :, None] * mean_y[:, None]) / np.sqrt(var_x * var_y)
    is_known = (var_x > 1e-15) & (var_y > 1e-15) & ~(rare[0][:, None] | rare[1])
    return np.where(is_known, np.clip(r, -1, 1), np.nan)


def find_components(vectors: np.ndarray) -> dict[str, np.ndarray]:
    """Find the two first principal components of value vectors (N, D) from their covariance (Hotelling 1933).

    mean (D,), axes (2, D) with the largest loading of each positive, share of the variance (nan when nothing varies).
    A missing cell is a ValueError.

    >>> result = find_components([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    >>> result["share"].round(6), result["axes"][0].round(3)
    (array([1., 0.]), array([0.707, 0.707]))
    """
    from sklearn.decomposition import PCA

    with np.errstate(invalid="ignore"):
        found = PCA(svd_solver="covariance_eigh").fit(vectors)
    axes = found.components_[:2]
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    return {"mean": found.mean_, "axes": axes, "share": found.explained_variance_ratio_[:2]}
