"""The evaluator on labels that others made: arguments of ValueEval'23, items of ValueBench. A study, not public.

Settings are chosen on validation rows; `judge_arguments` alone reads labels of ValueEval's test set.
"""

from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from fulcra_utils.common.digests import digest, digest_code
from fulcra_utils.common.labels import scores_to_labels
from fulcra_utils.common.workers import run_jobs
from fulcra_utils.dataset.benchmarks import measure_official_f1, read_part, score_sums
from fulcra_utils.dataset.contrasts import read_contrasts
from fulcra_utils.dataset.sources import SourceError
from fulcra_utils.evaluator import comparison, study
from fulcra_utils.evaluator.comparison import Rows
from fulcra_utils.evaluator.fitting import fit_evaluator, load_run_encoder, pick_own
from fulcra_utils.evaluator.model import ValueEvaluator
from fulcra_utils.stats.comparison import bootstrap_correlations, correlate
from fulcra_utils.stats.resampling import bootstrap_sums, draw_rows, summarise_draws
from fulcra_utils.theory.theory import load_theory, name_values

PUBLISHED = {"best of 39 teams (an ensemble)": 0.56, "organisers' BERT": 0.42, "every value, always": 0.26}
N_RATED = 600      # of the rated replies to ValueBench's test items, drawn once
AUC_DRAWS = 100     # of the area under the curve, which takes a sort a value and draw


def compare_teachers(rows: Rows, settings: dict, seed: int, folder: str | Path) -> pd.DataFrame:
    """Train with each choice of public sets in `teachers` ("none", "a", "a+b"), and judge every evaluator on the same
    rows of five kinds.

    Returns teachers, measure, n, value, low, high (95 %): `macro_f1` on the annotated test split; `order` of contrast
    pairs; `official_f1` and `presence_auc` (mean over values) on ValueEval'23's test set under valueeval20; `key`, the
    balanced accuracy of the sign of ValueBench's test items; `ratings`, the rank correlation with a large judge's
    ratings of six models' replies to them. An evaluator that a set did not teach answers for its values by their
    definitions alone. A set that cannot be had is left out.
    """
    encoder, jobs, found, public = load_run_encoder(settings, seed), [], [], _read_public()
    asked = digest({name: part.to_dict("list") for name, part in public.items()}, _pick_pairs(rows).to_dict("list"))
    for names in settings["teachers"]:
        used = settings | {"more_labels": names.split("+") if names != "none" else []}
        key = study.describe_piece("evaluator", used, seed, encoder, rows.theory, study.tell_rows(rows),
                                   settings["unseen_models"], settings["scored_weight"])
        jobs.append((folder, f"teachers-{names}", key | {"code": digest_code(_answer_all), "asked": asked},
                     partial(_answer_all, rows, used, seed, public)))
    for names, piece in zip(settings["teachers"], run_jobs(study.keep_piece, jobs, 1, "teachers"), strict=True):
        found += [{"teachers": "FULCRA, pairs" + (f" + {names}" if names != "none" else ""), **row}
                  for row in _judge_all(rows, piece, settings["n_draws"], seed)]
    return pd.DataFrame(found, columns=["teachers", "measure", "n", "value", "low", "high"])


def _read_public() -> dict[str, pd.DataFrame]:
    """Return the public rows that every evaluator is asked about; a set that cannot be had is left out."""
    found = {}
    for name, read in {"validation": partial(read_part, "valueeval23-validation"), "ratings": pick_rated,
                       "test": partial(read_part, "valueeval23-test"), "items": _pick_items}.items():
        with suppress(SourceError):
            found[name] = read()
    return found


def _answer_all(rows: Rows, settings: dict, seed: int, public: dict[str, pd.DataFrame]) -> dict[str, list]:
    """Train an evaluator and return what it says of the rows of all kinds."""
    evaluator, _ = fit_evaluator(rows, settings, seed)
    test = rows.take(rows.labelled("annotated", "test"))
    pairs, said = _pick_pairs(rows), {"annotated": test.predict(evaluator)}
    said["pairs"] = comparison.score_contrasts(evaluator, pairs, rows.theory.dimensions)
    judge = evaluator.for_theory("valueeval20")
    for name, part in public.items():
        said[name] = score_items(evaluator, part) if name in ("items", "ratings") else \
            1 - judge.predict_proba(part.prompt.tolist(), part.response.tolist())[..., 1]
    return {name: np.round(numbers, 6).tolist() for name, numbers in said.items()}


def _pick_pairs(rows: Rows) -> pd.DataFrame:
    return pick_own(rows.theory, read_contrasts()).query("split == 'test'").reset_index(drop=True)


def _pick_items() -> pd.DataFrame:
    items = read_part("valuebench")
    return items[items.split == "test"].reset_index(drop=True)


def pick_rated() -> pd.DataFrame:
    """Return `N_RATED` of the rated replies to ValueBench's test items, always the same."""
    replies = read_part("valuebench-replies").query("split == 'test'")
    return replies.sample(min(N_RATED, len(replies)), random_state=0).reset_index(drop=True)


def score_items(evaluator: ValueEvaluator, items: pd.DataFrame) -> np.ndarray:
    """Return the score (N,) of each row of `read_questionnaires` under its own value, known by its definition."""
    values = items.drop_duplicates("value")
    judge = evaluator.for_theory(name_values(values.value, values.definition))
    scores = judge.score(items.prompt.tolist(), items.response.tolist())
    return scores[np.arange(len(items)), [judge.dimensions.index(value) for value in items.value]]


def _judge_all(rows: Rows, piece: dict[str, list], n_draws: int, seed: int) -> list[dict]:
    test, pairs = rows.take(rows.labelled("annotated", "test")), _pick_pairs(rows)
    whole = comparison.compare_methods(scores_to_labels(test.vectors), {"ours": np.array(piece["annotated"])},
                                       test.table.cluster, n_draws=n_draws, seed=seed).iloc[0]
    found = [{"measure": "macro_f1", "n": len(test.table), "value": whole.macro_f1, "low": whole.low,
              "high": whole.high}]
    if len(pairs):
        order = comparison.measure_contrasts(np.array(piece["pairs"]), pairs).iloc[0]
        found.append({"measure": "order", "n": order.n, "value": order["mean"], "low": order.low, "high": order.high})
    if {"validation", "test"} <= piece.keys():
        found += judge_arguments(np.array(piece["validation"]), np.array(piece["test"]), n_draws, seed)
    if "items" in piece:
        found.append(judge_keys(np.array(piece["items"]), _pick_items(), n_draws, seed))
    if "ratings" in piece:
        found.append(judge_ratings(np.array(piece["ratings"]), pick_rated(), n_draws, seed))
    return found


def describe_teachers(found: pd.DataFrame, wanted: dict[str, float | None]) -> str:
    """Say for each measure which choice of sets does best, and whether that is what was wanted (None = no goal).

    The choice is made on the rows that measure it, which flatters it: where there is one, the text says so.
    The area under the curve is wanted where ValueEval did not teach: of a theory known by its definitions alone.
    """
    lines = []
    for measure in [name for name in wanted if name in set(found.measure)]:
        is_taught = (measure == "presence_auc") & found.teachers.str.contains("valueeval23")
        part, goal = found[(found.measure == measure) & ~is_taught].reset_index(drop=True), wanted[measure]
        if part.empty:
            continue
        best = part.loc[part.value.idxmax()]
        also = f"; with {part.teachers[0]} {part.value[0]:.3f}" if best.teachers != part.teachers[0] else ""
        note = (" Those that ValueEval taught do not count: the question is what definitions alone can do."
                if is_taught.any() else "")
        verdict = "no goal was set" if goal is None else \
            f"wanted {goal:.2f}: {'reached' if best['value'] >= goal else 'not reached'}"
        lines.append(f"- {measure}: {best['value']:.3f} [{best.low:.3f}, {best.high:.3f}] with {best.teachers} "
                     f"({verdict}){also}.{note}")
    published = ", ".join(f"{name} {f1:.2f}" for name, f1 in PUBLISHED.items())
    note = " Which sets do best was seen on the rows that measure it, so the best number lies a little high." \
        if found.teachers.nunique() > 1 else ""
    return "\n".join([*lines, f"\nPublished for ValueEval'23: {published}.{note}"]) if lines else "Nothing to read."


def judge_arguments(validation: np.ndarray, test: np.ndarray, n_draws: int, seed: int) -> list[dict]:
    """Judge how likely each value is touched in ValueEval's arguments, (N, 20) each; thresholds from validation."""
    from sklearn.metrics import roc_auc_score
    dimensions = list(load_theory("valueeval20").dimensions)
    parts = [read_part(f"valueeval23-{split}") for split in ("validation", "test")]
    labels = [part[dimensions].to_numpy() for part in parts]
    said, truth, groups = test > fit_thresholds(validation, labels[0]), labels[1] > 0, parts[1].conclusion
    sums = np.hstack([said & truth, said, truth]).astype(float)
    drawn = np.array([score_sums(*np.split(draw, 3)) for draw in bootstrap_sums(sums, groups, n_draws, seed)])
    areas = [np.mean([roc_auc_score(mark, score) for mark, score in zip(truth[rows].T, test[rows].T, strict=True)
                      if mark.any() and not mark.all()])
             for rows in (np.arange(len(test)), *draw_rows(groups, AUC_DRAWS, seed))]
    return [{"measure": "official_f1", "n": len(test), **summarise_draws(measure_official_f1(truth, said), drawn)},
            {"measure": "presence_auc", "n": len(test), **summarise_draws(areas[0], np.array(areas[1:]))}]


def fit_thresholds(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the threshold (D,) above which the F1 of a value's scores (N, D) is best on labels 0 or 1.

    >>> fit_thresholds(np.array([[0.1], [0.4], [0.6]]), np.array([[0], [1], [1]])).tolist()
    [0.1]
    """
    found = []
    for score, truth in zip(scores.T, labels.T > 0, strict=True):
        order = np.argsort(-score, kind="stable")
        hits, last = truth[order].cumsum(), np.append(np.diff(score[order]) < 0, True)
        f1 = np.where(last, 2 * hits / (np.arange(1, len(score) + 1) + truth.sum()), -1)
        found.append(np.append(score[order], score.min() - 1)[f1.argmax() + 1])
    return np.array(found)


def judge_keys(scores: np.ndarray, items: pd.DataFrame, n_draws: int, seed: int) -> dict:
    """Return the balanced accuracy of the sign of scores (N,) as the key of items, over draws of questionnaires."""
    keys = items.stance.to_numpy() > 0
    sums = np.stack([keys, ~keys, keys & (scores > 0), ~keys & (scores < 0)], axis=1).astype(float)
    def share(total: np.ndarray) -> np.ndarray:
        return (total[..., 2:] / np.where(total[..., :2] > 0, total[..., :2], np.nan)).mean(-1)     # nan: one key alone
    drawn = bootstrap_sums(sums, items.cluster.to_numpy(), n_draws, seed)
    return {"measure": "key", "n": len(items), **summarise_draws(float(share(sums.sum(0))), share(drawn))}


def judge_ratings(scores: np.ndarray, rated: pd.DataFrame, n_draws: int, seed: int) -> dict:
    """Return Spearman's correlation of scores (N,) with the ratings of replies, over draws of questionnaires."""
    ranks = [pd.Series(numbers).rank().to_numpy()[:, None] for numbers in (scores, rated.rating)]
    drawn = bootstrap_correlations(*ranks, rated.cluster.to_numpy(), n_draws, seed)[:, 0, 0]
    return {"measure": "ratings", "n": len(rated), **summarise_draws(correlate(*ranks)[0].item(), drawn)}
