"""The value compass: scores of many models, ranked with uncertainty, weighted by person or culture, next to countries.

Axis letters: M models, P prompts, D value dimensions, C countries, B bootstrap draws. Choices: every interval resamples
prompts (clusters of near-duplicates together); models are compared on the prompts that all of them answered, where
those are at least half, else each on its own prompts, and then `ModelScores.notes` says so; a weighted score needs
every dimension that has weight, so a gap stays a gap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from scipy import stats as sps

from fulcra_utils.common.paths import DATA
from fulcra_utils.stats.resampling import bootstrap_means, take_interval
from fulcra_utils.theory.theory import Theory, load_theory

COUNTRIES = DATA / "countries.yaml"
REPLY_FILES = (".jsonl", ".jsonl.gz", ".parquet")
MIN_COMMON = 0.5  # share of all prompts that every model must have answered to compare on common prompts


class CompassError(ValueError):
    """Scores, weights or a file of replies cannot be used; the message is one sentence with the place."""


@dataclass(frozen=True)
class ModelScores:
    """Scores of M models on P prompts under a theory with D dimensions.

    Attributes
    ----------
    models, prompts, dimensions : tuple of str
    values : ndarray, shape (M, P, D)
        nan = no reply, or not scored on this dimension.
    clusters : ndarray, shape (P,)
        Prompts with one number are near-duplicates and resampled together.
    same_prompts : bool
        True when every model answered every one of these prompts.
    notes : tuple of str
        What a reader must know: prompts left out, gaps, several replies to one prompt.
    """

    models: tuple[str, ...]
    prompts: tuple[str, ...]
    dimensions: tuple[str, ...]
    values: np.ndarray = field(repr=False, compare=False)
    clusters: np.ndarray = field(repr=False, compare=False)
    same_prompts: bool = True
    notes: tuple[str, ...] = ()

    @property
    def means(self) -> np.ndarray:
        """Return the (M, D) mean scores; nan where a model has no score on a dimension."""
        return _nanmean(self.values, axis=1)

    @property
    def n_answered(self) -> np.ndarray:
        """Return the (M,) numbers of prompts on which a model has any score."""
        return np.isfinite(self.values).any(axis=2).sum(axis=1)


def stack_scores(table: pd.DataFrame, theory: Theory | str, prompts: str = "auto") -> ModelScores:
    """Arrange scored replies of several models by model and prompt.

    Parameters
    ----------
    table : DataFrame
        model, prompt, optionally cluster, and one column per dimension (nan = not scored).
    theory : Theory or str
    prompts : str
        "common": only prompts that every model answered; "own": each model on its own prompts; "auto": common where
        those are at least half of all prompts, else own.

    Returns
    -------
    ModelScores
        Models in order of first appearance. A prompt that stands several times in every model's list counts as
        often, in one cluster; where only some models have several replies to a prompt, those are averaged.

    Raises
    ------
    CompassError
        A missing column, no rows, an unknown choice of prompts, or no common prompt with "common".

    Source: ours; models that answered other prompts are not comparable without saying so.

    Examples
    --------
    >>> table = pd.DataFrame({"model": ["a", "b", "a"], "prompt": ["x", "x", "y"], "care": [1, 0, 0],
    ...                       "fairness": 0, "loyalty": 0, "authority": 0, "sanctity": 0})
    >>> stack_scores(table, "moral_foundations").notes
    ('1 of 2 prompts are answered by every model; the other 1 are left out.',)
    """
    theory = load_theory(theory)
    missing = [c for c in ("model", "prompt", *theory.dimensions) if c not in table]
    if missing or prompts not in {"auto", "common", "own"}:
        raise CompassError(f"the table of replies has no column {missing[0]!r}." if missing
                           else f"prompts is 'auto', 'common' or 'own', not {prompts!r}.")
    if table.empty:
        raise CompassError("the table of replies has no rows.")
    m, models = pd.factorize(table["model"])
    p, names = pd.factorize(pd.MultiIndex.from_arrays([table["prompt"], _count_occurrence(table)]))
    names = names.get_level_values(0)
    values, n_double = _fill(table[list(theory.dimensions)].to_numpy(float), m, p, len(models), len(names))
    first = np.unique(p, return_index=True)[1]
    clusters = table["cluster" if "cluster" in table else "prompt"].to_numpy()[first]
    keep, notes = _choose_prompts(np.isfinite(values).any(axis=2), prompts)
    if n_double:
        notes.append(f"{n_double} prompts have several replies of some model, which are averaged.")
    values = values[:, keep]
    gaps = [d for d, empty in zip(theory.dimensions, np.isnan(values).all(axis=(0, 1)), strict=True) if empty]
    if gaps:
        notes.append(f"No reply is scored on {', '.join(gaps)}.")
    same = bool(np.isfinite(values).any(axis=2).all())
    return ModelScores(tuple(map(str, models)), tuple(map(str, names[keep])), theory.dimensions, values,
                       clusters[keep], same, tuple(notes))


def _count_occurrence(table: pd.DataFrame) -> np.ndarray:
    """Return, per row, how often its model answered its prompt before; 0 where the models' counts differ."""
    groups = table.groupby(["model", "prompt"], sort=False)["prompt"]
    counts = groups.transform("size")
    alike = counts.groupby(table["prompt"]).transform("nunique") == 1
    return np.where(alike, groups.cumcount(), 0)


def _fill(rows: np.ndarray, m: np.ndarray, p: np.ndarray, n_models: int, n_prompts: int) -> tuple[np.ndarray, int]:
    """Return the (M, P, D) means of the rows of each cell, and how many prompts have a cell with several."""
    cell, size = m * n_prompts + p, n_models * n_prompts
    values = pd.DataFrame(rows).groupby(cell).mean().reindex(np.arange(size)).to_numpy()
    several = np.bincount(cell, minlength=size).reshape(n_models, n_prompts) > 1
    return values.reshape(n_models, n_prompts, -1), int(several.any(axis=0).sum())


def _choose_prompts(answered: np.ndarray, choice: str) -> tuple[np.ndarray, list[str]]:
    """Return which prompts are used, (P,) bool, and what must be said about it."""
    common, asked = answered.all(axis=0), answered.any(axis=0)
    n_common, n_asked = int(common.sum()), int(asked.sum())
    if choice == "common" and not n_common:
        raise CompassError("no prompt is answered by every model: compare them on their own prompts instead.")
    if choice == "common" or (choice == "auto" and n_common and n_common >= MIN_COMMON * n_asked):
        left = n_asked - n_common
        text = f"{n_common} of {n_asked} prompts are answered by every model; the other {left} are left out."
        return common, [text] if left else []
    if n_common == n_asked:
        return asked, []
    return asked, [f"The models answered different prompts (only {n_common} of {n_asked} in common): differences "
                   "between their scores are also differences between their prompts."]


def read_models(folder: str | Path, theory: Theory | str) -> tuple[pd.DataFrame, list[str]]:
    """Read the replies of models from a folder: one file per model, named after it.

    Parameters
    ----------
    folder : path
        Files <model>.jsonl, .jsonl.gz or .parquet with `prompt` and `response` (or `answer`), and optionally scores
        (`value_vector`: {dimension: number}, as `fulcra score` writes them).
    theory : Theory or str

    Returns
    -------
    DataFrame
        model, prompt, response and one column per dimension (nan = still to be scored).
    list of str
        One line for each file or group of rows that is left out: a second file of the same model, rows without a
        readable prompt or reply, a file that cannot be opened.

    Source: ours, so that a model is added by dropping a file into a folder.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "my-model.jsonl").write_text('{"prompt": "Hi", "response": "Hello."}')
    ...     table, problems = read_models(folder, "schwartz10")
    >>> table[["model", "prompt", "response"]].values.tolist(), problems
    ([['my-model', 'Hi', 'Hello.']], [])
    """
    from fulcra_utils.dataset.labelled import read_scored
    from fulcra_utils.dataset.texts import DatasetError
    theory, folder = load_theory(theory), Path(folder)
    tables, problems, seen = [], [], {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not path.name.endswith(REPLY_FILES):
            continue
        name = path.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".parquet")
        if name.casefold() in seen:
            problems.append(f"{path.name}: model {name!r} stands already in {seen[name.casefold()]}; rename one file.")
            continue
        try:
            data = read_scored(path, theory)
        except DatasetError as error:
            problems.append(str(error))
            continue
        seen[name.casefold()] = path.name
        if data.n_set_aside:
            problems.append(f"{path.name}: {data.n_set_aside} of {data.n_read} rows have no readable prompt or reply.")
        table = data.table[["prompt", "response"]].astype(object)
        tables.append(pd.concat([table.assign(model=name), pd.DataFrame(data.vectors, columns=theory.dimensions,
                                                                        index=table.index)], axis=1))
    columns = ["model", "prompt", "response", *theory.dimensions]
    return (pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns))[columns], problems


# --- weights --------------------------------------------------------------------------------------------------------

def resolve_weights(weights: Mapping[str, float] | Sequence[float] | None, theory: Theory | str) -> np.ndarray:
    """Return weights that sum to 1.

    Parameters
    ----------
    weights : mapping, sequence of D numbers, or None
        Not negative; a mapping may leave dimensions out (weight 0); None weighs all alike.
    theory : Theory or str

    Returns
    -------
    ndarray, shape (D,)

    Raises
    ------
    CompassError
        Unknown dimension, wrong length, a negative or missing number, or all zero; names the dimension.

    Source: Value Compass (arXiv 2501.07071), aggregate Σ weight · score; dividing by their sum keeps the score's range.

    Examples
    --------
    >>> resolve_weights({"care": 2, "fairness": 1, "loyalty": 1}, "moral_foundations")
    array([0.5 , 0.25, 0.25, 0.  , 0.  ])
    """
    theory = load_theory(theory)
    if weights is None:
        return np.full(theory.n_dims, 1 / theory.n_dims)
    if isinstance(weights, Mapping):
        unknown = [name for name in weights if name not in theory.dimensions]
        if unknown:
            raise CompassError(f"weight for {unknown[0]!r}, which is no dimension of {theory.name}.")
        weights = [weights.get(name, 0.0) for name in theory.dimensions]
    numbers = np.asarray(weights, dtype=float)
    if numbers.shape != (theory.n_dims,):
        raise CompassError(f"{theory.name} needs {theory.n_dims} weights, not {numbers.size}.")
    bad = ~(np.isfinite(numbers) & (numbers >= 0))
    if bad.any():
        raise CompassError(f"the weight of {theory.dimensions[bad.argmax()]} is {numbers[bad][0]:g}; "
                           "a weight is 0 or more.")
    if not numbers.any():
        raise CompassError("all weights are 0, so no ranking exists; give at least one value a weight.")
    return numbers / numbers.sum()


def weigh_by_ranking(ranks: Sequence[float]) -> np.ndarray:
    """Turn a population's ranks of D values (1 = first) into weights: (D - rank + 1) / sum, nan stays out with 0.

    Parameters
    ----------
    ranks : sequence of D numbers
        1 = first; nan = not ranked.

    Returns
    -------
    ndarray, shape (D,)

    Source: ours; a ranking carries no distances, so the weights fall in equal steps.

    Examples
    --------
    >>> weigh_by_ranking([1, 3, 2])
    array([0.5       , 0.16666667, 0.33333333])
    """
    ranks = np.asarray(ranks, dtype=float)
    steps = np.nan_to_num(np.isfinite(ranks).sum() - ranks + 1, nan=0.0)
    return steps / steps.sum()


# --- ranking --------------------------------------------------------------------------------------------------------

def draw_means(scores: ModelScores, n_draws: int = 1000, seed: int = 2023) -> np.ndarray:
    """Draw the mean scores again over prompts, the same prompts for every model.

    Parameters
    ----------
    scores : ModelScores
    n_draws, seed : int

    Returns
    -------
    ndarray, shape (B, M, D)
        nan where a draw holds no score, and everywhere when there are fewer than two clusters of prompts.

    Source: cluster bootstrap, Davison & Hinkley (1997), section 3.8; one matrix product for all models.

    Examples
    --------
    >>> scores = ModelScores(("a",), ("x", "y"), ("care",), np.ones((1, 2, 1)), np.arange(2))
    >>> draw_means(scores, n_draws=3).ravel()
    array([1., 1., 1.])
    """
    n_models, n_prompts, n_dims = scores.values.shape
    if len(np.unique(scores.clusters)) < 2:
        return np.full((n_draws, n_models, n_dims), np.nan)
    flat = scores.values.transpose(1, 0, 2).reshape(n_prompts, -1)
    return bootstrap_means(flat, scores.clusters, n_draws, seed).reshape(n_draws, n_models, n_dims)


def rank_models(scores: ModelScores, weights: np.ndarray, draws: np.ndarray, level: float = 0.95) -> pd.DataFrame:
    """Rank the models by their weighted score, with intervals of scores and of ranks.

    Parameters
    ----------
    scores : ModelScores
    weights : ndarray, shape (D,)
        From `resolve_weights`.
    draws : ndarray, shape (B, M, D)
        From `draw_means`.
    level : float

    Returns
    -------
    DataFrame, best first
        model, score, low, high, rank (1 = highest, ties share the smallest), rank_low, rank_high, n_prompts. All nan
        for a model that lacks a dimension with weight; interval nan with fewer than two clusters of prompts.

    Source: Value Compass (arXiv 2501.07071) for the aggregate; intervals are ours.

    Examples
    --------
    >>> values = np.array([[[1.0], [0.0]], [[0.5], [-0.5]]])
    >>> scores = ModelScores(("a", "b"), ("x", "y"), ("care",), values, np.arange(2))
    >>> rank_models(scores, np.ones(1), draw_means(scores, 100))[["model", "score", "rank_low", "rank_high"]]
      model  score  rank_low  rank_high
    0     a    0.5       1.0        1.0
    1     b    0.0       2.0        2.0
    """
    score, drawn = weigh(scores.means, weights), weigh(draws, weights)
    low, high = take_interval(drawn, level)
    rank_low, rank_high = take_interval(rank_descending(drawn), level)
    table = pd.DataFrame({"model": scores.models, "score": score, "low": low, "high": high,
                          "rank": rank_descending(score), "rank_low": np.floor(rank_low),
                          "rank_high": np.ceil(rank_high), "n_prompts": scores.n_answered})
    return table.sort_values(["rank", "model"], na_position="last", ignore_index=True)


def weigh(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return Σ weight · score over the last axis; nan when a dimension with weight is missing.

    Parameters
    ----------
    values : ndarray, shape (..., D)
    weights : ndarray, shape (D,)

    Returns
    -------
    ndarray, shape (...)

    Source: Value Compass (arXiv 2501.07071), aggregate.

    Examples
    --------
    >>> weigh(np.array([[1.0, np.nan], [np.nan, 1.0]]), np.array([1.0, 0.0]))
    array([ 1., nan])
    """
    used = np.asarray(weights) > 0
    return np.asarray(values)[..., used] @ np.asarray(weights)[used]


def rank_descending(values: np.ndarray) -> np.ndarray:
    """Rank along the last axis, 1 = largest; ties share the smallest rank, nan keeps nan and takes no place.

    Parameters
    ----------
    values : ndarray, shape (..., K)

    Returns
    -------
    ndarray of float, shape (..., K)

    Source: ours; competition ranking.

    Examples
    --------
    >>> rank_descending(np.array([0.5, np.nan, 0.9, 0.5]))
    array([ 2., nan,  1.,  2.])
    """
    values = np.asarray(values, dtype=float)
    missing = np.isnan(values)
    ranks = sps.rankdata(np.where(missing, np.inf, -values), method="min", axis=-1).astype(float)
    ranks[missing] = np.nan
    return ranks


def score_cells(scores: ModelScores, draws: np.ndarray, level: float = 0.95) -> pd.DataFrame:
    """Return score and rank of every model on every single dimension, with intervals.

    Parameters
    ----------
    scores : ModelScores
    draws : ndarray, shape (B, M, D)
        From `draw_means`.
    level : float

    Returns
    -------
    DataFrame, M x D rows
        model, dimension, score, low, high, rank, rank_low, rank_high, n_prompts; nan = not scored.

    Source: ours.

    Examples
    --------
    >>> scores = ModelScores(("a",), ("x", "y"), ("care",), np.array([[[1.0], [0.0]]]), np.arange(2))
    >>> score_cells(scores, draw_means(scores, 50))[["model", "dimension", "score", "rank"]].values.tolist()
    [['a', 'care', 0.5, 1.0]]
    """
    means, (low, high) = scores.means, take_interval(draws, level)
    rank_low, rank_high = take_interval(rank_descending(np.swapaxes(draws, 1, 2)).swapaxes(1, 2), level)
    n = np.isfinite(scores.values).sum(axis=1)
    columns = {"score": means, "low": low, "high": high, "rank": rank_descending(means.T).T,
               "rank_low": np.floor(rank_low), "rank_high": np.ceil(rank_high), "n_prompts": n}
    index = pd.MultiIndex.from_product([scores.models, scores.dimensions], names=["model", "dimension"])
    return pd.DataFrame({name: values.ravel() for name, values in columns.items()}, index=index).reset_index()


def place_values(means: np.ndarray, draws: np.ndarray, dimensions: Sequence[str], n_ends: int = 3,
                 level: float = 0.95) -> pd.DataFrame:
    """Say where each value stands within the models: mean place, and how often among the first or the last.

    Parameters
    ----------
    means : ndarray, shape (M, D)
    draws : ndarray, shape (B, M, D)
    dimensions : sequence of str, length D
    n_ends : int
        How many places count as first or last.
    level : float

    Returns
    -------
    DataFrame, D rows
        dimension, place (mean over models, 1 = strongest value of the model), share_first, share_last (of the models),
        each with _low and _high over the draws.

    Source: ours, to re-examine which values lead and trail in models (Value Compass, findings).

    Examples
    --------
    >>> means = np.array([[0.9, 0.1, 0.5]])
    >>> table = place_values(means, means[None], ["a", "b", "c"], n_ends=1)
    >>> table[["dimension", "place", "share_last"]].values.tolist()
    [['a', 1.0, 0.0], ['b', 3.0, 1.0], ['c', 2.0, 0.0]]
    """
    table = {"dimension": list(dimensions)}
    for name, of in (("place", lambda place, n: place), ("share_first", lambda place, n: place <= n_ends),
                     ("share_last", lambda place, n: place > n - n_ends)):
        values = [np.where(np.isfinite(place), of(place, np.isfinite(place).sum(-1, keepdims=True)), np.nan)
                  for place in (rank_descending(means), rank_descending(draws))]
        table[name] = _nanmean(values[0], axis=0)
        drawn = _mean_known(values[1], np.isfinite(values[0]))
        table[f"{name}_low"], table[f"{name}_high"] = take_interval(drawn, level)
    return pd.DataFrame(table)


def _mean_known(drawn: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return draws (B, M, …) averaged over the models known on all prompts; nan where a draw lacks one of them."""
    n = known.sum(axis=0)
    return np.where(known, drawn, 0).sum(axis=1) / np.where(n, n, np.nan)


def _nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    present = np.isfinite(values)
    n = present.sum(axis)
    return np.divide(np.where(present, values, 0).sum(axis), n, out=np.full(n.shape, np.nan), where=n > 0)


# --- countries and the map ------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Countries:
    """Populations next to which models are placed.

    Attributes
    ----------
    names, titles, regions : tuple of str, length C
    theory : Theory
        Theory of the rankings and vectors; a theory refined from it is averaged up to it.
    ranks : ndarray, shape (C, D)
        1 = first value of the population; nan = no ranking known.
    vectors : ndarray, shape (C, D)
        Population value vectors; nan = not known.
    """

    names: tuple[str, ...]
    titles: tuple[str, ...]
    regions: tuple[str, ...]
    theory: Theory
    ranks: np.ndarray = field(repr=False, compare=False)
    vectors: np.ndarray = field(repr=False, compare=False)


def load_countries(path: str | Path = COUNTRIES) -> Countries:
    """Load the country rankings and vectors.

    Parameters
    ----------
    path : path

    Returns
    -------
    Countries

    Raises
    ------
    CompassError
        When a ranking does not name every dimension of its theory once; names the country.

    Source: Value Compass (rankings) and Value FULCRA (vectors), see the file.

    Examples
    --------
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


def lift_to(values: np.ndarray, theory: Theory, other: Theory) -> np.ndarray | None:
    """Return scores under `theory` as scores under `other`: themselves, or the mean over each dimension's children.

    Parameters
    ----------
    values : ndarray, shape (..., D)
    theory, other : Theory

    Returns
    -------
    ndarray, shape (..., D'), or None
        None when `other` is neither the theory nor its parent; nan for a dimension without children.

    Source: ours; a coarse value is as strong as its parts on average.

    Examples
    --------
    >>> fine, coarse = load_theory("schwartz19"), load_theory("schwartz10")
    >>> lift_to(np.arange(19.0), fine, coarse)[:2].tolist()
    [0.5, 2.0]
    >>> lift_to(np.zeros(5), load_theory("moral_foundations"), coarse) is None
    True
    """
    if theory.name == other.name:
        return np.asarray(values, dtype=float)
    if theory.parent != other.name:
        return None
    children = np.array([[p == d for d in other.dimensions] for p in theory.parents], dtype=float)   # (D, D')
    n = children.sum(axis=0)
    return np.asarray(values) @ children / np.where(n, n, np.nan)


def match_rankings(values: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Return Spearman's ρ between value profiles and population rankings.

    Parameters
    ----------
    values : ndarray, shape (..., D)
        Scores; a larger score is an earlier rank.
    ranks : ndarray, shape (C, D)
        1 = first.

    Returns
    -------
    ndarray, shape (..., C)
        In [-1, 1]; nan where fewer than three dimensions are known on both sides or one side is constant.

    Source: Value Compass (arXiv 2501.07071); Spearman (1904), ties by average ranks.

    Examples
    --------
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
    """Match the value ranking of each model with the ranking of each country.

    Parameters
    ----------
    scores : ModelScores
    theory : Theory or str
        Of the scores.
    countries : Countries
    draws : ndarray, shape (B, M, D)
        From `draw_means`.
    level : float

    Returns
    -------
    DataFrame
        model, country, rho, low, high (nan where it cannot be computed); no rows when the theory is not the countries'
        or refined from it.

    Source: Value Compass (arXiv 2501.07071); intervals over prompts are ours.

    Examples
    --------
    >>> countries = load_countries()
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

    Parameters
    ----------
    scores : ModelScores
    theory : Theory or str
        Of the scores.
    countries : Countries
    draws : ndarray, shape (B, M, D)
        From `draw_means`.
    level : float

    Returns
    -------
    DataFrame
        region, difference (mean ρ with its countries minus mean ρ with the others, mean over models), low, high; no
        rows when the theory does not fit or only one region has rankings.

    Source: ours, to re-examine the finding of a Western bias (Value Compass).

    Examples
    --------
    >>> countries = load_countries()
    >>> scores = ModelScores(("m",), ("x", "y"), countries.theory.dimensions,
    ...                      np.repeat(-countries.ranks[:1, None], 2, axis=1), np.arange(2))
    >>> compare_regions(scores, countries.theory, countries, draw_means(scores, 9)).difference.round(2).tolist()
    [0.44, -0.44]
    """
    theory = load_theory(theory)
    lifted, drawn = (lift_to(v, theory, countries.theory) for v in (scores.means, draws))
    ranked = np.isfinite(countries.ranks).all(axis=1)
    regions = np.array(countries.regions)[ranked]
    rows = []
    for region in dict.fromkeys(regions) if lifted is not None and len(set(regions)) > 1 else ():
        rhos = (match_rankings(values, countries.ranks[ranked]) for values in (lifted, drawn))
        gap, gaps = (rho[..., regions == region].mean(-1) - rho[..., regions != region].mean(-1) for rho in rhos)
        bounds = take_interval(_mean_known(gaps, np.isfinite(gap)), level)
        rows.append((region, float(_nanmean(gap, -1)), *map(float, bounds)))
    return pd.DataFrame(rows, columns=["region", "difference", "low", "high"])


def centre_profiles(vectors: np.ndarray) -> np.ndarray:
    """Subtract each profile's own mean and scale it to length 1, so that people and models are comparable.

    Parameters
    ----------
    vectors : ndarray, shape (..., D)

    Returns
    -------
    ndarray, shape (..., D)
        A profile without any contrast is all 0; nan stays nan. With D = 1 the vectors come back as they are.

    Source: ours; surveys and evaluators use their scales differently, the contrast between values is what they share.

    Examples
    --------
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
    """Name for each model the country whose value vector is nearest.

    Parameters
    ----------
    scores : ModelScores
    theory : Theory or str
        Of the scores.
    countries : Countries
    draws : ndarray, shape (B, M, D)
        From `draw_means`.

    Returns
    -------
    DataFrame
        model, country, distance (0 to 2, between centred profiles of length 1), share (of the bootstrap draws in which
        this country is the nearest; nan without draws); no rows when the theory does not fit.

    Source: ours.

    Examples
    --------
    >>> countries = load_countries()
    >>> scores = ModelScores(("m",), ("x", "y"), countries.theory.dimensions,
    ...                      np.repeat(countries.vectors[None, :1], 2, axis=1), np.arange(2))
    >>> nearest_countries(scores, countries.theory, countries, draw_means(scores, 10)).round(3).values.tolist()
    [['m', 'France', 0.0, 1.0]]
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
                         "distance": distance[np.arange(len(best)), best], "share": _nanmean(hits, axis=0)})


def gather_profiles(scores: ModelScores, theory: Theory, countries: Countries | None) -> tuple[np.ndarray, list[str]]:
    """Return the centred profiles of the models and, where their theory fits, of the countries with a vector.

    Parameters
    ----------
    scores : ModelScores
    theory : Theory
        Of the scores.
    countries : Countries or None

    Returns
    -------
    profiles : ndarray, shape (M + C, D)
    labels : list of str
        Models first.

    Source: ours.

    Examples
    --------
    >>> countries = load_countries()
    >>> scores = ModelScores(("m",), ("x",), countries.theory.dimensions, countries.vectors[None, :1], np.zeros(1))
    >>> gather_profiles(scores, countries.theory, countries)[1]
    ['m', 'France', 'United Kingdom', 'Netherlands']
    """
    vectors, labels = scores.means, list(scores.models)
    lifted = None if countries is None else lift_to(vectors, theory, countries.theory)
    if lifted is not None:
        known = np.isfinite(countries.vectors).all(axis=1)
        vectors = np.vstack([lifted, countries.vectors[known]])
        labels += np.array(countries.titles)[known].tolist()
    return centre_profiles(vectors), labels


def map_profiles(vectors: np.ndarray, method: str = "mds", seed: int = 2023) -> np.ndarray:
    """Place profiles on a plane so that near profiles stand near each other.

    Parameters
    ----------
    vectors : ndarray, shape (K, D)
        Rows with nan get no place.
    method : str
        "mds": metric multidimensional scaling of the Euclidean distances. "tsne": t-SNE with perplexity
        min(30, (K - 1) / 3); below five profiles there is nothing to embed and MDS is returned.
    seed : int

    Returns
    -------
    ndarray, shape (K, 2)
        nan rows where the profile is incomplete.

    Raises
    ------
    CompassError
        For another method.

    Source: Value Compass shows t-SNE; MDS is ours, because it keeps distances; both from scikit-learn.

    Examples
    --------
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


def pick_replies(table: pd.DataFrame, theory: Theory | str, n: int = 3) -> pd.DataFrame:
    """Choose the replies that stand behind each cell of the leaderboard: those with the strongest scores.

    Parameters
    ----------
    table : DataFrame
        model, prompt, response and one column per dimension.
    theory : Theory or str
    n : int
        At most so many per model and dimension; a score of 0 or nan shows nothing and is not chosen.

    Returns
    -------
    DataFrame
        model, dimension, score, prompt, response.

    Source: ours.

    Examples
    --------
    >>> table = pd.DataFrame({"model": "a", "prompt": ["x", "y"], "response": ["r", "s"], "care": [0.2, -0.9],
    ...                       "fairness": 0.0, "loyalty": 0.0, "authority": 0.0, "sanctity": 0.0})
    >>> pick_replies(table, "moral_foundations", n=1)[["dimension", "score", "response"]].values.tolist()
    [['care', -0.9, 's']]
    """
    theory = load_theory(theory)
    parts = []
    for name in theory.dimensions:
        strength = table[name].abs()
        rows = table[strength > 0].assign(strength=strength).sort_values("strength", ascending=False, kind="stable")
        parts.append(rows.groupby("model", sort=False).head(n).assign(dimension=name, score=lambda r, d=name: r[d]))
    return pd.concat(parts, ignore_index=True)[["model", "dimension", "score", "prompt", "response"]]
