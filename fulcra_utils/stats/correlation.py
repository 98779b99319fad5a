"""Correlations with cluster intervals, and principal components."""

import numpy as np
from scipy import stats as sps

from fulcra_utils.stats.resampling import as_matrix, code_clusters, draw_sums, sum_by_cluster


def correlate(x: np.ndarray, y: np.ndarray, clusters: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Correlate every column of x (N, D) with every column of y (N, R): r and p, (D, R) each.

    Pearson, so point-biserial where y is 0/1, and Spearman for ranks. With `clusters` (the prompt of each row) p comes
    from the cluster-robust t of the standardised slope, G - 1 degrees of freedom (Liang & Zeger 1986, with the
    small-sample factor of Stata), without them from Student's t. nan where a column is constant or fewer than 3 rows
    (clusters) are left; unequal lengths or missing cells are a ValueError.

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
        return r, 2 * sps.t.sf(np.abs(r / error.reshape(r.shape)), n_clusters - 1)


def _standardise(x: np.ndarray) -> np.ndarray:
    """Return z scores by column; a constant column becomes nan."""
    centred = x - x.mean(axis=0)
    spread = np.sqrt((centred**2).mean(axis=0))
    return centred / np.where(spread > 1e-9 * (1 + np.abs(x).max(axis=0)), spread, np.nan)


def bootstrap_correlations(x: np.ndarray, y: np.ndarray, clusters: np.ndarray, n_draws: int = 2000,
                           seed: int = 0) -> np.ndarray:
    """Draw the correlations of `correlate` again over prompts: (B, D, R), nan where a column becomes constant.

    For Spearman give ranks; they are then taken once, on all rows.

    >>> x = np.arange(8.0)[:, None]
    >>> draws = bootstrap_correlations(x, x, np.arange(8), n_draws=50)
    >>> draws.shape, bool(np.allclose(draws, 1))
    ((50, 1, 1), True)
    """
    x, y = (as_matrix(m) - as_matrix(m).mean(axis=0) for m in (x, y))
    d, k = x.shape[1], y.shape[1]
    products = (x[:, :, None] * y[:, None]).reshape(len(x), -1)
    sums = sum_by_cluster(np.hstack([np.ones((len(x), 1)), x, x**2, y, y**2, products]), *code_clusters(clusters))
    n, *means = np.split(draw_sums(sums, n_draws, seed), np.cumsum([1, d, d, k, k]), axis=1)
    mean_x, square_x, mean_y, square_y, product = (m / n for m in means)
    var_x, var_y = (square_x - mean_x**2)[:, :, None], (square_y - mean_y**2)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        r = (product.reshape(-1, d, k) - mean_x[:, :, None] * mean_y[:, None]) / np.sqrt(var_x * var_y)
    return np.where((var_x > 1e-15) & (var_y > 1e-15), np.clip(r, -1, 1), np.nan)


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
