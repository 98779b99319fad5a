"""Countries' value profiles, and how near a model comes to them."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from scipy import stats as sps

from fulcra_utils.common.paths import DATA
from fulcra_utils.stats.resampling import take_interval
from fulcra_utils.systems.compass.scores import CompassError, ModelScores, mean_known, nanmean
from fulcra_utils.theory.theory import Theory, lift_to, load_theory

COUNTRIES = DATA / "countries.yaml"


@dataclass(frozen=True)
class Countries:
    """Populations next to which models are placed: C names, titles and regions, and what is known of their values.

    `ranks` (C, D), 1 = first value, nan = no ranking known; `vectors` (C, D), nan = not known; both under `theory`, and
    scores under a theory refined from it are averaged up to it.
    """

    names: tuple[str, ...]
    titles: tuple[str, ...]
    regions: tuple[str, ...]
    theory: Theory
    ranks: np.ndarray = field(repr=False, compare=False)
    vectors: np.ndarray = field(repr=False, compare=False)


def load_countries(path: str | Path = COUNTRIES) -> Countries:
    """Load country rankings (Value Compass) and value vectors (Value FULCRA) from data/countries.yaml or another file.

    A ranking that does not name every dimension of its theory once is a CompassError with the country.

    >>> countries = load_countries()
    >>> countries.names[0], countries.ranks[0].astype(int).tolist()
    ('france', [4, 8, 5, 9, 10, 3, 6, 7, 1, 2])
    """
    from fulcra_utils.theory.targets import load_target
    raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    theory = load_theory(raw["theory"])
    ranks, vectors = (np.full((len(raw["countries"]), theory.n_dims), np.nan) for _ in range(2))
    for c, entry in enumerate(raw["countries"]):
        if "ranking" in entry:
            if sorted(entry["ranking"]) != sorted(theory.dimensions):
                raise CompassError(f"{path}: the ranking of {entry['name']} does not name every value of {theory.name} "
                                   "once.")
            ranks[c] = [entry["ranking"].index(d) + 1 for d in theory.dimensions]
        if "target" in entry:
            vectors[c] = load_target(entry["target"], theory).values
    words = (tuple(entry[key] for entry in raw["countries"]) for key in ("name", "title", "region"))
    return Countries(*words, theory, ranks, vectors)


def match_rankings(values: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Return Spearman's ρ (…, C) between value profiles (…, D) and population rankings (C, D), 1 = first.

    nan where fewer than three dimensions are known on both sides or one side is constant. Source: Value Compass
    (arXiv 2501.07071); Spearman (1904), ties by average ranks.

    >>> match_rankings(np.array([[0.9, 0.5, 0.1], [0.1, 0.5, 0.9]]), np.array([[1, 2, 3]])).ravel()
    array([ 1., -1.])
    """
    values, ranks = np.asarray(values, dtype=float), np.asarray(ranks, dtype=float)
    rho = np.full((*values.shape[:-1], len(ranks)), np.nan)
    for c, row in enumerate(ranks):
        known = np.isfinite(row)
        if known.sum() < 3:
            continue
        x = sps.rankdata(values[..., known], axis=-1)
        x = np.where(np.isnan(values[..., known]).any(-1, keepdims=True), np.nan, x)
        y = sps.rankdata(-row[known])
        x, y = x - x.mean(-1, keepdims=True), y - y.mean()
        scale = np.sqrt((x**2).sum(-1) * (y**2).sum())
        rho[..., c] = np.divide(x @ y, scale, out=np.full(scale.shape, np.nan), where=scale > 0)
    return np.clip(rho, -1, 1)


def match_countries(scores: ModelScores, theory: Theory | str, countries: Countries, draws: np.ndarray,
                    level: float = 0.95) -> pd.DataFrame:
    """Match the value ranking of each model with that of each country: model, country, rho in [-1, 1], low, high.

    `scores` and `draws` are under `theory`; rho is nan where it cannot be computed, and there are no rows when the
    theory is neither the countries' nor refined from it. Source: Value Compass (arXiv 2501.07071); intervals over
    prompts are ours.

    >>> countries = load_countries()
    >>> from fulcra_utils.systems.compass.scores import draw_means
    >>> scores = ModelScores(("france",), ("x",), countries.theory.dimensions, -countries.ranks[:1, None], np.zeros(1))
    >>> match_countries(scores, countries.theory, countries, draw_means(scores, 10)).rho[0].item()
    1.0
    """
    theory = load_theory(theory)
    lifted, drawn = (lift_to(v, theory, countries.theory) for v in (scores.means, draws))
    ranked = np.isfinite(countries.ranks).all(axis=1)
    if lifted is None:
        return pd.DataFrame(columns=["model", "country", "rho", "low", "high"])
    rho = match_rankings(lifted, countries.ranks[ranked])
    low, high = take_interval(match_rankings(drawn, countries.ranks[ranked]), level)
    index = pd.MultiIndex.from_product([scores.models, np.array(countries.titles)[ranked]], names=["model", "country"])
    return pd.DataFrame({"rho": rho.ravel(), "low": low.ravel(), "high": high.ravel()}, index=index).reset_index()


def compare_regions(scores: ModelScores, theory: Theory | str, countries: Countries, draws: np.ndarray,
                    level: float = 0.95) -> pd.DataFrame:
    """Return how much nearer the models are to the rankings of each region than to those of the other regions.

    region, difference (mean ρ with its countries minus mean ρ with the others, mean over models), low, high; no rows
    when the theory does not fit or one region alone has rankings. It re-examines the Western bias found by the Value
    Compass.
    """
    theory = load_theory(theory)
    lifted, drawn = (lift_to(v, theory, countries.theory) for v in (scores.means, draws))
    ranked = np.isfinite(countries.ranks).all(axis=1)
    regions = np.array(countries.regions)[ranked]
    rows = []
    for region in dict.fromkeys(regions) if lifted is not None and len(set(regions)) > 1 else ():
        rhos = (match_rankings(values, countries.ranks[ranked]) for values in (lifted, drawn))
        gap, gaps = (rho[..., regions == region].mean(-1) - rho[..., regions != region].mean(-1) for rho in rhos)
        bounds = take_interval(mean_known(gaps, np.isfinite(gap)), level)
        rows.append((region, float(nanmean(gap, -1)), *map(float, bounds)))
    return pd.DataFrame(rows, columns=["region", "difference", "low", "high"])


def centre_profiles(vectors: np.ndarray) -> np.ndarray:
    """Subtract each profile's own mean and scale it to length 1: people and models use their scales differently.

    A profile without any contrast is all 0; nan stays nan. With D = 1 the vectors come back as they are.

    >>> centre_profiles(np.array([[3.0, 1.0]])).round(4)
    array([[ 0.7071, -0.7071]])
    """
    vectors = np.asarray(vectors, dtype=float)
    if vectors.shape[-1] == 1:
        return vectors
    centred = vectors - vectors.mean(axis=-1, keepdims=True)
    length = np.linalg.norm(centred, axis=-1, keepdims=True)
    return np.divide(centred, length, out=np.where(np.isnan(centred), np.nan, 0.0), where=length > 1e-12)


def nearest_countries(scores: ModelScores, theory: Theory | str, countries: Countries,
                      draws: np.ndarray) -> pd.DataFrame:
    """Name for each model the country whose value vector is nearest: model, country, distance, share.

    The distance (0 to 2) is between centred profiles of length 1; the share is that of the bootstrap draws in which
    this country is the nearest (nan without draws). No rows when the theory does not fit.
    """
    theory = load_theory(theory)
    known = np.isfinite(countries.vectors).all(axis=1)
    lifted, drawn = (lift_to(v, theory, countries.theory) for v in (scores.means, draws))
    if lifted is None or not known.any():
        return pd.DataFrame(columns=["model", "country", "distance", "share"])
    places, titles = centre_profiles(countries.vectors[known]), np.array(countries.titles)[known]
    distance, distances = (np.linalg.norm(centre_profiles(v)[..., None, :] - places, axis=-1) for v in (lifted, drawn))
    usable = np.isfinite(distance).all(axis=1)
    best = np.where(usable, np.nan_to_num(distance).argmin(axis=1), 0)
    finite = np.isfinite(distances).all(axis=-1)                                              # (B, M)
    hits = np.where(finite, np.nan_to_num(distances).argmin(axis=-1) == best, np.nan)
    return pd.DataFrame({"model": scores.models, "country": np.where(usable, titles[best], None),
                         "distance": distance[np.arange(len(best)), best], "share": nanmean(hits, axis=0)})


def gather_profiles(scores: ModelScores, theory: Theory, countries: Countries | None) -> tuple[np.ndarray, list[str]]:
    """Return the centred profiles (M + C, D) and names of the models and, where their theory fits, of the countries."""
    vectors, labels = scores.means, list(scores.models)
    lifted = None if countries is None else lift_to(vectors, theory, countries.theory)
    if lifted is not None:
        known = np.isfinite(countries.vectors).all(axis=1)
        vectors = np.vstack([lifted, countries.vectors[known]])
        labels += np.array(countries.titles)[known].tolist()
    return centre_profiles(vectors), labels


def map_profiles(vectors: np.ndarray, method: str = "mds", seed: int = 2023) -> np.ndarray:
    """Place profiles (K, D) on a plane (K, 2), near ones near each other; nan rows for incomplete ones.

    "mds" is metric scaling of Euclidean distances. "tsne", as in the Value Compass, has perplexity min(30, (K - 1) /
    3); below five profiles there is nothing to embed and MDS is returned.

    >>> points = map_profiles(np.array([[0.0, 0.0], [3.0, 4.0], [np.nan, 1.0]]))
    >>> round(float(np.linalg.norm(points[0] - points[1])), 3), bool(np.isnan(points[2]).all())
    (5.0, True)
    """
    if method not in {"mds", "tsne"}:
        raise CompassError(f"the map is 'mds' or 'tsne', not {method!r}.")
    vectors = np.asarray(vectors, dtype=float)
    full = np.isfinite(vectors).all(axis=1)
    places = np.full((len(vectors), 2), np.nan)
    known = vectors[full]
    if len(known) and method == "tsne" and len(known) >= 5 and np.ptp(known, axis=0).any():
        from sklearn.manifold import TSNE
        # the approximation pays only for many profiles
        places[full] = TSNE(perplexity=min(30, (len(known) - 1) / 3), init="random", random_state=seed,
                            method="exact" if len(known) <= 150 else "barnes_hut").fit_transform(known)
    elif len(known):
        places[full] = _scale_down(known, seed)
    return places


def _scale_down(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Return metric MDS started from the principal plane (classical MDS), which is exact for two dimensions."""
    centred = vectors - vectors.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    plane = np.zeros((len(vectors), 2))
    plane[:, :min(2, len(s))] = (u * s)[:, :2]
    if len(s) <= 2 or len(vectors) < 4 or s[2] < 1e-9 * max(s[0], 1e-300):
        return plane
    from sklearn.manifold import smacof
    from sklearn.metrics import pairwise_distances
    return smacof(pairwise_distances(vectors), n_components=2, init=plane, n_init=1, normalized_stress=False,
                  random_state=seed)[0]
