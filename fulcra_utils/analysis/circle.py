"""Is the value space a circle, how reliably do items measure a value, and how clear is each score."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from fulcra_utils.analysis.replies import INTERVAL, MIN_ROWS, Finding, Replies, leave_out
from fulcra_utils.common.labels import NEAREST, scores_to_labels
from fulcra_utils.stats.comparison import adjust_p, find_components
from fulcra_utils.stats.probes import predict_ridge, probe_preference
from fulcra_utils.stats.structure import MIN_CIRCLE, assess_circle, estimate_reliability, place_on_circle
from fulcra_utils.theory.theory import Theory

UNCLEAR = 0.25  # a score nearer than this to the cut could be either label


def examine_circle(replies: Replies, n_starts: int = 10, n_permutations: int = 999, min_share: float = 0.02,
                   seed: int = 0) -> Finding:
    """Test the theory's circle on the replies: pooled and by model, raw and centred, with and without the controls.

    The table has subset, variant ("values", "non-refusals", "what refusal + length predict", "refusal + length
    removed"), centred, n, n_values (those expressed in at least `min_share` of the rows), stress, fit and inversions
    with their p (see `assess_circle`), why (when not estimable) and p_adjusted (the larger of the p values of fit and
    order, Benjamini-Hochberg). `extra["places"]`: value, x, y, ideal_x, ideal_y of the pooled raw values. Source:
    Schwartz (1992).

    >>> from fulcra_utils.analysis.replies import make_example
    >>> from fulcra_utils.theory.theory import load_theory
    >>> found = examine_circle(make_example(load_theory("schwartz10")), 0, 9)
    >>> found.table.subset.unique().tolist(), len(found.extra["places"])
    (['all', 'a', 'b'], 10)
    """
    theory = replies.theory
    if theory.circle is None:
        return leave_out("The circle", f"{theory.title} has none")
    if len(replies) < MIN_ROWS:
        return leave_out("The circle", "fewer than 20 labelled replies")
    ideal, rows = place_on_circle([theory.circle.index(d) for d in theory.dimensions], theory.n_dims), []
    for subset, variant, vectors, prompts in _circle_variants(replies):
        counted = vectors if variant in {"values", "non-refusals"} else replies.vectors
        kept = (scores_to_labels(counted, NEAREST) != 0).mean(axis=0) >= min_share
        kept &= vectors.std(axis=0) > 1e-9
        for centred in (False, True):
            found = {"why": f"{kept.sum()} values vary enough, {MIN_CIRCLE} are needed"}
            if kept.sum() >= MIN_CIRCLE:
                found = assess_circle(vectors[:, kept], ideal[kept], centred, n_starts, n_permutations, seed, prompts)
            rows.append({"subset": subset, "variant": variant, "centred": centred, "n": len(vectors),
                         "n_values": int(kept.sum()), "kept": kept, "why": "", **found})
    first, places = rows[0], pd.DataFrame()
    if "places" in first:
        names = np.array(theory.dimensions)[first["kept"]]
        places = pd.DataFrame(np.hstack([first["places"], ideal[first["kept"]]]), index=pd.Index(names, name="value"),
                              columns=["x", "y", "ideal_x", "ideal_y"]).reset_index()
    table = pd.DataFrame(rows, columns=["subset", "variant", "centred", "n", "n_values", "stress", "stress_p", "fit",
                                        "fit_null", "fit_p", "inversions", "inversions_null", "inversions_p", "why"])
    table["p_adjusted"] = adjust_p(table[["fit_p", "inversions_p"]].max(axis=1, skipna=False))
    return Finding(table, _describe_circle(table), f"{replies.describe()}; values expressed in at least "
                   f"{min_share:.0%} of rows; {n_permutations} permutations.", {"places": places})


def _circle_variants(replies: Replies) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Yield subset, variant, vectors and prompts of each circle test."""
    models = replies.models if len(replies.models) > 1 else ()
    for subset, part in [("all", replies), *((m, replies.keep(replies.table.model == m)) for m in models)]:
        for variant, kept in (("values", part), ("non-refusals", part.keep(~part.refusals))):
            if len(kept) >= MIN_ROWS and (variant == "values" or len(kept) < len(part)):
                yield subset, variant, kept.vectors, kept.clusters
        if subset == "all":
            predicted = predict_ridge(np.vstack([replies.controls] * 2), np.vstack([replies.vectors] * 2),
                                      np.repeat([0, 1], len(replies)), penalty=1e-6)[:len(replies)]
            yield "all", "what refusal + length predict", predicted, replies.clusters
            yield "all", "refusal + length removed", replies.vectors - predicted, replies.clusters


def _describe_circle(table: pd.DataFrame) -> str:
    tested = table[table.fit.notna()]
    if tested.empty:
        return "No subset has enough values that vary: the circle is not estimable on these rows."
    good, sure = tested[(tested.fit_p <= 0.05) & (tested.inversions_p <= 0.05)], (tested.p_adjusted <= 0.05).sum()
    main = tested.iloc[0]
    return (f"{main.variant} ({main.subset}, {'centred' if main.centred else 'raw'}, {main.n_values} values): "
            f"Procrustes fit {main.fit:.2f} (shuffled names reach {main.fit_null:.2f}, p = {main.fit_p:.3f}), "
            f"{main.inversions:.0f} inversions (shuffled: {main.inversions_null:.0f}, p = {main.inversions_p:.3f}), "
            f"Stress-1 {main.stress:.2f}. In {len(good)} of {len(tested)} tests do both fit and order beat shuffled "
            f"names at 5 %, in {sure} after correction for the number of tests.")


def examine_reliability(items: pd.DataFrame, replies: Replies, min_rows: int = 50, n_draws: int = 300,
                        seed: int = 0) -> Finding:
    """Estimate how reliably each value's items (row_id and a column each) measure it: `estimate_reliability`."""
    labels = _align_items(items, replies)
    if labels is None:
        return leave_out("Reliability", "the annotated replies carry no item labels")
    table = pd.DataFrame([{"value": name, **estimate_reliability(
        labels[:, replies.theory.item_dims == d], replies.clusters, min_rows, n_draws, seed)}
        for d, name in enumerate(replies.theory.dimensions)])
    known = table[table.reliability.notna()]
    told = ", ".join(f"{r.value} {r.reliability:.2f} ({r.low:.2f} to {r.high:.2f})" for r in known.itertuples())
    reading = (f"Estimable for {len(known)} of {len(table)} values{': ' + told if told else ''}. Items are ticked when "
               "they apply: a low figure says that a value's items seldom stand together, not that labels are noisy.")
    return Finding(table, reading, f"{replies.describe()}; 95 % bootstrap intervals over prompts.")


def check_items(items: pd.DataFrame, replies: Replies) -> Finding:
    """Check per value that the label is the sign of the summed item labels, as in the released data.

    Left out under a theory with a parent, whose labels were made from the items in this way, as are rows whose labels
    were (`is_summed` of the items, where they have it).
    """
    made = items.row_id[items.get("is_summed", items.row_id.isna())]
    n_made = (is_made := replies.table.row_id.isin(made)).sum()
    replies = replies.keep(~is_made)
    labels = _align_items(items, replies)
    if replies.theory.parent is not None:
        return leave_out("The item-value rule", f"the labels under {replies.theory.title} were made by it")
    if labels is None:
        return leave_out("The item-value rule", "the labels of all replies with items were made by it" if n_made else
                         "the annotated replies carry no item labels")
    rule = np.sign(labels @ replies.theory.item_matrix)
    agree, counted = rule == np.sign(replies.vectors), (rule != 0) | (replies.vectors != 0)
    table = replies.tabulate_shares(replies.theory.dimensions, agree & counted, counted)
    reading = (f"In {agree.all(axis=1).sum():,} of {len(agree):,} replies the sign of the summed items gives every "
               "value's label; of the cells that say anything it gives "
               f"{table['count'].sum() / max(1, table.n.sum()):.1%}."
               + f" Left out: {n_made:,} replies with items alone, whose labels were made by it." * bool(n_made))
    return Finding(table.rename(columns={"count": "agree"}), reading, f"{replies.describe()}; {INTERVAL}.")


def _align_items(items: pd.DataFrame, replies: Replies) -> np.ndarray | None:
    """Return the (N, I) item labels of the replies, or None when there is not one."""
    names = list(replies.theory.items)
    if len(replies) == 0 or not set(names) <= set(items.columns):
        return None
    labels = items.set_index("row_id")[names].reindex(replies.table.row_id).fillna(0).to_numpy(float)
    return labels if labels.any() else None


def measure_clarity(replies: Replies, items: pd.DataFrame | None = None) -> Finding:
    """Measure how many expressed cells are ambiguous: items of both signs, or without items a score near the cut.

    Clarity is the first aim of the paper's framework.
    """
    labels = None if items is None else _align_items(items, replies)
    if len(replies) == 0 or (items is not None and labels is None):
        return leave_out("Clarity", "no reply carries item labels" if len(replies) else "no reply is labelled")
    if labels is None and np.isin(replies.vectors, (-1, 0, 1)).all():
        return leave_out("The margin of the scores", "these rows carry labels, not scores")
    if labels is None:
        size = np.abs(replies.vectors)
        unclear, counted = np.abs(size - NEAREST) < UNCLEAR, size >= NEAREST - UNCLEAR
        what = f"score within {UNCLEAR} of the cut at {NEAREST}, of the cells above {NEAREST - UNCLEAR}"
    else:
        plus, minus = ((labels * sign > 0).astype(float) @ replies.theory.item_matrix for sign in (1, -1))
        unclear, counted = (plus > 0) & (minus > 0), (plus > 0) | (minus > 0)
        what = "items of both signs within one value"
    table = replies.tabulate_shares(replies.theory.dimensions, unclear & counted, counted)
    table, n = table.rename(columns={"count": "ambiguous"}), table.n.sum()
    reading = f"Ambiguous ({what}): {table.ambiguous.sum() / max(1, n):.1%} of {n:,} expressed cells."
    return Finding(table, reading, f"{replies.describe()}; ambiguous: {what}; {INTERVAL}.")


def measure_adaptability(items: pd.DataFrame, replies: Replies, theories: Mapping[str, Theory], n_folds: int = 5,
                         seed: int = 0) -> Finding:
    """Run the same analysis under other theories, carried over by the items that they share.

    Adaptability is the second aim of the paper's framework. Columns: theory, n_values, shared_items (share of the run's
    items), n_expressed (rows), two_axes (share of the variance in two principal components), preference (accuracy of
    the pairwise probe; nan without rewards), remark.
    """
    labels = _align_items(items, replies)
    if labels is None:
        return leave_out("Adaptability", "the annotated replies carry no item labels to carry over")
    rows, (first, second, wins, clusters) = [], replies.pair_up()
    for theory in theories.values():
        carried = [theory.find_item(name) for name in replies.theory.items]
        shared = [i for i, c in enumerate(carried) if c is not None]
        found = {"remark": "shares no item: needs labels of its own (run the notebook with theory=…)"}
        if shared:
            x = np.sign(labels[:, shared] @ theory.item_matrix[[carried[i] for i in shared]])
            found = {"n_expressed": (x != 0).any(axis=1).sum(),
                     "two_axes": find_components(x)["share"].sum() if len(x) > 1 else np.nan}
            if len(wins) >= MIN_ROWS:
                found |= {"preference": probe_preference(x[first] - x[second], wins, clusters, n_folds, 0, 2,
                                                         seed)["accuracy"]}
        rows.append({"theory": theory.name, "n_values": theory.n_dims, "shared_items": len(shared) / len(carried),
                     "remark": "", **found})
    columns = ["theory", "n_values", "shared_items", "n_expressed", "two_axes", "preference", "remark"]
    table = pd.DataFrame(rows).reindex(columns=columns)
    n = int(table.n_expressed.notna().sum())
    reading = (f"The same calls ran under {n} of {len(table)} theories on these labels; the others need labels of "
               "their own, nothing else.")
    return Finding(table, reading, f"{replies.describe()}; preference: cross-validated by prompt.")
