"""Factors behind values: how many, which values load on them and how surely, and how well a given grouping fits.

Pure functions, complete rows in: a value that does not vary, or a missing cell, is a ValueError that gives its place.
Factors are extracted and rotated by statsmodels. The confirmatory fit is our own, checked against lavaan's printed
example: libraries that have one are under the GPL or no longer kept. Axis letters: N rows (subjects), D values,
K factors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats as sps
from scipy.optimize import linear_sum_assignment, minimize
from statsmodels.multivariate.factor import Factor
from statsmodels.multivariate.factor_rotation import rotate_factors

from fulcra_utils.stats.probes import permute_clusters
from fulcra_utils.stats.resampling import draw_rows, take_interval

CASES = 5       # cases a free parameter: below, a confirmatory fit is not estimated (Bentler & Chou 1987)
FITS = ("cfi", "tli", "rmsea", "srmr", "aic", "bic")


def correlate_values(rows: np.ndarray) -> np.ndarray:
    """Return the correlations (D, D) of the values of complete rows (N, D); ValueError where they are not defined."""
    rows = np.asarray(rows, float)
    if rows.ndim != 2 or rows.shape[1] < 2 or len(rows) < 3:
        raise ValueError(f"factors need 2 values and 3 rows at least, not an array of shape {rows.shape}")
    if lost := np.flatnonzero(~np.isfinite(rows).all(axis=0)).tolist():
        raise ValueError(f"values {lost} miss cells: factors need complete rows")
    if flat := np.flatnonzero(np.ptp(rows, axis=0) <= 1e-12 * (1 + np.abs(rows).max(axis=0))).tolist():
        raise ValueError(f"values {flat} do not vary, so they correlate with nothing")
    return np.corrcoef(rows, rowvar=False)


def measure_partials(correlations: np.ndarray) -> np.ndarray:
    """Return Velicer's MAP (1976): the average squared correlation left when 0, 1, … D - 2 components are taken out.

    The number of components with the least is the one to keep; nan from where a value is explained in full.

    >>> measure_partials(np.array([[1, 0.5, 0.5], [0.5, 1, 0.5], [0.5, 0.5, 1]]))
    array([0.25, 0.25])
    """
    size, axes = np.linalg.eigh(correlations)
    loadings = (axes * np.sqrt(np.clip(size, 0, None)))[:, ::-1]
    found = []
    for k in range(len(correlations) - 1):
        left = correlations - loadings[:, :k] @ loadings[:, :k].T
        spread = np.sqrt(np.where(np.diag(left) > 1e-9, np.diag(left), np.nan))
        partial = left / np.outer(spread, spread)
        found.append((partial[np.triu_indices(len(left), 1)] ** 2).mean())
    return np.array(found)


def shuffle_columns(rows: np.ndarray, clusters: Sequence | None, rng: np.random.Generator) -> np.ndarray:
    """Shuffle each column of rows (N, D) on its own; whole clusters (N,) where given, for their rows are alike."""
    if clusters is None:
        return rng.permuted(rows, axis=0)
    return np.take_along_axis(rows, permute_clusters(np.asarray(clusters), rows.shape[1], rng).T, axis=0)


def count_factors(rows: np.ndarray, n_draws: int = 100, seed: int = 0,
                  clusters: Sequence | None = None) -> tuple[pd.DataFrame, dict[str, int]]:
    """Say how many factors rows (N, D) hold: a row a component (eigenvalue, null, partials), and the three answers.

    `null` is the 95 % quantile of the eigenvalues of as many rows that `shuffle_columns` gives. parallel: how many
    eigenvalues from the first on exceed it (Horn 1965, Glorfeld 1995). map: `measure_partials`, 0 where nothing
    but the correlations themselves is smaller. scree: those before the sharpest bend (acceleration factor, Raîche et
    al. 2013), at least 1.

    >>> rows = np.random.default_rng(0).normal(size=(200, 2))[:, [0, 0, 0, 0, 1, 1, 1, 1]]
    >>> count_factors(rows + 0.7 * np.random.default_rng(1).normal(size=(200, 8)), 20)[1]
    {'parallel': 2, 'map': 2, 'scree': 2}
    """
    correlations, rng = correlate_values(rows), np.random.default_rng(seed)
    size = np.linalg.eigvalsh(correlations)[::-1]
    drawn = [np.linalg.eigvalsh(np.corrcoef(shuffle_columns(rows, clusters, rng), rowvar=False))[::-1]
             for _ in range(n_draws)]
    null, partials = np.quantile(drawn, 0.95, axis=0), measure_partials(correlations)
    table = pd.DataFrame({"component": np.arange(1, len(size) + 1), "eigenvalue": size, "null": null,
                          "partials": np.append(partials, np.nan)})
    bend = np.diff(size, 2)
    return table, {"parallel": int((size > null).cumprod().sum()), "map": int(np.nanargmin(partials)),
                   "scree": 1 + int(bend.argmax()) if len(bend) else 1}


@dataclass(frozen=True)
class Factors:
    """Loadings (D, K), the pattern where factors may correlate; the factors' correlations (K, K); own variance (D,).

    The factors stand by how much they explain, each with its loadings positive on the whole. `heywood` are the places
    of values whose own variance is not above 0: such a solution is improper.
    """

    loadings: np.ndarray
    correlations: np.ndarray
    own: np.ndarray

    @property
    def heywood(self) -> list[int]:
        """Return the places of values that the factors explain in full or more."""
        return np.flatnonzero(self.own < 1e-3).tolist()


def fit_factors(rows: np.ndarray, n_factors: int, rotation: str = "oblimin") -> Factors:
    """Extract factors from rows (N, D) by iterated principal axes and rotate them, as R does: oblimin (gamma 0), or
    varimax with Kaiser's weights.

    With no more rows than values the communalities start from 1 instead of from multiple correlations. ValueError when
    there are as many factors as values or more.

    >>> rows = np.random.default_rng(0).normal(size=(500, 2))[:, [0, 0, 0, 1, 1, 1]]
    >>> found = fit_factors(rows + 0.5 * np.random.default_rng(1).normal(size=(500, 6)), 2)
    >>> sorted((found.loadings > 0.8).sum(axis=0).tolist())
    [3, 3]
    """
    correlations = correlate_values(rows)
    if not 0 < n_factors < len(correlations):
        raise ValueError(f"{n_factors} factors cannot be had of {len(correlations)} values")
    is_full = np.linalg.cond(correlations) < 1e10
    fit = Factor(corr=correlations, n_factor=n_factors, smc=is_full).fit(maxiter=1000)
    loadings = np.zeros((len(correlations), n_factors))
    loadings[:, :fit.loadings.shape[1]] = fit.loadings      # fewer where no more have a positive eigenvalue
    own, turned, between = 1 - (loadings**2).sum(axis=1), loadings, np.eye(n_factors)
    if n_factors > 1 and np.abs(loadings).sum(axis=0).all():
        weight = np.sqrt(1 - own)[:, None] if rotation == "varimax" else 1
        turned, turn = rotate_factors(loadings / weight, "quartimin" if rotation == "oblimin" else rotation)
        turned = turned * weight
        between = turn.T @ turn
    order = np.argsort(-(turned**2).sum(axis=0), kind="stable")
    sign = np.where(turned.sum(axis=0) < 0, -1, 1)[order]
    return Factors(turned[:, order] * sign, between[np.ix_(order, order)] * np.outer(sign, sign), own)


def measure_congruence(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Tucker's congruence (1951) of each factor of (D, K) with each of (D, L), in [-1, 1]: (K, L).

    From .85 on alike, from .95 on the same (Lorenzo-Seva & ten Berge 2006). A factor without loadings: 0.

    >>> measure_congruence(np.array([[1.0], [1.0]]), np.array([[1.0, 1.0], [1.0, -1.0]])).round(6)
    array([[1., 0.]])
    """
    lengths = [np.sqrt((m**2).sum(axis=0)) for m in (first, second)]
    return first.T @ second / np.clip(np.outer(*lengths), 1e-12, None)


def match_factors(loadings: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the loadings (D, K) ordered and turned so that they are most congruent with `wanted`, and how much (K,).

    >>> wanted = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    >>> match_factors(-wanted[:, ::-1], wanted)[1]
    array([1., 1.])
    """
    alike = measure_congruence(wanted, loadings)
    place, order = linear_sum_assignment(-np.abs(alike))
    sign = np.where(alike[place, order] < 0, -1, 1)
    return loadings[:, order] * sign, np.abs(alike[place, order])


def bootstrap_loadings(rows: np.ndarray, clusters: np.ndarray, found: Factors, rotation: str = "oblimin",
                       n_draws: int = 100, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw clusters of rows again: low and high of each loading (D, K), each draw's factors matched to the found ones.

    All nan where fewer than two clusters can be drawn.
    """
    drawn = []
    for places in draw_rows(clusters, n_draws, seed):
        try:
            again = fit_factors(rows[places], found.loadings.shape[1], rotation)
        except ValueError:
            continue        # a value that the draw leaves without variance
        drawn.append(match_factors(again.loadings, found.loadings)[0])
    return tuple(take_interval(np.array(drawn))) if drawn else (np.full(found.loadings.shape, np.nan),) * 2


def fit_groups(rows: np.ndarray, groups: Sequence[int]) -> dict[str, float | int | str | list[int]]:
    """Fit the confirmatory model in which each value of rows (N, D) measures the one factor `groups` (D,) gives it.

    Maximum likelihood, factors free to correlate. Returned: chi2, df, p, n_free, cfi, tli, rmsea, srmr, aic, bic (the
    last two without means, as lavaan gives them), heywood (places of values without own variance), and why, "" or the
    reason for which all else is nan: a factor with one value, too few rows, values that repeat one another. Source:
    Jöreskog (1969); the indices as in Hu & Bentler (1999).
    """
    correlations, mask = correlate_values(rows), np.asarray(groups)[:, None] == np.unique(groups)
    n, (d, k) = len(rows), mask.shape
    n_free = 2 * d + k * (k - 1) // 2
    df = d * (d + 1) // 2 - n_free
    for is_so, why in ((mask.sum(axis=0).min() < 2, "a factor has one value alone"),
                       (n < CASES * n_free, f"{n} rows for {n_free} free parameters ({CASES} each are needed)"),
                       (df < 1, "no degrees of freedom"),
                       (np.linalg.cond(correlations) > 1e10, "values repeat one another")):
        if is_so:
            return dict.fromkeys(("chi2", "p", *FITS), np.nan) | {
                "df": df, "n_free": n_free, "heywood": [], "why": f"not estimable: {why}"}
    implied, own = _fit_confirmatory(correlations, mask)
    determinant, left = np.linalg.slogdet(correlations)[1], correlations - implied
    misfit = np.linalg.slogdet(implied)[1] + np.trace(np.linalg.solve(implied, correlations)) - determinant - d
    chi2, alone, free = n * misfit, -n * determinant, d * (d - 1) / 2       # alone: no two values correlate
    excess, spread = max(chi2 - df, 0), np.asarray(rows, float).std(axis=0)
    likelihood = n * (d * np.log(2 * np.pi) + determinant + d + 2 * np.log(spread).sum()) + chi2
    return {"chi2": chi2, "df": df, "p": float(sps.chi2.sf(chi2, df)), "n_free": n_free,
            "cfi": 1 - excess / max(alone - free, excess, 1e-12),
            "tli": 1 - (chi2 / df - 1) / (alone / free - 1), "rmsea": np.sqrt(excess / (df * n)),
            "srmr": np.sqrt((left[np.tril_indices(d)] ** 2).mean()), "aic": likelihood + 2 * n_free,
            "bic": likelihood + np.log(n) * n_free, "heywood": np.flatnonzero(own < 1e-3).tolist(), "why": ""}


def _fit_confirmatory(correlations: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the correlations (D, D) that the likeliest model implies, and own variances (D,); mask (D, K) is where
    values may load. The better of two starts, for a model that fits badly has several optima.
    """
    (d, k), pairs = mask.shape, np.triu_indices(mask.shape[1], 1)

    def unpack(free: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        loadings, between = np.zeros((d, k)), np.eye(k)
        loadings[mask] = free[:d]
        between[pairs] = between.T[pairs] = free[d:-d]
        return loadings, between, loadings @ between @ loadings.T + np.diag(free[-d:])

    def misfit(free: np.ndarray) -> tuple[float, np.ndarray]:
        loadings, between, implied = unpack(free)
        if np.linalg.eigvalsh(implied)[0] < 1e-8:
            return 1e6, np.zeros_like(free)
        inverse = np.linalg.inv(implied)
        slope = inverse @ (implied - correlations) @ inverse
        return np.linalg.slogdet(implied)[1] + (correlations * inverse).sum(), np.concatenate([
            (2 * slope @ loadings @ between)[mask], 2 * (loadings.T @ slope @ loadings)[pairs], np.diag(slope)])

    component = np.zeros(d)
    for column in mask.T:
        size, axes = np.linalg.eigh(correlations[np.ix_(column, column)])
        component[column] = np.clip(axes[:, -1] * np.sqrt(size[-1]), -0.95, 0.95)
    turned = correlations[np.arange(d), mask.argmax(axis=0)[mask.argmax(axis=1)]] < 0      # against the group's first
    bounds = [(None, None)] * d + [(-0.999, 0.999)] * len(pairs[0]) + [(1e-4, None)] * d
    fit = min((minimize(misfit, np.concatenate([start, np.zeros(len(pairs[0])), np.full(d, 0.5)]), jac=True,
                        method="L-BFGS-B", bounds=bounds,
                        options={"maxiter": 5000, "maxfun": 10000, "ftol": 1e-13, "gtol": 1e-7})
               for start in (component, np.where(turned, -0.7, 0.7))), key=lambda one: one.fun)
    return unpack(fit.x)[2], fit.x[-d:]


def bootstrap_fit(rows: np.ndarray, groups: Sequence[int], clusters: np.ndarray, n_draws: int = 50,
                  seed: int = 0) -> dict[str, float | int | str | list[int]]:
    """Return `fit_groups` with <index>_low and <index>_high, 95 % over clusters drawn again; nan where not estimable.

    A draw repeats rows and so misfits more, by about df in chi2 (Yuan & Hayashi 2003): the draws are moved onto the fit
    by their mean, so that only their spread counts.
    """
    found = fit_groups(rows, groups)
    draws = [] if found["why"] else [[again[name] for name in FITS] for again in (
        fit_groups(rows[places], groups) for places in draw_rows(clusters, n_draws, seed))]
    draws = np.array(draws).reshape(-1, len(FITS))
    if len(draws):
        draws = draws - np.nanmean(draws, axis=0) + [found[name] for name in FITS]
        ends = {"cfi": (-np.inf, 1), "rmsea": (0, np.inf), "srmr": (0, np.inf)}     # no fit lies beyond these
        draws = np.clip(draws, *np.transpose([ends.get(name, (-np.inf, np.inf)) for name in FITS]))
    bounds = zip(FITS, *take_interval(draws), strict=True)
    return found | {f"{name}_{side}": float(x) for name, *pair in bounds for side, x in zip(("low", "high"), pair,
                                                                                             strict=True)}
