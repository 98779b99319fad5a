"""Countries' value profiles, and how near a model comes to them."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from scipy import stats as sps

from fulcra_utils.common.paths import DATA
from fulcra_utils.stats.resampling import mean_known, summarise_draws, take_interval
from fulcra_utils.systems.compass.scores import Board, CompassError, average_draws
from fulcra_utils.theory.targets import load_target
from fulcra_utils.theory.theory import Theory, lift_to, load_theory


@dataclass(frozen=True)
class Countries:
    """Populations next to which models are placed: titles and regions (C,), and what is known of their values.

    `ranks` (C, D), 1 = first value, nan = no ranking known; `vectors` (C, D), nan = not known; both under `theory`, and
    scores under a theory refined from it are averaged up to it.
    """

    titles: np.ndarray
    regions: np.ndarray
    theory: Theory
    ranks: np.ndarray = field(repr=False, compare=False)
    vectors: np.ndarray = field(repr=False, compare=False)

    @property
    def placed(self) -> list[str]:
        """Return the titles of those with a value vector: no other can be the nearest, or stand on a map."""
        return self.titles[np.isfinite(self.vectors).all(axis=1)].tolist()


def load_countries(path: str | Path = DATA / "countries.yaml") -> Countries:
    """Load country rankings (Value Compass) and value vectors (Value FULCRA) from data/countries.yaml or another file.

    A ranking that does not name every dimension of its theory once is a CompassError with the country.

    >>> countries = load_countries()
    >>> countries.titles[0], countries.ranks[0].astype(int).tolist()
    ('France', [4, 8, 5, 9, 10, 3, 6, 7, 1, 2])
    """
    raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    theory, entries = load_theory(raw["theory"]), raw["countries"]
    ranks, vectors = (np.full((len(entries), theory.n_dims), np.nan) for _ in range(2))
    for c, entry in enumerate(entries):
        if "ranking" in entry:
            if sorted(entry["ranking"]) != sorted(theory.dimensions):
                raise CompassError(f"{path}: the ranking of {entry['name']} does not name every value of {theory.name} "
                                   "once.")
            ranks[c] = [entry["ranking"].index(d) + 1 for d in theory.dimensions]
        if "target" in entry:
            vectors[c] = load_target(entry["target"], theory).values
    titles, regions = (np.array([entry[key] for entry in entries], dtype=object) for key in ("title", "region"))
    return Countries(titles, regions, theory, ranks, vectors)


def match_rankings(values: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Return Spearman's ρ (…, C) between value profiles (…, D) and population rankings (C, D), 1 = first.

    nan where a dimension is not known or one side is constant. Source: Value Compass (arXiv 2501.07071); Spearman
    (1904), ties by average ranks.

    >>> match_rankings(np.array([[0.9, 0.5, 0.1], [0.1, 0.5, 0.9]]), np.array([[1, 2, 3]])).ravel()
    array([ 1., -1.])
    """
    x, y = (sps.rankdata(side, axis=-1) - (np.shape(side)[-1] + 1) / 2 for side in (values, -np.asarray(ranks)))
    scale = np.sqrt((x**2).sum(-1)[..., None] * (y**2).sum(-1))
    return np.clip(np.divide(x @ y.T, scale, out=np.full(scale.shape, np.nan), where=scale > 0), -1, 1)


def _match(board: Board, countries: Countries) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return ρ of the means (M, C), ρ of the draws (B, M, C), and which countries these are; None without a fit."""
    ranked = np.isfinite(countries.ranks).all(axis=1)
    lifted = [lift_to(v, board.theory, countries.theory) for v in (board.scores.means, board.draws)]
    return None if lifted[0] is None else (*(match_rankings(v, countries.ranks[ranked]) for v in lifted), ranked)


def match_countries(board: Board, countries: Countries) -> pd.DataFrame:
    """Match the value ranking of each model with that of each country: model, country, rho in [-1, 1], low, high.

    rho is nan where it cannot be computed, and there are no rows when the board's theory is neither the countries' nor
    refined from it. Source: Value Compass (arXiv 2501.07071); intervals over prompts are ours.

    >>> from fulcra_utils.systems.compass.scores import make_board
    >>> countries = load_countries()
    >>> replies = pd.DataFrame(-countries.ranks[:1], columns=countries.theory.dimensions)
    >>> board = make_board("mine", countries.theory, replies.assign(model="france", prompt="x"), "by hand")
    >>> match_countries(board, countries).rho[0].item()
    1.0
    """
    if (found := _match(board, countries)) is None:
        return pd.DataFrame(columns=["model", "country", "rho", "low", "high"])
    rho, drawn, ranked = found
    low, high = take_interval(drawn)
    index = pd.MultiIndex.from_product([board.scores.models, countries.titles[ranked]], names=["model", "country"])
    return pd.DataFrame({"rho": rho.ravel(), "low": low.ravel(), "high": high.ravel()}, index=index).reset_index()


def compare_regions(board: Board, countries: Countries) -> tuple[float, float, float] | None:
    """Return how much nearer the models are to the rankings of the first region than to the others, low and high.

    Mean ρ with its countries minus mean ρ with the others, mean over models; None when the theory does not fit. It
    re-examines the Western bias found by the Value Compass.
    """
    if (found := _match(board, countries)) is None:
        return None
    first = countries.regions[found[2]] == countries.regions[found[2]][0]
    gap, gaps = (rho[..., first].mean(-1) - rho[..., ~first].mean(-1) for rho in found[:2])
    return tuple(summarise_draws(mean_known(gap, -1), average_draws(gaps, np.isfinite(gap))).values())


def centre_profiles(vectors: np.ndarray) -> np.ndarray:
    """Subtract each profile's own mean and scale it to length 1: people and models use their scales differently.

    A profile without any contrast is all 0; nan stays nan. With D = 1 the vectors come back as they are.

    >>> centre_profiles(np.array([[3.0, 1.0]])).round(4)
    array([[ 0.7071, -0.7071]])
    """
    if vectors.shape[-1] == 1:
        return vectors
    centred = vectors - vectors.mean(axis=-1, keepdims=True)
    length = np.linalg.norm(centred, axis=-1, keepdims=True)
    return np.divide(centred, length, out=np.where(np.isnan(centred), np.nan, 0.0), where=length > 1e-12)


def nearest_countries(board: Board, countries: Countries) -> pd.DataFrame:
    """Name for each model the nearest of the countries that are `placed`: model, country, distance, share.

    The distance (0 to 2) is between centred profiles of length 1; the share is that of the bootstrap draws in which
    this country is the nearest (nan without draws). A model without any contrast is near no country. No rows when the
    theory does not fit.
    """
    known = np.isfinite(countries.vectors).all(axis=1)
    lifted = [lift_to(v, board.theory, countries.theory) for v in (board.scores.means, board.draws)]
    if lifted[0] is None or not known.any():
        return pd.DataFrame(columns=["model", "country", "distance", "share"])
    places = centre_profiles(countries.vectors[known])
    distance, drawn = (np.where(own.any(axis=-1, keepdims=True), np.linalg.norm(own[..., None, :] - places, axis=-1),
                                np.nan) for own in map(centre_profiles, lifted))
    best, hits = (np.nan_to_num(d).argmin(axis=-1) for d in (distance, drawn))                # (M,), (B, M)
    distance = distance[np.arange(len(best)), best]
    return pd.DataFrame({
        "model": board.scores.models, "country": np.where(np.isnan(distance), None, countries.titles[known][best]),
        "distance": distance, "share": mean_known(np.where(np.isnan(drawn[..., 0]), np.nan, hits == best), axis=0)})


def map_board(board: Board, countries: Countries, seed: int = 2023) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return MDS and t-SNE places (K, 2) of a board's models and, where they fit, the countries; and their names."""
    vectors, labels = board.scores.means, list(board.scores.models)
    lifted, known = lift_to(vectors, board.theory, countries.theory), np.isfinite(countries.vectors).all(axis=1)
    if lifted is not None:
        vectors, labels = np.vstack([lifted, countries.vectors[known]]), [*labels, *countries.titles[known]]
    return {how: map_profiles(centre_profiles(vectors), how, seed) for how in ("MDS", "t-SNE")}, labels


def map_profiles(vectors: np.ndarray, method: str = "MDS", seed: int = 2023) -> np.ndarray:
    """Place profiles (K, D) on a plane (K, 2), near ones near each other; nan rows for incomplete ones.

    "MDS" is metric scaling of Euclidean distances. "t-SNE", as in the Value Compass, has perplexity min(30, (K - 1) /
    3); below five profiles there is nothing to embed and MDS is returned.

    >>> points = map_profiles(np.array([[0.0, 0.0], [3.0, 4.0], [np.nan, 1.0]]))
    >>> round(float(np.linalg.norm(points[0] - points[1])), 3), bool(np.isnan(points[2]).all())
    (5.0, True)
    """
    full = np.isfinite(vectors).all(axis=1)
    places, known = np.full((len(vectors), 2), np.nan), vectors[full]
    if method == "t-SNE" and len(known) >= 5 and np.ptp(known, axis=0).any():
        from sklearn.manifold import TSNE
        # the approximation pays only for many profiles
        places[full] = TSNE(perplexity=min(30, (len(known) - 1) / 3), init="random", random_state=seed,
                            method="exact" if len(known) <= 150 else "barnes_hut").fit_transform(known)
    elif len(known):
        places[full] = _scale_down(known, seed)
    return places


def _scale_down(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Return metric MDS started from the principal plane (classical MDS), which is exact for two dimensions."""
    u, s, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    plane = np.pad((u * s)[:, :2], ((0, 0), (0, max(0, 2 - len(s)))))
    if len(s) <= 2 or s[2] <= 1e-9 * s[0]:
        return plane
    from sklearn.manifold import smacof
    from sklearn.metrics import pairwise_distances
    return smacof(pairwise_distances(vectors), n_components=2, init=plane, n_init=1, normalized_stress=False,
                  random_state=seed)[0]
