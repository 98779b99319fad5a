"""Figures of the value analysis: table in, Figure out; nothing is computed here that a reader would want to check.

One style (`use_style`), colour-blind safe: colours from seaborn's "colorblind" palette, never colour alone where two
series overlap (markers differ too). An empty table gives a small figure that says what was left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fulcra_utils.plots.style import COLOURS, DIVERGING, GREY, MARKERS, OPPOSED, SUPPORTED, _note_if_empty
from fulcra_utils.theory.theory import Theory


@_note_if_empty
def draw_prevalence(table: pd.DataFrame, theory: Theory, reported: pd.DataFrame) -> Figure:
    """Draw how often each value is supported and opposed, with the published shares as diamonds.

    Parameters
    ----------
    table : DataFrame
        value, by, sign, share, low, high; the rows with by = "all" are drawn.
    theory : Theory
    reported : DataFrame
        claim_id, reported ("prevalence/<value>/aligned", "…/expressed").

    Returns
    -------
    Figure

    Source: after the paper's prevalence figure.

    Examples
    --------
    >>> from fulcra_utils.theory.theory import load_theory
    >>> table = pd.DataFrame({"value": ["care"], "by": "all", "sign": "supported", "share": 0.5, "low": 0.4,
    ...                       "high": 0.6})
    >>> reported = pd.DataFrame({"claim_id": [], "reported": []})
    >>> len(draw_prevalence(table, load_theory("moral_foundations"), reported).axes[0].patches)
    10
    """
    rows, claims = table[table.by == "all"], reported.set_index("claim_id").reported
    y = np.arange(theory.n_dims)
    figure, axes = plt.subplots(figsize=(7, 1.2 + 0.32 * theory.n_dims), layout="constrained")
    for sign, colour, direction in (("supported", SUPPORTED, 1), ("opposed", OPPOSED, -1)):
        one = rows[rows.sign == sign].set_index("value").reindex(theory.dimensions)
        axes.barh(y, direction * one.share, color=colour, height=0.65, label=f"{sign} (this run)")
        errors = np.clip([one.share - one.low, one.high - one.share][::direction], 0, None)
        axes.errorbar(direction * one.share, y, xerr=errors, fmt="none", ecolor="black", elinewidth=0.8, capsize=2)
    for word, marker, label in (("aligned", "D", "supported (published)"), ("expressed", "|", "expressed (published)")):
        x = claims.reindex([f"prevalence/{v}/{word}" for v in theory.dimensions]).to_numpy(float)
        if np.isfinite(x).any():
            axes.plot(x, y, linestyle="", marker=marker, markersize=5 if marker == "D" else 11, markeredgewidth=1.2,
                      markerfacecolor="white", markeredgecolor="black", zorder=3, label=label)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(y, theory.dimensions)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda v, _: f"{abs(v):.0%}")
    axes.set_xlabel("← opposed     share of replies     supported →")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@_note_if_empty
def draw_risks(table: pd.DataFrame, theory: Theory, risks: dict[str, str]) -> Figure:
    """Draw the value x risk table: ours, the published one, and the cells that truly differ.

    Parameters
    ----------
    table : DataFrame
        value, risk, r, low, high, p_adjusted, reported, tolerance of one way of correlating.
    theory : Theory
    risks : dict
        Risk to its title, in column order.

    Returns
    -------
    Figure
        A star marks an adjusted p below 0.05, a frame a cell whose whole interval lies outside the tolerance.

    Source: after the paper's value x risk figure.

    Examples
    --------
    >>> draw_risks(pd.DataFrame(), None, {}).texts[0].get_text().startswith("Left out")
    True
    """
    def grid(column: str) -> pd.DataFrame:
        return table.pivot(index="value", columns="risk", values=column).reindex(theory.dimensions)[list(risks)]

    ours, published = grid("r"), grid("reported")
    panels = [("this run", ours)]
    if published.notna().any(axis=None):
        panels += [("published", published), ("this run − published", ours - published)]
    figure, axes = plt.subplots(1, len(panels), sharey=True, squeeze=False, layout="constrained",
                                figsize=(1.6 + 2.6 * len(panels), 2.6 + 0.3 * theory.n_dims))
    stars = grid("p_adjusted") < 0.05
    outside = (grid("high") < published - grid("tolerance")) | (grid("low") > published + grid("tolerance"))
    for k, (title, values) in enumerate(panels):
        words = values.map(lambda v: "" if pd.isna(v) else f"{v:+.2f}") + (stars.map(lambda s: "*" if s else "")
                                                                           if k == 0 else "")
        titles = [fill(r, 12, break_long_words=False) for r in risks.values()]
        sns.heatmap(values.set_axis(titles, axis=1), ax=axes[0, k], vmin=-0.6, vmax=0.6, cmap=DIVERGING,
                    annot=words.to_numpy(), fmt="", annot_kws={"size": 7}, linewidths=0.4, cbar=k == len(panels) - 1,
                    cbar_kws={"label": "correlation"})
        axes[0, k].set(title=title, xlabel="", ylabel="")
        axes[0, k].tick_params(axis="x", rotation=90)
        axes[0, k].tick_params(axis="y", rotation=0)
    if len(panels) == 3:
        for row, column in np.argwhere(outside.to_numpy()):
            axes[0, 2].add_patch(plt.Rectangle((column, row), 1, 1, fill=False, edgecolor="black", linewidth=1.6))
    return figure


@_note_if_empty
def draw_space(table: pd.DataFrame) -> Figure:
    """Draw the value space, a row each projection: by risk, model, refusal and reward, with the published profiles.

    Parameters
    ----------
    table : DataFrame
        method, x, y, pole, model, risk, refusal, reward (from `project_replies`).

    Returns
    -------
    Figure

    Source: after the paper's value-space figure.

    Examples
    --------
    >>> points = pd.DataFrame({"method": "pca", "x": [0.0, 1], "y": [0.0, 1], "pole": ["", "safe"], "model": ["a", ""],
    ...                        "risk": ["none", ""], "refusal": ["no", ""], "reward": [1.0, None]})
    >>> len(draw_space(points).axes)
    5
    """
    titles = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
    methods = list(dict.fromkeys(table.method))
    figure, axes = plt.subplots(len(methods), 4, figsize=(13, 3.1 * len(methods) + 1), squeeze=False,
                                layout="constrained")
    for row, method in enumerate(methods):
        points = table[table.method == method]
        replies, poles = points[points.pole == ""], points[points.pole != ""]
        for axis, column in zip(axes[row], ("risk", "model", "refusal", "reward"), strict=True):
            _scatter(axis, replies, column)
            axis.scatter(poles.x, poles.y, marker="X", s=70, color="black", edgecolor="white", linewidth=0.8, zorder=4)
            axis.set(xticks=[], yticks=[], title=f"{titles.get(method, method)}, by {column}")
            sns.despine(ax=axis, left=True, bottom=True)
        _label_poles(axes[row, 0], poles)
    for column in (0, 1, 2):
        handles, labels = axes[0, column].get_legend_handles_labels()
        axes[-1, column].legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2,
                                markerscale=1.8)
    return figure


def _scatter(axis: Axes, replies: pd.DataFrame, column: str) -> None:
    """Scatter the replies, coloured by one column."""
    if column == "reward":
        if replies.reward.isna().all():
            axis.text(0.5, 0.5, "no reward known", transform=axis.transAxes, ha="center", color=GREY)
            return
        low, high = replies.reward.quantile([0.02, 0.98])
        drawn = axis.scatter(replies.x, replies.y, c=replies.reward, s=6, alpha=0.7, cmap="viridis", vmin=low,
                             vmax=high, rasterized=True)
        axis.figure.colorbar(drawn, ax=axis, label="reward", shrink=0.8)
        return
    counts = replies[column].value_counts()
    plain = [n for n in counts.index if n in {"several risks", "no listed risk", "not known", "nan", "None"}]
    for name in plain:
        part = replies[replies[column] == name]
        axis.scatter(part.x, part.y, s=5, alpha=0.35, color="#bbbbbb" if name == "several risks" else "#dddddd",
                     label=name, rasterized=True)
    for k, name in enumerate(n for n in counts.index if n not in plain):
        part = replies[replies[column] == name]
        axis.scatter(part.x, part.y, s=8, alpha=0.7, color=COLOURS[k % len(COLOURS)], marker=MARKERS[k % len(MARKERS)],
                     linewidth=0, label=fill(str(name), 22), rasterized=True)


def _label_poles(axis: Axes, poles: pd.DataFrame) -> None:
    """Write the profiles' names beside their crosses, inside the axes."""
    middle, gap, last = np.mean(axis.get_xlim()), 0.07 * np.ptp(axis.get_ylim()), -np.inf
    ordered = poles.sort_values("y")
    is_near = (ordered.y.diff(-1).abs() < 1.5 * gap).to_numpy()
    for pole, below in zip(ordered.itertuples(), is_near, strict=True):
        level = max(pole.y - gap if below else pole.y + 0.4 * gap, last + gap)
        side, last = (-1 if pole.x > middle else 1), level
        axis.annotate(pole.pole, (pole.x, pole.y), xytext=(pole.x + side * 0.02 * np.ptp(axis.get_xlim()), level),
                      ha="right" if side < 0 else "left", weight="bold", fontsize=7,
                      bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8})


@_note_if_empty
def draw_probes(table: pd.DataFrame) -> Figure:
    """Draw what each feature set tells about preference, risk and reward, next to chance and the permutation null.

    Parameters
    ----------
    table : DataFrame
        task, features, rows, score, low, high, chance, null (from `probe_replies`).

    Returns
    -------
    Figure

    Source: ours.

    Examples
    --------
    >>> rows = pd.DataFrame({"task": ["risk"], "features": ["values"], "rows": ["all"], "score": [0.5], "low": [0.4],
    ...                      "high": [0.6], "chance": [0.2], "null": [0.25]})
    >>> [t.get_text() for t in draw_probes(rows).axes[0].get_yticklabels()]
    ['values']
    """
    labels = {"preference": "which reply is preferred\n(accuracy)", "risk": "risk of the prompt\n(balanced accuracy)",
              "reward": "reward\n(cross-validated R²)"}
    tasks = [t for t in labels if (table.task == t).any()]
    names = list(dict.fromkeys(table.features))
    figure, axes = plt.subplots(1, len(tasks), figsize=(2.4 + 2.7 * len(tasks), 1.6 + 0.36 * len(names)), sharey=True,
                                squeeze=False, layout="constrained")
    for axis, task in zip(axes[0], tasks, strict=True):
        for shift, (rows, filled) in zip((-0.14, 0.14), (("all", True), ("non-refusals", False)), strict=True):
            part = table[(table.task == task) & (table.rows == rows)]
            y = np.array([names.index(f) for f in part.features]) + shift
            axis.errorbar(part.score, y, xerr=_whiskers(part.score, part.low, part.high), fmt="none", capsize=2,
                          ecolor=COLOURS[0] if filled else COLOURS[1], elinewidth=1)
            axis.scatter(part.score, y, s=28, zorder=3, color=COLOURS[0] if filled else "white",
                         edgecolor=COLOURS[0] if filled else COLOURS[1], marker="o" if filled else "s",
                         label="all replies" if filled else "non-refusals only")
            axis.scatter(part.null, y, marker="|", s=60, color="black", linewidth=1,
                         label="95 % of permutations" if filled else None)
        axis.axvline(table[table.task == task].chance.iloc[0], color=GREY, linestyle=":", linewidth=1)
        axis.set(xlabel=labels[task], yticks=range(len(names)))
        axis.set_yticklabels(names)
    axes[0, 0].invert_yaxis()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@_note_if_empty
def draw_weights(table: pd.DataFrame, theory: Theory) -> Figure:
    """Draw the preference probe's weight of each value, alone and with refusal and length held fixed.

    Parameters
    ----------
    table : DataFrame
        value, with, weight, low, high (from `weigh_values`).
    theory : Theory

    Returns
    -------
    Figure

    Source: ours.

    Examples
    --------
    >>> draw_weights(pd.DataFrame(), None).get_size_inches().tolist()
    [6.5, 1.0]
    """
    figure, axis = plt.subplots(figsize=(6, 1.4 + 0.34 * theory.n_dims), layout="constrained")
    for k, (name, part) in enumerate(table.groupby("with", sort=False)):
        part = part.set_index("value").reindex(theory.dimensions)
        _dots(axis, part.weight, part.low, part.high, k, 2, name)
    _finish_dots(axis, theory.dimensions, "log-odds of being preferred, value 0 → 1")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@_note_if_empty
def draw_clusters(table: pd.DataFrame, theory: Theory, max_rows: int = 30) -> Figure:
    """Draw the clusters' centres as a heat map, candidates for unknown risks first and marked.

    Parameters
    ----------
    table : DataFrame
        One column a value, size, n_prompts, is_candidate, category, purity, stability (from `find_unknown_risks`).
    theory : Theory

    Returns
    -------
    Figure

    Source: ours.

    Examples
    --------
    >>> draw_clusters(pd.DataFrame(), None).get_size_inches().tolist()
    [6.5, 1.0]
    """
    shown = table.head(max_rows)
    words = [f"{'► ' if r.is_candidate else ''}{r.size:,} replies, {r.n_prompts:,} prompts; "
             f"{_short(r.category, r.purity)}; J = {r.stability:.2f}" for r in shown.itertuples()]
    width = 4.2 + 0.42 * theory.n_dims
    figure, axis = plt.subplots(figsize=(width, 1.8 + 0.27 * len(shown)), layout="constrained")
    sns.heatmap(shown[list(theory.dimensions)].to_numpy(float), vmin=-1, vmax=1, cmap=DIVERGING, ax=axis,
                linewidths=0.4, xticklabels=theory.dimensions, yticklabels=words,
                cbar_kws={"label": "mean score", "shrink": 0.6})
    axis.tick_params(axis="x", rotation=60)
    axis.tick_params(axis="y", rotation=0)
    plt.setp(axis.get_xticklabels(), ha="right", rotation_mode="anchor")
    for label, is_candidate in zip(axis.get_yticklabels(), shown.is_candidate, strict=True):
        label.set_weight("bold" if is_candidate else "normal")
    return figure


@_note_if_empty
def draw_radar(table: pd.DataFrame, theory: Theory) -> Figure:
    """Draw the models' mean vectors round the theory's circle (canonical order where it has none).

    Parameters
    ----------
    table : DataFrame
        model, rows, quantity, mean, low, high (from `average_models`).
    theory : Theory

    Returns
    -------
    Figure
        One panel for all replies, one for non-refusals where there are refusals.

    Source: after the paper's radar.

    Examples
    --------
    >>> from fulcra_utils.theory.theory import load_theory
    >>> theory = load_theory("moral_foundations")
    >>> means = pd.DataFrame({"model": "a", "rows": "all", "quantity": theory.dimensions, "mean": 0.5, "low": 0.4,
    ...                       "high": 0.6})
    >>> [t.get_text() for t in draw_radar(means, theory).axes[0].get_xticklabels()] == list(theory.dimensions)
    True
    """
    order = list(theory.circle or theory.dimensions)
    table = table[table.quantity.isin(order)]
    angles = np.linspace(0, 2 * np.pi, len(order), endpoint=False)
    panels = [r for r in ("all", "non-refusals") if (table.rows == r).any()]
    size = 4.4 + 0.12 * max(0, len(order) - 10)
    figure, axes = plt.subplots(1, len(panels), figsize=(size * len(panels), size), squeeze=False,
                                subplot_kw={"projection": "polar"}, layout="constrained")
    models = list(dict.fromkeys(table.model))
    for axis, rows in zip(axes[0], panels, strict=True):
        for k, model in enumerate(models):
            part = table[(table.model == model) & (table.rows == rows)].set_index("quantity").reindex(order)
            close = [*range(len(order)), 0]
            axis.plot(angles[close], part["mean"].iloc[close], color=COLOURS[k % len(COLOURS)], linewidth=1.4,
                      marker=MARKERS[k % len(MARKERS)], markersize=4, label=model)
            axis.fill_between(angles[close], part.low.iloc[close], part.high.iloc[close], alpha=0.2,
                              color=COLOURS[k % len(COLOURS)], linewidth=0)
        axis.set_theta_offset(np.pi / 2)
        axis.set_theta_direction(-1)
        axis.set_xticks(angles, [fill(name, 14) for name in order])
        for label, angle in zip(axis.get_xticklabels(), angles, strict=True):
            label.set_ha("center" if abs(np.sin(angle)) < 0.1 else "left" if np.sin(angle) > 0 else "right")
        axis.tick_params(axis="x", pad=3)
        low = min(-0.25, table.low.min()) if len(table) else -1
        axis.set(ylim=(max(-1, low), 1), yticks=[v for v in (-0.5, 0, 0.5, 1) if v >= low])
        axis.plot(np.linspace(0, 2 * np.pi, 100), np.zeros(100), color="black", linewidth=0.8)
        axis.set_title({"all": "all replies", "non-refusals": "non-refusals only"}[rows], pad=16)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=min(5, len(models)))
    return figure


@_note_if_empty
def draw_differences(table: pd.DataFrame, theory: Theory, max_pairs: int = 4) -> Figure:
    """Draw the paired differences of models: as they are, with refusal and length alike, and where both answer.

    Parameters
    ----------
    table : DataFrame
        first, second, value, difference, low, high, adjusted…, both_answer… (from `compare_models`).
    theory : Theory
    max_pairs : int
        Panels; further pairs stand in the table only.

    Returns
    -------
    Figure

    Source: ours.

    Examples
    --------
    >>> draw_differences(pd.DataFrame(), None).get_size_inches().tolist()
    [6.5, 1.0]
    """
    pairs = list(dict.fromkeys(zip(table["first"], table["second"], strict=True)))[:max_pairs]
    figure, axes = plt.subplots(1, len(pairs), figsize=(1.8 + 2.9 * len(pairs), 1.7 + 0.36 * theory.n_dims),
                                sharey=True, sharex=True, squeeze=False, layout="constrained")
    kinds = [("difference", "low", "high", "as they are"),
             ("adjusted", "adjusted_low", "adjusted_high", "refusal and length alike"),
             ("both_answer", "both_answer_low", "both_answer_high", "neither refuses")]
    for axis, (first, second) in zip(axes[0], pairs, strict=True):
        part = table[(table["first"] == first) & (table["second"] == second)].set_index("value")
        part = part.reindex(theory.dimensions)
        for k, (middle, low, high, name) in enumerate(kinds):
            _dots(axis, part[middle], part[low], part[high], k, len(kinds), name)
        _finish_dots(axis, theory.dimensions, "mean difference")
        axis.set_title(f"{first}\n− {second}")
    for axis in axes[0, 1:]:
        axis.tick_params(axis="y", length=0)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@_note_if_empty
def draw_circle(places: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Draw the values where scaling puts them, turned onto the theory's circle, and the fits of all tests.

    Parameters
    ----------
    places : DataFrame
        value, x, y, ideal_x, ideal_y.
    table : DataFrame
        subset, variant, centred, fit, fit_null, fit_p (from `examine_circle`).

    Returns
    -------
    Figure

    Source: after Schwartz (1992).

    Examples
    --------
    >>> draw_circle(pd.DataFrame(), pd.DataFrame()).get_size_inches().tolist()
    [6.5, 1.0]
    """
    tested = table[table.fit.notna()].reset_index(drop=True)
    figure, axes = plt.subplots(1, 2, figsize=(10, max(4.6, 1 + 0.26 * len(tested))), layout="constrained",
                                width_ratios=(1.1, 1))
    turn = np.linspace(0, 2 * np.pi, 200)
    axes[0].plot(np.cos(turn), np.sin(turn), color=GREY, linewidth=0.8, linestyle=":")
    for p in places.itertuples():
        axes[0].plot([p.ideal_x, p.x], [p.ideal_y, p.y], color="#cccccc", linewidth=0.8, zorder=1)
    axes[0].scatter(places.ideal_x, places.ideal_y, facecolor="white", edgecolor=GREY, s=30,
                    label="the theory's circle")
    axes[0].scatter(places.x, places.y, color=COLOURS[0], s=32, zorder=3, label="scaling of the replies")
    _label_apart(axes[0], places)
    axes[0].set(aspect="equal", xticks=[], yticks=[])
    axes[0].margins(0.22)
    sns.despine(ax=axes[0], left=True, bottom=True)
    axes[0].legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2)
    y = np.arange(len(tested))
    axes[1].scatter(tested.fit, y, color=[COLOURS[0] if p <= 0.05 else "white" for p in tested.fit_p], s=30, zorder=3,
                    edgecolor=COLOURS[0], label="fit (filled: p ≤ 0.05)")
    axes[1].scatter(tested.fit_null, y, marker="|", color="black", s=60, label="95 % of shuffled names")
    words = tested.subset + ", " + tested.variant + np.where(tested.centred, ", centred", "")
    axes[1].set(yticks=y, xlim=(0, 1), xlabel="Procrustes fit (R²)")
    axes[1].set_yticklabels(words)
    axes[1].invert_yaxis()
    axes[1].legend(loc="upper center", bbox_to_anchor=(0.4, -0.1), ncols=2)
    return figure


def _label_apart(axis: Axes, places: pd.DataFrame) -> None:
    """Write the values' names outward from the middle, those at nearly the same height apart."""
    gap = 0.11 * max(np.ptp(places.y), 1)
    for side in (-1, 1):
        part = places[np.where(places.x >= 0, 1, -1) == side].sort_values("y")
        level = -np.inf
        for p in part.itertuples():
            level = max(p.y, level + gap)
            axis.annotate(p.value, (p.x, p.y), xytext=(p.x + side * 0.1, level), fontsize=8, va="center",
                          ha="left" if side > 0 else "right",
                          arrowprops={"arrowstyle": "-", "color": "#aaaaaa", "linewidth": 0.5})


def _dots(axis: Axes, middle: pd.Series, low: pd.Series, high: pd.Series, k: int, n: int, label: str) -> None:
    """Draw one of n series of dots with whiskers, shifted so that series do not cover each other."""
    y = np.arange(len(middle)) + (k - (n - 1) / 2) * 0.22
    axis.errorbar(middle, y, xerr=_whiskers(middle, low, high), fmt=MARKERS[k], color=COLOURS[k], markersize=4,
                  elinewidth=1, capsize=2, label=label, markerfacecolor=COLOURS[k] if k == 0 else "white")


def _finish_dots(axis: Axes, names: Sequence[str], label: str) -> None:
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(xlabel=label, yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5))
    axis.set_yticklabels(names)


def _whiskers(middle: pd.Series, low: pd.Series, high: pd.Series) -> np.ndarray:
    """Return the lengths below and above; 0 where an interval is missing."""
    return np.nan_to_num(np.clip([middle - low, high - middle], 0, None))


def _short(category: str, share: float) -> str:
    """Return a category without its list of synonyms, and its share."""
    return f"{category.split(',')[0].replace('_', ' ')} {share:.0%}" if share > 0 else "no known category"
