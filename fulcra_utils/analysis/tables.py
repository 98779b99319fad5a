"""The tables of the value analysis: prevalence, value x risk, probes, models. Replies in, Findings out.

Each function composes the pure functions of `stats` into one table, states in one computed sentence what the table
shows, and says how many rows and which interval stand behind it. What the rows do not allow is left out, and why.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from fulcra_utils.analysis.replies import INTERVAL, MIN_ROWS, REFUSALS, Finding, Replies, leave_out
from fulcra_utils.analysis.space import RiskMap
from fulcra_utils.common.labels import NEAREST, scores_to_labels
from fulcra_utils.stats import comparison
from fulcra_utils.stats.generalisability import mean_ends
from fulcra_utils.stats.probes import fit_preference, measure_gain, probe_category, probe_number, probe_preference
from fulcra_utils.stats.resampling import draw_rows, share_interval, take_interval
from fulcra_utils.theory.theory import Theory

PRIMARY = {"measure": "strength", "prompts": "single risk", "rows": "all", "coefficient": "point-biserial"}
OTHER = "other population"
NAME = "model's name"
CLAIM = ["claim_id", "kind", "ours", "low", "high", "why"]


def tabulate_prevalence(replies: Replies) -> Finding:
    """Count how often each value is supported, opposed and expressed at all: by model, prompt source, non-refusals.

    Columns: value, by ("all", "model", "query_source", "rows" = non-refusals only), group, sign, count, n, share, low,
    high (95 %, `share_interval`). Source: prevalence figure of the paper.

    >>> from fulcra_utils.analysis.replies import make_example
    >>> from fulcra_utils.theory.theory import load_theory
    >>> table = tabulate_prevalence(make_example(load_theory("schwartz10"))).table
    >>> row = table[(table.by == "model") & (table.group == "b") & (table.value == "universalism")]
    >>> row[["sign", "share"]].values.tolist()
    [['supported', 0.0], ['opposed', 1.0], ['expressed', 1.0]]
    """
    if len(replies) == 0:
        return leave_out("Prevalence", "no reply carries a complete value vector")
    masks = [("all", "all", np.ones(len(replies), bool))]
    masks += [(by, str(g), replies.table[by] == g) for by in ("model", "query_source")
              for g in replies.table[by].dropna().unique()]
    masks += [("rows", "non-refusals", ~replies.refusals)] if replies.refusals.any() else []
    parts = []
    for by, group, mask in masks:
        part = replies.keep(mask)
        labels = scores_to_labels(part.vectors, NEAREST)
        for sign, hits in (("supported", labels == 1), ("opposed", labels == -1), ("expressed", labels != 0)):
            parts.append(part.tabulate_shares(replies.theory.dimensions, hits).assign(by=by, group=group, sign=sign))
    table = pd.concat(parts, ignore_index=True)[["value", "by", "group", "sign", "count", "n", "share", "low", "high"]]

    def tell(by: str, sign: str, words: str) -> str:
        top = table[(table.by == by) & (table.sign == sign)].nlargest(1, "share").itertuples()
        return "".join(f"{words} **{r.value}** ({r.share:.0%}, {r.low:.0%} to {r.high:.0%})" for r in top)
    reading = (tell("all", "expressed", "The value expressed most often is")
               + tell("rows", "expressed", "; among non-refusals")
               + tell("all", "opposed", "; the one opposed most often is") + f"; {replies.describe()}.")
    return Finding(table, reading, f"{replies.describe()}; error bars: {INTERVAL}.")


def check_refusals(*replies: Replies, labels: str | Path = REFUSALS) -> Finding:
    """Check the refusal flag against replies that were read and labelled: precision and recall, weighted.

    The labels' CSV has row_id, is_refusal, half ("tune": the rule was made on these, "measure": not), weight (how many
    released replies one stands for).
    """
    truth = pd.read_csv(labels, comment="#").rename(columns={"is_refusal": "truth"})
    rows = pd.concat([r.table[["row_id", "cluster", "is_refusal"]] for r in replies]).drop_duplicates("row_id")
    rows, found = rows.merge(truth, on="row_id"), []
    if len(rows) < MIN_ROWS:
        return leave_out("The check of the refusal flag", "hardly any of the labelled replies is among these rows")
    for half, part in rows.groupby("half"):
        for measure, of, hit in (("precision", "is_refusal", "truth"), ("recall", "truth", "is_refusal")):
            counted = part[of] * part.weight
            interval = np.ravel(share_interval(counted * part[hit], counted, part.cluster))
            found.append((half, measure, *interval, int(part[of].sum())))
    table = pd.DataFrame(found, columns=["half", "measure", "share", "low", "high", "n"])
    told = " and ".join(f"{r.measure} {r.share:.0%} ({r.low:.0%} to {r.high:.0%})" for r in table.itertuples()
                        if r.half == "measure")
    return Finding(table, f"On {(rows.half == 'measure').sum()} labelled replies on which its rule was not made the "
                   f"refusal flag has {told}.", f"n = {len(rows)} labelled replies; {INTERVAL}, weighted.")


def claim_prevalence(prevalence: Finding, reported: pd.DataFrame, sources: str | Path) -> pd.DataFrame:
    """Return our rows for the published prevalence bars; recomputed only from the whole published file (`sources`)."""
    if prevalence.is_left_out:
        return pd.DataFrame(columns=CLAIM)
    rows = prevalence.table[(prevalence.table.by == "all") & (prevalence.table.sign != "opposed")]
    ids = "prevalence/" + rows.value + "/" + rows.sign.replace("supported", "aligned")
    kind, why = "recomputed", ""
    if "data_hybrid" not in json.loads(Path(sources).read_text(encoding="utf-8")).get("had", {}):
        kind, why = OTHER, "the whole 20k file could not be had: these are other dialogues than the published ones"
    return _claim(rows, ids.where(ids.isin(reported.claim_id)), "share", kind, why)


def _claim(rows: pd.DataFrame, ids: pd.Series, ours: str, kind: str, why: str | pd.Series) -> pd.DataFrame:
    """Return the rows that have a claim's id in the shape that `judge_claims` reads."""
    table = rows.assign(claim_id=ids, kind=kind, ours=rows[ours], why=why)[CLAIM]
    return table[table.claim_id.notna()].reset_index(drop=True)


def correlate_risks(replies: Replies, risks: RiskMap, reported: pd.DataFrame, n_draws: int = 2000,
                    seed: int = 0) -> Finding:
    """Correlate values with risks in every declared way, next to the published table ("risk/<value>/<risk>").

    Declared beforehand: the primary table is the point-biserial correlation of |v| over prompts with exactly one risk
    (`PRIMARY`); the other ways show how much depends on that choice. The family of each correction is one table.
    Columns: value, risk, measure ("strength" = |v|, "signed" = v), prompts ("all", "single risk"), rows ("all",
    "non-refusals"), coefficient ("point-biserial", "Spearman"), r, low, high (bootstrap over prompts), p
    (cluster-robust), p_adjusted (Benjamini-Hochberg), n, n_prompts, reported, tolerance. `extra["summary"]`: one line a
    way with the correlation over cells, its interval, the share of equal signs and how many cells differ. Source: value
    x risk figure of the paper; its coefficient, subset and mapping are not published.

    >>> from fulcra_utils.analysis.replies import make_example
    >>> from fulcra_utils.analysis.space import load_risks
    >>> from fulcra_utils.theory.theory import load_theory
    >>> from fulcra_utils.runs.claims import load_reported
    >>> replies = make_example(load_theory("schwartz10"))
    >>> found = correlate_risks(replies, load_risks(), load_reported(), n_draws=20)
    >>> found.table.shape[0] == 50 * len(found.extra["summary"])
    True
    """
    known = replies.keep(replies.has_issues)
    names, indicators = known.theory.dimensions, risks.indicators(*known.categories)
    if len(known) < MIN_ROWS or not indicators.any():
        return leave_out("Value x risk", "the risk categories of the prompts are not known for enough of these rows")
    published = _published_cells(names, risks, reported)
    cells, summary = [], []
    for way, mask, x in _ways(known, indicators):
        one, total = _correlate_way(x, indicators[mask], known.clusters[mask], names, risks, published, n_draws, seed)
        cells.append(one.assign(**way))
        summary.append({**way, **total})
    table, summary = pd.concat(cells, ignore_index=True), pd.DataFrame(summary)
    first = table.iloc[0]
    which = " with one risk" if first.prompts == "single risk" else ""
    caption = (f"Shown: {first.n:,} replies to {first.n_prompts:,} prompts{which}, of {known.describe()}; 95 % "
               f"bootstrap intervals over prompts ({n_draws} draws).")
    return Finding(table, _describe_risks(summary), caption, {"summary": summary})


def _ways(known: Replies, indicators: np.ndarray) -> Iterator[tuple[dict[str, str], np.ndarray, np.ndarray]]:
    """Yield each declared way to correlate: its words, its rows, the numbers of these."""
    single = indicators.sum(axis=1) == 1
    for rows, mask in (("all", np.ones(len(known), bool)), ("non-refusals", ~known.refusals)):
        for prompts, chosen in (("single risk", mask & single), ("all", mask)):
            for measure, x in (("strength", np.abs(known.vectors)), ("signed", known.vectors)):
                way = {"measure": measure, "prompts": prompts, "rows": rows}
                if chosen.sum() >= MIN_ROWS:
                    yield way | {"coefficient": "point-biserial"}, chosen, x[chosen]
                    yield way | {"coefficient": "Spearman"}, chosen, rankdata(x[chosen], axis=0)


def _correlate_way(x: np.ndarray, y: np.ndarray, clusters: np.ndarray, names: Sequence[str], risks: RiskMap,
                   published: tuple[np.ndarray, np.ndarray], n_draws: int, seed: int) -> tuple[pd.DataFrame, dict]:
    r, p = comparison.correlate(x, y, clusters)
    draws = comparison.bootstrap_correlations(x, y, clusters, n_draws, seed)
    (low, high), (reported, tolerance) = take_interval(draws), published
    size = {"n": len(x), "n_prompts": len(np.unique(clusters))}
    columns = {"r": r, "low": low, "high": high, "p": p, "p_adjusted": comparison.adjust_p(p), "reported": reported,
               "tolerance": tolerance}
    cells = pd.MultiIndex.from_product([names, risks.risks], names=["value", "risk"])
    table = pd.DataFrame({k: v.ravel() for k, v in columns.items()}, index=cells).reset_index().assign(**size)
    agreement, *drawn, same_sign = _agree(np.concatenate([r[None], draws]), reported)
    bounds = take_interval(drawn)
    outside = (high < reported - tolerance) | (low > reported + tolerance)
    inside = (low >= reported - tolerance) & (high <= reported + tolerance)
    return table, {"cell_correlation": agreement, "low": float(bounds[0]), "high": float(bounds[1]),
                   "same_sign": same_sign, "n_cells": int(np.isfinite(r).sum()),
                   "n_reproduced": int(inside.sum()), "n_differ": int(outside.sum()),
                   "n_significant": int((columns["p_adjusted"] < 0.05).sum()), **size}


def _agree(tables: np.ndarray, reported: np.ndarray) -> list[float]:
    """Return the correlation of each table (B, D, R) with the reported one, and the share of equal signs of the first.

    All are over the cells that the first and the reported table know; another table that misses one of these is nan.
    """
    shared = np.isfinite(tables[0]) & np.isfinite(reported)
    ours, theirs = tables[:, shared], reported[shared]
    r, known = np.full(len(ours), np.nan), np.isfinite(ours).all(axis=1)
    r[known] = comparison.correlate(ours[known].T, theirs)[0][:, 0]
    same_sign = (np.sign(ours[0]) == np.sign(theirs)).mean() if len(theirs) >= 3 else np.nan
    return [*r.tolist(), float(same_sign)]


def _published_cells(names: Sequence[str], risks: RiskMap, reported: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the published (D, R) table and its tolerances, nan where nothing is published."""
    ids = [f"risk/{value}/{risk}" for value in names for risk in risks.risks]
    cells = reported.set_index("claim_id")[["reported", "tolerance"]].reindex(ids).to_numpy(float)
    return tuple(cells.T.reshape(2, len(names), len(risks.risks)))


def _describe_risks(summary: pd.DataFrame) -> str:
    main = pick_declared(summary)
    if main.empty:
        return "Too few prompts touch exactly one risk for the declared table; the other ways are in the table."
    row = main.iloc[0]
    text = (f"Declared way (|v|, prompts with one risk, n = {row.n:,} replies to {row.n_prompts:,} prompts): "
            f"{row.n_significant} of {row.n_cells} cells differ from 0 after correction")
    if not np.isfinite(row.cell_correlation):
        return text + "; nothing is published for these values."
    span = summary.cell_correlation
    return (f"{text}. Over the cells our table correlates **{row.cell_correlation:.2f}** "
            f"({_span(row.low, row.high)}) with the published one, the signs agree in {row.same_sign:.0%}; "
            f"{row.n_reproduced} cells lie within the tolerance with their whole interval, {row.n_differ} wholly "
            f"outside. Over all {len(summary)} ways the correlation runs from {span.min():.2f} to {span.max():.2f}.")


def vary_mapping(replies: Replies, risks: RiskMap, reported: pd.DataFrame) -> Finding:
    """Show how far the declared value x risk table depends on the disputable lines of the mapping."""
    known = replies.keep(replies.has_issues)
    published, _ = _published_cells(known.theory.dimensions, risks, reported)
    if len(known) < MIN_ROWS or not np.isfinite(published).any():
        return leave_out("The choice of mapping", "there is no published table for these values and rows")
    rows = []
    for mapping in risks.variants():
        y = risks.indicators(*known.categories, mapping)
        single = y.sum(axis=1) == 1
        r, _ = comparison.correlate(np.abs(known.vectors[single]), y[single])
        agreement, same = _agree(r[None], published)
        changed = ", ".join(f"{c} → {risk}" for c, risk in mapping.items() if risk != risks.mapping[c])
        rows.append({"changed": changed or "as declared", "cell_correlation": agreement, "same_sign": same})
    table = pd.DataFrame(rows)
    c = table.cell_correlation
    reading = (f"Over the {len(table)} defensible mappings the correlation with the published table runs from "
               f"{c.min():.2f} to {c.max():.2f}; the declared one gives {c.iloc[0]:.2f}.")
    return Finding(table, reading, f"{known.describe()}.")


def claim_risks(correlations: Finding, kind: str) -> pd.DataFrame:
    """Return our rows for the published value x risk cells: the primary way; only released replies replicate it."""
    if correlations.is_left_out:
        return pd.DataFrame(columns=CLAIM)
    rows = pick_declared(correlations.table).dropna(subset="reported")
    why = {"scored": "", "sample": "the embedded sample is no sample of real replies"}.get(
        kind, "these are other replies than the published ones")
    kind = "replicated" if kind == "scored" else OTHER
    return _claim(rows, "risk/" + rows.value + "/" + rows.risk, "r", kind, why)


def probe_replies(replies: Replies, risks: RiskMap, n_permutations: int = 200, n_draws: int = 2000, n_folds: int = 5,
                  n_directions: int = 20, seed: int = 0) -> Finding:
    """Measure what value vectors alone tell about reward, risk and preference, next to controls.

    Three tasks, each on prompts that were not used for fitting: *preference* (of two replies to one prompt, which has
    the higher reward), *reward* (R²), *risk* (which of the risks, balanced accuracy). Each is answered from the values,
    the groups of values, as many random directions, refusal flag + log-length, both, the model's name, and again among
    non-refusals only. Columns: task, features, rows, score, low, high, chance, null (95 % quantile under permutation),
    p, p_adjusted (Benjamini-Hochberg over the table), n, n_prompts. `extra["gain"]`: what the values add to refusal +
    length in telling preferences, paired. Source: pairwise task of GPLA (2502.02444); controls ours, because the
    released reward model punishes refusals.

    >>> from fulcra_utils.analysis.replies import make_example
    >>> from fulcra_utils.analysis.space import load_risks
    >>> from fulcra_utils.theory.theory import load_theory
    >>> found = probe_replies(make_example(load_theory("schwartz10"), 60), load_risks(), 9, 50, n_directions=2)
    >>> rows = found.table[(found.table.task == "preference") & (found.table.rows == "all")].set_index("features")
    >>> bool(rows.score["10 values"] > rows.score["refusal + length"])
    True
    """
    knobs = {"n_permutations": n_permutations, "n_draws": n_draws, "n_folds": n_folds, "seed": seed}
    rows = [{"rows": name, **found} for name, subset in (("all", replies), ("non-refusals", replies.keep(
        ~replies.refusals))) for task in _list_tasks(subset, risks) for found in _probe_all(*task, knobs, n_directions)]
    table = pd.DataFrame(rows, columns=["task", "features", "rows", "score", "low", "high", "chance", "null", "p",
                                        "p_adjusted", "n", "n_prompts"]).dropna(subset="score").reset_index(drop=True)
    if table.empty:
        return leave_out("Probing", "too few replies or prompts carry a reward or a risk category")
    table["p_adjusted"] = comparison.adjust_p(table.p)
    features, (first, second, wins, clusters) = make_features(replies), replies.pair_up()
    pairs = [(x, features[more]) for name, x in features.items() if (more := f"values + {name}") in features]
    gain = [measure_gain(x[first] - x[second], more[first] - more[second], wins, clusters, n_folds, n_draws, seed)
            for x, more in pairs if len(wins) >= MIN_ROWS]
    caption = (f"{replies.describe()}; whiskers: 95 % bootstrap intervals over prompts; cross-validated by prompt in "
               f"{n_folds} folds; ticks: 95 % quantile of {n_permutations} permutations.")
    return Finding(table, _describe_probes(table, replies, gain), caption, {"gain": pd.DataFrame(gain)})


def make_features(replies: Replies) -> dict[str, np.ndarray]:
    """Return the feature sets (N, K) that the probes compare, by name, without those that say nothing here.

    Left out are groups where the theory has none, the model where there is one only, a constant refusal flag.
    """
    theory, controls = replies.theory, replies.controls
    varies = np.ptp(controls, axis=0) > 0
    groups = [replies.vectors[:, [theory.dimensions.index(d) for d in dims]].mean(axis=1)
              for dims in theory.groups.values() if dims]
    features = {f"{theory.n_dims} values": replies.vectors}
    if groups:
        features[f"{len(groups)} groups"] = np.column_stack(groups)
    if varies.any():
        label = " + ".join(np.array(["refusal", "length"])[varies])
        features |= {label: controls[:, varies], f"values + {label}": np.hstack([replies.vectors, controls[:, varies]])}
    if len(replies.models) > 1:
        features[NAME] = _mark_models(replies)
    return features


def _mark_models(replies: Replies) -> np.ndarray:
    """Return a column of 0 and 1 for each model but the first, and for rows that name none, if there are any."""
    named = replies.table.model
    marks = (named.to_numpy()[:, None] == np.array(replies.models)[1:]).astype(float)
    return np.hstack([marks, named.isna().to_numpy(float)[:, None]]) if named.isna().any() else marks


def _list_tasks(replies: Replies, risks: RiskMap) -> Iterator[tuple[str, float, Replies, Callable[..., dict]]]:
    """Yield the tasks that enough rows allow: name, chance level, rows, and the probe of their features."""
    first, second, wins, clusters = replies.pair_up()
    if len(wins) >= MIN_ROWS:
        yield "preference", 0.5, replies, lambda x, **knobs: probe_preference(
            x[first] - x[second], wins, clusters, **knobs)
    rated = replies.keep(replies.table.reward.notna())
    if len(rated) >= MIN_ROWS:
        yield "reward", 0.0, rated, lambda x, **knobs: probe_number(x, rated.table.reward, rated.clusters, **knobs)
    known = replies.keep(replies.has_issues)
    y = risks.indicators(*known.categories)
    single = (y.sum(axis=1) == 1) & (y[:, y[y.sum(axis=1) == 1].sum(axis=0) >= 10].sum(axis=1) == 1)
    known, labels = known.keep(single), y[single].argmax(axis=1)
    if len(known) >= MIN_ROWS:
        yield "risk", 1 / len(np.unique(labels)), known, lambda x, **knobs: probe_category(
            x, labels, known.clusters, **knobs)


def _probe_all(task: str, chance: float, replies: Replies, run: Callable[..., dict], knobs: dict,
               n_directions: int) -> Iterator[dict]:
    """Yield one row for each feature set, and the mean over random directions."""
    columns = ("score", "low", "high", "null", "p", "n", "n_prompts")
    for name, x in make_features(replies).items():
        found = dict(zip(columns, run(x, **knobs).values(), strict=True))
        yield {"task": task, "features": name, "chance": chance, **found}
    (n_dims, k), rng = (replies.theory.n_dims, min(4, replies.theory.n_dims - 1)), np.random.default_rng(0)
    draws = [next(iter(run(replies.vectors @ rng.normal(size=(n_dims, k)),
                           **knobs | {"n_permutations": 0, "n_draws": 2}).values())) for _ in range(n_directions)]
    if draws and k:
        low, high = take_interval(np.array(draws))
        yield {"task": task, "features": f"{k} random directions", "chance": chance, "score": float(np.mean(draws)),
               "low": float(low), "high": float(high), "n": found["n"], "n_prompts": found["n_prompts"]}


def _describe_probes(table: pd.DataFrame, replies: Replies, gain: list[dict[str, float]]) -> str:
    """Say what values tell beyond the controls, task by task."""
    values, parts = f"{replies.theory.n_dims} values", []
    for task, unit in (("preference", "of the pairs"), ("risk", "balanced accuracy"), ("reward", "R²")):
        rows = table[(table.task == task) & (table.rows == "all")].set_index("features")
        if values not in rows.index:
            continue
        own, score = rows.loc[values], rows.score
        beats = "more than the permutations" if own.p < 0.05 else "no more than the permutations"
        text = f"*{task}*: {values} give {own.score:.3f} ({_span(own.low, own.high, 3)}, {unit}; {beats})"
        for control in (f for f in score.index if f"values + {f}" in score.index):
            text += f", {control} alone {score[control]:.3f}, both {score[f'values + {control}']:.3f}"
        for found in gain if task == "preference" else ():
            if np.isfinite(found["gain"]):
                text += f" (the values add {found['gain']:+.3f}, {_span(found['low'], found['high'], 3)})"
        parts.append(text + (f", the {NAME} alone {score[NAME]:.3f}" if NAME in score.index else ""))
    what = {"scored": "The released reward model's preference is no safety label: it punishes refusals. Safety itself "
                      "is not determined by these files.",
            "sample": "The reward here is the sample writers' own rating.",
            "own": "The reward here is the rating in the file beside the theory."}.get(replies.kind, "")
    return "; ".join(parts) + ". " + what


def weigh_values(replies: Replies, n_draws: int = 500, seed: int = 0) -> Finding:
    """Return by which weights the preference probe decides: the change in the log-odds when a value goes from 0 to 1.

    Transparency is the third aim of the paper's framework. The values stand alone, and with refusal + length held
    fixed.
    """
    first, second, wins, clusters = replies.pair_up()
    if len(wins) < MIN_ROWS:
        return leave_out("The weighing of the values", f"only {len(wins)} pairs of replies have different rewards")
    tables, n_dims = [], replies.theory.n_dims
    for name, x in (("values alone", replies.vectors),
                    ("refusal + length held fixed", np.hstack([replies.vectors, replies.controls]))):
        gap = x[first] - x[second]
        draws = [fit_preference(gap[rows], wins[rows])[:n_dims] for rows in draw_rows(clusters, n_draws, seed)]
        low, high = take_interval(np.reshape(draws, (-1, n_dims)))
        tables.append(pd.DataFrame({"value": replies.theory.dimensions, "with": name,
                                    "weight": fit_preference(gap, wins)[:n_dims], "low": low, "high": high}))
    table = pd.concat(tables, ignore_index=True).assign(n_pairs=len(wins), n_prompts=len(np.unique(clusters)))
    fixed = table[table["with"] != "values alone"]
    clear = fixed[(fixed.low > 0) | (fixed.high < 0)].sort_values("weight", key=abs, ascending=False)
    told = ", ".join(f"{r.value} ({r.weight:+.2f})" for r in clear.itertuples()) or "none"
    reading = f"With refusal and length held fixed, the values whose interval leaves 0 out are: {told}."
    return Finding(table, reading, f"{len(wins):,} pairs of replies to {table.n_prompts[0]:,} prompts; 95 % bootstrap "
                   f"intervals over prompts ({n_draws} draws).")


def claim_probes(probes: Finding, theory: Theory) -> pd.DataFrame:
    """Return our rows for the pairwise accuracies that GPLA publishes for Schwartz's values and groups.

    Another population than ours (theirs predicts safety, table of 2502.02444): shown only, and only under those ten
    values.
    """
    if probes.is_left_out or theory.parent is not None or len(theory.groups) != 4:
        return pd.DataFrame(columns=CLAIM)
    rows = probes.table[(probes.table.task == "preference") & (probes.table.rows == "all")]
    ids = {f"{theory.n_dims} values": "preference/values", f"{len(theory.groups)} groups": "preference/groups"}
    return _claim(rows, rows.features.map(ids), "score", OTHER, "theirs predicts the safety of other replies, ours the "
                  "preference of a reward model that punishes refusals")


def claim_profiles(profiles: Finding) -> pd.DataFrame:
    """Return our rows for the published poles, whose shares are not published: shown only."""
    if profiles.is_left_out:
        return pd.DataFrame(columns=CLAIM)
    ids = {"unsafe pole": "space/unsafe-pole/share", "workplace manipulation": "space/workplace-manipulation/share"}
    why = [f"{r.matches} of {r.n} replies: {r.verdict}; no share is published" for r in profiles.table.itertuples()]
    return _claim(profiles.table, profiles.table.profile.map(ids), "share", OTHER, why)


def average_models(replies: Replies, n_draws: int = 2000, seed: int = 0) -> Finding:
    """Return each model's mean value vector, reward and released distances, with intervals over prompts.

    Columns: model, rows ("all", "non-refusals"), quantity (a value, "reward", "e_distance", "h_distance"), mean, low,
    high (nan below 5 prompts), n, n_prompts. Source: released scored replies; means over the 1,523 test prompts.

    >>> from fulcra_utils.analysis.replies import make_example
    >>> from fulcra_utils.theory.theory import load_theory
    >>> table = average_models(make_example(load_theory("schwartz10")), n_draws=20).table
    >>> row = table[(table.model == "b") & (table.quantity == "universalism")].iloc[0]
    >>> float(row["mean"]), float(row.low), float(row.high)
    (-1.0, -1.0, -1.0)
    """
    if len(replies) == 0 or not replies.models:
        return leave_out("The comparison of the models' means", "no labelled reply names its model")
    extra = [c for c in ("reward", "e_distance", "h_distance") if replies.table[c].notna().any()]
    tables = []
    for model in replies.models:
        mine = replies.keep(replies.table.model == model)
        for rows, part in (("all", mine), ("non-refusals", mine.keep(~mine.refusals))):
            if rows != "all" and not 2 <= len(part) < len(mine):
                continue
            x = np.hstack([part.vectors, part.table[extra].to_numpy(float)])
            low, high = mean_ends(x, part.clusters, n_draws, seed)
            tables.append(pd.DataFrame({"model": model, "rows": rows, "quantity": [*replies.theory.dimensions, *extra],
                                        "mean": pd.DataFrame(x).mean(), "low": low, "high": high,
                                        "n": np.isfinite(x).sum(axis=0),
                                        "n_prompts": [len(set(part.clusters[np.isfinite(c)])) for c in x.T]}))
    table = pd.concat(tables, ignore_index=True)
    share = replies.table.groupby("model", sort=False).is_refusal.mean()
    reading = ("Refusals make up " + ", ".join(f"{v:.0%} of {m}'s" for m, v in share.items()) + " replies; means with "
               "and without them stand side by side.")
    return Finding(table, reading, f"{replies.describe()}; 95 % bootstrap intervals over prompts.")


def claim_models(means: Finding, reported: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return our rows for the released models' means; a model whose file could not be had is named as missing."""
    if kind != "scored":
        return pd.DataFrame(columns=CLAIM)
    table = means.table[means.table.rows == "all"]
    claims = reported.claim_id[reported.claim_id.str.startswith("models/")]
    found = table.set_index("models/" + table.model + "/" + table.quantity).reindex(claims)
    why = np.where(found["mean"].isna(), "this model's scored replies could not be had", "")
    return _claim(found, found.index, "mean", "recomputed", why)


def compare_models(replies: Replies, with_mixed: bool = True) -> Finding:
    """Compare every two models on the prompts that both answered, value by value, with and without the controls.

    Several replies of a model to one prompt are averaged, and answer it where none of them refuses. Columns: first,
    second, value, n, difference, low, high, p, p_adjusted (Holm over the table), effect (d_z), adjusted
    with its ends (refusal and length alike), from_controls (the part that refusal + length account for), n_both_answer,
    both_answer with its ends (neither reply is a refusal). `with_mixed` also fits mixed models with the prompt as
    random effect (seconds a value) into `extra["mixed"]`: value, model (against the first), controls, effect, low,
    high, p, icc.

    >>> from fulcra_utils.analysis.replies import make_example
    >>> from fulcra_utils.theory.theory import load_theory
    >>> table = compare_models(make_example(load_theory("schwartz10")), with_mixed=False).table
    >>> last = table[table["value"] == "universalism"].iloc[0]
    >>> int(last.n), bool(last.difference > 0.8), bool(last.p_adjusted < 0.01)
    (40, True, True)
    """
    tables = [_compare_two(replies, a, b) for a, b in combinations(replies.models, 2)]
    if all(table is None for table in tables):
        return leave_out("The comparison of models", "no two models answered at least 20 of the same prompts")
    table = pd.concat(tables, ignore_index=True)
    table.insert(8, "p_adjusted", comparison.adjust_p(table.p.to_numpy(), "holm"))
    sure = table[table.p_adjusted < 0.05]
    signs = np.sign(sure[["adjusted_low", "adjusted_high"]]).mul(np.sign(sure["difference"]), axis=0)
    kept, turned = (sure[(signs == sign).all(axis=1)] for sign in (1, -1))
    round_ = f", and surely turned round: {', '.join(turned['value'])}" if len(turned) else ""
    top = table.loc[table.effect.abs().idxmax()] if table.effect.notna().any() else table.iloc[0]
    reading = (f"{len(sure)} of {len(table)} paired differences are sure after Holm's correction; {len(kept)} of these "
               f"stay sure with refusal and length held alike{round_}. The largest effect: {top['value']}, "
               f"{top['first']} − {top['second']} = {top.difference:+.2f} ({_span(top.low, top.high)}), "
               f"d_z = {top.effect:.2f}; with refusal and length alike {top.adjusted:+.2f} "
               f"({_span(top.adjusted_low, top.adjusted_high)}), where neither refuses {top.both_answer:+.2f} "
               f"({_span(top.both_answer_low, top.both_answer_high)}).")
    mixed = pd.concat([_fit_all(replies, c) for c in (False, True)]) if with_mixed else pd.DataFrame()
    return Finding(table, reading, f"{replies.describe()}; paired on shared prompts; 95 % t intervals, in which "
                   "nearly identical prompts count as one.", {"mixed": mixed})


def _compare_two(replies: Replies, first: str, second: str) -> pd.DataFrame | None:
    """Return the paired table of two models, or None with fewer than 20 shared prompts."""
    told, keys = replies.table, [replies.table.model, replies.table.prompt]
    shared = told.prompt[told.model == first].drop_duplicates()
    shared = shared[shared.isin(told.prompt[told.model == second])]
    if len(shared) < MIN_ROWS:
        return None
    clusters = pd.Series(replies.clusters).groupby(told.prompt.to_numpy()).first()[shared].to_numpy()
    (x, y), (controls, others), (refused, too) = (
        [means.loc[model].loc[shared].to_numpy() for model in (first, second)]
        for means in (pd.DataFrame(part, told.index).groupby(keys).mean() for part in (
            replies.vectors, replies.controls, replies.refusals.astype(float))))
    both = (refused + too)[:, 0] == 0
    raw = comparison.compare_paired(x, y, clusters=clusters)
    adjusted = comparison.adjust_difference(x - y, controls - others, clusters)
    answered = comparison.compare_paired(x[both], y[both], clusters=clusters[both])
    ends = {"": "difference", "_low": "low", "_high": "high"}
    return pd.DataFrame({
        "first": first, "second": second, "value": replies.theory.dimensions,
        **{name: raw[name] for name in ("n", "difference", "low", "high", "p", "effect")},
        **{f"adjusted{end}": adjusted[name] for end, name in ends.items()},
        "from_controls": raw["difference"] - adjusted["difference"], "n_both_answer": answered["n"],
        **{f"both_answer{end}": answered[name] for end, name in ends.items()}})


def _fit_all(replies: Replies, with_controls: bool) -> pd.DataFrame:
    """Return the mixed models of every value on the model's name, with or without refusal and length."""
    names, design = replies.models[1:], _mark_models(replies)
    if with_controls:
        design = np.hstack([design, replies.controls[:, np.ptp(replies.controls, axis=0) > 0]])
    tables = []
    for value, column in zip(replies.theory.dimensions, replies.vectors.T, strict=True):
        fit = pd.DataFrame(comparison.fit_mixed(column, design, replies.table.prompt.to_numpy())).head(len(names))
        words = pd.DataFrame({"value": value, "model": names, "against": replies.models[0], "controls": with_controls})
        tables.append(words.join(fit))
    return pd.concat(tables, ignore_index=True)


def pick_declared(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the way to correlate that was declared beforehand (`PRIMARY`)."""
    return table if table.empty else table[(table[[*PRIMARY]] == pd.Series(PRIMARY)).all(axis=1)].reset_index(drop=True)


def pick_metrics(correlations: Finding, probes: Finding) -> dict[str, float]:
    """Return the headline numbers for metrics.json: the table's agreement, and each probe's score with its interval."""
    main = pick_declared(correlations.extra.get("summary", correlations.table))
    metrics = {f"value_risk_{k}": float(v) for k in ("cell_correlation", "low", "high", "same_sign")
               for v in main.get(k, ())}
    return metrics | {f"{r.task}/{r.rows}/{r.features}{end}": float(value) for r in probes.table.itertuples()
                      for end, value in (("", r.score), ("/low", r.low), ("/high", r.high))}


def summarise_claims(verdicts: pd.DataFrame, correlations: Finding, probes: Finding, unknown: Finding,
                     circle: Finding) -> Finding:
    """Say in plain words which of the paper's claims held on these rows, and with how much certainty."""
    counts = verdicts.groupby(["kind", "verdict"]).size()
    told = "; ".join(f"{n} {kind}: {verdict}" for (kind, verdict), n in counts.items()) or "none on these rows"
    rows = {"Published numbers": f"{told}.", "Risks have their own pattern of values": correlations.reading,
            "Values tell preference, risk and reward": probes.reading,
            "Unknown risks show as clusters": unknown.reading, "Values form the theory's circle": circle.reading}
    return Finding(pd.DataFrame(rows.items(), columns=["claim", "finding"]),
                   "\n".join(f"- **{claim}.** {finding}" for claim, finding in rows.items()))


def _span(low: float, high: float, digits: int = 2) -> str:
    return f"95 % interval {low:.{digits}f} to {high:.{digits}f}"
