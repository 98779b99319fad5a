"""The value space in pictures and tests: projections, unknown risks, the circle, reliability, clarity.

Companion of `analysis`: replies in, Findings out; what the rows or the theory do not allow is left out with its reason.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from fulcra_utils.common.labels import NEAREST, scores_to_labels
from fulcra_utils.replies import INTERVAL, Finding, Replies, RiskMap, leave_out
from fulcra_utils.stats.clusters import (
    assess_density,
    cluster_vectors,
    compare_categories,
    match_profile,
    measure_information,
    measure_recurrence,
    measure_stability,
)
from fulcra_utils.stats.comparison import adjust_p, count_signs
from fulcra_utils.stats.correlation import find_components
from fulcra_utils.stats.probes import pair_replies, predict_ridge, probe_preference
from fulcra_utils.stats.resampling import share_interval
from fulcra_utils.stats.structure import (
    MIN_CIRCLE,
    assess_circle,
    check_sign_rule,
    estimate_reliability,
    place_on_circle,
)
from fulcra_utils.theory.theory import Theory

MIN_ROWS = 20
MIN_PROMPTS = 5  # a cluster of fewer prompts is an anecdote
MAJORITY = 0.5  # a cluster of which half touches one known category is explained by it, significant or not
STABLE = 0.6  # Hennig (2007): below 0.6 a cluster is not to be trusted
UNCLEAR = 0.25  # a score nearer than this to the cut could be either label
NO_RISK, SEVERAL, UNKNOWN = "no listed risk", "several risks", "not known"


def name_risks(replies: Replies, risks: RiskMap) -> np.ndarray:
    """Return the risk of each reply's prompt in words (N,): its one risk, several, none listed, or not known.

    Source: ours; the mapping is in data/risks.yaml.

    Examples
    --------
    >>> from fulcra_utils.replies import load_risks, make_example
    >>> from fulcra_utils.theory.theory import load_theory
    >>> name_risks(make_example(load_theory("schwartz10"), 2), load_risks()).tolist()
    ['Privacy violation', 'Privacy violation', 'Unethical behaviour', 'Unethical behaviour']
    """
    y = risks.indicators(*replies.categories)
    titles = np.array([*risks.risks.values()], dtype=object)
    names = np.where(y.sum(axis=1) == 1, titles[y.argmax(axis=1)], np.where(y.sum(axis=1) > 1, SEVERAL, NO_RISK))
    return np.where(replies.has_issues, names, UNKNOWN)


def project_replies(replies: Replies, risks: RiskMap, methods: Sequence[str] = ("pca", "tsne"),
                    max_points: int = 3000, seed: int = 0) -> Finding:
    """Project the value vectors to the plane, with the published poles among them.

    Parameters
    ----------
    replies : Replies
    risks : RiskMap
    methods : sequence of {"pca", "tsne", "umap"}
        PCA is fitted on the replies alone; the other two see the poles as further points.
    max_points : int
        More replies than this are sampled (for the picture only).

    Returns
    -------
    Finding
        method, x, y, pole ("" for a reply), row_id, model, risk, refusal, reward. `extra["axes"]`: axis, value,
        loading, share.

    Raises
    ------
    ValueError
        For an unknown method.

    Source: value-space figure of the paper; its projection is not published.

    Examples
    --------
    >>> from fulcra_utils.replies import load_risks, make_example
    >>> from fulcra_utils.theory.theory import load_theory
    >>> table = project_replies(make_example(load_theory("schwartz10")), load_risks(), ("pca",)).table
    >>> len(table), table.pole.tolist()[-3:]
    (83, ['safe pole', 'unsafe pole', 'workplace manipulation'])
    """
    if len(replies) < 3 or len(np.unique(replies.vectors, axis=0)) < 3:
        return leave_out("The value space", "fewer than three different value vectors")
    chosen = np.arange(len(replies))
    if len(chosen) > max_points:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, max_points, replace=False))
    profiles = risks.profile_vectors(replies.theory)
    shown, poles = replies.vectors[chosen], np.array([*profiles.values()]).reshape(-1, replies.theory.n_dims)
    components = find_components(replies.vectors)
    words = pd.DataFrame({
        "pole": [""] * len(shown) + [*profiles],
        "row_id": [*replies.table.row_id.iloc[chosen].astype(str), *[""] * len(poles)],
        "model": [*replies.table.model.iloc[chosen].astype(str), *[""] * len(poles)],
        "risk": [*name_risks(replies, risks)[chosen], *[""] * len(poles)],
        "refusal": [*np.where(replies.refusals[chosen], "refusal", "no refusal"), *[""] * len(poles)],
        "reward": [*replies.table.reward.iloc[chosen], *[np.nan] * len(poles)]})
    tables = [words.assign(method=m, **dict(zip("xy", _embed(m, shown, poles, components, seed).T, strict=True)))
              for m in methods]
    axes = _tabulate_axes(components, replies.theory)
    first, second = [*components["share"], 0.0][:2]
    reading = (f"The first two principal components hold {first + second:.0%} of the variance; the first sets "
               f"{_strongest(axes, 1)} apart. A picture proves nothing: the probes below test what it suggests.")
    note = f"; {len(shown):,} of them drawn" if len(shown) < len(replies) else ""
    return Finding(pd.concat(tables, ignore_index=True), reading, f"{replies.describe()}{note}; crosses: the published "
                   f"profiles; seed {seed}.", {"axes": axes})


def _embed(method: str, shown: np.ndarray, poles: np.ndarray, components: dict, seed: int) -> np.ndarray:
    """Return the (n + poles, 2) places of one method."""
    points = np.vstack([shown, poles])
    if method == "pca":
        places = (points - components["mean"]) @ components["axes"].T
        return np.column_stack([places, np.zeros((len(places), 2 - places.shape[1]))])
    if method == "tsne":
        from sklearn.manifold import TSNE
        with threadpool_limits(1):  # a few thousand points: threads only wait for each other
            return TSNE(2, init="random", perplexity=min(30, (len(points) - 1) / 3), random_state=seed,
                        max_iter=500).fit_transform(points)
    if method == "umap":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # umap-learn and numba announce their own settings
            import umap
            return umap.UMAP(n_neighbors=min(15, len(points) - 1), init="random" if len(points) < 20 else "pca",
                             random_state=seed, n_jobs=1).fit_transform(points)
    raise ValueError(f"the projection is 'pca', 'tsne' or 'umap', not {method!r}")


def _tabulate_axes(components: dict, theory: Theory) -> pd.DataFrame:
    return pd.concat([pd.DataFrame({"axis": k + 1, "value": theory.dimensions, "loading": axis, "share": share})
                      for k, (axis, share) in enumerate(zip(components["axes"], components["share"], strict=True))])


def _strongest(axes: pd.DataFrame, axis: int, n: int = 4) -> str:
    """Return the values with the largest loadings of one axis in words."""
    rows = axes[axes.axis == axis].sort_values("loading", key=abs, ascending=False, kind="stable").head(n)
    return ", ".join(f"{r.value} ({r.loading:+.2f})" for r in rows.itertuples())


def find_unknown_risks(replies: Replies, risks: RiskMap, n_clusters: int = 20, n_draws: int = 50,
                       n_permutations: int = 99, seed: int = 0) -> Finding:
    """Look for clusters of replies that oppose a value and that no known risk category explains.

    A candidate is (1) denser than the densest cluster of shuffled columns (p <= 0.05 over all clusters), (2) stable
    (mean Jaccard of at least 0.6), (3) of at least 5 prompts, (4) not enriched in any known category (adjusted
    p > 0.05) nor half filled by one (catch-all categories such as "unethical behaviour" name no risk and explain
    nothing), and (5) opposed to at least one value (centre below -0.5).

    Parameters
    ----------
    replies : Replies
        Rows whose prompt's categories are unknown are left out.
    risks : RiskMap
    n_clusters : int
        At most; k-means.

    Returns
    -------
    Finding
        One row a cluster, candidates first, then by density: cluster, size, n_prompts, profile (values beyond ±0.5),
        opposes (number of values), density_p, stability, recurrence (mean best Jaccard when half to one and a half
        times as many clusters are made), category (commonest), purity, category_p (adjusted), refusals (share), reward
        (mean), is_candidate, typical (up to 3 row ids next to the centre), one column a value (centre).
        `extra["information"]`: adjusted mutual information of clusters and risks with its null.

    Source: the paper's claim that clusters outside known risks are new risks; tests ours.

    Examples
    --------
    >>> from fulcra_utils.replies import load_risks, make_example
    >>> from fulcra_utils.theory.theory import load_theory
    >>> found = find_unknown_risks(make_example(load_theory("schwartz10")), load_risks(), 4, 3, 9)
    >>> len(found.table), int(found.table["size"].sum())
    (4, 80)
    """
    known = replies.keep(replies.has_issues)
    if len(known) < 50 or len(np.unique(known.vectors.round(6), axis=0)) < 5:
        return leave_out("The search for unknown risks", "too few replies to prompts whose risk categories are known")
    labels = cluster_vectors(known.vectors, n_clusters, seed)
    categories, names = _specific_categories(known, risks)
    explained = compare_categories(labels, categories, known.clusters, seed=seed)
    table = pd.DataFrame([_describe_cluster(known, labels == k) for k in range(labels.max() + 1)])
    table.insert(0, "cluster", np.arange(len(table)))
    table = table.assign(
        density_p=assess_density(known.vectors, labels, n_clusters, n_permutations, seed),
        stability=measure_stability(known.vectors, labels, known.clusters, n_clusters, n_draws, seed),
        recurrence=measure_recurrence(known.vectors, labels, [max(2, n_clusters * k // 4) for k in (2, 3, 5, 6)], seed),
        category=[names[c] if c >= 0 else "" for c in explained["category"]], purity=explained["purity"],
        category_p=explained["p_adjusted"])
    table["is_candidate"] = ((table.density_p <= 0.05) & (table.stability >= STABLE) & (table.opposes > 0)
                             & (table.n_prompts >= MIN_PROMPTS) & (table.category_p > 0.05) & (table.purity < MAJORITY))
    table = table.sort_values(["is_candidate", "density_p", "size"], ascending=[False, True, False],
                              kind="stable").reset_index(drop=True)
    information = measure_information(labels, name_risks(known, risks).astype(str), known.clusters, seed=seed)
    return Finding(table, _read_clusters(table, information), f"{known.describe()}; {len(table)} clusters, "
                   f"{n_draws} bootstrap draws, {n_permutations} permutations.",
                   {"information": pd.DataFrame([information])})


def _specific_categories(replies: Replies, risks: RiskMap) -> tuple[np.ndarray, list[str]]:
    """Return the category matrix without the catch-all categories, and the names left."""
    matrix, names = replies.categories
    kept = [k for k, name in enumerate(names) if name not in risks.catch_alls]
    return matrix[:, kept], [names[k] for k in kept]


def _describe_cluster(replies: Replies, mask: np.ndarray) -> dict:
    """Return the profile, size and most typical replies of one cluster."""
    part = replies.keep(mask)
    centre = part.vectors.mean(axis=0)
    nearest = np.argsort(((part.vectors - centre) ** 2).sum(axis=1), kind="stable")
    first = part.table.iloc[nearest].drop_duplicates("cluster").head(3)
    reward = part.table.reward
    return {"size": len(part), "n_prompts": part.n_prompts, "profile": write_profile(centre, part.theory.dimensions),
            "opposes": int((scores_to_labels(centre, NEAREST) == -1).sum()), "refusals": part.refusals.mean(),
            "reward": reward.mean() if reward.notna().any() else np.nan, "typical": " ".join(first.row_id.astype(str)),
            **dict(zip(part.theory.dimensions, centre, strict=True))}


def write_profile(centre: np.ndarray, names: Sequence[str], cut: float = NEAREST) -> str:
    """Return a profile in words: the values beyond the cut, with their sign.

    Source: ours.

    Examples
    --------
    >>> write_profile([0.9, -0.6, 0.1], ["security", "power", "hedonism"])
    'security +, power −'
    """
    signs = scores_to_labels(centre, cut)
    parts = [f"{name} {'+' if sign > 0 else '−'}" for name, sign in zip(names, signs, strict=True) if abs(sign) == 1]
    return ", ".join(parts) or "nothing expressed"


def _read_clusters(table: pd.DataFrame, information: dict) -> str:
    found = table[table.is_candidate]
    opposing = table[(table.opposes > 0) & (table.n_prompts >= MIN_PROMPTS)]
    text = (f"Clusters and known risks share an adjusted mutual information of {information['ami']:.2f} "
            f"(chance below {information['null']:.2f}). ")
    if len(found):
        found = found.rename(columns={"size": "n"})
        told = "; ".join(f"{r.profile} ({r.n} replies to {r.n_prompts} prompts; with other numbers of clusters it "
                         f"returns with a Jaccard of {r.recurrence:.2f})" for r in found.itertuples())
        return text + (f"**{len(found)} candidate(s)** for a risk outside the known categories: {told}. A candidate is "
                       "a place to look, no proof of a risk.")
    if opposing.empty:
        return text + (f"No cluster of {MIN_PROMPTS} or more prompts opposes any value: whether unknown risks exist "
                       "cannot be determined from these replies.")
    return text + (f"{len(opposing)} cluster(s) oppose a value; none passes all the tests for an unknown risk.")


def show_typical(clusters: Finding, replies: Replies, n_clusters: int = 3, width: int = 110) -> pd.DataFrame:
    """Return the most typical prompts of the first clusters that oppose a value, shortened, for the reader's own run.

    Parameters
    ----------
    clusters : Finding
        From `find_unknown_risks`.
    replies : Replies
    width : int
        Characters of a prompt.

    Returns
    -------
    DataFrame
        profile, is_candidate, row_id, model, prompt; empty when no cluster opposes a value.

    Source: ours.

    Examples
    --------
    >>> from fulcra_utils.replies import load_risks, make_example
    >>> from fulcra_utils.theory.theory import load_theory
    >>> replies = make_example(load_theory("schwartz10"))
    >>> found = find_unknown_risks(replies, load_risks(), 4, 3, 9)
    >>> bool(show_typical(found, replies, 1).prompt.str.startswith("prompt").all())
    True
    """
    columns = ["profile", "is_candidate", "row_id", "model", "prompt"]
    if clusters.is_left_out:
        return pd.DataFrame(columns=columns)
    first = clusters.table[clusters.table.opposes > 0].head(n_clusters)
    rows = first.assign(row_id=first.typical.str.split()).explode("row_id")[["profile", "is_candidate", "row_id"]]
    known = replies.table[["row_id", "model", "prompt"]].assign(prompt=replies.table.prompt.str.slice(0, width))
    return rows.merge(known, on="row_id", how="left")[columns]


def has_whole_set(path: str | Path) -> bool:
    """Return whether the whole published set stands behind a run (its data/sources.json).

    Source: ours.

    Examples
    --------
    >>> import tempfile
    >>> from fulcra_utils.common.files import write_json
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     has_whole_set(write_json(Path(folder) / "sources.json", {"had": {"data_hybrid": {}}}))
    True
    """
    return "data_hybrid" in json.loads(Path(path).read_text(encoding="utf-8")).get("had", {})


def search_profiles(replies: Replies, risks: RiskMap, seed: int = 0) -> Finding:
    """Search the published profiles: which replies show every part of them.

    Returns
    -------
    Finding
        profile, parts (words), matches, n, share, low, high, verdict ("found", "undetermined" below 3
        matches), row_ids (up to 10).

    Source: poles and "workplace manipulation" of the paper's value-space figure.

    Examples
    --------
    >>> from fulcra_utils.replies import load_risks, make_example
    >>> from fulcra_utils.theory.theory import load_theory
    >>> found = search_profiles(make_example(load_theory("schwartz10")), load_risks())
    >>> found.table.profile.tolist()
    ['safe pole', 'unsafe pole', 'workplace manipulation']
    """
    profiles = risks.profile_vectors(replies.theory)
    if not profiles or len(replies) == 0:
        return leave_out("The search for the published profiles",
                         "the theory does not have their values" if len(replies) else "no reply is labelled")
    rows = []
    for name, profile in profiles.items():
        found = match_profile(replies.vectors, profile)
        share, low, high = share_interval(found, np.ones(len(found)), replies.clusters)
        rows.append({"profile": name, "parts": write_profile(profile, replies.theory.dimensions),
                     "matches": int(found.sum()), "n": len(found), "share": share[0], "low": low[0],
                     "high": high[0], "verdict": "found" if found.sum() >= 3 else "undetermined",
                     "row_ids": " ".join(replies.table.row_id[found].astype(str).head(10))})
    table = pd.DataFrame(rows)
    told = "; ".join(f"{r.profile}: {r.matches} of {r.n:,} ({r.verdict})" for r in table.itertuples())
    reading = f"{told}. Undetermined is not refuted: these prompts and models may simply not call it forth."
    return Finding(table, reading, f"{replies.describe()}; {INTERVAL}.")


def claim_profiles(profiles: Finding) -> pd.DataFrame:
    """Return our rows for the published poles, whose shares are not published: shown only.

    Source: value-space figure of the paper.

    Examples
    --------
    >>> from fulcra_utils.replies import load_risks, make_example
    >>> from fulcra_utils.theory.theory import load_theory
    >>> claims = claim_profiles(search_profiles(make_example(load_theory("schwartz10")), load_risks()))
    >>> claims.kind.unique().tolist()
    ['other population']
    """
    columns = ["claim_id", "kind", "ours", "low", "high", "why"]
    ids = {"unsafe pole": "space/unsafe-pole/share", "workplace manipulation": "space/workplace-manipulation/share"}
    rows = [(ids[r.profile], "other population", r.share, r.low, r.high,
             f"{r.matches} of {r.n} replies: {r.verdict}; no share is published")
            for r in profiles.table.itertuples() if r.profile in ids]
    return pd.DataFrame(rows, columns=columns)


def examine_circle(replies: Replies, n_starts: int = 10, n_permutations: int = 999, min_share: float = 0.02,
                   seed: int = 0) -> Finding:
    """Test the theory's circle on the replies: pooled and by model, raw and centred, with and without the controls.

    Parameters
    ----------
    replies : Replies
    min_share : float
        Values expressed in a smaller share of the rows are left out.

    Returns
    -------
    Finding
        subset, variant ("values", "non-refusals", "what refusal + length predict", "refusal + length removed"),
        centred, n, n_values, stress, stress_p, fit, fit_null, fit_p, inversions, inversions_null, inversions_p, why
        (when not estimable), p_adjusted (the larger of the p values of fit and order, Benjamini-Hochberg).
        `extra["places"]`: value, x, y, ideal_x, ideal_y of the pooled raw values.

    Source: Schwartz (1992); tests against shuffled names and columns: ours.

    Examples
    --------
    >>> from fulcra_utils.replies import load_risks, make_example
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
    order = np.array([theory.circle.index(d) for d in theory.dimensions])
    ideal, rows, places = place_on_circle(order, theory.n_dims), [], pd.DataFrame()
    for subset, variant, vectors in _circle_variants(replies):
        counted = vectors if variant in {"values", "non-refusals"} else replies.vectors
        kept = (count_signs(counted)[:, [0, 2]].sum(axis=1) / len(vectors) >= min_share) & (vectors.std(axis=0) > 1e-9)
        for centred in (False, True):
            words = {"subset": subset, "variant": variant, "centred": centred, "n": len(vectors),
                     "n_values": int(kept.sum())}
            if kept.sum() < MIN_CIRCLE:
                rows.append(words | {"why": f"{kept.sum()} values vary enough, {MIN_CIRCLE} are needed"})
                continue
            found = assess_circle(vectors[:, kept], ideal[kept], centred, n_starts, n_permutations, seed)
            if not rows:
                places = pd.DataFrame({"value": np.array(theory.dimensions)[kept],
                                       "x": found["places"][:, 0], "y": found["places"][:, 1],
                                       "ideal_x": ideal[kept, 0], "ideal_y": ideal[kept, 1]})
            rows.append(words | {k: v for k, v in found.items() if k != "places"} | {"why": ""})
    columns = ["subset", "variant", "centred", "n", "n_values", "stress", "stress_p", "fit", "fit_null", "fit_p",
               "inversions", "inversions_null", "inversions_p", "why", "p_adjusted"]
    table = pd.DataFrame(rows).reindex(columns=columns)
    table["p_adjusted"] = adjust_p(table[["fit_p", "inversions_p"]].max(axis=1, skipna=False))
    return Finding(table, _read_circle(table), f"{replies.describe()}; values expressed in at least {min_share:.0%} of "
                   f"rows; {n_permutations} permutations.", {"places": places})


def _circle_variants(replies: Replies) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield subset, variant and vectors of each circle test."""
    yield "all", "values", replies.vectors
    if MIN_ROWS <= (~replies.refusals).sum() < len(replies):
        yield "all", "non-refusals", replies.vectors[~replies.refusals]
    predicted = predict_ridge(np.vstack([replies.controls] * 2), np.vstack([replies.vectors] * 2),
                              np.repeat([0, 1], len(replies)), penalty=1e-6)[:len(replies)]
    yield "all", "what refusal + length predict", predicted
    yield "all", "refusal + length removed", replies.vectors - predicted
    for model in replies.models if len(replies.models) > 1 else ():
        part = replies.keep(replies.table.model == model)
        if len(part) >= MIN_ROWS:
            yield model, "values", part.vectors
        if MIN_ROWS <= (~part.refusals).sum() < len(part):
            yield model, "non-refusals", part.vectors[~part.refusals]


def _read_circle(table: pd.DataFrame) -> str:
    tested = table[table.fit.notna()]
    if tested.empty:
        return "No subset has enough values that vary: the circle is not estimable on these rows."
    good, sure = tested[(tested.fit_p <= 0.05) & (tested.inversions_p <= 0.05)], (tested.p_adjusted <= 0.05).sum()
    main = tested.iloc[0]
    centred = "centred" if main.centred else "raw"
    return (f"{main.variant} ({main.subset}, {centred}, {main.n_values} values): Procrustes fit {main.fit:.2f} "
            f"(shuffled names reach {main.fit_null:.2f}, p = {main.fit_p:.3f}), {main.inversions:.0f} inversions "
            f"(shuffled: {main.inversions_null:.0f}, p = {main.inversions_p:.3f}), Stress-1 {main.stress:.2f}. "
            f"In {len(good)} of {len(tested)} tests do both fit and order beat shuffled names at 5 %, in {sure} after "
            "correction for the number of tests.")


def examine_reliability(items: pd.DataFrame, replies: Replies, min_rows: int = 50, n_draws: int = 300,
                        seed: int = 0) -> Finding:
    """Estimate for each value how reliably its items measure it.

    Parameters
    ----------
    items : DataFrame
        row_id and one column for each item (data/items.parquet).
    replies : Replies
        The annotated replies; their row_id finds the items.

    Returns
    -------
    Finding
        value, n_items, n_expressed, method, reliability, low, high, omega, why.

    Source: Cronbach (1951), McDonald (1999), Spearman-Brown for two items; thresholds ours.

    Examples
    --------
    >>> from fulcra_utils.replies import load_risks, make_example
    >>> from fulcra_utils.theory.theory import load_theory
    >>> replies = make_example(load_theory("schwartz10"))
    >>> items = pd.DataFrame(0, index=range(80), columns=replies.theory.items).assign(row_id=replies.table.row_id)
    >>> examine_reliability(items, replies).reading
    'Reliability is left out: the annotated replies carry no item labels.'
    """
    labels = _align_items(items, replies)
    if labels is None:
        return leave_out("Reliability", "the annotated replies carry no item labels")
    theory = replies.theory
    found = [estimate_reliability(labels[:, theory.item_dims == d], replies.clusters, min_rows, n_draws, seed)
             for d in range(theory.n_dims)]
    table = pd.DataFrame([{"value": name, **row} for name, row in zip(theory.dimensions, found, strict=True)])
    known = table[table.reliability.notna()]
    told = ", ".join(f"{r.value} {r.reliability:.2f} ({r.low:.2f} to {r.high:.2f})" for r in known.itertuples())
    reading = (f"Estimable for {len(known)} of {len(table)} values{': ' + told if told else ''}. Items are ticked when "
               "they apply: a low figure says that a value's items seldom stand together, not that labels are noisy.")
    return Finding(table, reading, f"{replies.describe()}; 95 % bootstrap intervals over prompts.")


def check_items(items: pd.DataFrame, replies: Replies) -> Finding:
    """Check per value that the label is the sign of the summed item labels.

    Returns
    -------
    Finding
        value, agree, n (cells in which rule or label is not 0), share, low, high.

    Source: the released labels.

    Examples
    --------
    >>> from fulcra_utils.replies import load_risks, make_example
    >>> from fulcra_utils.theory.theory import load_theory
    >>> replies = make_example(load_theory("schwartz10"))
    >>> items = pd.DataFrame(0, index=range(80), columns=replies.theory.items).assign(row_id=replies.table.row_id)
    >>> agree = check_items(items.assign(**{"be creative": 1}), replies).table.agree[0]
    >>> int(agree) == int((replies.vectors[:, 0] == 1).sum())
    True
    """
    labels = _align_items(items, replies)
    if labels is None:
        return leave_out("The item-value rule", "the annotated replies carry no item labels")
    hits, counted = check_sign_rule(labels, replies.theory.item_matrix, replies.vectors)
    table = _tabulate_shares(replies, "agree", hits, counted)
    rule = np.sign(labels @ replies.theory.item_matrix)
    rows = (rule == np.sign(replies.vectors)).all(axis=1)
    reading = (f"In {rows.sum():,} of {len(rows):,} replies the sign of the summed items gives every value's label; of "
               f"the cells that say anything it gives {hits.sum() / max(1, counted.sum()):.1%}.")
    return Finding(table, reading, f"{replies.describe()}; {INTERVAL}.")


def _tabulate_shares(replies: Replies, name: str, hits: np.ndarray, counted: np.ndarray) -> pd.DataFrame:
    share, low, high = share_interval(hits, counted, replies.clusters)
    return pd.DataFrame({"value": replies.theory.dimensions, name: hits.sum(axis=0), "n": counted.sum(axis=0),
                         "share": share, "low": low, "high": high})


def _align_items(items: pd.DataFrame, replies: Replies) -> np.ndarray | None:
    """Return the (N, I) item labels of the replies, or None when there is not one."""
    names = list(replies.theory.items)
    if len(replies) == 0 or not set(names) <= set(items.columns):
        return None
    labels = items.set_index("row_id")[names].reindex(replies.table.row_id).fillna(0).to_numpy(float)
    return labels if labels.any() else None


def measure_clarity(replies: Replies, items: pd.DataFrame | None = None) -> Finding:
    """Measure how many cells are ambiguous: a score near the cut, or items of both signs within a value.

    Parameters
    ----------
    replies : Replies
    items : DataFrame, optional
        Item labels of annotated replies. Without them scores are judged by their distance from the cut.

    Returns
    -------
    Finding
        value, ambiguous, n (cells in which the value is expressed at all), share, low, high.

    Source: clarity, the first aim of the paper's framework; measured by ours.

    Examples
    --------
    >>> from fulcra_utils.replies import load_risks, make_example
    >>> from fulcra_utils.theory.theory import load_theory
    >>> measure_clarity(make_example(load_theory("schwartz10"))).is_left_out
    True
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
    table, n = _tabulate_shares(replies, "ambiguous", unclear & counted, counted), int(counted.sum())
    reading = f"Ambiguous ({what}): {table.ambiguous.sum() / max(1, n):.1%} of {n:,} expressed cells."
    return Finding(table, reading, f"{replies.describe()}; ambiguous: {what}; {INTERVAL}.")


def measure_adaptability(items: pd.DataFrame, replies: Replies, theories: Mapping[str, Theory], n_folds: int = 5,
                         seed: int = 0) -> Finding:
    """Run the same analysis under other theories, carried over by the items that they share.

    Parameters
    ----------
    items : DataFrame
        row_id and one column for each item of the run's theory.
    replies : Replies
        The annotated replies.
    theories : mapping of name to Theory

    Returns
    -------
    Finding
        theory, n_values, shared_items (of the run's theory), n_expressed (rows in which a value is expressed),
        two_axes (share of the variance in two principal components), preference (accuracy of the pairwise probe; nan
        without rewards), remark.

    Source: adaptability, the second aim of the paper's framework; measured by ours.

    Examples
    --------
    >>> from fulcra_utils.replies import load_risks, make_example
    >>> from fulcra_utils.theory.theory import load_theory
    >>> replies = make_example(load_theory("schwartz10"))
    >>> items = pd.DataFrame(1, index=range(80), columns=replies.theory.items).assign(row_id=replies.table.row_id)
    >>> other = load_theory("schwartz19")
    >>> int(measure_adaptability(items, replies, {other.name: other}).table.n_expressed[0])
    80
    """
    labels = _align_items(items, replies)
    if labels is None:
        return leave_out("Adaptability", "the annotated replies carry no item labels to carry over")
    rows = []
    for theory in theories.values():
        carried = [theory.find_item(name) for name in replies.theory.items]
        shared = [i for i, c in enumerate(carried) if c is not None]
        row = {"theory": theory.name, "n_values": theory.n_dims, "shared_items": len(shared) / len(carried),
               "remark": ""}
        if not shared:
            rows.append(row | {"remark": "shares no item: needs labels of its own (run the notebook with theory=…)"})
            continue
        matrix = theory.item_matrix[[carried[i] for i in shared]]
        rows.append(row | _measure_theory(np.sign(labels[:, shared] @ matrix), replies, n_folds, seed))
    columns = ["theory", "n_values", "shared_items", "n_expressed", "two_axes", "preference", "remark"]
    table = pd.DataFrame(rows).reindex(columns=columns)
    n = int(table.n_expressed.notna().sum())
    reading = (f"The same calls ran under {n} of {len(table)} theories on these labels; the others need labels of "
               "their own, nothing else.")
    return Finding(table, reading, f"{replies.describe()}; preference: cross-validated by prompt.")


def _measure_theory(vectors: np.ndarray, replies: Replies, n_folds: int, seed: int) -> dict:
    """Return what one theory's vectors show on the replies."""
    reward = replies.table.reward.to_numpy(float)
    pairs = pair_replies(replies.table.prompt.to_numpy(), reward)
    share = find_components(vectors)["share"].sum() if len(vectors) > 1 else np.nan
    found = {"n_expressed": int((vectors != 0).any(axis=1).sum()), "two_axes": float(share)}
    if len(pairs) < MIN_ROWS:
        return found
    first, second = pairs.T
    probe = probe_preference(vectors[first] - vectors[second], reward[first] > reward[second], replies.clusters[first],
                             n_folds, n_permutations=0, n_draws=200, seed=seed)
    return found | {"preference": probe["accuracy"]}
