"""Leaderboards of a run: which replies, under which theory, scored by what, and what the published findings say.

A board holds models that were scored in one way under one theory; boards are never mixed. Replies come from the run's
tables and from a folder into which anybody may drop a file of a new model's replies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fulcra_utils.common.labels import NEAREST, scores_to_labels
from fulcra_utils.stats.resampling import take_interval
from fulcra_utils.systems.compass.countries import Countries, compare_regions, gather_profiles, map_profiles
from fulcra_utils.systems.compass.scores import (
    ModelScores,
    draw_means,
    place_values,
    rank_models,
    read_models,
    score_cells,
    stack_scores,
)
from fulcra_utils.theory.theory import Theory, load_theory
from fulcra_utils.theory.weights import resolve_weights, weigh_by_ranking

if TYPE_CHECKING:
    from fulcra_utils.evaluator.model import ValueEvaluator
from fulcra_utils.evaluator.scoring import label_from_sample, list_replies, sample_prompts, score_theories

LEADING, TRAILING = 4, 3   # how many values the published findings call leading and trailing


@dataclass(frozen=True)
class Board:
    """Models scored in one way under one theory.

    Attributes
    ----------
    name : str
        Short, unique in a run: "<theory>, <how it was scored>".
    theory : Theory
    scored_by : str
        One sentence on where the scores come from.
    is_released : bool
        True for the scores that were released with the replies.
    replies : DataFrame
        model, prompt, response, one column per dimension.
    scores : ModelScores
    draws : ndarray, shape (B, M, D)
    """

    name: str
    theory: Theory
    scored_by: str
    is_released: bool
    replies: pd.DataFrame = field(repr=False)
    scores: ModelScores = field(repr=False)
    draws: np.ndarray = field(repr=False)

    def rank(self, weights: Mapping[str, float] | Sequence[float] | None = None) -> pd.DataFrame:
        """Return the ranking under some weights (None: all values alike); see `rank_models`."""
        return rank_models(self.scores, resolve_weights(weights, self.theory), self.draws)

    def cells(self) -> pd.DataFrame:
        """Return score and rank on every single value; see `score_cells`."""
        return score_cells(self.scores, self.draws)


def make_board(name: str, theory: Theory, replies: pd.DataFrame, scored_by: str, is_released: bool = False,
               n_draws: int = 1000, seed: int = 2023) -> Board | None:
    """Make a board, or None when no reply has a score.

    Parameters
    ----------
    name, scored_by : str
    theory : Theory
    replies : DataFrame
        model, prompt, response, optionally cluster, one column per dimension; rows without any score are left out.
    is_released : bool
    n_draws, seed : int
        Bootstrap over prompts.

    Returns
    -------
    Board or None

    Source: ours.

    Examples
    --------
    >>> theory = load_theory("moral_foundations")
    >>> rows = pd.DataFrame({"model": ["a", "b"], "prompt": "x", "response": "r"})
    >>> make_board("b", theory, rows.assign(**dict.fromkeys(theory.dimensions, np.nan)), "nobody") is None
    True
    >>> make_board("b", theory, rows.assign(**dict.fromkeys(theory.dimensions, 0.5)), "hand").scores.models
    ('a', 'b')
    """
    scored = replies[replies[list(theory.dimensions)].notna().any(axis=1)].reset_index(drop=True)
    if scored.empty:
        return None
    scores = stack_scores(scored, theory)
    return Board(name, theory, scored_by, is_released, scored, scores, draw_means(scores, n_draws, seed))


def collect_boards(theory: Theory, dialogues: pd.DataFrame, scored: pd.DataFrame, evaluator: ValueEvaluator | None,
                   theories: Sequence[str], folder: str | Path = "", n_prompts: int = 200, n_draws: int = 1000,
                   seed: int = 2023, progress: bool = False) -> tuple[list[Board], list[str]]:
    """Make every leaderboard of a run.

    Parameters
    ----------
    theory : Theory
        The run's.
    dialogues, scored : DataFrame
        The run's tables.
    evaluator : ValueEvaluator or None
        The run's; None leaves out what needs scoring.
    theories : sequence of str
        Further theories, looked at on the same replies.
    folder : path
        Files of further models' replies (see `read_models`); "" = none.
    n_prompts : int
        Prompts scored by the evaluator.
    n_draws, seed : int
    progress : bool

    Returns
    -------
    list of Board
        Released scores first, then annotators' labels, then the evaluator under each theory.
    list of str
        What was left out, one line each.

    Source: ours.

    Examples
    --------
    >>> theory = load_theory("moral_foundations")
    >>> rows = pd.DataFrame({"response_source": ["a", "b"], "prompt": "x", "response": "r", "cluster": 0})
    >>> rows = rows.assign(**dict.fromkeys(theory.dimensions, 0.5))
    >>> boards, left_out = collect_boards(theory, rows, rows.iloc[:0], None, [], n_draws=10)
    >>> [board.name for board in boards], left_out
    (["moral_foundations, annotators' labels"], ['moral_foundations: there is no evaluator to score the replies with.'])
    """
    knobs = {"n_draws": n_draws, "seed": seed}
    boards = [make_board(f"{theory.name}, released scores", theory, list_replies(scored, scored),
                         "Scores released with the replies, by the authors' own evaluator.", True, **knobs)
              if len(scored) else None,
              make_board(f"{theory.name}, annotators' labels", theory, list_replies(dialogues, dialogues),
                         "Labels of the annotated dialogues, −1, 0 or +1.", **knobs)]
    replies = sample_prompts(list_replies(dialogues, scored), n_prompts, seed)
    added, left_out = read_models(folder, theory) if folder else (pd.DataFrame(), [])
    replies = _add_models(replies, added, left_out)
    others = [load_theory(name) for name in dict.fromkeys(theories) if name != theory.name]
    return [b for b in boards + _look_further(theory, others, replies, evaluator, knobs, left_out, progress)
            if b is not None], left_out


def _add_models(replies: pd.DataFrame, added: pd.DataFrame, left_out: list[str]) -> pd.DataFrame:
    """Add dropped models, each on the prompts that the run's models answered; a name that is taken is left out."""
    clusters = replies.drop_duplicates("prompt").set_index("prompt")["cluster"]
    parts = [replies]
    for model, part in added.groupby("model", sort=False) if len(added) else ():
        if model in set(replies["model"]):
            left_out.append(f"{model}: a model of this name stands already among the run's; rename the file.")
            continue
        own = part["prompt"].map(clusters)
        fresh = pd.Series(-1 - np.arange(len(part)), index=part.index)   # a prompt of its own is its own cluster
        parts.append(part[["model", "prompt", "response"]].assign(cluster=own.fillna(fresh).astype(int)))
    return pd.concat(parts, ignore_index=True)


def _look_further(theory: Theory, others: Sequence[Theory], replies: pd.DataFrame, evaluator: ValueEvaluator | None,
                  knobs: dict, left_out: list[str], progress: bool) -> list[Board | None]:
    """Return the boards of all theories: by labels of the sample where it has them, else by the evaluator."""
    labelled = {other.name: table for other in others if (table := label_from_sample(other, replies)) is not None}
    boards = [make_board(f"{other.name}, sample labels", other, labelled[other.name],
                         "Labels of the embedded sample, which is labelled under this theory too.", **knobs)
              for other in others if other.name in labelled]
    unscored = [t for t in (theory, *others) if t.name not in labelled]
    if evaluator is None:
        left_out += [f"{t.name}: there is no evaluator to score the replies with." for t in unscored]
        return boards
    words = {True: ("evaluator", "Scores of this run's evaluator, a small one."),
             False: ("by definitions", "Scores of this run's evaluator from the definitions alone, without any label "
                     "under this theory: a first look, not a measurement.")}
    for t, table in zip(unscored, score_theories(replies, unscored, evaluator, progress), strict=True):
        how, sentence = words[evaluator.is_taught(t)]
        boards.append(make_board(f"{t.name}, {how}", t, table, sentence, **knobs))
    return boards


def describe_boards(boards: Sequence[Board]) -> pd.DataFrame:
    """Return one row per board: board, models, prompts, same_prompts, scored_by, notes.

    Parameters
    ----------
    boards : sequence of Board

    Returns
    -------
    DataFrame
        board, models, prompts, same_prompts, scored_by, notes.

    Source: ours.

    Examples
    --------
    >>> describe_boards([]).columns.tolist()[:3]
    ['board', 'models', 'prompts']
    """
    rows = [(b.name, len(b.scores.models), len(b.scores.prompts), b.scores.same_prompts, b.scored_by,
             " ".join(b.scores.notes)) for b in boards]
    return pd.DataFrame(rows, columns=["board", "models", "prompts", "same_prompts", "scored_by", "notes"])


def choose_presets(theory: Theory, presets: Mapping[str, Mapping[str, float]], own: Mapping[str, float],
                   countries: Countries) -> dict[str, np.ndarray]:
    """Return the weights that can be used under a theory, by title.

    Parameters
    ----------
    theory : Theory
    presets : mapping of str to mapping
        Title to weights; one that names a value of another theory is left out.
    own : mapping
        The reader's own weights; {} = none. Faults raise.
    countries : Countries
        A ranking gives weights that fall in equal steps, where the theory is the countries'.

    Returns
    -------
    dict of str to ndarray, shape (D,)
        "all values alike" first.

    Raises
    ------
    CompassError
        When the reader's own weights cannot be used.

    Source: Value Compass (arXiv 2501.07071): weights by person or culture.

    Examples
    --------
    >>> from fulcra_utils.systems.compass.countries import load_countries
    >>> list(choose_presets(load_theory("moral_foundations"), {"x": {"power": 1}}, {"care": 1}, load_countries()))
    ['all values alike', 'my own']
    """
    chosen = {"all values alike": resolve_weights(None, theory)}
    chosen |= {title: resolve_weights(w, theory) for title, w in presets.items() if set(w) <= set(theory.dimensions)}
    if own:
        chosen["my own"] = resolve_weights(own, theory)
    if countries.theory.name == theory.name:
        chosen |= {f"as ranked in {title}": weigh_by_ranking(ranks) for title, ranks
                   in zip(countries.titles, countries.ranks, strict=True) if np.isfinite(ranks).all()}
    return chosen


def rank_by_presets(board: Board, presets: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Return the ranking of a board under each set of weights: weights, model, score, low, high, rank, rank_low, …

    Parameters
    ----------
    board : Board
    presets : mapping of str to ndarray, shape (D,)
        From `choose_presets`.

    Returns
    -------
    DataFrame
        weights, model, score, low, high, rank, rank_low, rank_high.

    Source: Value Compass (arXiv 2501.07071).

    Examples
    --------
    >>> theory = load_theory("moral_foundations")
    >>> rows = pd.DataFrame({"model": ["a", "b"], "prompt": "x", "response": "r", "care": [1.0, 0.0],
    ...                      "fairness": [0.0, 1.0], "loyalty": 0.0, "authority": 0.0, "sanctity": 0.0})
    >>> board = make_board("b", theory, rows, "hand")
    >>> table = rank_by_presets(board, {"care": np.array([1.0, 0, 0, 0, 0]), "fair": np.array([0, 1.0, 0, 0, 0])})
    >>> table[table["rank"] == 1].model.tolist()
    ['a', 'b']
    """
    return pd.concat([board.rank(w).assign(weights=title) for title, w in presets.items()],
                     ignore_index=True)[["weights", "model", "score", "low", "high", "rank", "rank_low", "rank_high"]]


def read_ranking(table: pd.DataFrame) -> str:
    """Say in words how sure the first place is.

    Parameters
    ----------
    table : DataFrame
        From `rank_models`.

    Returns
    -------
    str

    Source: ours.

    Examples
    --------
    >>> table = pd.DataFrame({"model": ["a", "b"], "rank": [1, 2], "rank_low": [1, 1], "rank_high": [1, 2]})
    >>> read_ranking(table)
    'First: **a**, rank 1 to 1. Models that may also be first: b.'
    """
    known = table[table["rank"].notna()].sort_values("rank")
    if known.empty:
        return "No model has a score on every value that has weight, so there is no ranking."
    first = known.iloc[0]
    rivals = known.model[(known.model != first.model) & (known.rank_low == 1)]
    span = "" if np.isnan(first.rank_high) else f", rank {first.rank_low:.0f} to {first.rank_high:.0f}"
    return f"First: **{first.model}**{span}. Models that may also be first: {', '.join(rivals) or 'none'}."


def compare_presets(table: pd.DataFrame) -> str:
    """Say in words which weights change the first place.

    Parameters
    ----------
    table : DataFrame
        From `rank_by_presets`.

    Returns
    -------
    str

    Source: ours.

    Examples
    --------
    >>> compare_presets(pd.DataFrame({"weights": ["alike", "own"], "model": ["a", "b"], "rank": [1, 1]}))
    'First by weights: a (alike); b (own).'
    """
    first = table[table["rank"] == 1].groupby("model", sort=False).weights.agg(", ".join)
    return "First by weights: " + "; ".join(f"{model} ({titles})" for model, titles in first.items()) + "."


def read_places(places: pd.DataFrame) -> str:
    """Say in words which values lead and trail.

    Parameters
    ----------
    places : DataFrame
        From `place_values`.

    Returns
    -------
    str

    Source: ours.

    Examples
    --------
    >>> read_places(pd.DataFrame({"dimension": ["a", "b"], "place": [1.2, 1.8]}))
    'Strongest values over the models: a, b. Weakest: b, a.'
    """
    order = places.dropna(subset=["place"]).sort_values("place").dimension.tolist()
    if not order:
        return "No value is scored, so none leads."
    return (f"Strongest values over the models: {', '.join(order[:LEADING])}. "
            f"Weakest: {', '.join(order[::-1][:TRAILING])}.")


def claim_board(board: Board, countries: Countries, reported: pd.DataFrame) -> pd.DataFrame:
    """Return our numbers for the claims in data/reported/compass.csv.

    Parameters
    ----------
    board : Board
        The run's first; its cells are compared with the released means only when `is_released`.
    countries : Countries
    reported : DataFrame
        From `load_reported`.

    Returns
    -------
    DataFrame
        claim_id, ours, low, high, why; ours is nan where this board cannot say.

    Source: claims in data/reported/compass.csv.

    Examples
    --------
    >>> from fulcra_utils.systems.compass.countries import load_countries
    >>> theory = load_theory("moral_foundations")
    >>> rows = pd.DataFrame({"model": ["a"], "prompt": "x", "response": "r"})
    >>> board = make_board("b", theory, rows.assign(**dict.fromkeys(theory.dimensions, 0.5)), "hand")
    >>> claim_board(board, load_countries(), pd.DataFrame({"claim_id": ["compass/lead/care"]})).ours.tolist()
    [1.0]
    """
    ids = [c for c in reported.claim_id if c.startswith("compass/")]
    cells = board.cells().set_index(["model", "dimension"]) if board.is_released else pd.DataFrame()
    lead, trail = (place_values(board.scores.means, board.draws, board.theory.dimensions, n).set_index("dimension")
                   for n in (LEADING, TRAILING))
    regions = compare_regions(board.scores, board.theory, countries, board.draws)
    other = f"models and prompts of this run ({board.name}), not the published ones"
    rows = []
    for claim in ids:
        _, kind, *rest = claim.split("/")
        found, why = None, ""
        if kind == "lead" and rest[0] in lead.index:
            found, why = lead.loc[rest[0], ["share_first", "share_first_low", "share_first_high"]], other
        elif kind == "trail" and rest[0] in trail.index:
            found, why = trail.loc[rest[0], ["share_last", "share_last_low", "share_last_high"]], other
        elif kind == "western-bias" and len(regions):
            found, why = regions.iloc[0][["difference", "low", "high"]], other
        elif kind == "saturation" and rest[0] in board.theory.dimensions:
            found, why = least_without(board, rest[0]), other
        elif (kind, *rest) in cells.index:
            found = cells.loc[(kind, *rest), ["score", "low", "high"]]
        rows.append((claim, *(found if found is not None else [np.nan] * 3), why))
    return pd.DataFrame(rows, columns=["claim_id", "ours", "low", "high", "why"])


def least_without(board: Board, dimension: str) -> tuple[float, float, float]:
    """Return the smallest share, over the models, of replies that do not oppose a value, with its interval.

    Parameters
    ----------
    board : Board
    dimension : str
        A score nearest to -1 opposes.

    Returns
    -------
    share, low, high : float
        A share near 1 for the worst model says that the test is saturated.

    Source: ours.

    Examples
    --------
    >>> theory = load_theory("valuelex")
    >>> rows = pd.DataFrame({"model": "a", "prompt": ["x", "y"], "response": "r", "competence": [-1.0, 1.0],
    ...                      "character": 0.0, "integrity": 0.0})
    >>> least_without(make_board("b", theory, rows, "hand", n_draws=50), "competence")[0]
    0.5
    """
    d = board.theory.dimensions.index(dimension)
    labels = scores_to_labels(board.scores.values[..., [d]], NEAREST)
    kept = ModelScores(board.scores.models, board.scores.prompts, (dimension,),
                       np.where(np.isnan(labels), np.nan, labels > -1), board.scores.clusters)
    drawn = draw_means(kept, len(board.draws))[:, np.isfinite(kept.means[:, 0]), 0]
    low, high = take_interval(drawn.min(axis=1)) if drawn.size else (np.nan, np.nan)
    return float(np.fmin.reduce(kept.means[:, 0])), float(low), float(high)


def count_gaps(board: Board) -> int:
    """Return how many (model, value) cells of a board have no score.

    Parameters
    ----------
    board : Board

    Returns
    -------
    int

    Source: ours.

    Examples
    --------
    >>> theory = load_theory("valuelex")
    >>> rows = pd.DataFrame({"model": ["a"], "prompt": "x", "response": "r", "competence": np.nan, "character": 0.0,
    ...                      "integrity": 0.0})
    >>> count_gaps(make_board("b", theory, rows, "hand"))
    1
    """
    return int(np.isnan(board.scores.means).sum())


def map_board(board: Board, countries: Countries, seed: int = 2023) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return MDS and t-SNE places of a board's models and, where their theory fits, the countries; and the labels.

    Parameters
    ----------
    board : Board
    countries : Countries
    seed : int

    Returns
    -------
    maps : dict of str to ndarray, shape (K, 2)
    labels : list of str, length K
        Models first.

    Source: Value Compass (arXiv 2501.07071) for the map; see `map_profiles`.

    Examples
    --------
    >>> from fulcra_utils.systems.compass.countries import load_countries
    >>> theory = load_theory("valuelex")
    >>> rows = pd.DataFrame({"model": ["a"], "prompt": "x", "response": "r"})
    >>> board = make_board("b", theory, rows.assign(**dict.fromkeys(theory.dimensions, 0.5)), "hand")
    >>> list(map_board(board, load_countries())[0])
    ['MDS', 't-SNE']
    """
    vectors, labels = gather_profiles(board.scores, board.theory, countries)
    return {title: map_profiles(vectors, method, seed) for title, method in (("MDS", "mds"), ("t-SNE", "tsne"))}, labels


def publish_page(path: str | Path, boards: Sequence[Board], countries: Countries,
                 presets: Mapping[str, Mapping[str, float]], title: str, seed: int = 2023) -> Path:
    """Write the page of a run with one section per board, and return its path.

    Parameters
    ----------
    path : path
    boards : sequence of Board
    countries : Countries
    presets : mapping
        Title to weights; used on the boards whose theory has all its values.
    title : str
    seed : int

    Returns
    -------
    Path

    Source: ours; see `write_page`.

    Examples
    --------
    >>> import tempfile
    >>> from fulcra_utils.systems.compass.countries import load_countries
    >>> theory = load_theory("valuelex")
    >>> rows = pd.DataFrame({"model": ["a"], "prompt": "x", "response": "r"})
    >>> board = make_board("b", theory, rows.assign(**dict.fromkeys(theory.dimensions, 0.5)), "hand")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     publish_page(Path(folder) / "page.html", [board], load_countries(), {}, "Compass").stat().st_size > 1e6
    True
    """
    from fulcra_utils.systems.compass.page import make_section, write_page
    sections = []
    for board in boards:
        known = {k: w for k, w in presets.items() if set(w) <= set(board.theory.dimensions)}
        section = make_section(board.scores, board.theory, board.draws, board.replies, countries, known,
                               board.scored_by, seed)
        sections.append(section | {"title": f"{board.theory.title} ({board.name.partition(', ')[2]})"})
    low, high = (end(s) for end, s in zip((min, max), zip(*(b.theory.score_range for b in boards), strict=True),
                                          strict=True))
    return write_page(path, sections, title, "Scores run from the lowest (the value is opposed) over 0 (no connection) "
                      "to the highest (it is supported).", (low, high))
