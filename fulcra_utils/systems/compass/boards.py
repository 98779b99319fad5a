"""Leaderboards of a run: which replies, under which theory, scored by what, and what the published findings say.

A board holds models that were scored in one way under one theory; boards are never mixed. Replies come from the run's
tables and from a folder into which anybody may drop a file of a new model's replies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from fulcra_utils.common.labels import NEAREST, scores_to_labels
from fulcra_utils.common.loading import hash_text
from fulcra_utils.common.paths import DATA
from fulcra_utils.dataset.labelled import read_scored
from fulcra_utils.dataset.texts import DatasetError
from fulcra_utils.evaluator.comparison import MIN_PROMPTS
from fulcra_utils.evaluator.model import ValueEvaluator
from fulcra_utils.evaluator.scoring import label_from_sample, list_replies, sample_prompts, score_theories
from fulcra_utils.stats.resampling import share_interval
from fulcra_utils.systems.compass.countries import Countries, compare_regions
from fulcra_utils.systems.compass.scores import Board, make_board, place_values, rank_models, score_cells
from fulcra_utils.theory.distance import resolve_weights
from fulcra_utils.theory.theory import Theory, load_theory

LEADING, TRAILING = 4, 3   # how many values the published findings call leading and trailing
MIN_SHARED = 10   # prompts, or half of the most, that an added model must share with the run's to be compared on these
WAYS = yaml.safe_load((DATA / "page" / "boards.yaml").read_text(encoding="utf-8"))  # what is said of each


def collect_boards(theory: Theory, dialogues: pd.DataFrame, scored: pd.DataFrame, evaluator: ValueEvaluator,
                   theories: Sequence[str], folder: str | Path, n_prompts: int = 200, n_draws: int = 1000,
                   seed: int = 2023, progress: bool = False) -> tuple[list[Board], list[str]]:
    """Make every leaderboard of a run, and say in one line each what was left out.

    `dialogues` and `scored` are the run's tables; the evaluator scores the replies to `n_prompts` prompts under the
    run's theory and `theories`, where the sample has no labels for them. `folder` holds files of further models'
    replies (see `read_models`): those that answered `MIN_SHARED` prompts of the run, and half as many as the added
    model with the most, stand beside its models on these prompts alone, others on boards of their own. Released scores
    come first, then annotators' labels, then labels of the sample or beside a theory, then the evaluator under each.
    """
    added, left_out = read_models(folder, theory)
    others = {other.name: other for other in map(load_theory, theories)}
    theories = [theory, *(other for name, other in others.items() if name != theory.name)]
    found = [("released scores", "", theory, list_replies(scored, scored)),
             ("annotators' labels", "", theory, list_replies(dialogues, dialogues))]
    is_labelled = pd.concat([dialogues, scored])[list(theory.dimensions)].notna().any(axis=None)
    for own, replies in _group_models(list_replies(dialogues, scored), added, left_out, n_prompts, seed).items():
        sample = [None, *(label_from_sample(other, replies) for other in theories[1:])]
        unscored = [t for t, table in zip(theories, sample, strict=True) if table is None]
        found += [("own labels" if t.labels_path.is_file() else "sample labels", own, t, table)
                  for t, table in zip(theories, sample, strict=True) if table is not None]
        found += [("evaluator" if is_labelled and evaluator.is_taught(t) else "by definitions", own, t, table) for
                  t, table in zip(unscored, score_theories(replies, unscored, evaluator, progress), strict=True)]
    is_public = (dialogues.filter(["source"]) != "sample").any(axis=None)     # else the sample, or a file of one's own
    told = WAYS | {"annotators' labels": WAYS["public labels" if is_public else "annotators' labels"]}
    boards = [make_board(f"{t.name}, {how}{own}", t, table, told[how], how == "released scores", n_draws, seed)
              for how, own, t, table in found]
    return [board for board in boards if board is not None], left_out


def tabulate_boards(boards: Sequence[Board]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the cells of boards of one theory, and the replies behind them, whose texts give way to their sha256."""
    cells = [score_cells(board.scores, board.draws).assign(
        board=board.name, scored_by=board.scored_by, notes=" ".join(board.scores.notes), n_draws=len(board.draws))
        for board in boards]
    replies = pd.concat([board.replies[board.replies.prompt.isin(board.scores.prompts)].assign(board=board.name)
                         for board in boards], ignore_index=True)
    hashed = replies[["board", "model", *boards[0].theory.dimensions]].assign(
        **{name: replies[name].map(hash_text) for name in ("prompt", "response")})
    return pd.concat(cells, ignore_index=True), hashed


def read_models(folder: str | Path, theory: Theory | str) -> tuple[pd.DataFrame, list[str]]:
    """Read the replies of models from a folder: one file (.jsonl, .jsonl.gz, .parquet) per model, named after it.

    Rows hold `prompt` and `response` (or `answer`), and optionally scores (`value_vector`, as `fulcra score` writes
    them). Returns model, prompt, response and one column per dimension (nan = still to be scored), and one line for
    each file or group of rows that is left out: a second file of a model, rows without prompt or reply, a file that
    cannot be opened.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "my-model.jsonl").write_text('{"prompt": "Hi", "response": "Hello."}')
    ...     table, problems = read_models(folder, "schwartz10")
    >>> table[["model", "prompt", "response"]].values.tolist(), problems
    ([['my-model', 'Hi', 'Hello.']], [])
    """
    theory, problems = load_theory(theory), []
    tables = {"": pd.DataFrame(columns=["model", "prompt", "response", *theory.dimensions], dtype=float)}
    for name, path in sorted((path.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".parquet"), path)
                             for kind in ("*.jsonl", "*.jsonl.gz", "*.parquet") for path in Path(folder).glob(kind)):
        if name.casefold() in tables:
            problems.append(f"{path.name}: model {name!r} stands already in another file; rename one file.")
            continue
        try:
            data = read_scored(path, theory)
        except DatasetError as error:
            problems.append(str(error))
            continue
        if data.n_set_aside:
            problems.append(f"{path.name}: {data.n_set_aside} of {data.n_read} rows have no readable prompt or reply.")
        table = data.table[["prompt", "response"]].astype(object).assign(
            model=name, **dict(zip(theory.dimensions, data.vectors.T, strict=True)))
        if (sources := data.table.response_source.dropna()).nunique() > 1:
            table["model"] = f"{name}: " + data.table.response_source.astype(object).fillna("without a name")
            problems.append(f"{path.name} holds replies of {sources.nunique()} models; each stands for itself.")
        tables[name.casefold()] = table
    return pd.concat(tables.values(), ignore_index=True), problems


def _group_models(replies: pd.DataFrame, added: pd.DataFrame, left_out: list[str], n_prompts: int,
                  seed: int) -> dict[str, pd.DataFrame]:
    """Put added models beside the run's, on shared prompts where there are enough; a name that is taken is left out."""
    taken = added["model"].isin(replies["model"])
    left_out += [f"{model}: a model of this name stands already among the run's; rename the file."
                 for model in added["model"][taken].unique()]
    clusters = replies.drop_duplicates("prompt").set_index("prompt")["cluster"]
    added = added.loc[~taken, ["model", "prompt", "response"]].reset_index(drop=True)
    fresh = min(0, replies["cluster"].min()) - 1 - pd.Series(pd.factorize(added["prompt"])[0])   # clusters of their own
    added["cluster"] = added["prompt"].map(clusters).fillna(fresh).astype(int)
    n_own = added.groupby("model")["cluster"].nunique()
    left_out += [f"intervals of {model}: it answered {n} prompts, fewer than {MIN_PROMPTS}."
                 for model, n in n_own[n_own < MIN_PROMPTS].items()]
    is_shared = added["prompt"].isin(clusters.index)
    n_shared = added[is_shared].groupby("model")["prompt"].nunique()
    is_near = added["model"].isin(n_shared.index[n_shared >= max(MIN_SHARED, n_shared.max() / 2)])
    left_out += [f"{model} beside the run's models: it answered {n} of their prompts, another one {n_shared.max()}."
                 for model, n in n_shared[n_shared >= MIN_SHARED].items() if n < n_shared.max() / 2]
    near, far, groups = added[is_near & is_shared], added[~is_near], {}
    if len(near):
        beside = pd.concat([replies[replies["prompt"].isin(near["prompt"])], near])
        groups[""] = sample_prompts(beside, n_prompts, seed)
    if near.empty or len(far):
        own = pd.concat([sample_prompts(replies, n_prompts, seed), far], ignore_index=True)
        groups[", other prompts" if groups else ""] = own
    return groups


def describe_boards(boards: Sequence[Board]) -> pd.DataFrame:
    """Return one row per board: board, models, prompts, same_prompts, scored_by, notes."""
    rows = [(b.name, len(b.scores.models), sum(map(bool, b.scores.prompts)), b.scores.same_prompts, b.scored_by,
             " ".join(b.scores.notes)) for b in boards]
    return pd.DataFrame(rows, columns=["board", "models", "prompts", "same_prompts", "scored_by", "notes"])


def rank_boards(boards: Sequence[Board]) -> pd.DataFrame:
    """Rank the models of every board, all values alike: board, model, rank, rank_low, rank_high, and no scores."""
    return pd.concat([rank_models(b.scores, draws=b.draws).assign(board=b.name) for b in boards], ignore_index=True)[
        ["board", "model", "rank", "rank_low", "rank_high"]]


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
    return pd.concat([rank_models(board.scores, w, board.draws).assign(weights=title) for title, w in presets.items()],
                     ignore_index=True)[["weights", "model", "score", "low", "high", "rank", "rank_low", "rank_high"]]


def describe_ranking(table: pd.DataFrame) -> str:
    """Say in words how sure the first place is."""
    known = table[table["rank"].notna()].sort_values("rank")
    if known.empty:
        return "No model has a score on every value that has weight, so there is no ranking."
    first = known.iloc[0]
    if np.isnan(first.rank_low):
        return f"First: **{first.model}**; how sure that is cannot be told from fewer than {MIN_PROMPTS} prompts."
    rivals = known.model[(known.model != first.model) & ~(known.rank_low > 1)]
    span = f", rank {first.rank_low:.0f} to {first.rank_high:.0f}"
    return f"First: **{first.model}**{span}; models that may also be first: {', '.join(rivals) or 'none'}."


def compare_presets(table: pd.DataFrame) -> str:
    """Say in words which weights change the first place, from `rank_by_presets`."""
    first = table[table["rank"] == 1].groupby("model", sort=False).weights.agg(", ".join)
    if first.empty:
        return "No model has a rank under any weights."
    return "First by weights: " + "; ".join(f"{model} ({titles})" for model, titles in first.items()) + "."


def describe_places(places: pd.DataFrame) -> str:
    """Say in words which values lead and trail, from `place_values`."""
    order = places.dropna(subset=["place"]).sort_values("place").dimension.tolist()
    if not order:
        return "No value is scored, so none leads."
    if len(order) < LEADING + TRAILING:     # ends that overlap tell nothing
        return f"Values over the models, the strongest first: {', '.join(order)}."
    return (f"Strongest values over the models: {', '.join(order[:LEADING])}. "
            f"Weakest: {', '.join(order[::-1][:TRAILING])}.")


def claim_board(board: Board, countries: Countries, reported: pd.DataFrame) -> pd.DataFrame:
    """Return our numbers for the claims in data/reported/compass.csv; nan where this board cannot say.

    Cells are compared with the released means only when the board `is_released`.
    """
    theory, ours = board.theory, {}
    ids = [claim for claim in reported.claim_id if claim.startswith("compass/")]
    other = f"models and prompts of this run ({board.name}), not the published ones"
    for kind, n, share in (("lead", LEADING, "share_first"), ("trail", TRAILING, "share_last")):
        places = place_values(board.scores.means, board.draws, theory.dimensions, n)
        found = places[[share, f"{share}_low", f"{share}_high"]].to_numpy()
        ours |= {f"compass/{kind}/{d}": (*row, other) for d, row in zip(theory.dimensions, found, strict=True)}
    if lean := compare_regions(board, countries):
        ours["compass/western-bias"] = (*lean, other)
    ours |= {f"compass/saturation/{d}": (*least_without(board, d), other) for d in theory.dimensions
             if f"compass/saturation/{d}" in ids}
    for row in score_cells(board.scores, board.draws).itertuples() if board.is_released else ():
        ours[f"compass/{row.model}/{row.dimension}"] = (row.score, row.low, row.high, "")
    return pd.DataFrame([(claim, *ours.get(claim, (np.nan, np.nan, np.nan, ""))) for claim in ids],
                        columns=["claim_id", "ours", "low", "high", "why"])


def least_without(board: Board, dimension: str) -> tuple[float, float, float]:
    """Return the smallest share, over the models, of replies that do not oppose a value, and the smallest low and high.

    A score nearest to -1 opposes; a share near 1 for the worst model says that the test is saturated.
    """
    labels = scores_to_labels(board.scores.values[..., [board.theory.dimensions.index(dimension)]], NEAREST)
    kept = replace(board.scores, dimensions=(dimension,), values=np.where(np.isnan(labels), np.nan, labels > -1))
    answered = kept.values[np.isfinite(kept.means[:, 0]), :, 0].T                                       # (P, M)
    share, *ends = share_interval(np.nan_to_num(answered), np.isfinite(answered), kept.clusters)
    few = [len(set(kept.clusters[np.isfinite(own)])) < MIN_PROMPTS for own in answered.T]
    return tuple(float(part.min()) if part.size else np.nan
                 for part in (share, *(np.where(few, np.nan, end) for end in ends)))
