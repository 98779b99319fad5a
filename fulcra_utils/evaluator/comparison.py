"""How good an evaluator is: rows by split, methods side by side, unseen models, validity, speed and memory.

Rows of a run come in two kinds: *annotated* (labels -1, 0, +1 by people and a language model) and *scored* (scores in
[-1, 1] of the authors' own evaluator). Intervals come from drawing whole prompt clusters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fulcra_utils.common.labels import WEAK, labels_of, scores_to_labels
from fulcra_utils.evaluator.training import Examples
from fulcra_utils.stats.calibration import MIN_CELLS, classwise_calibration_error, draw_chance_errors
from fulcra_utils.stats.classification import (
    average_precision,
    bootstrap_macro_f1,
    count_confusions,
    f1_by_class,
    macro_f1,
)
from fulcra_utils.stats.correlation import bootstrap_correlations, correlate
from fulcra_utils.stats.resampling import summarise_draws
from fulcra_utils.theory.distance import value_distance
from fulcra_utils.theory.targets import Target
from fulcra_utils.theory.theory import Theory


@dataclass(frozen=True)
class Rows:
    """The N rows of a run that an evaluator can learn from or be judged by, with labels or scores (N, D), nan = none.

    `table`: kind (annotated or scored), prompt, response, model, query_source, cluster, split; scored rows also
    e_distance.
    """

    table: pd.DataFrame
    vectors: np.ndarray
    theory: Theory

    def where(self, kind: str | None = None, split: str | Sequence[str] | None = None,
              models: Sequence[str] | None = None, without: Sequence[str] = ()) -> np.ndarray:
        """Return which rows (N,) are of a kind, in one of the splits, by one of the models, by none of `without`."""
        table = self.table
        chosen = ~table.model.isin(list(without)).to_numpy()
        if kind is not None:
            chosen &= (table.kind == kind).to_numpy()
        if split is not None:
            chosen &= table.split.isin([split] if isinstance(split, str) else list(split)).to_numpy()
        if models is not None:
            chosen &= table.model.isin(list(models)).to_numpy()
        return chosen

    def examples(self, chosen: np.ndarray, weight: float = 1.0) -> Examples:
        """Return the chosen rows as training or test examples, each with the same weight."""
        table = self.table[chosen]
        return Examples(table.prompt.tolist(), table.response.tolist(), self.vectors[chosen],
                        np.full(len(table), float(weight)))


def read_rows(dialogues: str | Path, scored: str | Path, theory: Theory) -> Rows:
    """Read the annotated and the scored rows of a run from its two Parquet files; rows without split are left out."""
    parts, vectors = [], []
    for kind, path in (("annotated", dialogues), ("scored", scored)):
        table = pd.read_parquet(path)
        columns = [d for d in theory.dimensions if d in table]
        vectors.append(table.reindex(columns=theory.dimensions).to_numpy(dtype=float)
                       if columns else np.full((len(table), theory.n_dims), np.nan))
        parts.append(pd.DataFrame({
            "kind": kind, "prompt": table.prompt, "response": table.response, "cluster": table.cluster,
            "model": table.response_source.fillna("unknown"), "query_source": table.query_source.fillna("unknown"),
            "split": table.split, "e_distance": table.e_distance if "e_distance" in table else np.nan}))
    whole = pd.concat(parts, ignore_index=True)
    kept = whole.split.notna().to_numpy()
    return Rows(whole[kept].reset_index(drop=True), np.concatenate(vectors)[kept], theory)


def describe_rows(rows: Rows) -> pd.DataFrame:
    """Return how many rows of each kind and model stand in each split."""
    order = [s for s in ("train", "validation", "calibration", "test") if s in set(rows.table.split)]
    counts = rows.table.groupby(["kind", "model", "split"]).size().unstack("split", fill_value=0)
    return counts.reindex(columns=order).reset_index()


def compare_methods(labels: np.ndarray, probabilities: dict[str, np.ndarray], clusters: Sequence,
                    reference: str = "ours", cuts: np.ndarray | None = None, n_draws: int = 1000,
                    seed: int = 2023) -> pd.DataFrame:
    """Compare methods on the same rows, paired: labels (N, D), nan = none, and probabilities (N, D, 3) of each method.

    The labels of `reference` follow `cuts`, (D, 2) or (N, D, 2), when given; all other methods take their likeliest
    label. Cuts decide labels only. Returns method, n (labelled cells), macro_f1, low, high (95 %, over prompt
    clusters), f1_minus, f1_zero, f1_plus, pr_auc (mean over values and labels ±1 that occur), mse (of P(+1) - P(-1)),
    gain, gain_low, gain_high (reference minus method).

    >>> labels = np.array([[1.0], [0.0], [-1.0]])
    >>> sure = np.eye(3)[[2, 1, 0]][:, None]
    >>> compare_methods(labels, {"ours": sure}, [0, 1, 2], n_draws=20)[["n", "macro_f1"]].values.tolist()
    [[3.0, 1.0]]
    """
    predicted = {name: labels_of(p) for name, p in probabilities.items()}
    if cuts is not None and reference in predicted:
        p = probabilities[reference]
        predicted[reference] = scores_to_labels(p[..., 2] - p[..., 0], cuts)
    draws = bootstrap_macro_f1(labels, predicted, clusters, n_draws, seed) if np.isfinite(labels).any() else \
        dict.fromkeys(predicted, np.full(1, np.nan))
    values = {name: macro_f1(labels, labelled) for name, labelled in predicted.items()}
    return pd.DataFrame([_describe_method(name, labels, predicted[name], probabilities[name], values, draws, reference)
                         for name in probabilities])


def _describe_method(name: str, labels: np.ndarray, predicted: np.ndarray, p: np.ndarray, values: dict,
                     draws: dict, reference: str) -> dict:
    interval = summarise_draws(values[name], draws[name])
    gain = summarise_draws(values[reference] - values[name], draws[reference] - draws[name])
    f1 = f1_by_class(count_confusions(labels, predicted).sum((0, 1)))
    known = np.isfinite(labels)
    errors = (p[..., 2] - p[..., 0] - labels)[known] ** 2
    touched = average_precision(labels, p)[:, [0, 2]]
    return {"method": name, "n": int(known.sum()), "macro_f1": interval["value"], "low": interval["low"],
            "high": interval["high"], "f1_minus": f1[0], "f1_zero": f1[1], "f1_plus": f1[2],
            "pr_auc": mean_known(touched), "mse": mean_known(errors), "gain": gain["value"], "gain_low": gain["low"],
            "gain_high": gain["high"]}


def mean_known(values: np.ndarray) -> float:
    """Return the mean of the finite numbers; nan without any."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def agree_with_scores(scores: np.ndarray, released: np.ndarray, clusters: Sequence, theory: Theory,
                      target: np.ndarray | Target, cut: float = WEAK, n_draws: int = 1000,
                      seed: int = 2023) -> dict[str, float]:
    """Measure how near scores (N, D) come to the authors' own scores of the same replies.

    n, macro_f1 (labels by `cut`, the released one), f1_minus, f1_zero, f1_plus, n_minus (cells that the authors' scores
    label -1), distance_r (Pearson of the Euclidean value distances, as released), mse; 95 % ends _low and _high over
    prompt clusters; nan without rows.
    """
    names = ("macro_f1", "macro_f1_low", "macro_f1_high", "f1_minus", "f1_zero", "f1_plus", "distance_r",
             "distance_r_low", "distance_r_high", "mse")
    if not len(scores) or not np.isfinite(released).any():
        return {"n": 0, "n_minus": 0, **dict.fromkeys(names, float("nan"))}
    truth, said = scores_to_labels(released, cut), scores_to_labels(scores, cut)
    f1 = summarise_draws(macro_f1(truth, said), bootstrap_macro_f1(truth, {"a": said}, clusters, n_draws, seed)["a"])
    distances = np.column_stack([value_distance(v, target, order=2) for v in (scores, released)])
    known = np.isfinite(distances).all(1)
    ours, theirs = distances[known].T
    r = summarise_draws(correlate(ours, theirs)[0].item(),
                        bootstrap_correlations(ours, theirs, np.asarray(clusters)[known], n_draws, seed)[:, 0, 0])
    by_label = f1_by_class(count_confusions(truth, said).sum((0, 1)))
    return {"n": len(scores), "macro_f1": f1["value"], "macro_f1_low": f1["low"], "macro_f1_high": f1["high"],
            **dict(zip(("f1_minus", "f1_zero", "f1_plus"), by_label.tolist(), strict=True)),
            "n_minus": int((truth == -1).sum()),
            "distance_r": r["value"], "distance_r_low": r["low"], "distance_r_high": r["high"],
            "mse": float(np.nanmean((scores - released) ** 2))}


def correlate_values(scores: np.ndarray, released: np.ndarray) -> np.ndarray:
    """Correlate (Spearman) every value i of one scoring with every value j of another, (D, D): multitrait-multimethod.

    Campbell and Fiske (1959). nan for a value without spread or with under 3 rows.

    >>> scores = np.array([[0.0, 3.0], [1.0, 2.0], [2.0, 1.0]])
    >>> correlate_values(scores, scores).round(3).tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    return correlate(*_rank_known(scores, released)[:2])[0]


def _rank_known(scores: np.ndarray, released: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the ranks of both in (0, 1] over the rows that both know, and which rows these are."""
    known = np.isfinite(scores).all(1) & np.isfinite(released).all(1)
    return *(pd.DataFrame(m[known]).rank(pct=True).to_numpy() for m in (scores, released)), known


def summarise_validity(matrix: np.ndarray) -> dict[str, float]:
    """Return the mean of the diagonal, and of the rest without signs.

    >>> summarise_validity(np.array([[0.9, 0.1], [0.3, 0.8]]))
    {'convergent': 0.85, 'discriminant': 0.2}
    """
    rest = matrix[~np.eye(len(matrix), dtype=bool)]
    return {"convergent": round(mean_known(np.diag(matrix)), 4), "discriminant": round(mean_known(np.abs(rest)), 4)}


def bootstrap_validity(scores: np.ndarray, released: np.ndarray, clusters: Sequence, n_draws: int = 1000,
                       seed: int = 2023) -> dict[str, float]:
    """Return convergent and discriminant correlations between two scorings (N, D), with _low and _high over prompt
    clusters.

    convergent: mean Spearman correlation of a value with itself; discriminant: mean absolute one with the others. The
    ranks are those of all rows, in every draw; a draw in which a value that varies is constant does not count. nan
    under 3 rows.

    >>> scores = np.array([[0.0, 1.0], [1.0, 3.0], [2.0, 2.0], [3.0, 0.0]])
    >>> found = bootstrap_validity(scores, scores, [0, 1, 2, 3], n_draws=20)
    >>> round(found["convergent"], 6), round(found["discriminant"], 6)
    (1.0, 0.4)
    """
    matrix, (ours, theirs, known) = correlate_values(scores, released), _rank_known(scores, released)
    ends, drawn = summarise_validity(matrix), []
    if known.sum() >= 3:
        matrices = bootstrap_correlations(ours, theirs, np.asarray(clusters)[known], n_draws, seed)
        drawn = [summarise_validity(m) for m in matrices if np.isfinite(m[np.isfinite(matrix)]).all()]
    found = {k: summarise_draws(end, np.array([d[k] for d in drawn] or [np.nan])) for k, end in ends.items()}
    return {f"{k}{end}": found[k][name] for k in found
            for end, name in (("", "value"), ("_low", "low"), ("_high", "high"))}


def measure_calibration(probabilities: np.ndarray, labels: np.ndarray, dimensions: Sequence[str]) -> pd.DataFrame:
    """Return class-wise calibration errors (10 bins; Kull et al. 2019), of all values together and of each.

    value ("all values" first), n_touched (labels -1 or +1), ece (mean over the three labels), ece_minus, ece_zero,
    ece_plus, chance (an error that perfect calibration exceeds once in twenty times on so many cells); nan for a value
    with fewer than 50 touched labels.
    """
    parts = [("all values", slice(None)), *((name, slice(d, d + 1)) for d, name in enumerate(dimensions))]
    found = []
    for name, dims in parts:
        n = int((np.abs(np.nan_to_num(labels[:, dims])) > 0).sum())
        enough = n >= MIN_CELLS or name == "all values"
        p, truth = probabilities[:, dims], labels[:, dims]
        errors = classwise_calibration_error(p, truth) if enough else np.full(3, np.nan)
        chance = float(np.quantile(draw_chance_errors(p, truth), 0.95)) if enough else np.nan
        found.append({"value": name, "n_touched": n, "ece": float(errors.mean()), "ece_minus": errors[0],
                      "ece_zero": errors[1], "ece_plus": errors[2], "chance": chance})
    return pd.DataFrame(found)


def describe_folds(folds: pd.DataFrame, wanted: float, reference: str = "ours") -> str:
    """Say whether the reference reaches what is wanted over all folds, and against whom it wins.

    >>> table = pd.DataFrame({"method": ["ours", "b"], "macro_f1": [0.7, 0.6], "low": [0.6, 0.5], "high": [0.8, 0.7],
    ...                       "gain": [0.0, 0.1], "gain_low": [0.0, -0.01], "gain_high": [0.0, 0.2]})
    >>> describe_folds(table, wanted=0.8)
    '**Not reached**: macro-F1 0.700 [0.600, 0.800], wanted 0.80. Against b +0.100 [-0.010, +0.200]: not clear.'
    """
    if folds.empty:
        return "No verdict: one split is a look, and the folds were not run."
    ours, others = folds[folds.method == reference].iloc[0], folds[folds.method != reference]
    verdict = "**Reached**" if ours.macro_f1 >= wanted else "**Not reached**"
    words = [f"Against {r.method} {r.gain:+.3f} [{r.gain_low:+.3f}, {r.gain_high:+.3f}]: "
             + ("better." if r.gain_low > 0 else "worse." if r.gain_high < 0 else "not clear.")
             for r in others.itertuples()]
    return (f"{verdict}: macro-F1 {ours.macro_f1:.3f} [{ours.low:.3f}, {ours.high:.3f}], wanted {wanted:.2f}. "
            + " ".join(words))


def describe_unseen(unseen: pd.DataFrame, wanted_f1: float, wanted_r: float, method: str = "ours") -> str:
    """Say how scores of a model never seen (`judge_unseen`) agree with the authors', and on which label it hangs."""
    lines = [f"- {r.method}, {r.rows} (n = {r.n:,}): macro-F1 {r.macro_f1:.3f} [{r.macro_f1_low:.3f}, "
             f"{r.macro_f1_high:.3f}], wanted {wanted_f1:.2f}; correlation of the value distance {r.distance_r:.3f} "
             f"[{r.distance_r_low:.3f}, {r.distance_r_high:.3f}], wanted {wanted_r:.2f}. F1 of -1, 0, +1: "
             f"{r.f1_minus:.2f}, {r.f1_zero:.2f}, {r.f1_plus:.2f}; -1 stands in {r.n_minus} cells and carries a third "
             "of the macro-F1."
             for r in unseen[unseen.method == method].itertuples()]
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
    above = single[single.ece > wanted]
    words = ", ".join(f"{r.value} {r.ece:.3f} (by chance {r.chance:.3f})" for r in above.itertuples())
    alone = f"single values: {len(single) - len(above)} of {len(single)} within" if len(single) else \
        "no value has enough cells alone"
    return (f"All values together {pooled.ece:.3f} (wanted {wanted:.2f} at most); {alone}."
            + (f" Above: {words}." if words else ""))


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
