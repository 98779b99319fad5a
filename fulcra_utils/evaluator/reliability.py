"""What a value score is worth: how much of it is the model, and how much prompt, paraphrase, draw or evaluator.

*Paraphrases* are wordings of one prompt, *draws* replies sampled to the same words, *seeds* evaluators trained alike.
Prompts stand for all that could be asked: intervals are over them, of these very models and seeds. With fewer than
`FEW` models the model is a fixed effect, so that its share says how far these models lie apart.
"""

import tempfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
import yaml

from fulcra_utils.common.files import write_text
from fulcra_utils.common.paths import DATA
from fulcra_utils.dataset.rows import RowError, find_system, read_dialogue
from fulcra_utils.dataset.texts import is_refusal, split_thoughts
from fulcra_utils.evaluator.comparison import MIN_PROMPTS, MODELS, compare_averages, is_given, plan_prompts, read_scores
from fulcra_utils.evaluator.scoring import FOREIGN, ScoringError, score_file
from fulcra_utils.stats import generalisability as components
from fulcra_utils.stats.comparison import adjust_difference, adjust_p, fit_mixed
from fulcra_utils.stats.factors import bootstrap_fit
from fulcra_utils.stats.resampling import take_interval
from fulcra_utils.theory.theory import Theory

WORDS = yaml.safe_load((DATA / "reliability.yaml").read_text(encoding="utf-8"))
FEW, MANY = 5, 20      # models: fewer are a fixed effect; so many are compared two by two
FACETS = {"model": MODELS, "prompt": ("prompt_id", "prompt"), "paraphrase": ("paraphrase",),
          "draw": ("draw",), "seed": ("seed",)}     # and the columns that may hold each
SOURCES = {"model": ("model",), "seed": ("seed",), "model × seed": ("model", "seed"), "prompt": ("prompt",),
           "prompt × seed": ("prompt", "seed"), "model × prompt": ("model", "prompt"),
           "paraphrase": ("prompt", "paraphrase"), "model × paraphrase": ("model", "prompt", "paraphrase"),
           "draw": ("model", "prompt", "paraphrase", "draw")}     # from coarse to fine; "rest" is what is left
WITHIN = ("draw", "rest")       # what tells two replies to the same words apart
NOISE = {"rest", *(name for name, parts in SOURCES.items() if {"model", "prompt"} <= {*parts})}     # and two models
PLANNED, WANTED = (10, 40, 100, 400), (0.2, 0.1, 0.05)      # prompts, and differences
POWER = 2 * 1.96 / (1.96 + 0.8416)      # a difference seen with 80 % power, as width of an interval


@dataclass(frozen=True)
class Reliability:
    """What `assess_reliability` found, in tables; `counts` of rows and levels, `notes` what was left out and why.

    sources: value, source, variance, share, low, high. values: value, n, mean, same_paraphrase and other_paraphrase
    (correlation of two replies), generalisability (of a mean over the prompts at hand, one reply each), text (share
    explained by refusal and length), flips_draw, flips_paraphrase, flips_prompt (pairs of replies with unlike signs),
    each with _low and _high, and sd (of the difference of two models on one prompt). plan: difference shown by so many
    prompts, prompts needed for a difference. pairs: first_model, second_model, columns of `compare_averages`, alike
    (the difference between replies alike in refusal and length) with ends, shown (least difference with 80 % power).
    flips: share, low and high of pairs with unlike signs, all values that vary together, named as in `values`.
    """

    sources: pd.DataFrame = field(repr=False)
    values: pd.DataFrame = field(repr=False)
    plan: pd.DataFrame = field(repr=False)
    pairs: pd.DataFrame = field(repr=False)
    counts: dict[str, int]
    notes: tuple[str, ...] = ()
    flips: dict[str, tuple] = field(default_factory=dict)

    @property
    def is_noise(self) -> bool:
        """Return whether two of the models differ in no value by more than noise, or nothing shows that they do."""
        n = min(self.counts.get("models", 0), MANY)
        is_clear = self.pairs.groupby(["first_model", "second_model"]).clear_holm.any() if len(self.pairs) else []
        return sum(is_clear) < n * (n - 1) / 2


def list_paraphrases(n_prompts: int, n_paraphrases: int = 3) -> pd.DataFrame:
    """Return everyday prompts of this project in several wordings: prompt_id, paraphrase, prompt.

    >>> list_paraphrases(2, 3).prompt_id.tolist()
    [0, 0, 0, 1, 1, 1]
    """
    told = yaml.safe_load((DATA / "paraphrases.yaml").read_text(encoding="utf-8"))[:n_prompts]
    rows = [(n, k, text) for n, texts in enumerate(told) for k, text in enumerate(texts[:n_paraphrases])]
    return pd.DataFrame(rows, columns=["prompt_id", "paraphrase", "prompt"])


def read_facets(by: str = "") -> dict[str, tuple[str, ...]]:
    """Return the facets asked for, and the columns that may hold each; all of `FACETS` when empty.

    >>> read_facets("model,prompt=question")
    {'model': ('model', 'response_source'), 'prompt': ('question',)}
    """
    asked = dict(part.strip().partition("=")[::2] for part in by.split(",")) if by else dict.fromkeys(FACETS, "")
    if unknown := [name for name in asked if name not in FACETS]:
        raise ScoringError(f"--by knows {', '.join(FACETS)}, not {unknown[0]!r} (another column: model=column)")
    return {name: (column,) if column else FACETS[name] for name, column in asked.items()}


def read_scored(path: str | Path, facets: dict[str, tuple[str, ...]]) -> tuple[pd.DataFrame, np.ndarray, tuple]:
    """Read a scored file: a row a row with a column a facet that it has, is_refusal and words; scores (N, D); values.

    What has no reply has no words. Other words, or another system prompt, under one prompt are paraphrases, though no
    column says so; seeds with replies of their own are draws. What is to be said of it stands in `attrs["notes"]`, as
    how many rows are marked as not English, which count. ScoringError when a column named by the user is not there, or
    nothing is scored.
    """
    codes, told = {name: {} for name in facets}, array("i")      # no list: a file may have millions of rows
    n_foreign = 0

    def tell(prompt: str, row: dict) -> None:
        nonlocal n_foreign
        n_foreign += row.get("problem") == FOREIGN
        row = row | {"prompt": prompt or None}
        found = [next((row[c] for c in columns if is_given(row.get(c))), None) for columns in facets.values()]
        told.extend([-1 if x is None else code.setdefault(str(x), len(code))
                     for x, code in zip(found, codes.values(), strict=True)])
        told.extend([*_look(row), hash((prompt, find_system(row))) % 2**31])

    _, scores, dimensions = read_scores(path, tell)
    columns = [*facets, "is_refusal", "words", "reply", "wording"]
    table = pd.DataFrame(np.reshape(told, (-1, len(columns))), columns=columns)
    for name, columns in facets.items():
        if not codes[name] and columns != FACETS[name]:
            raise ScoringError(f"{path} has no column {columns[0]!r} (--by)")
    if "model" in table:
        table["model"] = pd.Categorical.from_codes(table["model"], list(codes["model"]))
    is_asked = facets.get("paraphrase") == FACETS["paraphrase"] and codes["prompt"]
    table = table.drop(columns=[name for name in facets if not codes[name]])
    table = _tell_wordings(table) if is_asked else table
    if facets.get("seed") == FACETS["seed"] and "seed" in table and "draw" in facets and "draw" not in table:
        table = _tell_draws(table)
    if n_foreign:
        table.attrs["notes"] = [*table.attrs.get("notes", []), WORDS["foreign"].format(n=n_foreign)]
    return table.drop(columns=["reply", "wording"]), scores, dimensions


def _tell_draws(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with seeds as draws where most replies are one seed's own: seeds of the models, then."""
    cells = [name for name in FACETS if name in table and name != "seed"]
    read = table[(table.words >= 0) & (table.groupby(cells, observed=True).seed.transform("nunique") > 1)]
    if not (read.groupby([*cells, "reply"], observed=True).seed.nunique() == 1).mean() > 0.5:
        return table
    drawn = table.rename(columns={"seed": "draw"})
    drawn.attrs["notes"] = [*table.attrs.get("notes", []), WORDS["own_replies"]]
    return drawn


def _tell_wordings(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with a paraphrase for each wording of a prompt, where some are not told apart so far.

    Not where most wordings are one model's own: what they do cannot be told from what the models do.
    """
    known = [name for name in ("prompt", "paraphrase") if name in table]
    if table.groupby(known).wording.nunique().max() < 2:
        return table
    if "model" in table and _is_unshared(table, known, "wording").mean() > 0.5:
        table.attrs["notes"] = [WORDS["own_words"]]
        return table
    own = table.groupby([*known, "wording"], sort=False).ngroup().groupby(table.prompt).rank("dense").astype(int) - 1
    return table.assign(paraphrase=own.where(table.get("paraphrase", own) >= 0, -1))


def _is_unshared(table: pd.DataFrame, known: list[str], wording: str) -> pd.Series:
    """Return which rows have a wording that not all models have that answered the prompt."""
    n_sharing, n_all = (table.groupby(parts).model.transform("nunique") for parts in ([*known, wording], known))
    return n_sharing < n_all


def _look(row: dict) -> tuple[int, int, int]:
    """Return whether a row's reply refuses, how many words it has, -1 where there is none, and its hash.

    Refusal and words are those of the answer, which is scored; the hash is that of all that was said, thoughts too.
    """
    whole = row.get("response")
    try:
        text = split_thoughts(whole)[1] if isinstance(whole, str) else read_dialogue(row).response
    except RowError:
        return -1, -1, -1
    return int(is_refusal([text])[0]), len(text.split()), hash(str(whole or text)) % 2**31


def list_sources(table: pd.DataFrame) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the level (N,) of each row for each source of variance that can be told apart, and what cannot.

    Of two sources with the same levels the coarser is kept; the last one, of a level a row, is called "rest", or "draw"
    where it is nothing else. What repeats in fewer than `MIN_PROMPTS` prompts, as where one reply was drawn twice, is
    rest.
    """
    levels, same, rest = {}, [], []
    for name, parts in SOURCES.items():
        own = [part for part in parts if part in table]
        if len(own) < len(parts) and not (name == "draw" and name in own):
            continue
        level = table.groupby(own, sort=False, observed=True).ngroup().to_numpy()
        n = level.max() + 1
        n_again = table.prompt[pd.Series(level).duplicated().to_numpy()].nunique()     # prompts where it repeats
        is_seldom = parts != ("prompt",) and "prompt" in parts and n_again < min(MIN_PROMPTS, table.prompt.nunique())
        twin = next((other for other, held in levels.items()
                     if held.max() + 1 == n and {*SOURCES[other]} < {*parts}), "")
        if n == len(table) or is_seldom:
            rest.append(name)
        elif twin:
            same.append(f"{name} cannot be told from {twin}")
        else:
            levels[name] = level
    last = "draw" if rest in ([], ["draw"]) and "seed" not in table else "rest"
    if last == "rest":
        same.append(f"rest holds {', '.join(rest)} and chance" if rest else
                    "rest is how seeds differ on single replies")
    return levels | {last: np.arange(len(table))}, same


def assess_reliability(table: pd.DataFrame, scores: np.ndarray, values: Sequence[str], n_draws: int = 500,
                       seed: int = 0) -> Reliability:
    """Say what scores (N, D) of `values` are worth; a column of `table` a facet, and is_refusal and words if known.

    Without draw, rows alike in all other facets are draws; with it, the first of them counts. A row without scores, or
    without a facet that others have, is left out and counted. ScoringError without a prompt column, or without scores
    of two prompts.

    >>> rows = pd.DataFrame([(m, p) for m in "ab" for p in range(6)] * 2, columns=["model", "prompt"])
    >>> scores = (rows.model == "b") * 0.5 + np.tile([0.1, -0.1], 12)
    >>> found = assess_reliability(rows, scores.to_numpy()[:, None], ["care"], n_draws=20)
    >>> found.sources.set_index("source").share.round(2).to_dict()["model"], found.is_noise
    (0.91, False)
    """
    n_given = len(table)
    table, scores, notes = _clean_rows(table.reset_index(drop=True), np.asarray(scores, float))
    sources, summaries, told = [], [], []
    known = [column.tobytes() for column in np.isfinite(scores).T]
    for own in pd.Series(known, dtype=object).groupby(known).indices.values():     # values known for the same rows
        is_known = np.isfinite(scores[:, own[0]])
        names, rows = [values[d] for d in own], table[is_known]
        if rows.prompt.nunique() > 1:
            part = scores[np.ix_(is_known, own)]
            found, summary, same = _assess_values(rows, part, names, n_draws, seed)
            sources, summaries, told = sources + found, summaries + summary, told + same
        else:
            notes.append(f"no scores of two prompts: {', '.join(names)}")
    order, empty = pd.CategoricalDtype(list(values)), {"value": [], "source": [], "sd": []}
    frames = [pd.DataFrame(rows or empty).astype({"value": order}).sort_values("value", kind="stable")
              .astype({"value": str}).reset_index(drop=True) for rows in (sources, summaries)]
    flat = frames[1].value[frames[1].spread <= 1e-12].tolist() if len(frames[1]) else []
    varying = [k for k, value in enumerate(values) if value not in flat]
    pairs, lost = compare_pairs(table, scores[:, varying], [values[k] for k in varying])
    flips = {name: tuple(float(x[0]) for x in ends) for name, ends in _measure_signs(
        table, scores[:, varying], table.prompt.to_numpy(), pooled=True).items()} if varying else {}
    notes += [*dict.fromkeys(told), *lost, *[f"does not vary, so nothing is divided: {', '.join(flat)}"] * bool(flat)]
    levels = {f"{name}s": table[name].nunique() for name in FACETS if name in table}
    counts = {"rows": len(table), "unusable": n_given - len(table), **levels}
    return Reliability(*frames, plan_study(frames[1]), pairs, counts, tuple(notes), flips)


def _clean_rows(table: pd.DataFrame, scores: np.ndarray) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """Return the rows that count, and in words what was left out."""
    facets, notes = [name for name in FACETS if name in table], []
    if "prompt" not in facets:
        raise ScoringError("No row names its prompt, and without prompts nothing can be said of noise.")
    own = table.attrs.get("notes", [])
    notes += [f"{name}: no column, left out" for name in FACETS
              if name not in facets and not any(note.startswith(f"{name}:") for note in own)] + own
    is_told = table[facets].notna().all(axis=1) & ~(table[facets].select_dtypes("number") == -1).any(axis=1)
    is_scored = np.isfinite(scores).any(axis=1)
    twice = table[is_told & is_scored].duplicated(facets).reindex(table.index, fill_value=False) & ("draw" in facets)
    for n, why in (((~is_scored).sum(), "without scores"), ((is_scored & ~is_told).sum(), "that lack a facet"),
                   (twice.sum(), "that repeat the facets of an earlier one")):
        notes += [f"{n:,} rows {why}, left out"] if n else []
    kept = (is_told & is_scored & ~twice).to_numpy()
    table, scores = table[kept].reset_index(drop=True), scores[kept]
    if table.prompt.nunique() < 2:
        raise ScoringError(f"Scores of {table.prompt.nunique()} prompt: two are needed at least, and "
                           f"{MIN_PROMPTS} for an interval.")
    if "draw" not in facets and table.duplicated(facets).any():
        notes[notes.index("draw: no column, left out")] = "draw: no column; rows alike in all else count as draws"
        n = int(pd.concat([table, pd.DataFrame(scores)], axis=1).duplicated().sum())
        notes += [f"{n:,} rows say what an earlier one says, to the last digit: copies are no draws"] * (n > 0)
    single = [name for name in facets if table[name].nunique() == 1]
    notes += [f"one {name} only: nothing is said of {name}s" for name in single]
    if {"model", "paraphrase"} <= {*facets} - {*single} and (
            n := int(_is_unshared(table, ["prompt"], "paraphrase").sum())):
        notes.append(WORDS["not_crossed"].format(n=n))
    return table.drop(columns=[name for name in single if name != "model"]), scores, notes


def _assess_values(table: pd.DataFrame, scores: np.ndarray, values: Sequence[str], n_draws: int,
                   seed: int) -> tuple[list[dict], list[dict], list[str]]:
    """Return rows of `sources` and of `values` of a Reliability, of values known for the same rows; and notes."""
    table = table.reset_index(drop=True)
    levels, notes = list_sources(table.drop(columns=[] if table.model.nunique() > 1 else "model")
                                 if "model" in table else table)
    clusters, names, n_prompts = table.prompt.to_numpy(), list(levels), table.prompt.nunique()
    if n_prompts < MIN_PROMPTS:
        n_draws, notes = 0, [*notes, f"{n_prompts} prompts: below {MIN_PROMPTS} there are no intervals"]
    drawn = np.clip(components.estimate_components(scores, levels, clusters, n_draws, seed), 0, None)    # (1 + B, K, D)
    level = components.widen_level(n_prompts)
    with np.errstate(invalid="ignore"):
        shares = drawn / np.where(drawn.sum(axis=1, keepdims=True) > 1e-12, drawn.sum(axis=1, keepdims=True), np.nan)
    low, high = take_interval(shares[1:], level)
    sources = [{"value": value, "source": name, "variance": drawn[0, k, d], "share": shares[0, k, d],
                "low": low[k, d], "high": high[k, d]} for d, value in enumerate(values) for k, name in enumerate(names)]
    shares_prompts = "model" in names and not any(note.startswith("model × prompt cannot") for note in notes)
    overlap = _count_overlap(table) if shares_prompts else (0, 0)
    told = {name: _take_ends(one, level) for name, one in _derive(shares, names, overlap, shares_prompts).items()}
    told |= _measure_signs(table, scores, clusters) | _explain(table, scores, clusters, n_draws, seed, level)
    noise = drawn[0, [k for k, name in enumerate(names) if name in NOISE]].sum(axis=0)
    sd = np.sqrt(2 * noise) if shares_prompts else np.nan
    return sources, [{"value": value, "n": len(scores), "mean": scores[:, d].mean(), "spread": scores[:, d].std(),
                      "sd": np.broadcast_to(sd, len(values))[d], **{
                          f"{name}{end}": ends[e][d] for name, ends in told.items()
                          for e, end in enumerate(("", "_low", "_high"))}} for d, value in enumerate(values)], notes


def _take_ends(drawn: np.ndarray, level: float) -> tuple[np.ndarray, ...]:
    return drawn[0], *take_interval(drawn[1:], level)


def _count_overlap(table: pd.DataFrame) -> tuple[float, float]:
    """Return 1 over the prompts of a model, in mean, and what prompts that two models do not share add to it."""
    held = (pd.crosstab(table.model, table.prompt) > 0).to_numpy(float)
    held = held / held.sum(axis=1, keepdims=True)
    both = held @ held.T
    one = both.trace() / len(both)
    return one, one - (both.sum() - both.trace()) / (both.size - len(both))


def _derive(shares: np.ndarray, names: Sequence[str], overlap: tuple[float, float],
            shares_prompts: bool) -> dict[str, np.ndarray]:
    """Return what follows from shares (1 + B, K, D): correlations of two replies, generalisability; (1 + B, D)."""
    part = {name: shares[:, k] for k, name in enumerate(names)}
    within, nothing = sum(part.get(name, 0) for name in WITHIN), np.full(shares[:, 0].shape, np.nan)
    has_draws = "draw" in part
    wordings = sum(part.get(name, 0) for name in ("paraphrase", "model × paraphrase"))
    found = {"same_paraphrase": 1 - within if has_draws else nothing, "other_paraphrase": np.clip(
        1 - within - wordings, 0, 1) if has_draws and "paraphrase" in part else nothing,
             "generalisability": nothing}
    if shares_prompts:      # else what is asked and who answers are one
        per_prompt, apart = overlap
        noise = sum(share for name, share in part.items() if name in NOISE) * per_prompt + part.get("model × seed", 0)
        noise += part.get("prompt", 0) * apart
        with np.errstate(invalid="ignore"):
            found["generalisability"] = part["model"] / (part["model"] + noise)
    return found


def _measure_signs(table: pd.DataFrame, scores: np.ndarray, clusters: np.ndarray,
                   pooled: bool = False) -> dict[str, tuple]:
    """Return how often two replies differ in sign: of one model to the same words, other words, another prompt."""
    def group(*facets: str) -> np.ndarray:
        own = [name for name in facets if name in table]
        return table.groupby(own, sort=False, observed=True).ngroup().to_numpy() if own else np.zeros(len(table), int)

    whole, prompts = group("model", "seed"), group("prompt")
    wordings, parts = group("model", "prompt", "seed"), group("paraphrase")
    between, within = components.count_flips(scores, wordings, parts, clusters, pooled)
    other = components.count_flips(scores, whole, prompts, whole, pooled)[0][0]   # pairs cross prompts: no interval
    return {"flips_draw": within, "flips_paraphrase": between,
            "flips_prompt": (other, *[np.full(len(other), np.nan)] * 2)}


def _explain(table: pd.DataFrame, scores: np.ndarray, clusters: np.ndarray, n_draws: int, seed: int,
             level: float) -> dict[str, tuple]:
    """Return the share of the variance that refusal and length explain; nothing without replies."""
    is_read = table.words.to_numpy() >= 0 if "words" in table else np.zeros(len(table), bool)
    if is_read.sum() < 3:
        return {}
    controls = _control(table[is_read]).to_numpy()
    found = [components.explain_scores(column, controls, clusters[is_read], n_draws, seed)
             for column in scores[is_read].T]
    return {"text": _take_ends(np.column_stack([np.append(*one) for one in found]), level)}


def _control(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"is_refusal": table.is_refusal.astype(float), "length": np.log1p(table.words)})


def compare_pairs(table: pd.DataFrame, scores: np.ndarray, values: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Compare the first `MANY` models two by two on prompts that both answered; see Reliability.

    Only wordings (`paraphrase`) and seeds that both have count; of these the replies to a prompt are averaged. Returned
    with pairs that share nothing, and how many models were left out.
    """
    models = list(table["model"].drop_duplicates()) if "model" in table else []
    parts, apart = [], {False: [], True: []}
    notes = [f"{len(models)} models: the first {MANY} are compared two by two"] * (len(models) > MANY)
    if notes:
        table, scores = (part[table["model"].isin(models[:MANY]).to_numpy()] for part in (table, scores))
    keys = [table["model"].astype(object), *(table[name] for name in ("prompt", "paraphrase", "seed") if name in table)
            ] if "model" in table else []
    means = pd.DataFrame(scores, columns=list(values)).groupby(keys).mean() if keys else None
    texts = _control(table[table.words >= 0]).groupby(keys).mean() if keys and "words" in table else None
    for first, second in combinations(models[:MANY] if len(values) else (), 2):
        shared = means.loc[first].index.intersection(means.loc[second].index)
        if not len(shared):
            asked, others = (means.loc[name].index.get_level_values("prompt") for name in (first, second))
            apart[bool(asked.isin(others).any())].append(f"{first} and {second}")
            continue
        a, b = (means.loc[name].reindex(shared) for name in (first, second))
        a, b = (own.where(other.notna()).groupby(level="prompt").mean() for own, other in ((a, b), (b, a)))
        found = compare_averages(a, b)
        alike = _hold_alike(b - a, texts, first, second, shared)
        shown = np.where(found.n >= MIN_PROMPTS, components.detect_difference(found.sd, found.n), np.nan)
        parts.append(found.assign(first_model=first, second_model=second, **alike, shown=shown))
    notes += [f"{', '.join(names[:5])}{', …' * (len(names) > 5)} " + (
        "share prompts, but never in the same words and for the same seed" if is_asked else "answered no prompt both")
              for is_asked, names in apart.items() if names]
    if not parts:
        return pd.DataFrame(), notes
    pairs = pd.concat(parts, ignore_index=True)
    return pairs.assign(clear_holm=adjust_p(pairs.pop("p").to_numpy(), "holm") < 0.05), notes    # all pairs together


def _hold_alike(difference: pd.DataFrame, texts: pd.DataFrame | None, first: str, second: str,
                shared: pd.Index) -> dict[str, np.ndarray]:
    """Return the difference left between replies that are alike in refusal and length, with its ends.

    `shared` are the prompts, and the wordings and seeds, that both models have.
    These are infinite where nothing can be told, as where one model always refuses and the other never.
    """
    found = np.full((3, difference.shape[1]), np.nan)
    if texts is not None and {first, second} <= set(texts.index.levels[0]):
        controls = (texts.loc[second] - texts.loc[first]).reindex(shared).groupby(level="prompt").mean()
        controls = controls.reindex(difference.index)
        had = difference.notna().any(axis=0).to_numpy()
        known = (controls.notna().all(axis=1) & difference.loc[:, had].notna().all(axis=1)).to_numpy()
        left = adjust_difference(difference.loc[known, had].to_numpy(), controls[known].to_numpy(),
                                 np.arange(known.sum()))
        nothing = [[np.nan], [-np.inf], [np.inf]]
        found[:, had] = np.where(np.isnan(left["difference"]), nothing, list(left.values()))
    return dict(zip(("alike", "alike_low", "alike_high"), found, strict=True))


def plan_study(values: pd.DataFrame, prompts: Sequence[int] = PLANNED,
               differences: Sequence[float] = WANTED) -> pd.DataFrame:
    """Return what n prompts show of two models, one reply a prompt, and how many a difference needs (80 % power)."""
    shown = {f"shown by {n}": components.detect_difference(values.sd.to_numpy(float), n) for n in prompts}
    needed = plan_prompts(values[["value", "sd"]], [POWER * d for d in differences])
    return pd.DataFrame({"value": values.value, "sd": values.sd, **shown} | {
        f"prompts for {d:g}": column for d, (_, column) in zip(differences, list(needed.items())[2:], strict=True)})


def group_theory(theory: Theory, of_items: bool = False) -> dict[str, np.ndarray]:
    """Return the groups of a theory's values, or of its items, for `fit_theory`: one factor, its groups, its values.

    A value that stands in two groups belongs to the first; those of none are a group.
    """
    owner = np.asarray(theory.item_dims if of_items else range(theory.n_dims), int)
    upper = np.array([next((k for k, held in enumerate(theory.groups.values()) if name in held), -1)
                      for name in theory.dimensions])
    n = len(np.unique(upper))
    return {"one factor": owner * 0} | ({f"{n} groups": upper[owner]} if n > 1 else {}) | {
        f"{theory.n_dims} values": owner}


def fit_theory(scores: np.ndarray, groups: dict[str, np.ndarray], clusters: Sequence, n_draws: int = 20,
               seed: int = 0) -> pd.DataFrame:
    """Fit each grouping of the columns of scores (N, D) by `bootstrap_fit`: a row a grouping, called system, and n.

    `least` names AIC and BIC where they are the smallest of two or more groupings that could be fitted.

    Rows with a gap and columns that do not vary are left out; nothing where fewer than two columns and three rows are
    left.
    """
    is_known = np.isfinite(scores).all(axis=1)
    rows, ids = scores[is_known], np.asarray(clusters)[is_known]
    varies = np.ptp(rows, axis=0) > 1e-9 if len(rows) > 2 else np.zeros(scores.shape[1], bool)
    found = pd.DataFrame([
        {"system": name, "n": len(rows)} | bootstrap_fit(rows[:, varies], own[varies], ids, n_draws, seed)
        for name, own in groups.items() if varies.sum() > 1])
    return found.assign(least=[", ".join(
        name.upper() for name in ("aic", "bic") if found[name].count() > 1 and row[name] == found[name].min())
        for _, row in found.iterrows()])


def compare_writers(scores: np.ndarray, is_people: np.ndarray, words: np.ndarray, topics: np.ndarray,
                    clusters: Sequence, values: Sequence[str], n_draws: int = 500, seed: int = 0) -> pd.DataFrame:
    """Put people's texts and models' on one ruler: value, who, n, mean, low, high, and p10 and p90, between which 80 %
    of the texts lie; and people minus models, alike. low and high of a mean are nan below 5 clusters.

    Alike in length (log words) and topic (N,): a mixed model with the prompt as random intercept, on topics of which
    both speak in at least 5 texts. nan where these are fewer than two. `clear_holm` says for which values this
    difference is sure, all tested together (Holm, 5 %).
    """
    found, shared = [], [t for t in np.unique(topics) if min((topics[is_people] == t).sum(),
                                                             (topics[~is_people] == t).sum()) >= 5]
    for who, own in (("people", is_people), ("models", ~is_people)):
        low, high = components.mean_ends(scores[own], np.asarray(clusters)[own], n_draws, seed)
        spread = np.quantile(scores[own], (0.1, 0.9), axis=0)
        found += [{"value": value, "who": who, "n": int(own.sum()), "mean": m, "low": a, "high": b, "p10": p, "p90": q}
                  for value, m, a, b, p, q in zip(values, scores[own].mean(axis=0), low, high, *spread, strict=True)]
    used = np.isin(topics, shared)
    design = np.column_stack([is_people, np.log1p(words), *(topics == t for t in shared[1:])])[used].astype(float)
    for value, column in zip(values, scores[used].T, strict=True):
        fit = fit_mixed(column, design, np.asarray(clusters)[used])
        found.append({"value": value, "who": "people minus models, alike in length and topic", "n": int(used.sum()),
                      "mean": fit["effect"][0], "low": fit["low"][0], "high": fit["high"][0], "p": fit["p"][0]})
    table = pd.DataFrame(found)
    return table.assign(clear_holm=adjust_p(table.pop("p").to_numpy(), "holm") < 0.05)


def compare_raters(rated: pd.DataFrame, n_draws: int = 500, seed: int = 0) -> pd.DataFrame:
    """Put our scores of six models' replies beside a large judge's ratings: value (the model), who, n, mean, low, high.

    `rated` has model, score (in [-1, 1]), rating (0 to 10, here moved to [-1, 1]) and cluster; low and high are nan
    below 5 clusters.
    """
    found = []
    for who, column in (("a large judge's rating", rated.rating / 5 - 1), ("our score", rated.score)):
        for model, part in column.groupby(rated.model):
            low, high = (x[0] for x in components.mean_ends(part, rated.cluster[part.index], n_draws, seed))
            found.append({"value": model, "who": who, "n": len(part), "mean": part.mean(), "low": low, "high": high})
    return pd.DataFrame(found)


def assess_file(source: str | Path, evaluators: Sequence = (), by: str = "", n_draws: int = 500,
                seed: int = 2023, progress: bool = False) -> Reliability:
    """Assess a scored file, or score it by evaluators (or their folders) first, seeds where there are several."""
    facets = read_facets(by)
    if "prompt" not in facets:
        raise ScoringError(f"--by {by} leaves out prompt, and without prompts nothing can be said of noise.")
    if not evaluators:
        found = assess_reliability(*read_scored(source, facets), n_draws, seed)
    else:
        own = {name: columns for name, columns in facets.items() if name != "seed" or len(evaluators) == 1}
        parts = list(_score_by(source, evaluators, own, progress))
        if len({values for _, _, values in parts}) > 1:
            raise ScoringError("The evaluators score other values: seeds are evaluators of one theory.")
        table = pd.concat([part[0] for part in parts], ignore_index=True)
        table.attrs["notes"] = list(dict.fromkeys(note for part in parts for note in part[0].attrs["notes"]))
        found = assess_reliability(table, np.concatenate([part[1] for part in parts]), parts[0][2], n_draws, seed)
    return replace(found, notes=tuple(
        f"{name}: not asked for" if note.startswith(f"{name}: no column") and name not in facets else note
        for note in found.notes for name in [note.partition(":")[0]]))


def _score_by(source: str | Path, evaluators: Sequence, facets: dict, progress: bool) -> Iterator[tuple]:
    """Yield table, scores and values of a file by each evaluator, which is its seed where there are several."""
    with tempfile.TemporaryDirectory() as folder:
        for k, evaluator in enumerate(evaluators):
            report = score_file(evaluator, source, Path(folder) / f"{k}.jsonl", progress=progress)
            table, scores, values = read_scored(Path(folder) / f"{k}.jsonl", facets)
            table.attrs["notes"] = [*table.attrs.get("notes", []), *(n for n in report.notes if FOREIGN not in n)]
            yield table.assign(seed=k) if len(evaluators) > 1 else table, scores, values


def describe_noise(found: Reliability) -> str:
    """Say whether the differences between the models are more than noise, in a paragraph.

    >>> describe_noise(Reliability(*[pd.DataFrame(columns=["source", "share"])] * 3, pd.DataFrame(), {}))
    'There are no two models to compare.'
    """
    pairs = [part for _, part in found.pairs.groupby(["first_model", "second_model"], sort=False)] if len(
        found.pairs) else []
    told = [_describe_pair(part) for part in pairs] if len(pairs) < 4 else [_count_pairs(pairs)]
    if not pairs:
        flat = len(found.values) and (found.values.spread <= 1e-12).all()
        told = [WORDS["alone" if found.counts.get("models", 0) < 2 else "flat" if flat else "apart"]]
    share = found.sources.groupby("source", sort=False).share.mean()
    told += ["Of the variance of a value's scores, mean over the values, " + ", ".join(
        f"{x:.0%} belongs to {WORDS['names'][name]}" if not k else f"{x:.0%} to {WORDS['names'][name]}"
        for k, (name, x) in enumerate(share.items())) + "."] if share.notna().any() else []
    if "model" in share and found.counts["models"] < FEW:
        told.append(WORDS["few"].format(n=found.counts["models"]))
    flips = {WORDS["flips"][name]: ends[0] for name, ends in found.flips.items() if np.isfinite(ends[0])}
    told += ["Two replies of one model have scores of unlike sign in " + ", ".join(
        f"{x:.0%} (to {name})" for name, x in flips.items()) + " of the pairs."] if flips else []
    if found.counts and found.counts.get("seeds", 1) < 2:
        told.append(WORDS["judge"])
    return " ".join(told)


def _count_pairs(pairs: list[pd.DataFrame]) -> str:
    alike, n = [part for part in pairs if not part.clear_holm.any()], len(pairs)
    if len(alike) in (0, n):
        return f"In {'none' if alike else 'each'} of {n} pairs do the models differ in some value by more than noise."
    names = ", ".join(f"{part.second_model.iloc[0]} and {part.first_model.iloc[0]}" for part in alike[:5])
    return (f"In {n - len(alike)} of {n} pairs the models differ in some value by more than noise; not told apart are "
            + names + ", …" * (len(alike) > 5) + ".")


def _describe_pair(part: pd.DataFrame) -> str:
    """Say in which values two models differ by more than noise, or what could have been seen."""
    first, second, clear = part.first_model.iloc[0], part.second_model.iloc[0], part[part.clear_holm]
    if clear.empty:
        least = f"{part.n.max()} prompts would show one of {part.shown.min():.2f} in the steadiest value, and of " \
            f"{part.shown.max():.2f} in the least steady" if part.shown.notna().any() else \
            f"{part.n.max()} prompts are too few to show any"
        return f"No difference between {second} and {first} is more than noise; {least}."
    clear = clear.sort_values("difference", key=lambda d: -d.abs())
    most = ", ".join(f"{r.value} {r.difference:+.2f} [{r.low:+.2f}, {r.high:+.2f}]" for r in clear[:3].itertuples())
    open_ = ((clear.alike_low <= 0) & (clear.alike_high >= 0)).sum()
    return (f"{second} differs from {first} in {len(clear)} of {len(part)} values by more than noise ({most}"
            + f", and {len(clear) - 3} more" * (len(clear) > 3) + f"; above 0 {second} is higher)."
            + f" In {open_} of these the difference may come from refusals and length alone." * bool(open_))


def add_to_card(folder: str | Path, found: Reliability) -> None:
    """Put the paragraph of `describe_noise` at the end of an evaluator's model card, in place of an earlier one."""
    path = Path(folder) / "README.md"
    before = path.read_text(encoding="utf-8").partition(WORDS["question"])[0].rstrip()
    write_text(path, f"{before}\n\n{WORDS['question']}\n\n{describe_noise(found)}\n")


def describe_reliability(found: Reliability) -> str:
    """Return what was found as text: tables, what their columns mean, and the verdict."""
    n = found.counts
    parts = [", ".join(f"{count:,} {name}" for name, count in n.items() if name != "unusable") + ".\n"
             + "\n".join(f"- {note}" for note in found.notes), fill(describe_noise(found), 118)]
    if len(found.sources):
        shares, table = lay_out(found)
        about = WORDS["few" if n["models"] < FEW else "many"].format(n=n["models"]) if "model" in shares else ""
        parts += ["Where the differences between scores come from: share of each value's variance, with 95 % intervals "
                  "over prompts", shares.fillna("").to_string(), f"{fill(WORDS['sources'], 118)}\n{about}".strip(),
                  "What one score is worth", table.to_string(),
                  "\n".join(f"{title}: {words}" for title, words in WORDS["columns"].values() if title in table)]
    if found.plan.sd.notna().any():
        parts += [fill(WORDS["planning"], 118), found.plan.round(3).to_string(index=False, na_rep="")]
    if len(found.pairs):
        columns = ["first_model", "second_model", "value", "n", "difference", "low", "high", "clear_holm", "alike",
                   "alike_low", "alike_high", "shown"]
        known = found.pairs[columns].replace([-np.inf, np.inf], np.nan).round(3)
        parts += ["Pairs of models (second minus first, t intervals over prompts)",
                  known.to_string(index=False, na_rep=""), fill(WORDS["pairs"], 118)]
    return "\n\n".join(parts)


def lay_out(found: Reliability) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the shares, and what a score is worth, as words with intervals: a row a value, titles that can be read."""
    def write(name: str, table: pd.DataFrame, style: str) -> list[str]:
        ends = ("low", "high") if name == "share" else (f"{name}_low", f"{name}_high")
        return ["" if np.isnan(x) else f"{x:{style}}" if np.isnan(low) else
                f"{x:{style}} [{low:{style}}, {high:{style}}]" for x, low, high in table[[name, *ends]].to_numpy(float)]

    shares = found.sources.assign(cell=write("share", found.sources, ".0%"))
    shares = shares.pivot(index="value", columns="source", values="cell")
    shown = {name: title for name, (title, _) in WORDS["columns"].items()
             if name in found.values and found.values[name].notna().any()}
    table = pd.DataFrame({title: write(name, found.values, ".2f") for name, title in shown.items()}, found.values.value)
    return (shares.loc[found.values.value, found.sources.source.unique()].rename_axis(columns=None),
            table.rename_axis(columns=None))
