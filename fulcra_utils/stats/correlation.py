"""Correlations with cluster intervals, and principal components."""

import warnings

import numpy as np
from scipy import stats as sps

from fulcra_utils.stats.resampling import as_matrix, code_clusters, draw_sums, sum_by_cluster


def correlate(x: np.ndarray, y: np.ndarray, clusters: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Correlate every column of x (N, D) with every column of y (N, R): r and p, (D, R) each.

    Pearson, so point-biserial where y is 0/1, and Spearman for the ranks of `rank_columns`. nan in x is left out column
    by column. With `clusters` (the prompt of each row) p comes from the cluster-robust t of the standardised slope, G -
    1 degrees of freedom (Liang & Zeger 1986, with the small-sample factor of Stata), without them from Student's t. nan
    where a column is constant or fewer than 3 rows (clusters) are left; unequal lengths or nan in y are a ValueError.

    >>> r, p = correlate([[1.0], [2.0], [3.0], [4.0]], [[0], [0], [1], [1]])
    >>> round(float(r[0, 0]), 4), round(float(p[0, 0]), 4)
    (0.8944, 0.1056)
    """
    x, y = as_matrix(x), as_matrix(y)
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} rows and y has {len(y)}: they must be the same rows")
    if np.isnan(y).any():
        raise ValueError("y has missing cells: leave those rows out first")
    codes = None if clusters is None else code_clusters(clusters)[0]
    pairs = [_correlate_one(column, y, codes) for column in x.T]
    shape = (x.shape[1], y.shape[1])
    return np.reshape([r for r, _ in pairs], shape), np.reshape([p for _, p in pairs], shape)


def bootstrap_correlations(x: np.ndarray, y: np.ndarray, clusters: np.ndarray, n_draws: int = 2000,
                           seed: int = 0) -> np.ndarray:
    """Draw the correlations of `correlate` again over prompts: (B, D, R), nan where a column becomes constant.

    For Spearman give ranks; they are then taken once, on all rows.

    >>> x = np.arange(8.0)[:, None]
    >>> draws = bootstrap_correlations(x, x, np.arange(8), n_draws=50)
    >>> draws.shape, bool(np.allclose(draws, 1))
    ((50, 1, 1), True)
    """
    x, y = as_matrix(x), as_matrix(y)
    sums = sum_by_cluster(_moments(x, y), *code_clusters(clusters))
    return _pearson(draw_sums(sums, n_draws, seed), x.shape[1], y.shape[1])


def rank_columns(x: np.ndarray) -> np.ndarray:
    """Replace each column by its average ranks (ties share a rank); nan stays nan."""
    return sps.rankdata(as_matrix(x), axis=0, nan_policy="omit")


def find_components(vectors: np.ndarray, n_components: int = 2) -> dict[str, np.ndarray]:
    """Find the principal components of the value space from the (D, D) covariance (Hotelling 1933).

    mean (D,), axes (n_components, D) with the largest loading of each positive, share of the variance (nan when nothing
    varies), scores (N, n_components), nan for a row with a missing cell. Fewer than two complete rows are a ValueError.

    >>> result = find_components([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]], 1)
    >>> result["share"].round(6), result["axes"].round(3)
    (array([1.]), array([[0.707, 0.707]]))
    """
    from sklearn.decomposition import PCA

    vectors = as_matrix(vectors)
    complete = np.isfinite(vectors).all(axis=1)
    if complete.sum() < 2:
        raise ValueError("principal components need at least two complete rows")
    with np.errstate(invalid="ignore"):
        found = PCA(svd_solver="covariance_eigh").fit(vectors[complete])
    axes, share = found.components_[:n_components], found.explained_variance_ratio_[:n_components]
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    return {"mean": found.mean_, "axes": axes, "share": share, "scores": (vectors - found.mean_) @ axes.T}


def _correlate_one(x: np.ndarray, y: np.ndarray, codes: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return r and p of one column (N,) with all of y (N, R)."""
    present = np.isfinite(x)
    n = int(present.sum())
    nothing = np.full(y.shape[1], np.nan)
    if n < 3:
        return nothing, nothing
    zx, zy = _standardise(x[present, None]), _standardise(y[present])
    r = (zx * zy).sum(axis=0) / n
    if codes is None:
        with np.errstate(divide="ignore", invalid="ignore"):
            t = r * np.sqrt((n - 2) / np.clip(1 - r**2, 0, None))
        return r, 2 * sps.t.sf(np.abs(t), n - 2)
    codes, n_clusters = (codes, int(codes.max()) + 1) if present.all() else code_clusters(codes[present])
    if n_clusters < 3:
        return r, nothing
    scores = sum_by_cluster(zy * (zx - r * zy), codes, n_clusters)
    factor = n_clusters / (n_clusters - 1) * (n - 1) / (n - 2)
    error = np.sqrt(factor * (scores**2).sum(axis=0)) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        return r, 2 * sps.t.sf(np.abs(r / error), n_clusters - 1)


def _standardise(x: np.ndarray) -> np.ndarray:
    """Return z scores by column; a constant column becomes nan."""
    centred = x - x.mean(axis=0)
    spread = np.sqrt((centred**2).mean(axis=0))
    spread = np.where(spread > 1e-9 * (1 + np.abs(x).max(axis=0)), spread, np.nan)
    return centred / spread


def _moments(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the per-row terms of Pearson's r: n, x, x² (D each), then y, y², xy (D·R each)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column without any number: masked anyway
        x = x - np.nanmean(x, axis=0)
    y = y - y.mean(axis=0)
    present = np.isfinite(x).astype(float)
    x = np.where(present > 0, x, 0)
    by_pair = [(present[:, :, None] * y[:, None]), (present[:, :, None] * y[:, None] ** 2), x[:, :, None] * y[:, None]]
    return np.hstack([present, x, x**2, *[b.reshape(len(x), -1) for b in by_pair]])


def _pearson(sums: np.ndarray, n_dims: int, n_cols: int) -> np.ndarray:
    """Return (B, D, R) correlations from the (B, 3D + 3DR) sums of `_moments`."""
    n, x, xx = (s[:, :, None] for s in np.split(sums[:, :3 * n_dims], 3, axis=1))
    y, yy, xy = (s.reshape(len(sums), n_dims, n_cols) for s in np.split(sums[:, 3 * n_dims:], 3, axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        var_x, var_y = xx / n - (x / n) ** 2, yy / n - (y / n) ** 2
        r = (xy / n - x * y / n**2) / np.sqrt(var_x * var_y)
    return np.where((var_x > 1e-15) & (var_y > 1e-15), np.clip(r, -1, 1), np.nan)
