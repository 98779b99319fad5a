"""Comparisons of value vectors: paired and mixed differences, adjusted p values, agreement with a published table."""

import warnings

import numpy as np
from scipy import stats as sps
from statsmodels.stats.multitest import multipletests

from fulcra_utils.stats.resampling import as_matrix, code_clusters


def adjust_p(p: np.ndarray, method: str = "bh") -> np.ndarray:
    """Adjust the p values of one declared family; nan = not tested, stays nan and does not count.

    "bh": Benjamini & Hochberg (1995), share of false findings; "holm": Holm (1979), any false finding.

    >>> adjust_p([0.01, 0.04, 0.03, np.nan])
    array([0.03, 0.04, 0.04,  nan])
    """
    p = np.asarray(p, float)
    adjusted, tested = np.full(p.shape, np.nan), np.isfinite(p)
    if tested.any():
        adjusted[tested] = multipletests(p[tested], method={"bh": "fdr_bh"}.get(method, method))[1]
    return adjusted


def compare_paired(first: np.ndarray, second: np.ndarray, level: float = 0.95,
                   clusters: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Compare two models on the same prompts, (N, D) each, value by value, by a t interval with prompts as the unit.

    A pair with nan is left out in its column. `clusters` (N,) are groups of near-duplicate prompts: errors sum over a
    group first and G - 1 is the number of degrees of freedom (Liang & Zeger 1986). Returned (D,) arrays: n, difference
    first - second, low, high, t, p, effect (Cohen's d_z: mean over standard deviation of the differences). nan with
    fewer than two groups; with constant differences t, p and effect are nan.

    >>> result = compare_paired([[3.0], [5.0], [4.0]], [[1.0], [2.0], [3.0]])
    >>> [round(float(result[k][0]), 3) for k in ("difference", "t", "effect")]
    [2.0, 3.464, 2.0]
    """
    first, second = as_matrix(first), as_matrix(second)
    if first.shape != second.shape:
        raise ValueError(f"paired rows must have one shape, not {first.shape} and {second.shape}")
    groups = np.arange(len(first)) if clusters is None else np.asarray(clusters)
    rows = [_paired_one(column[known], groups[known], level)
            for column in (first - second).T for known in [np.isfinite(column)]]
    names = ("n", "difference", "low", "high", "t", "p", "effect")
    return {name: np.array([row[k] for row in rows]) for k, name in enumerate(names)}


def adjust_difference(difference: np.ndarray, controls: np.ndarray, clusters: np.ndarray) -> dict[str, np.ndarray]:
    """Return the paired difference (D,) that is left when both replies are alike in the controls, low and high (95 %).

    The differences (N, D) are regressed on those of the controls (N, C), refusal and log-length; the constant is what
    remains when those are 0. Standard errors are robust, scores summed over `clusters` (N,). nan where fewer than
    C + 2 clusters are there.

    >>> d = adjust_difference(np.array([[1.0], [2.0], [3.1], [4.0]]), np.arange(4.0)[:, None], np.arange(4))
    >>> round(float(d["difference"][0]), 2)
    1.01
    """
    import statsmodels.api as sm

    design = np.column_stack([np.ones(len(difference)), controls[:, (controls != 0).any(axis=0)]])
    codes, n_clusters = code_clusters(clusters)
    result = np.full((3, difference.shape[1]), np.nan)
    for k, column in enumerate(difference.T):
        if n_clusters > design.shape[1] and np.ptp(column) > 0:
            fit = sm.OLS(column, design).fit(use_t=True, cov_type="cluster", cov_kwds={"groups": codes})
            result[:, k] = fit.params[0], *fit.conf_int()[0]
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
            (low, high), p = np.asarray(fit.conf_int())[1:k].T, np.asarray(fit.pvalues[1:k])
    except (np.linalg.LinAlgError, ValueError):
        return failed
    between = float(np.asarray(fit.cov_re)[0, 0])
    return {"effect": fit.fe_params[1:], "low": low, "high": high, "p": p, "icc": between / (between + fit.scale),
            "converged": bool(fit.converged)}


def agree_with_table(ours: np.ndarray, reported: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the correlation of two tables (D, R) over their cells, and the share of cells with the same sign.

    `ours` may be many tables (…, D, R); nan cells are left out. nan with fewer than 3 shared cells; the correlation
    also when a table is constant over them.

    >>> r, signs = agree_with_table([[1.0, -1.0], [2.0, np.nan]], [[2.0, -2.0], [4.0, 0.0]])
    >>> round(float(r), 6), float(signs)
    (1.0, 1.0)
    """
    ours, reported = np.asarray(ours, float), np.asarray(reported, float)
    shared = np.isfinite(ours) & np.isfinite(reported)
    n = shared.sum(axis=(-2, -1))

    def mean(x: np.ndarray) -> np.ndarray:
        return np.where(shared, x, 0).sum(axis=(-2, -1)) / np.where(n >= 3, n, np.nan)

    x, y = (np.where(shared, t, 0) - mean(np.where(shared, t, 0))[..., None, None] for t in (ours, reported))
    spread = np.sqrt(mean(x**2) * mean(y**2))
    with np.errstate(divide="ignore", invalid="ignore"):
        r = mean(x * y) / np.where(spread > 1e-12, spread, np.nan)
    return r[()], mean(np.sign(ours) == np.sign(reported))[()]


def _paired_one(d: np.ndarray, groups: np.ndarray, level: float) -> tuple[float, ...]:
    """Return n, mean, low, high, t, p and d_z of one column of differences."""
    n, (codes, n_groups) = len(d), code_clusters(groups)
    if n_groups < 2:
        return (n, d.mean() if n else np.nan, *[np.nan] * 5)
    mean, spread = d.mean(), d.std(ddof=1)
    error = np.sqrt(n_groups / (n_groups - 1) * np.square(np.bincount(codes, d - mean)).sum()) / n
    if error <= 1e-12 * (1 + abs(mean)):
        return (n, mean, mean, mean, *[np.nan] * 3)
    half = sps.t.ppf((1 + level) / 2, n_groups - 1) * error
    t = mean / error
    return n, mean, mean - half, mean + half, t, 2 * sps.t.sf(abs(t), n_groups - 1), mean / spread
