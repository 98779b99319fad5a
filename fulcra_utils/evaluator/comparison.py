"""How good an evaluator is: rows by split, methods, unseen models and scored files side by side; a gate for releases.

Rows of a run come in two kinds: *annotated* (labels -1, 0, +1 by people and a language model) and *scored* (scores in
[-1, 1] of the authors' own evaluator). Intervals come from drawing whole prompt clusters.
"""

import json
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fulcra_utils.common.labels import NEAREST, labels_of, scores_to_labels
from fulcra_utils.dataset.rows import find_system, pick_rows, read_dialogue
from fulcra_utils.dataset.splits import SPLITS
from fulcra_utils.evaluator.scoring import FOREIGN, ScoringError
from fulcra_utils.stats import classification
from fulcra_utils.stats.comparison import adjust_p, bootstrap_correlations, compare_paired, correlate
from fulcra_utils.stats.resampling import mean_known, share_interval, summarise_draws
from fulcra_utils.theory.distance import value_distance
from fulcra_utils.theory.targets import Target
from fulcra_utils.theory.theory import Theory

if TYPE_CHECKING:
    from fulcra_utils.evaluator.training import Examples

MODELS = ("model", "response_source")   # columns that may name who replied
MIN_PROMPTS = 5  # four differences of one sign are chance in one of eight, whatever their spread
TAUGHT = "TF-IDF, with the pairs"    # word counts that learned from contrast pairs, too
WANTED_ORDER, WANTED_BELOW = 0.92, 0.75     # of contrast pairs, set before the first was scored
KINDS = {"plain pairs": False, "hard pairs": True}      # does tone mislead in them?
ENDS = ("", "_low", "_high")  # of the names of a number and of its 95 % interval


@dataclass(frozen=True)
class Rows:
    """The N rows of a run that an evaluator can learn from or be judged by, with labels or scores (N, D), nan = none.

    `table`: kind (annotated or scored), prompt, response, model, query_source, cluster, split.
    """

    table: pd.DataFrame
    vectors: np.ndarray
    theory: Theory

    def where(self, kind: str | None = None, split: str | None = None, models: Sequence[str] | None = None,
              without: Sequence[str] = ()) -> np.ndarray:
        """Return which rows (N,) are of a kind, in a split, by one of the models, by none of `without`."""
        chosen = ~self.table.model.isin(list(without)).to_numpy()
        for name, wanted in (("kind", kind and [kind]), ("split", split and [split]), ("model", models)):
            if wanted is not None:
                chosen &= self.table[name].isin(list(wanted)).to_numpy()
        return chosen

    def labelled(self, *kind_and_split: str) -> np.ndarray:
        """Return which rows (N,) have a label or a score, of all or of a kind, in all splits or in one."""
        return self.where(*kind_and_split) & np.isfinite(self.vectors).any(1)

    def take(self, chosen: np.ndarray) -> "Rows":
        """Return the chosen rows alone."""
        return Rows(self.table[chosen].reset_index(drop=True), self.vectors[chosen], self.theory)

    def like(self, chosen: np.ndarray) -> np.ndarray:
        """Return which rows (N,) answer a prompt like those of the chosen ones."""
        return self.table.cluster.isin(self.table.cluster[chosen]).to_numpy()

    def predict(self, model: Any) -> np.ndarray:
        """Return what a model says of all rows, (N, D, 3)."""
        return model.predict_proba(self.table.prompt.tolist(), self.table.response.tolist())

    def examples(self, chosen: np.ndarray, weight: float = 1.0) -> "Examples":
        """Return the chosen rows as training or test examples, each with the same weight."""
        from fulcra_utils.evaluator.training import Examples  # torch, seconds: a gate compares files without it
        table = self.table[chosen]
        return Examples(table.prompt.tolist(), table.response.tolist(), self.vectors[chosen],
                        np.full(len(table), float(weight)))


def read_rows(dialogues: str | Path, scored: str | Path, theory: Theory) -> Rows:
    """Read the annotated and the scored rows of a run from its two Parquet files; rows without split are left out."""
    return collect_rows({"annotated": pd.read_parquet(dialogues), "scored": pd.read_parquet(scored)}, theory)


def collect_rows(tables: dict[str, pd.DataFrame], theory: Theory) -> Rows:
    """Return the rows of tables by kind, with a column a dimension; rows without split are left out."""
    columns = ["kind", "prompt", "response", "cluster", "model", "query_source", "split"]
    whole = pd.concat([table.assign(kind=kind, model=table.response_source.fillna("unknown"),
                                    query_source=table.query_source.fillna("unknown"))[columns]
                       for kind, table in tables.items()], ignore_index=True)
    vectors = [table.reindex(columns=theory.dimensions).to_numpy(dtype=float) for table in tables.values()]
    return Rows(whole, np.concatenate(vectors), theory).take(whole.split.notna().to_numpy())


def describe_rows(rows: Rows) -> pd.DataFrame:
    """Return how many rows of each kind and model stand in each split."""
    counts = rows.table.groupby(["kind", "model", "split"]).size().unstack("split", fill_value=0)
    return counts.reindex(columns=[name for name, _ in SPLITS if name in counts]).reset_index()


def compare_methods(labels: np.ndarray, probabilities: dict[str, np.ndarray], clusters: Sequence,
                    cuts: np.ndarray | None = None, n_draws: int = 1000, seed: int = 2023) -> pd.DataFrame:
    """Compare methods on the same rows, paired: labels (N, D), nan = none, and probabilities (N, D, 3) of each method.

    The labels of the first method follow `cuts`, (D, 2) or (N, D, 2), when given; all others take their likeliest
    label. Cuts decide labels only. Returns method, n (labelled cells), macro_f1, low, high (95 %, over prompt
    clusters), f1_minus, f1_zero, f1_plus, pr_auc (mean over values and labels ±1 that occur), mse (of P(+1) - P(-1)),
    gain, gain_low, gain_high (first method minus this one).

    >>> labels = np.array([[1.0], [0.0], [-1.0]])
    >>> sure = np.eye(3)[[2, 1, 0]][:, None]
    >>> compare_methods(labels, {"ours": sure}, [0, 1, 2], n_draws=20)[["n", "macro_f1"]].values.tolist()
    [[3.0, 1.0]]
    """
    scores, first = {name: p[..., 2] - p[..., 0] for name, p in probabilities.items()}, next(iter(probabilities))
    predicted = {name: labels_of(p) for name, p in probabilities.items()}
    if cuts is not None:
        predicted[first] = scores_to_labels(scores[first], cuts)
    draws = classification.bootstrap_macro_f1(labels, predicted, clusters, n_draws, seed)
    values = {name: classification.macro_f1(labels, said) for name, said in predicted.items()}
    return pd.DataFrame([{
        "method": name, "n": int(np.isfinite(labels).sum()),
        **_name_ends(["macro_f1", "low", "high"], values[name], draws[name]), **name_f1(labels, predicted[name]),
        "pr_auc": mean_known(classification.average_precision(labels, p)[:, [0, 2]]),
        "mse": mean_known((scores[name] - labels) ** 2),
        **_name_ends([f"gain{end}" for end in ENDS], values[first] - values[name], draws[first] - draws[name])
        } for name, p in probabilities.items()])


def score_contrasts(model: Any, pairs: pd.DataFrame, dimensions: Sequence[str]) -> np.ndarray:
    """Return a model's score (N,) of each row of `read_contrasts` under the row's own value, one of `dimensions`."""
    said = model.predict_proba(pairs.prompt.tolist(), pairs.response.tolist())
    own = said[np.arange(len(pairs)), [list(dimensions).index(value) for value in pairs.value]]
    return own[:, 2] - own[:, 0]


def describe_contrasts(found: pd.DataFrame) -> str:
    """Say in words how far an evaluator reads stance (`measure_contrasts`)."""
    whole = found[found.value == "all"].set_index("measure")
    order, below, above = whole.loc["order"], whole.loc["trampled"], whole.loc["served"]
    is_enough = order["mean"] >= WANTED_ORDER and below["mean"] >= WANTED_BELOW
    verdict = "is told by too few pairs" if order.n < MIN_PROMPTS else \
        "does not tell stance from topic" if not order.low > 0.5 else \
        f"reads stance{'' if is_enough else ', but less surely than was wanted'}"
    kinds = found[found.measure == "order"].set_index("value")["mean"].reindex(list(KINDS)).dropna()
    told = f" ({', '.join(f'{share:.0%} of {name}' for name, share in kinds.items())})" if len(kinds) else ""
    return (f"On prompts that it never saw it scores the serving reply higher in {order['mean']:.0%} [{order.low:.0%}, "
            f"{order.high:.0%}] of {order.n:,} pairs{told} (chance 50%, wanted {WANTED_ORDER:.0%}) and puts "
            f"{below['mean']:.0%} of the trampling replies below 0 (wanted {WANTED_BELOW:.0%}), {above['mean']:.0%} of "
            f"the serving ones above: it {verdict}.")


def describe_rival(compared: pd.DataFrame, stance: pd.DataFrame) -> str:
    """Say in a sentence which simpler method reads labels best, and where ours stands beside it, in stance, too.

    Without any test label that is said instead. `compared` as `compare_methods` makes it, ours first; `stance` has the
    rows of `measure_contrasts` with `method`.
    """
    orders = stance.query("value == 'all' and measure == 'order'").set_index("method")["mean"] if len(stance) else {}
    if compared.macro_f1.isna().all():
        return "No test label: nothing is said of labels" + (
            f"; of pairs that differ in stance ours puts {orders['ours']:.0%} in order." if len(stance) else ".")
    best = compared.iloc[1:].nlargest(1, "macro_f1").iloc[0]
    than = "better than" if best.gain_low > 0 else "worse than" if best.gain_high < 0 else "not to be told from"
    ahead = "" if best.method not in orders else \
        f"; of pairs that differ in stance it puts {orders['ours']:.0%} in order, that one {orders[best.method]:.0%}"
    if TAUGHT in orders:
        ahead += f", word counts that learned from such pairs as ours did {orders[TAUGHT]:.0%}"
    return (f"At labels it is {than} the best simpler method ({best.method}: {best.macro_f1:.2f}, gain "
            f"{best.gain:+.3f} [{best.gain_low:+.3f}, {best.gain_high:+.3f}]){ahead}.")


def measure_contrasts(scores: np.ndarray, pairs: pd.DataFrame) -> pd.DataFrame:
    """Measure whether scores (N,) of the rows of `read_contrasts`, each under the row's own value, follow the stance.

    Returns value (first "all", then `KINDS` where both are there), measure, n, mean, low, high (95 %, `share_interval`
    over prompt clusters). The measures are shares: `order` of pairs whose serving reply scores higher (a tie counts
    half; chance .5), `served` and `trampled` of replies on the right side of 0, `unrelated` of replies nearer to 0 than
    to 1 or -1.

    >>> pairs = pd.DataFrame({"pair": "a", "value": "care", "stance": [1, -1], "cluster": 0})
    >>> measure_contrasts(np.array([0.2, 0.1]), pairs).set_index("measure")["mean"].head(3).to_dict()
    {'order': 1.0, 'served': 1.0, 'trampled': 0.0}
    """
    table = pairs.assign(score=scores)
    wide = table.pivot(index=["pair", "value"], columns="stance", values="score").reindex(columns=[-1, 0, 1])
    clusters = table.groupby(["pair", "value"]).cluster.first().reindex(wide.index).to_numpy()
    found = pd.DataFrame({"order": (1 + np.sign(wide[1] - wide[-1])) / 2, "served": wide[1] > 0,
                          "trampled": wide[-1] < 0, "unrelated": wide[0].abs() < NEAREST}).astype(float)
    found = found.where(np.column_stack([wide[[1, -1]].notna().all(axis=1), wide[[1, -1, 0]].notna()]))
    told, parts = wide.index.get_level_values("value"), []
    groups = {"all": np.ones(len(told), bool)}
    if "is_hard" in table and table.is_hard.nunique() > 1:
        hard = table.groupby(["pair", "value"]).is_hard.first().reindex(wide.index).to_numpy()
        groups |= {name: hard == kind for name, kind in KINDS.items()}
    for value, chosen in (groups | {value: told == value for value in dict.fromkeys(told)}).items():
        own, known = found[chosen].fillna(0), found[chosen].notna()
        ends = share_interval(own.to_numpy(), known.to_numpy(float), clusters[chosen])
        parts += [{"value": value, "measure": name, "n": int(known[name].sum()), "mean": mean, "low": low, "high": high}
                  for name, mean, low, high in zip(found, *ends, strict=True)]
    return pd.DataFrame(parts)


def _name_ends(names: Sequence[str], value: float, draws: np.ndarray) -> dict[str, float]:
    """Return a number and the ends of its interval under three names."""
    return dict(zip(names, summarise_draws(value, draws).values(), strict=True))


def name_f1(labels: np.ndarray, said: np.ndarray) -> dict[str, float]:
    """Return F1 of the labels -1, 0 and +1 as f1_minus, f1_zero and f1_plus."""
    f1 = classification.f1_by_class(classification.count_confusions(labels, said).sum((0, 1)))
    return dict(zip(("f1_minus", "f1_zero", "f1_plus"), f1, strict=True))


def agree_with_scores(scores: np.ndarray, released: np.ndarray, clusters: Sequence, theory: Theory,
                      target: np.ndarray | Target, n_draws: int = 1000, seed: int = 2023) -> dict[str, float]:
    """Measure how near scores (N, D) come to the authors' own scores of the same replies.

    n, macro_f1 (labels by the released cut, ±0.3), f1_minus, f1_zero, f1_plus, n_minus (cells that the authors' scores
    label -1), distance_r (Pearson of the Euclidean value distances, as released), mse; 95 % ends _low and _high over
    prompt clusters.
    """
    truth, said = scores_to_labels(released), scores_to_labels(scores)
    distances = np.column_stack([value_distance(v, target, order=2) for v in (scores, released)])
    known = np.isfinite(distances).all(1)
    draws = (classification.bootstrap_macro_f1(truth, {"a": said}, clusters, n_draws, seed)["a"],
             bootstrap_correlations(*distances[known].T, np.asarray(clusters)[known], n_draws, seed)[:, 0, 0])
    f1, r = classification.macro_f1(truth, said), correlate(*distances[known].T)[0].item()
    return {"n": len(scores), **_name_ends([f"macro_f1{end}" for end in ENDS], f1, draws[0]),
            **name_f1(truth, said), "n_minus": int((truth == -1).sum()),
            **_name_ends([f"distance_r{end}" for end in ENDS], r, draws[1]),
            "mse": float(np.nanmean((scores - released) ** 2))}


def measure_validity(scores: np.ndarray, released: np.ndarray, clusters: Sequence, n_draws: int = 1000,
                     seed: int = 2023) -> tuple[np.ndarray, dict[str, float]]:
    """Correlate (Spearman) every value i of one scoring (N, D) with every value j of another: multitrait-multimethod.

    Campbell and Fiske (1959). Returns the matrix (D, D), nan for a value without spread or under 3 rows, and
    convergent: the mean correlation of a value with itself, discriminant: the mean absolute one with the others, with
    _low and _high over prompt clusters. The ranks are those of all rows, in every draw; a draw in which a value that
    varies is constant does not count.

    >>> scores = np.array([[0.0, 1.0], [1.0, 3.0], [2.0, 2.0], [3.0, 0.0]])
    >>> matrix, found = measure_validity(scores, scores, [0, 1, 2, 3], n_draws=20)
    >>> matrix.round(3).tolist(), round(found["convergent"], 6), round(found["discriminant"], 6)
    ([[1.0, -0.4], [-0.4, 1.0]], 1.0, 0.4)
    """
    known = np.isfinite(scores).all(1) & np.isfinite(released).all(1)
    ranks = [pd.DataFrame(m[known]).rank(pct=True).to_numpy() for m in (scores, released)]
    matrix = correlate(*ranks)[0]
    own, varies = np.eye(len(matrix), dtype=bool), np.isfinite(matrix)
    drawn = bootstrap_correlations(*ranks, np.asarray(clusters)[known], n_draws, seed) if known.sum() > 2 else ()
    drawn, found = [m for m in drawn if np.isfinite(m[varies]).all()], {}
    for name, cells in (("convergent", lambda m: m[own]), ("discriminant", lambda m: np.abs(m[~own]))):
        value, *draws = (round(mean_known(cells(m)), 4) for m in (matrix, *drawn))
        found |= _name_ends([f"{name}{end}" for end in ENDS], value, np.array(draws))
    return matrix, found


def measure_calibration(probabilities: np.ndarray, labels: np.ndarray, dimensions: Sequence[str]) -> pd.DataFrame:
    """Return class-wise calibration errors (10 bins; Kull et al. 2019), of all values together and of each.

    value ("all values" first), n_touched (labels -1 or +1), ece (mean over the three labels), ece_minus, ece_zero,
    ece_plus, chance (an error that perfect calibration exceeds once in twenty times on so many cells); nan for a value
    with fewer than 50 touched labels.
    """
    found = []
    for name, dims in (("all values", slice(None)), *((name, [d]) for d, name in enumerate(dimensions))):
        p, truth, errors, chance = probabilities[:, dims], labels[:, dims], np.full(3, np.nan), np.nan
        n = int((np.abs(truth) > 0).sum())
        if n >= classification.MIN_CELLS or name == "all values":
            errors = classification.classwise_calibration_error(p, truth)
            chance = np.quantile(classification.draw_chance_errors(p, truth), 0.95)
        found.append((name, n, errors.mean(), *errors, chance))
    return pd.DataFrame(found, columns=["value", "n_touched", "ece", "ece_minus", "ece_zero", "ece_plus", "chance"])


def describe_folds(folds: pd.DataFrame, wanted: float) -> str:
    """Say whether the first method reaches what is wanted over all folds, and against whom it wins.

    >>> table = pd.DataFrame({"method": ["ours", "b"], "macro_f1": [0.7, 0.6], "low": [0.6, 0.5], "high": [0.8, 0.7],
    ...                       "gain": [0.0, 0.1], "gain_low": [0.0, -0.01], "gain_high": [0.0, 0.2]})
    >>> describe_folds(table, wanted=0.8)
    '**Not reached**: macro-F1 0.700 [0.600, 0.800], wanted 0.80. Against b +0.100 [-0.010, +0.200]: not clear.'
    """
    if folds.empty:
        return "No verdict: one split is a look, and the folds were not run."
    ours, verdict = folds.iloc[0], "**Reached**" if folds.macro_f1.iloc[0] >= wanted else "**Not reached**"
    words = [f"Against {r.method} {r.gain:+.3f} [{r.gain_low:+.3f}, {r.gain_high:+.3f}]: "
             + ("better." if r.gain_low > 0 else "worse." if r.gain_high < 0 else "not clear.")
             for r in folds.iloc[1:].itertuples()]
    return (f"{verdict}: macro-F1 {ours.macro_f1:.3f} [{ours.low:.3f}, {ours.high:.3f}], wanted {wanted:.2f}. "
            + " ".join(words))


def describe_unseen(unseen: pd.DataFrame, wanted_f1: float, wanted_r: float) -> str:
    """Say how scores of a model never seen (`judge_unseen`) agree with the authors', and on which label it hangs."""
    lines = [f"- {r.method}, {r.rows} (n = {r.n:,}): macro-F1 {r.macro_f1:.3f} [{r.macro_f1_low:.3f}, "
             f"{r.macro_f1_high:.3f}], wanted {wanted_f1:.2f}; correlation of the value distance {r.distance_r:.3f} "
             f"[{r.distance_r_low:.3f}, {r.distance_r_high:.3f}], wanted {wanted_r:.2f}. F1 of -1, 0, +1: "
             f"{r.f1_minus:.2f}, {r.f1_zero:.2f}, {r.f1_plus:.2f}; -1 stands in {r.n_minus} cells and carries a third "
             "of the macro-F1."
             for r in unseen[unseen.method == "ours"].itertuples()]
    return "\n".join(lines) or "No unseen model has rows in this run."


def describe_calibration(errors: pd.DataFrame, wanted: float) -> str:
    """Say where the calibration error is as small as wanted, and where chance alone could explain it.

    >>> describe_calibration(pd.DataFrame({"value": ["all values", "a", "b", "c"], "ece": [0.01, 0.02, 0.06, np.nan],
    ...                                "chance": [0.02, 0.04, 0.07, np.nan]}), wanted=0.05)
    'All values together 0.010 (wanted 0.05 at most); single values: 1 of 2 within. Above: b 0.060 (by chance 0.070).'
    """
    pooled, single = errors.iloc[0], errors.iloc[1:].dropna(subset="ece")
    if not np.isfinite(pooled.ece):
        return "No labelled test cell: calibration cannot be measured."
    above = [f"{r.value} {r.ece:.3f} (by chance {r.chance:.3f})" for r in single[single.ece > wanted].itertuples()]
    return (f"All values together {pooled.ece:.3f} (wanted {wanted:.2f} at most); "
            + (f"single values: {len(single) - len(above)} of {len(single)} within." if len(single) else
               "no value has enough cells alone.") + (f" Above: {', '.join(above)}." if above else ""))


def describe_left_out(left: pd.DataFrame) -> str:
    """Say how what was left out is judged, kind by kind: the worst and the best of each.

    >>> describe_left_out(pd.DataFrame({"left_out": ["value"], "name": ["power"], "rows": ["test"], "n": [9],
    ...                             "macro_f1": [0.41], "low": [0.3], "high": [0.5]}))
    '- without one value: macro-F1 from 0.41 [0.30, 0.50] (power, test) to 0.41 [0.30, 0.50] (power, test).'
    """
    lines = []
    for what, part in left.dropna(subset="macro_f1").groupby("left_out", sort=False) if len(left) else ():
        ends = [f"{r.macro_f1:.2f} [{r.low:.2f}, {r.high:.2f}] ({r['name']}, {r.rows})"
                for r in (part.loc[part.macro_f1.idxmin()], part.loc[part.macro_f1.idxmax()])]
        word = "the" if what == "scores" else "one"
        lines.append(f"- without {word} {what.replace('query_', 'prompt ')}: macro-F1 from {ends[0]} to {ends[1]}.")
        lines += [f"    - {r.rows}: correlation with the same value {r.convergent:.2f} [{r.convergent_low:.2f}, "
                  f"{r.convergent_high:.2f}], with others {r.discriminant:.2f} [{r.discriminant_low:.2f}, "
                  f"{r.discriminant_high:.2f}]" for _, r in part.iterrows() if what == "scores"]
    return "\n".join(lines) or "Nothing was left out in this run."


def read_scores(path: str | Path, tell: Callable[[str, dict], Any] = lambda prompt, row: hash(prompt)
                ) -> tuple[list, np.ndarray, tuple[str, ...]]:
    """Return tell(prompt, row) of each row, the scores (N, D), nan where there are none, and the dimensions."""
    names, scores = [], array("d")
    dimensions = next((tuple(row[1]) for _, _, row, _ in pick_rows(path, _read_scored_row) if row and row[1]), ())
    if not dimensions:
        raise ScoringError(f"No row of {path} has both a prompt and a value_vector, as `fulcra score` writes them.")
    for line, row, picked, _ in pick_rows(path, _read_scored_row):
        prompt, vector = picked or ("", {})
        if vector and set(vector) != set(dimensions):
            raise ScoringError(f"{path}, line {line}: value_vector names other values than the rows before it.")
        names.append(tell(prompt, row))
        scores.extend(vector.get(d, np.nan) for d in dimensions)
    return names, np.reshape(scores, (-1, len(dimensions))), dimensions


def _read_scored_row(row: dict) -> tuple[str, dict[str, float]]:
    """Return the prompt of a scored row and its scores, nan for what is no finite number."""
    prompt, vector = row.get("prompt"), row.get("value_vector")
    return prompt if isinstance(prompt, str) else read_dialogue(row).prompt, {
        name: float(score) if type(score) in (int, float) and abs(score) < 1e300 else np.nan
        for name, score in (vector if isinstance(vector, dict) else {}).items()}


def compare_files(first: str | Path, second: str | Path, target: Target | None = None, level: float = 0.95
                  ) -> pd.DataFrame:
    r"""Compare two scored files prompt by prompt, by t intervals over prompts; replies to one prompt are averaged.

    Returns value (and "distance", the `value_distance` to `target`), n (prompts), groups (the same, wordings with one
    `prompt_id` counted once; only where there are such), first, second (means), difference (second - first), low, high,
    sd of the paired differences, clear (the interval excludes 0), clear_holm (still so with all rows of the table
    corrected together; Holm 1979). With fewer than 5 prompts, or groups, low and high are nan. `.attrs`: groups (of all
    values together), only_first, only_second (prompts), unscored_first, unscored_second, foreign_first, foreign_second
    (rows; those that `fulcra score` marked as not English count), models_first, models_second (names found),
    systems_first, systems_second (system prompts that stand beside the prompts, none counts as one; 0 where there are
    none), has_target.

    The interval (Student 1908) holds its level where two files that do not differ have differences alike to both sides:
    3 to 8 % are called clear from 5 prompts on. Where they are as skewed as an exponential distribution, it is 11, 10,
    8 and 7 % with 5, 10, 20 and 50 prompts. ScoringError when the files share no scored prompt or have other
    dimensions.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as base:
    ...     files = [Path(base) / "a.jsonl", Path(base) / "b.jsonl"]
    ...     for file, score in zip(files, (0.5, 0.25)):
    ...         rows = [{"prompt": f"{k}?", "response": "x", "value_vector": {"care": score}} for k in range(6)]
    ...         _ = file.write_text("\n".join(map(json.dumps, rows)))
    ...     compare_files(*files).difference.tolist()
    [-0.25]
    """
    a, b = _average_prompts(first, target), _average_prompts(second, target)
    if set(a) != set(b):
        raise ScoringError(f"{first} and {second} are scored under other theories: they share "
                           f"{len(set(a) & set(b))} of {len(set(a))} and {len(set(b))} dimensions.")
    shared = a.index.intersection(b.index, sort=False)
    if not len(shared):
        raise ScoringError(f"{first} and {second} share no prompt that is scored in both.")
    left = {"only_first": len(a) - len(shared), "only_second": len(b) - len(shared),
            **{f"{name}_{place}": one.attrs[name] for name in ("unscored", "foreign", "models", "systems")
               for place, one in (("first", a), ("second", b))}}
    known = b.attrs["groups"] | a.attrs["groups"]
    a = a.reindex(shared)  # one after the other: each may hold millions of prompts
    b = b.reindex(shared)
    groups = np.array([known.get(prompt, prompt) for prompt in shared])
    is_grouped = (n := len(np.unique(groups))) < len(shared)
    left |= {"groups": n} if is_grouped else {}
    left["has_target"] = target is not None
    table = compare_averages(a, b, level, groups if is_grouped else None)
    table["clear_holm"] = adjust_p(table.pop("p").to_numpy(), "holm") < 1 - level
    table.attrs = left
    return table


def compare_averages(first: pd.DataFrame, second: pd.DataFrame, level: float = 0.95,
                     groups: np.ndarray | None = None) -> pd.DataFrame:
    """Compare mean scores of the same prompts, a row a prompt and a column a value, as `compare_files` does, with p.

    `groups` are wordings of one prompt; with them a column groups tells how many each value has.
    """
    own = np.arange(len(first)) if groups is None else groups
    table = pd.DataFrame([{"value": name, **_compare_column(first[name], second[name], level, own)} for name in first])
    return table.drop(columns=["groups"] * (groups is None))


def _compare_column(first: pd.Series, second: pd.Series, level: float, groups: np.ndarray) -> dict[str, Any]:
    known = (first.notna() & second.notna()).to_numpy()
    x, y = first[known].to_numpy(), second[known].to_numpy()
    found = {name: column[0] for name, column in compare_paired(y, x, level, groups[known]).items()}
    n_groups = len(np.unique(groups[known]))
    if n_groups < MIN_PROMPTS:
        found |= {"low": np.nan, "high": np.nan, "p": np.nan}
    clear = bool(found["low"] > 0 or found["high"] < 0)
    return {"n": len(x), "groups": n_groups, "first": x.mean() if len(x) else np.nan,
            "second": y.mean() if len(x) else np.nan, **{name: found[name] for name in ("difference", "low", "high")},
            "sd": (y - x).std(ddof=1) if len(x) > 1 else np.nan, "clear": clear,
            "p": 0.0 if clear and np.isnan(found["p"]) else found["p"]}  # a constant difference has no p


def is_given(field: Any) -> bool:
    """Return whether a field of a row says something: it is not missing, nan or blank."""
    return field is not None and field == field and bool(str(field).strip())


def _average_prompts(path: str | Path, target: Target | None) -> pd.DataFrame:
    """Return the mean scores of each prompt, and of the distances of its replies; prompts stand as hashes.

    `.attrs` has groups, the same number for wordings of one prompt, which a row's `prompt_id` tells.
    """
    models, systems, groups, n_foreign = set(), set(), {}, 0

    def tell(prompt: str, row: dict) -> int:
        nonlocal n_foreign
        if isinstance(row.get("prompt"), str):      # else the system prompt is part of the prompt
            systems.add(find_system(row))
        models.update([row[name] for name in MODELS if isinstance(row.get(name), str)][:1])
        n_foreign += row.get("problem") == FOREIGN
        if is_given(row.get("prompt_id")):
            groups.setdefault(hash(prompt), hash(("id", str(row["prompt_id"]))))
        return hash(prompt)

    prompts, scores, dimensions = read_scores(path, tell)
    table, scored = pd.DataFrame(scores, columns=dimensions, copy=False), np.isfinite(scores).any(axis=1)
    if target is not None:
        if set(target.dimensions) != set(dimensions) or "distance" in table:
            raise ScoringError(f"The target is for other values than those of {path} ({', '.join(dimensions)}); "
                               "name the theory of the file (--theory).")
        if (most := np.nanmax(np.abs(scores), initial=0)) > 1 + 1e-6:
            raise ScoringError(f"{path} holds a score of {most:g}, and a target lies between -1 and 1: bring the "
                               "scores to that scale first.")
        order = [dimensions.index(name) for name in target.dimensions]
        table["distance"] = np.concatenate([  # in parts, for a file may have millions of rows
            value_distance(scores[k:k + 65536, order], target) for k in range(0, len(scores), 65536)])
    means = table[scored].groupby(np.array(prompts)[scored], sort=False).mean()
    means.attrs = {"groups": groups, "unscored": int((~scored).sum()), "foreign": n_foreign, "models": len(models),
                   "systems": len(systems) * any(systems)}
    return means


def pass_gate(table: pd.DataFrame, tolerance: float = 0.0) -> bool:
    """Return whether the second file may be released: its distance is not clearly (by `tolerance`) larger than the
    first's.

    False when the whole interval of the difference lies above `tolerance`; True without a target, whatever a value is
    called, or without an interval, when the gate is undecided.

    >>> pass_gate(pd.DataFrame({"value": ["distance"], "low": [0.02], "high": [0.1]}))
    False
    """
    if np.isnan(tolerance):
        raise ScoringError("The tolerance must be a number.")
    row = _find_distance(table)
    return not (len(row) and bool((row.low > tolerance).all()))


def _find_distance(table: pd.DataFrame) -> pd.DataFrame:
    """Return the row of the distance to a target, none without one; a theory may call a value so."""
    return table[(table.value == "distance") & table.attrs.get("has_target", True)]


def describe_comparison(table: pd.DataFrame, as_json: bool = False, tolerance: float = 0.0) -> str:
    """Return a comparison as text or JSON, with the prompts that narrower intervals would need and the gate's verdict.

    >>> one = pd.DataFrame({"value": ["fairness"], "n": [9], "first": [0.1], "second": [0.2], "difference": [0.1],
    ...                     "low": [0.0], "high": [0.2], "sd": [0.3], "clear": [False]})
    >>> json.loads(describe_comparison(one, as_json=True))["passed"]
    True
    """
    plan, passed = plan_prompts(table), pass_gate(table, tolerance)
    undecided = bool(_find_distance(table).low.isna().any())
    if as_json:
        return json.dumps({
            "passed": None if undecided else passed, "undecided": undecided, "tolerance": tolerance,
            "n": int(table.n.max()), "groups": int(table.n.max()), "least_n": MIN_PROMPTS,
            "interval": "t over prompts", **table.attrs,
            "differences": json.loads(table.to_json(orient="records")),
            "prompts_needed": json.loads(plan.to_json(orient="records"))}, indent=1)
    verdict = "no target, no gate" if _find_distance(table).empty else \
        f"undecided: {table.get('groups', table.n).min()} prompts, and an interval needs {MIN_PROMPTS}" \
        if undecided else \
        "passed" if passed else "not passed: the second file is clearly farther from the target"
    told = (f"t intervals over prompts ({table.n.max():,}), replies to one averaged; below {MIN_PROMPTS} there is "
            "none.\nclear: by its own interval; of 20 rows without a difference one may be clear. clear_holm: all rows "
            "together.")
    if "groups" in table.attrs:
        told += f"\nWordings with one prompt_id count as one prompt ({table.attrs['groups']:,}) in the intervals."
    told += "".join(f"\nThe {place} file holds {n} models; their replies to a prompt are averaged, too."
                    for place in ("first", "second") if (n := table.attrs.get(f"models_{place}", 0)) > 1)
    told += "".join(f"\nThe {place} file holds {n} system prompts (to have none counts as one); the replies to a "
                    "prompt under all of them are averaged."
                    for place in ("first", "second") if (n := table.attrs.get(f"systems_{place}", 0)) > 1)
    told += "".join(f"\n{n:,} rows of the {place} file do not look English, and count: their scores are no measurement."
                    for place in ("first", "second") if (n := table.attrs.get(f"foreign_{place}", 0)))
    if any(n for name, n in table.attrs.items() if name.startswith(("only", "unscored"))):
        told += ("\nLeft out: {only_first:,} prompts scored in the first file only, {only_second:,} in the second "
                 "only; rows without scores: {unscored_first:,} and {unscored_second:,}.").format(**table.attrs)
    return "\n\n".join([table.round(4).to_string(index=False), told,
                        "Prompts needed for a 95 % interval of a given width:", plan.round(3).to_string(index=False),
                        verdict])


def plan_prompts(table: pd.DataFrame, widths: Sequence[float] = (0.2, 0.1, 0.05, 0.02)) -> pd.DataFrame:
    """Return how many prompts a 95 % interval of a given whole width needs, from the spread of the paired differences.

    n = (2 · 1.96 · sd / width)² + 1.96² / 2, which allows for the t interval being wider; at least 5; missing where the
    spread (`sd` of `compare_files`) is unknown.

    >>> int(plan_prompts(pd.DataFrame({"value": ["security"], "sd": [0.5]}), widths=[0.1])["width 0.1"].iloc[0])
    387
    """
    exact = {f"width {w:g}": (2 * 1.96 * table.sd / w) ** 2 + 1.96**2 / 2 for w in widths}
    needed = {name: np.ceil(n).clip(lower=MIN_PROMPTS).astype("Int64") for name, n in exact.items()}
    return pd.DataFrame({"value": table.value, "sd": table.sd, **needed})
