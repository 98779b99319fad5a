"""The value compass: scores of many models, ranked with uncertainty, weighted by person or culture, next to countries.

Axis letters: M models, P prompts, D value dimensions, C countries, B bootstrap draws. Choices: every interval resamples
prompts (clusters of near-duplicates together); models are compared on the prompts that all of them answered, where
those are at least half, else each on its own prompts, and then `ModelScores.notes` says so; a weighted score needs
every dimension that has weight, so a gap stays a gap.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats as sps

from fulcra_utils.evaluator.comparison import MIN_PROMPTS
from fulcra_utils.stats.resampling import bootstrap_means, code_clusters, mean_known, sum_by_cluster, take_interval
from fulcra_utils.theory.theory import Theory, load_theory


class CompassError(ValueError):
    """Scores, weights or a file of replies cannot be used; the message is one sentence with the place."""


@dataclass(frozen=True)
class ModelScores:
    """Scores of M models on P prompts under a theory with D dimensions: what is ranked. Made by `stack_scores`.

    `values` (M, P, D), nan = no reply or not scored; `clusters` (P,), prompts with one number are near-duplicates and
    resampled together; `same_prompts`, whether every model answered every prompt; `notes`, what a reader must know.

    >>> ModelScores(("a",), ("x", "y"), ("care",), np.array([[[1.0], [0.0]]]), np.arange(2)).means.tolist()
    [[0.5]]
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
        return mean_known(self.values, axis=1)

    @property
    def n_answered(self) -> np.ndarray:
        """Return the (M,) numbers of prompts on which a model has any score."""
        return np.isfinite(self.values).any(axis=2).sum(axis=1)


def stack_scores(table: pd.DataFrame, theory: Theory | str) -> ModelScores:
    """Arrange scored replies of several models by model and prompt.

    `table` has model, prompt, optionally cluster, and one column per dimension (nan = not scored). Prompts that every
    model answered are kept where those are at least half of all, else all. A prompt that every model which answered it
    answered equally often counts as often, in one cluster; where these numbers differ, its replies are averaged.
    A CompassError names what cannot be used.

    >>> table = pd.DataFrame({"model": ["a", "b", "a"], "prompt": ["x", "x", "y"], "care": [1, 0, 0],
    ...                       "fairness": 0, "loyalty": 0, "authority": 0, "sanctity": 0})
    >>> stack_scores(table, "moral_foundations").notes
    ('1 of 2 prompts are answered by every model; the other 1 are left out.',)
    """
    theory = load_theory(theory)
    missing = [c for c in ("model", "prompt", *theory.dimensions) if c not in table]
    if missing or table.empty:
        raise CompassError(f"the table of replies has no {f'column {missing[0]!r}' if missing else 'rows'}.")
    m, models = pd.factorize(table["model"])
    p, names = pd.factorize(pd.MultiIndex.from_arrays([table["prompt"], _count_occurrence(table)]))
    cells = pd.DataFrame(table[list(theory.dimensions)].to_numpy(float)).groupby([m, p])
    whole = pd.MultiIndex.from_product([range(len(models)), range(len(names))])
    values = cells.mean().reindex(whole).to_numpy().reshape(len(models), len(names), -1)
    keep, notes = _choose_prompts(np.isfinite(values).any(axis=2))
    n_double = (cells.size().groupby(level=1).max() > 1).sum()
    notes += [f"{n_double} prompts have several replies of some model, which are averaged."] * bool(n_double)
    values = values[:, keep]
    gaps = [d for d, empty in zip(theory.dimensions, np.isnan(values).all(axis=(0, 1)), strict=True) if empty]
    notes += [f"No reply is scored on {', '.join(gaps)}."] * bool(gaps)
    clusters = table["cluster" if "cluster" in table else "prompt"].to_numpy()[np.unique(p, return_index=True)[1][keep]]
    return ModelScores(tuple(map(str, models)), tuple(map(str, names[keep].get_level_values(0))), theory.dimensions,
                       values, clusters, bool(np.isfinite(values).any(axis=2).all()), tuple(notes))


def _count_occurrence(table: pd.DataFrame) -> np.ndarray:
    """Return, per row, how often its model answered its prompt before; 0 where the models' counts differ."""
    groups = table.groupby(["model", "prompt"], sort=False)["prompt"]
    alike = groups.transform("size").groupby(table["prompt"]).transform("nunique") == 1
    return np.where(alike, groups.cumcount(), 0)


def _choose_prompts(answered: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return which prompts are used, (P,) bool, and what must be said about it."""
    common, asked = answered.all(axis=0), answered.any(axis=0)
    n_common, n_asked = common.sum(), asked.sum()
    if n_common == n_asked:
        return asked, []
    if 2 * n_common >= n_asked:
        return common, [f"{n_common} of {n_asked} prompts are answered by every model; the other {n_asked - n_common} "
                        "are left out."]
    return asked, [f"The models answered different prompts (only {n_common} of {n_asked} in common): differences "
                   "between their scores are also differences between their prompts."]


@dataclass(frozen=True)
class Board:
    """Models scored in one way under one theory; `is_released` where the scores came with the replies.

    `replies` has model, prompt, response and one column per dimension; `draws` is (B, M, D). Made by `make_board`.
    """

    name: str
    theory: Theory
    scored_by: str
    is_released: bool
    replies: pd.DataFrame = field(repr=False)
    scores: ModelScores = field(repr=False)
    draws: np.ndarray = field(repr=False)


def make_board(name: str, theory: Theory, replies: pd.DataFrame, scored_by: str, is_released: bool = False,
               n_draws: int = 1000, seed: int = 2023) -> Board | None:
    """Make a board of replies (model, prompt, response, dimensions, optionally cluster); None when none has a score."""
    scored = replies[replies[list(theory.dimensions)].notna().any(axis=1)].reset_index(drop=True)
    if scored.empty:
        return None
    scores = stack_scores(scored, theory)
    return Board(name, theory, scored_by, is_released, scored, scores, draw_means(scores, n_draws, seed))


def draw_means(scores: ModelScores, n_draws: int = 1000, seed: int = 2023) -> np.ndarray:
    """Draw the mean scores again over prompts, the same prompts for every model: (B, M, D).

    nan where a draw holds no score, and where a model has fewer than `MIN_PROMPTS` clusters of prompts on a value:
    percentiles of so few are far too narrow. Source: cluster bootstrap, Davison & Hinkley (1997), section 3.8; one
    matrix product for all models.

    >>> scores = ModelScores(("a",), tuple("vwxyz"), ("care",), np.ones((1, 5, 1)), np.arange(5))
    >>> draw_means(scores, n_draws=3).ravel()
    array([1., 1., 1.])
    """
    n_models, n_prompts, n_dims = scores.values.shape
    flat = scores.values.transpose(1, 0, 2).reshape(n_prompts, -1)
    n_clusters = (sum_by_cluster(np.isfinite(flat), *code_clusters(scores.clusters)) > 0).sum(axis=0)
    draws = bootstrap_means(flat, scores.clusters, n_draws, seed)
    return np.where(n_clusters < MIN_PROMPTS, np.nan, draws).reshape(n_draws, n_models, n_dims)


def rank_models(scores: ModelScores, weights: np.ndarray | None = None,
                draws: np.ndarray | None = None) -> pd.DataFrame:
    """Rank models by their weighted score, best first, with intervals of scores and of ranks.

    `scores` come from `stack_scores`, `weights` (D,) sum to 1 (None weighs all values alike), `draws` (B, M, D) come
    from `draw_means` (None draws here). Columns: model, score, low, high, rank (1 = highest, ties share the smallest),
    rank_low, rank_high, n_prompts; all nan for a model that lacks a dimension with weight, its intervals nan with fewer
    than `MIN_PROMPTS` clusters of its prompts. Source: Value Compass (arXiv 2501.07071), aggregate; intervals ours.

    >>> values = np.array([[[1.0], [0.0], [0.5], [1.0], [0.0]], [[0.5], [-0.5], [0.0], [0.5], [-0.5]]])
    >>> scores = ModelScores(("a", "b"), tuple("vwxyz"), ("care",), values, np.arange(5))
    >>> rank_models(scores)[["model", "score", "rank_low", "rank_high"]]
      model  score  rank_low  rank_high
    0     a    0.5       1.0        1.0
    1     b    0.0       2.0        2.0
    """
    weights = np.full(len(scores.dimensions), 1 / len(scores.dimensions)) if weights is None else weights
    used, draws = weights > 0, draw_means(scores) if draws is None else draws
    score, drawn = (values[..., used] @ weights[used] for values in (scores.means, draws))
    table = pd.DataFrame({"model": scores.models, **_tabulate(score, drawn), "n_prompts": scores.n_answered})
    return table.sort_values(["rank", "model"], na_position="last", ignore_index=True)


def rank_descending(values: np.ndarray, ties: str = "min") -> np.ndarray:
    """Rank along the last axis, 1 = largest; ties share the smallest rank (or "max", "average"), nan takes no place.

    Equal to 12 decimals is a tie: weighted sums of equal scores differ behind them.

    >>> rank_descending(np.array([0.5, np.nan, 0.9, 0.5]))
    array([ 2., nan,  1.,  2.])
    """
    return sps.rankdata(-np.round(np.asarray(values, float), 12), method=ties, axis=-1, nan_policy="omit").astype(float)


def _rank_draws(drawn: np.ndarray, values: np.ndarray, ties: str = "min") -> np.ndarray:
    """Rank each draw; one without a score has no rank, but keeps the place of the score itself among the others."""
    known = np.isfinite(drawn)
    return np.where(known, rank_descending(np.where(known, drawn, values), ties), np.nan)


def _tabulate(values: np.ndarray, drawn: np.ndarray) -> dict[str, np.ndarray]:
    """Return scores (…, M) and their ranks among the M models, with intervals over the draws (B, …, M)."""
    (low, high), (rank_low, rank_high) = (take_interval(draws) for draws in (drawn, _rank_draws(drawn, values)))
    return {"score": values, "low": low, "high": high, "rank": rank_descending(values),
            "rank_low": np.floor(rank_low), "rank_high": np.ceil(rank_high)}


def score_cells(scores: ModelScores, draws: np.ndarray) -> pd.DataFrame:
    """Return score and rank of every model on every dimension (M x D rows) with intervals; nan = not scored."""
    cells = _tabulate(scores.means.T, draws.swapaxes(1, 2)) | {"n_prompts": np.isfinite(scores.values).sum(axis=1).T}
    index = pd.MultiIndex.from_product([scores.models, scores.dimensions], names=["model", "dimension"])
    return pd.DataFrame({name: values.T.ravel() for name, values in cells.items()}, index=index).reset_index()


def place_values(means: np.ndarray, draws: np.ndarray, dimensions: Sequence[str], n_ends: int = 3) -> pd.DataFrame:
    """Say where each value stands within the models: mean place (1 = strongest), how often first or last.

    `means` (M, D), `draws` (B, M, D); the shares (first, last) are of the models, each with _low and _high over the
    draws. Tied values share the mean of their places, and all of them are first or last where one could be.

    >>> means = np.array([[0.9, 0.1, 0.5]])
    >>> place_values(means, means[None], ["a", "b", "c"], n_ends=1)[["place", "share_last"]].values.tolist()
    [[1.0, 0.0], [3.0, 1.0], [2.0, 0.0]]
    """
    table, n = {"dimension": list(dimensions)}, np.isfinite(means).sum(-1, keepdims=True)
    for name, ties, of in (("place", "average", lambda place, n: place),
                           ("share_first", "min", lambda place, n: place <= n_ends),
                           ("share_last", "max", lambda place, n: place > n - n_ends)):
        values = [np.where(np.isfinite(place), of(place, n), np.nan)
                  for place in (rank_descending(means, ties), _rank_draws(draws, means, ties))]
        table[name] = mean_known(values[0], axis=0)
        table[f"{name}_low"], table[f"{name}_high"] = take_interval(average_draws(values[1], np.isfinite(values[0])))
    return pd.DataFrame(table)


def average_draws(drawn: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return draws (B, M, …) averaged over the models known on all prompts; nan where a draw lacks one of them."""
    n = known.sum(axis=0)
    return np.where(known, drawn, 0).sum(axis=1) / np.where(n, n, np.nan)
