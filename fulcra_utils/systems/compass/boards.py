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
from fulcra_utils.evaluator.scoring import label_from_sample, list_replies, sample_prompts, score_theories
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
from fulcra_utils.theory.distance import resolve_weights
from fulcra_utils.theory.theory import Theory, load_theory

if TYPE_CHECKING:
    from fulcra_utils.evaluator.model import ValueEvaluator

LEADING, TRAILING = 4, 3   # how many values the published findings call leading and trailing


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

    def rank(self, weights: Mapping[str, float] | Sequence[float] | None = None) -> pd.DataFrame:
        """Return the ranking under some weights (None: all values alike); see `rank_models`."""
        return rank_models(self.scores, resolve_weights(weights, self.theory), self.draws)

    def cells(self) -> pd.DataFrame:
        """Return score and rank on every single value; see `score_cells`."""
        return score_cells(self.scores, self.draws)


def make_board(name: str, theory: Theory, replies: pd.DataFrame, scored_by: str, is_released: bool = False,
               n_draws: int = 1000, seed: int = 2023) -> Board | None:
    """Make a board of replies (model, prompt, response, dimensions, optionally cluster); None when none has a score."""
    scored = replies[replies[list(theory.dimensions)].notna().any(axis=1)].reset_index(drop=True)
    if scored.empty:
        return None
    scores = stack_scores(scored, theory)
    return Board(name, theory, scored_by, is_released, scored, scores, draw_means(scores, n_draws, seed))


def collect_boards(theory: Theory, dialogues: pd.DataFrame, scored: pd.DataFrame, evaluator: ValueEvaluator | None,
                   theories: Sequence[str], folder: str | Path = "", n_prompts: int = 200, n_draws: int = 1000,
                   seed: int = 2023, progress: bool = False) -> tuple[list[Board], list[str]]:
    """Make every leaderboard of a run, and say in one line each what was left out.

    `dialogues` and `scored` are the run's tables; the evaluator (None leaves out what needs scoring) scores the replies
    to `n_prompts` prompts under the run's theory and `theories`; `folder` holds files of further models' replies (see
    `read_models`). Released scores come first, then annotators' labels, then the evaluator under each theory.
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
    """Return one row per board: board, models, prompts, same_prompts, scored_by, notes."""
    rows = [(b.name, len(b.scores.models), len(b.scores.prompts), b.scores.same_prompts, b.scored_by,
             " ".join(b.scores.notes)) for b in boards]
    return pd.DataFrame(rows, columns=["board", "models", "prompts", "same_prompts", "scored_by", "notes"])


def choose_presets(theory: Theory, presets: Mapping[str, Mapping[str, float]], own: Mapping[str, float],
                   countries: Countries) -> dict[str, np.ndarray]:
    """Return the weights (D,) that can be used under a theory, by title: "all values alike" first.

    A preset that names a value of another theory is left out; faults of the reader's `own` weights raise. A country's
    ranking gives weights that fall in equal steps, where the theory is the countries' (Value Compass: by culture).
    """
    chosen = {"all values alike": resolve_weights(None, theory)}
    chosen |= {title: resolve_weights(w, theory) for title, w in presets.items() if set(w) <= set(theory.dimensions)}
    if own:
        chosen["my own"] = resolve_weights(own, theory)
    if countries.theory.name == theory.name:
        chosen |= {f"as ranked in {title}": resolve_weights(theory.n_dims + 1 - ranks, theory) for title, ranks
                   in zip(countries.titles, countries.ranks, strict=True) if np.isfinite(ranks).all()}
    return chosen


def rank_by_presets(board: Board, presets: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Return the ranking of a board under each set of weights of `choose_presets`."""
    return pd.concat([board.rank(w).assign(weights=title) for title, w in presets.items()],
                     ignore_index=True)[["weights", "model", "score", "low", "high", "rank", "rank_low", "rank_high"]]


def describe_ranking(table: pd.DataFrame) -> str:
    """Say in words how sure the first place is."""
    known = table[table["rank"].notna()].sort_values("rank")
    if known.empty:
        return "No model has a score on every value that has weight, so there is no ranking."
    first = known.iloc[0]
    rivals = known.model[(known.model != first.model) & (known.rank_low == 1)]
    span = "" if np.isnan(first.rank_high) else f", rank {first.rank_low:.0f} to {first.rank_high:.0f}"
    return f"First: **{first.model}**{span}. Models that may also be first: {', '.join(rivals) or 'none'}."


def compare_presets(table: pd.DataFrame) -> str:
    """Say in words which weights change the first place, from `rank_by_presets`."""
    first = table[table["rank"] == 1].groupby("model", sort=False).weights.agg(", ".join)
    return "First by weights: " + "; ".join(f"{model} ({titles})" for model, titles in first.items()) + "."


def describe_places(places: pd.DataFrame) -> str:
    """Say in words which values lead and trail, from `place_values`."""
    order = places.dropna(subset=["place"]).sort_values("place").dimension.tolist()
    if not order:
        return "No value is scored, so none leads."
    return (f"Strongest values over the models: {', '.join(order[:LEADING])}. "
            f"Weakest: {', '.join(order[::-1][:TRAILING])}.")


def claim_board(board: Board, countries: Countries, reported: pd.DataFrame) -> pd.DataFrame:
    """Return our numbers for the claims in data/reported/compass.csv; nan where this board cannot say.

    Cells are compared with the released means only when the board `is_released`.
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

    A score nearest to -1 opposes; a share near 1 for the worst model says that the test is saturated.
    """
    d = board.theory.dimensions.index(dimension)
    labels = scores_to_labels(board.scores.values[..., [d]], NEAREST)
    kept = ModelScores(board.scores.models, board.scores.prompts, (dimension,),
                       np.where(np.isnan(labels), np.nan, labels > -1), board.scores.clusters)
    drawn = draw_means(kept, len(board.draws))[:, np.isfinite(kept.means[:, 0]), 0]
    low, high = take_interval(drawn.min(axis=1)) if drawn.size else (np.nan, np.nan)
    return float(np.fmin.reduce(kept.means[:, 0])), float(low), float(high)


def count_gaps(board: Board) -> int:
    """Return how many (model, value) cells of a board have no score."""
    return int(np.isnan(board.scores.means).sum())


def map_board(board: Board, countries: Countries, seed: int = 2023) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return MDS and t-SNE places (K, 2) of a board's models and, where they fit, the countries; and their names."""
    vectors, labels = gather_profiles(board.scores, board.theory, countries)
    return {title: map_profiles(vectors, method, seed) for title, method in (("MDS", "mds"), ("t-SNE", "tsne"))}, labels


def publish_page(path: str | Path, boards: Sequence[Board], countries: Countries,
                 presets: Mapping[str, Mapping[str, float]], title: str, seed: int = 2023) -> Path:
    """Write the page of a run with one section per board; see `write_page`."""
    from fulcra_utils.systems.compass.page import make_section, write_page
    sections = []
    for board in boards:
        section = make_section(board.scores, board.theory, board.draws, board.replies, countries,
                               choose_presets(board.theory, presets, {}, countries), board.scored_by, seed)
        sections.append(section | {"title": f"{board.theory.title} ({board.name.partition(', ')[2]})"})
    low, high = (end(s) for end, s in zip((min, max), zip(*(b.theory.score_range for b in boards), strict=True),
                                          strict=True))
    return write_page(path, sections, title, "Scores run from the lowest (the value is opposed) over 0 (no connection) "
                      "to the highest (it is supported).", (low, high))
