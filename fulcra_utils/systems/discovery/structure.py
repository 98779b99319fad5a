"""From scores to a value system: subjects and their variance, factors with their reliability, fit, and a theory file.

Choices, for GPLA's rotation, number and cut are not public: principal axes, oblimin, as many factors as parallel
analysis finds, a value belongs to the factor on which it loads most, from .3 on. Six models are six clusters: blocks of
items make more rows, not more subjects. Source: Ye et al. (2025), arXiv 2502.02444. Axis letters: N rows, V values,
K factors, M models, S blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from fulcra_utils.common.files import write_table, write_text
from fulcra_utils.evaluator.model import ValueEvaluator
from fulcra_utils.stats.factors import (
    Factors,
    bootstrap_fit,
    bootstrap_loadings,
    correlate_values,
    count_factors,
    fit_factors,
    match_factors,
    measure_congruence,
    shuffle_columns,
)
from fulcra_utils.stats.resampling import draw_rows, take_interval
from fulcra_utils.stats.structure import cronbach_alpha, mcdonald_omega
from fulcra_utils.systems.discovery.lexicon import collect_named_values, merge_lexicon, rank_values
from fulcra_utils.theory.theory import DRAFT, Theory, check_theory, name_values, split_words

CUT = 0.3       # the least loading with which a value belongs to a factor
N_NULL = 50     # most draws of the null of alpha, each of which is a fit


def centre_rows(rows: np.ndarray) -> np.ndarray:
    """Return rows (N, V) with each row's mean taken out: ipsative scores, what a subject prefers to what."""
    rows = np.asarray(rows, float)
    return rows - rows.mean(axis=1, keepdims=True)


def tabulate_subjects(scores: np.ndarray, models: Sequence[str], blocks: Sequence[int]) -> np.ndarray:
    """Return mean scores (M, S, V) of each model on each block of items that all models answer, both in sorted order.

    The same blocks for all models, so that a block's mean over models can be taken out; S is 0 where none is shared.
    """
    index = pd.MultiIndex.from_arrays([list(blocks), list(models)])
    table = pd.DataFrame(np.asarray(scores, float), index).groupby(level=[0, 1]).mean()
    n_models, size = len(set(models)), table.groupby(level=0).size()
    table = table[table.index.get_level_values(0).isin(size.index[size == n_models])]
    return table.to_numpy().reshape(-1, n_models, table.shape[1]).swapaxes(0, 1)


def split_variance(subjects: np.ndarray, n_draws: int = 500, seed: int = 0) -> pd.DataFrame:
    """Return which share of the values' variance lies between models, between blocks, and in how the two go together.

    `subjects` (M, S, V) as `tabulate_subjects` gives them; sums of squares over all values, low and high over models
    drawn again. The last share holds the error too: a cell has one mean.
    """
    def split(cells: np.ndarray) -> np.ndarray:
        if not cells.size:
            return np.full(3, np.nan)
        grand = cells.mean(axis=(0, 1))
        by_model, by_block = cells.mean(axis=1) - grand, cells.mean(axis=0) - grand
        left = cells - grand - by_model[:, None] - by_block
        parts = np.array([cells.shape[1] * (by_model**2).sum(), cells.shape[0] * (by_block**2).sum(), (left**2).sum()])
        return parts / max(parts.sum(), 1e-12)

    draws = [split(subjects[places]) for places in draw_rows(np.arange(len(subjects)), n_draws, seed)]
    low, high = take_interval(np.array(draws).reshape(-1, 3))
    return pd.DataFrame({"part": ["model", "block", "model x block"], "share": split(subjects), "low": low,
                         "high": high})


def measure_halo(rows: np.ndarray, clusters: Sequence, n_draws: int = 500, seed: int = 0) -> dict[str, float]:
    """Return the mean correlation between values over rows (N, V), low and high over clusters, the share above 0, and
    `first`, the largest eigenvalue of the correlations as a share of all, with ends.

    A halo is when all go together: mean and shares near 1. Values that do not vary are left out. `null` is the 95 %
    quantile of `first` where values have nothing in common (`shuffle_columns`): of 6 rows of ten values about .48, for
    chance alone makes one component large, and draws with repeated rows lean further up.
    """
    def measure(rows: np.ndarray) -> tuple[float, float, float]:
        rows = rows[:, np.ptp(rows, axis=0) > 1e-12]
        if rows.shape[1] < 2 or len(rows) < 3:
            return np.nan, np.nan, np.nan
        correlations = correlate_values(rows)
        r = correlations[np.triu_indices(rows.shape[1], 1)]
        return r.mean(), np.linalg.eigvalsh(correlations)[-1] / len(correlations), (r > 0).mean()

    rows = np.asarray(rows, float)
    draws = [measure(rows[places])[:2] for places in draw_rows(np.asarray(clusters), n_draws, seed)]
    low, high = take_interval(np.reshape(draws, (-1, 2)))
    rng, (mean, first, positive) = np.random.default_rng(seed), measure(rows)
    null = take_interval(np.array([measure(shuffle_columns(rows, clusters, rng))[1] for _ in range(n_draws)]), 0.9)[1]
    return dict(zip(("mean", "low", "high", "positive", "first", "first_low", "first_high", "null"), map(float, (
        mean, low[0], high[0], positive, first, low[1], high[1], null)), strict=True))


@dataclass(frozen=True)
class System:
    """A value system found in rows (N, V): how many factors, loadings with intervals, and which value belongs where.

    `counts` and `numbers` as `count_factors` gives them, `low` and `high` (V, K) as `bootstrap_loadings`; `members`
    (V,) is each value's factor, -1 for none.
    """

    values: tuple[str, ...]
    counts: pd.DataFrame = field(repr=False)
    numbers: dict[str, int]
    factors: Factors = field(repr=False)
    low: np.ndarray = field(repr=False)
    high: np.ndarray = field(repr=False)
    members: np.ndarray = field(repr=False)

    @property
    def names(self) -> list[str]:
        """Return a draft name of each factor: its number and the two of its values that load most, "low" if turned
        round; "no value" where none belongs to it.
        """
        loadings = self.factors.loadings
        order = np.argsort(-np.abs(loadings), axis=0, kind="stable").T
        own = [[v for v in column if self.members[v] == k][:2] for k, column in enumerate(order)]
        return [f"{k + 1}: " + (", ".join(f"{'low ' if loadings[v, k] < 0 else ''}{self.values[v]}" for v in places)
                                or "no value") for k, places in enumerate(own)]

    @property
    def n_factors(self) -> int:
        """Return K."""
        return self.factors.loadings.shape[1]

    def table(self) -> pd.DataFrame:
        """Return a row a value and factor: value, factor, loading, low, high, belongs."""
        index = pd.MultiIndex.from_product([self.values, self.names], names=["value", "factor"])
        return pd.DataFrame({"loading": self.factors.loadings.ravel(), "low": self.low.ravel(),
                             "high": self.high.ravel(),
                             "belongs": (self.members[:, None] == np.arange(self.n_factors)).ravel()},
                            index=index).reset_index()

    def score(self, rows: np.ndarray) -> np.ndarray:
        """Return factor scores (N, K): means of the standardised values that belong, those that load below 0 turned."""
        rows = np.asarray(rows, float)
        rows = (rows - rows.mean(axis=0)) / np.where(rows.std(axis=0) > 1e-12, rows.std(axis=0), 1)
        weight = np.sign(self.factors.loadings) * (self.members[:, None] == np.arange(self.n_factors))
        return rows @ weight / np.clip(np.abs(weight).sum(axis=0), 1, None)

    def describe(self) -> str:
        """Say in a sentence how many factors there are, what they leave out, and what speaks against them."""
        told, n = ", ".join(f"{way} {n}" for way, n in self.numbers.items()), self.numbers["parallel"]
        last = self.counts.iloc[max(n, 1) - 1]
        return (f"{self.n_factors} factor{'s' * (self.n_factors > 1)} ({told}); {(self.members < 0).sum()} of "
                f"{len(self.values)} values belong to none"
                + f"; improper for {len(self.factors.heywood)} values" * bool(self.factors.heywood)
                + "; shuffled rows have as many: no factor is sure" * (n == 0)
                + f"; the last of {n} is hardly above shuffled rows"
                * bool(0 < last.eigenvalue / last.null - 1 < 0.05))


def find_system(rows: np.ndarray, values: Sequence[str], clusters: Sequence, n_factors: int = 0,
                rotation: str = "oblimin", n_draws: int = 100, seed: int = 0) -> System:
    """Find the factors of rows (N, V) and who belongs to them; `n_factors` 0 takes what parallel analysis finds.

    Values that do not vary are to be left out before (ValueError names their places). At least one factor is fitted,
    also where nothing exceeds the null: `numbers` then says 0.

    >>> rows = np.random.default_rng(0).normal(size=(300, 2))[:, [0, 0, 0, 1, 1, 1]]
    >>> rows = rows + 0.6 * np.random.default_rng(1).normal(size=(300, 6))
    >>> len(set(find_system(rows, "abcdef", np.arange(300), n_draws=5).members[:3]))
    1
    """
    rows = np.asarray(rows, float)
    counts, numbers = count_factors(rows, max(n_draws, 20), seed, clusters)
    n = min(max(n_factors or numbers["parallel"], 1), len(values) - 1)
    factors = fit_factors(rows, n, rotation)
    return System(tuple(values), counts, numbers, factors,
                  *bootstrap_loadings(rows, np.asarray(clusters), factors, rotation, n_draws, seed),
                  assign_values(factors.loadings))


def assign_values(loadings: np.ndarray) -> np.ndarray:
    """Return the factor (V,) to which each value belongs by its loadings (V, K), -1 for none."""
    size = np.abs(loadings)
    return np.where(size.max(axis=1) >= CUT, size.argmax(axis=1), -1)


def measure_reliability(rows: np.ndarray, system: System, clusters: Sequence, groups: Mapping[str, Sequence],
                        n_draws: int = 200, n_splits: int = 10, seed: int = 0) -> pd.DataFrame:
    """Return Cronbach's alpha with low, high and null, and McDonald's omega, of the values of each factor; its
    congruence with the one that varimax gives; and what `compare_halves` says for each of `groups`, name to a label a
    row.

    Values that load below 0 are turned. `null` is the 95 % quantile of alpha when whole clusters are shuffled, each
    value on its own, and factors and their values sought anew, for alpha is too high where values are chosen on the
    same rows: of the first factor here and there, of the second, and so on, 50 draws at most. nan with fewer than two
    values (alpha, in a draw 0) or three (omega).
    """
    def pick(rows: np.ndarray, loadings: np.ndarray) -> list[np.ndarray]:
        members = assign_values(loadings)
        return [rows[:, members == k] * np.sign(loadings[members == k, k]) for k in range(loadings.shape[1])]

    z, rng = (rows - rows.mean(axis=0)) / rows.std(axis=0), np.random.default_rng(seed)
    drawn = [[cronbach_alpha(items) for items in pick(again, fit_factors(again, system.n_factors).loadings)]
             for again in (shuffle_columns(z, clusters, rng) for _ in range(min(n_draws, N_NULL)))]
    null, found = np.quantile(np.nan_to_num(drawn), 0.95, axis=0), []
    for name, items, bound in zip(system.names, pick(z, system.factors.loadings), null, strict=True):
        low, high = take_interval([cronbach_alpha(items[places]) for places in
                                   draw_rows(np.asarray(clusters), n_draws, seed)])
        found.append((name, items.shape[1], cronbach_alpha(items), low, high,
                      bound if items.shape[1] > 1 else np.nan, mcdonald_omega(items)))
    table = pd.DataFrame(found, columns=["factor", "n_values", "alpha", "low", "high", "null", "omega"])
    table["varimax"] = match_factors(fit_factors(rows, system.n_factors, "varimax").loadings,
                                     system.factors.loadings)[1]
    return pd.concat([table, *(compare_halves(rows, labels, system, n_splits, seed).drop(columns="factor").add_prefix(
        f"{name}: ") for name, labels in groups.items())], axis=1)


def compare_halves(rows: np.ndarray, groups: Sequence, system: System, n_splits: int = 10, seed: int = 0
                   ) -> pd.DataFrame:
    """Return how congruent each factor is between halves of the groups (models, questionnaires): mean, low, high.

    The groups are halved in all ways, or in `n_splits` random ones where there are more; each half's factors are
    matched to the whole's, and `shuffled` is the mean congruence with those of a half whose columns are shuffled. The
    range is over splits, which share rows: no interval. nan where a half has a value that does not vary.
    """
    names, rng, found = np.unique(groups), np.random.default_rng(seed), [[], []]
    splits = list(combinations(names, len(names) // 2)) if len(names) <= 6 else [
        rng.choice(names, len(names) // 2, replace=False) for _ in range(n_splits)]
    for split in splits[:n_splits] if len(names) > 1 else []:
        is_first = np.isin(groups, split)
        try:
            first, *others = (match_factors(fit_factors(part, system.n_factors).loadings, system.factors.loadings)[0]
                              for part in (rows[is_first], rows[~is_first], rng.permuted(rows[~is_first], axis=0)))
        except ValueError:
            continue
        for kept, other in zip(found, others, strict=True):
            kept.append(np.diag(measure_congruence(first, other)))
    drawn, null = (np.array(one or [np.full(system.n_factors, np.nan)]) for one in found)
    return pd.DataFrame({"factor": system.names, "congruence": drawn.mean(axis=0), "lowest": drawn.min(axis=0),
                         "highest": drawn.max(axis=0), "shuffled": np.abs(null).mean(axis=0)})


def list_groupings(system: System, vectors: np.ndarray, theory: Theory, theory_vectors: np.ndarray,
                   seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return which values can be compared (V,), and how each system groups them: name to groups, for `compare_systems`.

    Values belong to the theory's dimension whose definition lies nearest, by unit vectors (V, H) and (D, H); to its
    group of dimensions, if it has groups; and to the system's factor. "at random" are groups as large as the system's,
    values dealt out by chance. Left out are values of no factor or alone in one.
    """
    size = np.bincount(system.members[system.members >= 0], minlength=system.n_factors)
    used = np.array([k >= 0 and size[k] > 1 for k in system.members])
    nearest = (np.asarray(vectors) @ np.asarray(theory_vectors).T).argmax(axis=1)
    found = {"one factor": np.zeros(len(used), int)}
    if theory.groups:
        first = [next((g for g, held in enumerate(theory.groups.values()) if name in held), -1)
                 for name in theory.dimensions]
        found[f"{theory.name}, {len(set(first))} groups"] = np.array(first)[nearest]
    found |= {theory.name: nearest, "discovered": system.members}
    dealt = np.random.default_rng(seed).permutation(system.members[used])
    return used, {name: groups[used] for name, groups in found.items()} | {"at random": dealt}


def compare_systems(rows: np.ndarray, groupings: dict[str, Sequence[int]], clusters: Sequence, n_draws: int = 20,
                    seed: int = 0) -> pd.DataFrame:
    """Fit several groupings of the same values (N, V): a row a system with the indices of `bootstrap_fit`.

    A grouping found on these very rows fits too well: give it from others.
    """
    fits = {name: bootstrap_fit(rows, groups, np.asarray(clusters), n_draws, seed)
            for name, groups in groupings.items()}
    return pd.DataFrame(fits.values(), index=pd.Index(fits, name="system")).reset_index()


def foretell_correlations(rows: np.ndarray, vectors: np.ndarray) -> float:
    """Return how far the likeness of definitions foretells which values go together: r over all pairs of values.

    Values that were not taught are scored by their definitions, so the factors of such scores may be those of the
    definitions; near 1 nothing else was found. `vectors` (V, H) are unit vectors.
    """
    pairs = np.triu_indices(len(vectors), 1)
    return float(np.corrcoef(correlate_values(rows)[pairs], (np.asarray(vectors) @ np.asarray(vectors).T)[pairs])[0, 1])


def draft_theory(path: str | Path, lexicon: pd.DataFrame, system: System, name: str = "", title: str = "",
                 source: str = "replies") -> list[str]:
    """Write a theory file of a system: a value a dimension, a factor a group; return the faults `check_theory` finds.

    `lexicon` is what `merge_lexicon` gave; what was merged into a value becomes items of it, and its definition where
    it has none. Definitions are marked as drafts. Values that load below 0 are a group of their own, the factor's low
    end. Values that belong to no factor are left out.
    """
    path = Path(path)
    told = lexicon.set_index("value")
    dimensions, groups = [], {}
    for k, value in enumerate(system.values):
        if system.members[k] < 0 or _slug(value) in {one["name"] for one in dimensions}:
            continue
        merged = lexicon.value[lexicon.merged_into == value].tolist()
        said = told.definition.get(value) if "definition" in told else None
        said = said if isinstance(said, str) and said.strip() else f"{', '.join([value, *merged])}."
        place = system.members[k]
        is_low = bool(system.factors.loadings[k, place] < 0)
        group = f"factor-{place + 1}" + "-low" * is_low
        groups[group] = {"title": f"Factor {system.names[place]}" + " (its low end)" * is_low}
        dimensions.append({"name": _slug(value), "definition": f"{DRAFT}{said}", "groups": [group],
                           "items": [value, *merged]})
    raw = {"name": name or _slug(path.stem), "title": title or f"Discovered value system, {system.n_factors} factors",
           "citation": f"found by `fulcra discover` in {source}; a draft to be read and named by people",
           "score_range": [-1, 1], "labels": {-1: "opposed", 0: "no connection", 1: "supported"},
           "groups": dict(sorted(groups.items())), "dimensions": dimensions}
    write_text(path, "# A draft: names and definitions are those of the merged words.\n" + yaml.safe_dump(
        raw, sort_keys=False, allow_unicode=True, width=110))
    return check_theory(path)


def _slug(text: str) -> str:
    return "-".join(split_words(text.replace("_", "-"))) or "value"


def discover(cells: np.ndarray, named: pd.DataFrame, vectors: np.ndarray, clusters: Sequence, threshold: float = 0.5,
             min_share: float = 0.01, rouge: float = 0.6, cosine: float = 0.8, n_most: int = 30, n_factors: int = 0,
             n_draws: int = 100, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, System]:
    """Go from what replies say of the candidates to a system: the lexicon with every value's fate, the kept values'
    scores (N, V), these without their halo, the system.

    The halo, what a reply scores on all candidates in the mean, is taken off before factors are sought: most of what
    the scores of a value that was not taught say is how good the reply is. `cells` (N, candidates, 3) are an
    evaluator's class probabilities under `name_values`, `vectors` (candidates, H) unit vectors; `clusters` the prompt,
    or the model, of each reply.
    ValueError when fewer than three candidates are kept: lower `min_share` or the threshold.
    """
    ranked = rank_values(cells[..., 0] + cells[..., 2], named, clusters, threshold)
    lexicon = merge_lexicon(ranked, vectors[ranked.place], min_share, rouge, cosine, n_most)
    kept = lexicon[lexicon.why == "kept"]
    every = cells[..., 2] - cells[..., 0]
    scores, rows = every[:, kept.place], centre_rows(every)[:, kept.place]
    varies = (np.ptp(scores, axis=0) > 1e-9) & (np.ptp(rows, axis=0) > 1e-9)
    if varies.sum() < 3:
        counts = lexicon.why.str.split().str[0].value_counts().to_dict()
        raise ValueError(f"a system needs 3 values at least, and {varies.sum()} of {len(named)} candidates are left "
                         f"({', '.join(f'{n} {why}' for why, n in counts.items())}): lower min_share or the threshold")
    system = find_system(rows[:, varies], kept.value[varies], clusters, n_factors, n_draws=n_draws, seed=seed)
    return lexicon, scores[:, varies], rows[:, varies], system


def discover_file(evaluator: str | Path, source: str | Path, output: str | Path, values: str = "",
                  encoder: str = "bundled", progress: bool = False, **settings: float) -> tuple[list[str], list[str]]:
    """Find a value system in a file of replies and write it as a theory; sentences to say, and rows not used.

    Beside it, x.lexicon.csv for x.yaml, stands every candidate's fate. `values` is empty (the dimensions of all
    theories here), a theory, or "valuebench" (its named values); `settings` are those of `discover`. ValueError when
    the rows or the candidates do not suffice, or the draft has a fault.
    """
    from fulcra_utils.dataset.benchmarks import read_named_values
    from fulcra_utils.dataset.rows import pick_rows, read_dialogue
    from fulcra_utils.dataset.sources import get_files
    from fulcra_utils.dataset.texts import looks_english
    from fulcra_utils.evaluator.encoder import embed, load_encoder
    rows, problems = [], []
    for line, _, dialogue, fault in pick_rows(source, read_dialogue):
        if fault or not looks_english(dialogue.response):
            problems.append(f"line {line}: {fault or 'the reply is not English'}")
        else:
            rows.append((dialogue.prompt, dialogue.response))
    if len(rows) < 3:
        raise ValueError(f"{source}: {len(rows)} replies can be used, where 3 are needed at least")
    named = read_named_values(get_files("valuebench_data")[0]) if values == "valuebench" else \
        collect_named_values([values] if values else None)
    vectors = embed([f"{v}: {said}" for v, said in zip(named.value, named.definition, strict=True)],
                    load_encoder(encoder))
    prompts, responses = map(list, zip(*rows, strict=True))
    cells = ValueEvaluator.from_pretrained(evaluator).for_theory(name_values(named.value, named.definition)
                                                                 ).predict_proba(prompts, responses, progress=progress)
    lexicon, *_, system = discover(cells, named, vectors, prompts, **settings)
    write_table(Path(output).with_suffix(".lexicon.csv"), lexicon.drop(columns="place"))
    if faults := draft_theory(output, lexicon, system, source=Path(source).name):
        raise ValueError(f"{output}: {faults[0]}")
    said = [f"{len(rows):,} replies, {len(problems)} not used; {len(named)} candidates, "
            f"{(lexicon.why == 'kept').sum()} kept, {(lexicon.merged_into != '').sum()} merged",
            f"{system.describe()}", *(f"factor {name}" for name in system.names),
            *[f"{len(rows)} replies for {len(system.values)} values: with fewer than ten each, factors are unsteady"]
            * (len(rows) < 10 * len(system.values)),
            f"written to {output}: a draft; read it, name the factors, and check it: fulcra check-theory {output}"]
    return said, problems
