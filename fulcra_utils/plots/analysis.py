"""Figures of the value analysis: table in, Figure out; nothing is computed here that a reader would want to check.

Colour is never alone where two series overlap: markers differ too. An empty table draws nothing.
"""

from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fulcra_utils.plots.style import (
    BLACK,
    BLUE,
    COLOURS,
    DIVERGING,
    GREY,
    MARKERS,
    OPPOSED,
    PALE,
    SUPPORTED,
    YELLOW,
    draw_intervals,
    finish,
    label_points,
    name_rows,
    styled,
)
from fulcra_utils.theory.theory import Theory


@styled
def plot_prevalence(table: pd.DataFrame, theory: Theory, reported: pd.DataFrame) -> Figure:
    """Draw how often each value is supported and opposed (by = "all"), with the published shares as diamonds."""
    rows, claims = table[table.by == "all"], reported.set_index("claim_id").reported
    y = np.arange(theory.n_dims)
    figure, axes = plt.subplots(figsize=(7, 1.2 + 0.32 * theory.n_dims), layout="constrained")
    for sign, colour, direction in (("supported", SUPPORTED, 1), ("opposed", OPPOSED, -1)):
        one = rows[rows.sign == sign].set_index("value").reindex(theory.dimensions)
        axes.barh(y, direction * one.share, color=colour, height=0.65, label=f"{sign} (this run)")
        axes.hlines(y, direction * one.low, direction * one.high, color=BLACK, linewidth=0.9)
    for word, marker, label in (("aligned", "D", "supported (published)"), ("expressed", "|", "expressed (published)")):
        x = claims.reindex([f"prevalence/{v}/{word}" for v in theory.dimensions]).to_numpy(float)
        if np.isfinite(x).any():
            axes.plot(x, y, linestyle="", marker=marker, markersize=5 if marker == "D" else 11, markeredgewidth=1.2,
                      markerfacecolor="white", markeredgecolor=BLACK, zorder=3, label=label)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    name_rows(axes, theory.dimensions, "← opposed     share of replies     supported →")
    axes.xaxis.set_major_formatter(lambda v, _: f"{abs(v):.0%}")
    return finish(figure, ncols=2)


@styled
def plot_risks(table: pd.DataFrame, theory: Theory, risks: dict[str, str]) -> Figure:
    """Draw the value x risk table of one way of correlating (risk → title): ours, the published one, the difference.

    A star marks an adjusted p below 0.05, a frame a cell whose whole interval lies outside the tolerance.
    """
    def grid(column: str) -> pd.DataFrame:
        return table.pivot(index="value", columns="risk", values=column).reindex(theory.dimensions)[list(risks)]

    ours, published = grid("r"), grid("reported")
    panels = [("this run", ours)]
    if published.notna().any(axis=None):
        panels += [("published", published), ("this run − published", ours - published)]
    figure, axes = plt.subplots(1, len(panels), sharey=True, squeeze=False, layout="constrained",
                                figsize=(1.6 + 2.6 * len(panels), 2.6 + 0.3 * theory.n_dims))
    stars = (grid("p_adjusted") < 0.05).map(lambda s: "*" if s else "")
    outside = (grid("high") < published - grid("tolerance")) | (grid("low") > published + grid("tolerance"))
    for k, (title, values) in enumerate(panels):
        words = values.map(lambda v: "" if pd.isna(v) else f"{v:+.2f}") + (stars if k == 0 else "")
        titles = [fill(r, 12, break_long_words=False) for r in risks.values()]
        sns.heatmap(values.set_axis(titles, axis=1), ax=axes[0, k], vmin=-0.6, vmax=0.6, cmap=DIVERGING,
                    annot=words.to_numpy(), fmt="", annot_kws={"size": 7}, linewidths=0.4, cbar=k == len(panels) - 1,
                    cbar_kws={"label": "correlation"})
        axes[0, k].set(title=title, xlabel="", ylabel="")
        axes[0, k].tick_params(axis="x", rotation=90)
        axes[0, k].tick_params(axis="y", rotation=0)
    if len(panels) == 3:
        for row, column in np.argwhere(outside.to_numpy()):
            axes[0, 2].add_patch(plt.Rectangle((column, row), 1, 1, fill=False, edgecolor=BLACK, linewidth=1.6))
    return figure


@styled
def plot_space(table: pd.DataFrame) -> Figure:
    """Draw the value space (`project_replies`): the first projection large by risk, with the published profiles.

    Below, small: the same by model, refusal and reward, then each further projection by risk, refusal and reward.
    """
    methods, small = list(dict.fromkeys(table.method)), ("model", "refusal", "reward")
    figure = plt.figure(figsize=(9, 5.6 + 3 * len(methods)), layout="constrained")
    grid = figure.add_gridspec(1 + len(methods), 3, height_ratios=[1.9, *[1] * len(methods)])
    large = figure.add_subplot(grid[0, :])
    panels = [(large, methods[0], "risk")]
    for row, method in enumerate(methods, 1):
        panels += [(figure.add_subplot(grid[row, k]), method, column)
                   for k, column in enumerate(small if row == 1 else ("risk", *small[1:]))]
    for axes, method, column in panels:
        points = table[table.method == method]
        replies, poles = points[points.pole == ""], points[points.pole != ""]
        _scatter(axes, replies, column, 3 if axes is large else 1)
        axes.scatter(poles.x, poles.y, marker="X", s=110 if axes is large else 50, color=BLACK, edgecolor="white",
                     linewidth=0.8, zorder=4)
        title = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}.get(method, method)
        axes.set(xticks=[], yticks=[], title=f"{title}, by {column}")
        axes.spines[:].set_visible(False)
        if axes is large:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=4, fontsize=9)
        elif column in ("model", "refusal") and method == methods[0]:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, markerscale=1.6)
    poles = table[(table.method == methods[0]) & (table.pole != "")]
    label_points(large, poles[["x", "y"]].to_numpy(float), poles.pole.tolist(), 10, weight="bold", zorder=5,
                 bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85})
    return figure


def _scatter(axes: Axes, replies: pd.DataFrame, column: str, size: float) -> None:
    """Scatter the replies, coloured by one column; `size` multiplies that of the marks."""
    if column == "reward":
        if replies.reward.isna().all():
            axes.text(0.5, 0.5, "no reward known", transform=axes.transAxes, ha="center", color=GREY)
            return
        low, high = replies.reward.quantile([0.02, 0.98])
        drawn = axes.scatter(replies.x, replies.y, c=replies.reward, s=6 * size, alpha=0.7, cmap="viridis", vmin=low,
                             vmax=high, rasterized=True)
        axes.figure.colorbar(drawn, ax=axes, label="reward", shrink=0.8)
        return
    counts = replies[column].value_counts()
    plain = [n for n in counts.index if n in {"several risks", "no listed risk", "not known", "nan", "None"}]
    for name in plain:
        part = replies[replies[column] == name]
        axes.scatter(part.x, part.y, s=5 * size, alpha=0.35, color="#bbbbbb" if name == "several risks" else PALE,
                     label=name, rasterized=True)
    for k, name in enumerate(n for n in counts.index if n not in plain):
        part = replies[replies[column] == name]
        axes.scatter(part.x, part.y, s=7 * size, alpha=0.75, color=COLOURS[k % 10], marker=MARKERS[k % 10],
                     linewidth=0, label=fill(str(name), 22), rasterized=True)


@styled
def plot_probes(table: pd.DataFrame) -> Figure:
    """Draw what each feature set tells of preference, risk and reward (`probe_replies`), beside chance and null."""
    labels = {"preference": "which reply is preferred\n(accuracy)", "risk": "risk of the prompt\n(balanced accuracy)",
              "reward": "reward\n(cross-validated R²)"}
    tasks = [t for t in labels if (table.task == t).any()]
    names = list(dict.fromkeys(table.features))
    figure, axes = plt.subplots(1, len(tasks), figsize=(2.4 + 2.7 * len(tasks), 1.6 + 0.36 * len(names)), sharey=True,
                                squeeze=False, layout="constrained")
    for axis, task in zip(axes[0], tasks, strict=True):
        for shift, rows, colour, marker, words in ((-0.14, "all", BLUE, "o", "all replies"),
                                                   (0.14, "non-refusals", YELLOW, "s", "non-refusals only")):
            part = table[(table.task == task) & (table.rows == rows)]
            y = np.array([names.index(f) for f in part.features]) + shift
            draw_intervals(axis, part, y, ("score", "low", "high"), colour, marker, words, rows == "all")
            axis.scatter(part.null, y, marker="|", s=60, color=BLACK, linewidth=1,
                         label="95 % of permutations" if rows == "all" else None)
        axis.axvline(table[table.task == task].chance.iloc[0], color=GREY, linestyle=":", linewidth=1)
        name_rows(axis, names, labels[task])
    return finish(figure, ncols=3)


@styled
def plot_weights(table: pd.DataFrame, theory: Theory) -> Figure:
    """Draw the preference probe's weight of each value (`weigh_values`), alone and with refusal and length fixed."""
    figure, axis = plt.subplots(figsize=(6, 1.4 + 0.34 * theory.n_dims), layout="constrained")
    _draw_dots(axis, theory, [(part, ("weight", "low", "high"), name)
                              for name, part in table.groupby("with", sort=False)])
    axis.set_xlabel("log-odds of being preferred, value 0 → 1")
    return finish(figure, ncols=2)


@styled
def plot_clusters(table: pd.DataFrame, theory: Theory, max_rows: int = 30) -> Figure:
    """Draw the clusters' centres (`find_unknown_risks`) as a heat map, candidates first and marked."""
    shown = table.head(max_rows)
    words = [f"{'► ' if r.is_candidate else ''}{r.size:,} replies, {r.n_prompts:,} prompts; "
             f"{_shorten(r.category, r.purity)}; J = {r.stability:.2f}" for r in shown.itertuples()]
    figure, axis = plt.subplots(figsize=(4.2 + 0.42 * theory.n_dims, 1.8 + 0.27 * len(shown)), layout="constrained")
    sns.heatmap(shown[list(theory.dimensions)].to_numpy(float), vmin=-1, vmax=1, cmap=DIVERGING, ax=axis,
                linewidths=0.4, xticklabels=theory.dimensions, yticklabels=words,
                cbar_kws={"label": "mean score", "shrink": 0.6})
    axis.tick_params(axis="x", rotation=60)
    axis.tick_params(axis="y", rotation=0)
    plt.setp(axis.get_xticklabels(), ha="right", rotation_mode="anchor")
    for label, is_candidate in zip(axis.get_yticklabels(), shown.is_candidate, strict=True):
        label.set_weight("bold" if is_candidate else "normal")
    return figure


@styled
def plot_radar(table: pd.DataFrame, theory: Theory) -> Figure:
    """Draw the models' mean vectors (`average_models`) round the theory's circle, or in its own order without one.

    One panel for all replies, one for non-refusals where there are refusals. Source: after the paper's radar.

    >>> from fulcra_utils.theory.theory import load_theory
    >>> theory = load_theory("moral_foundations")
    >>> means = pd.DataFrame({"model": "a", "rows": "all", "quantity": theory.dimensions, "mean": 0.5, "low": 0.4,
    ...                       "high": 0.6})
    >>> [t.get_text() for t in plot_radar(means, theory).axes[0].get_xticklabels()] == list(theory.dimensions)
    True
    """
    order = list(theory.circle or theory.dimensions)
    table = table[table.quantity.isin(order)]
    angles = np.linspace(0, 2 * np.pi, len(order), endpoint=False)
    panels = [r for r in ("all", "non-refusals") if (table.rows == r).any()]
    size = 4.4 + 0.12 * max(0, len(order) - 10)
    figure, axes = plt.subplots(1, len(panels), figsize=(size * len(panels), size), squeeze=False,
                                subplot_kw={"projection": "polar"}, layout="constrained")
    models, close = list(dict.fromkeys(table.model)), [*range(len(order)), 0]
    for axis, rows in zip(axes[0], panels, strict=True):
        for k, model in enumerate(models):
            part = table[(table.model == model) & (table.rows == rows)].set_index("quantity").reindex(order).iloc[close]
            axis.plot(angles[close], part["mean"], color=COLOURS[k % 10], linewidth=1.4, marker=MARKERS[k % 10],
                      markersize=4, label=model)
            axis.fill_between(angles[close], part.low, part.high, alpha=0.2, color=COLOURS[k % 10], linewidth=0)
        axis.set_theta_offset(np.pi / 2)
        axis.set_theta_direction(-1)
        axis.set_xticks(angles, [fill(name, 14) for name in order])
        for label, angle in zip(axis.get_xticklabels(), angles, strict=True):
            label.set_ha("center" if abs(np.sin(angle)) < 0.1 else "left" if np.sin(angle) > 0 else "right")
        axis.tick_params(axis="x", pad=3)
        low = min(-0.25, table.low.min())
        axis.set(ylim=(max(-1, low), 1), yticks=[v for v in (-0.5, 0, 0.5, 1) if v >= low])
        axis.plot(np.linspace(0, 2 * np.pi, 100), np.zeros(100), color=BLACK, linewidth=0.8)
        axis.set_title({"all": "all replies", "non-refusals": "non-refusals only"}[rows], pad=16)
    return finish(figure, ncols=min(5, len(models)))


@styled
def plot_differences(table: pd.DataFrame, theory: Theory, max_pairs: int = 4) -> Figure:
    """Draw paired differences of models (`compare_models`): as they are, refusal and length alike, where both answer.

    Pairs beyond `max_pairs` stand in the table only.
    """
    pairs = list(dict.fromkeys(zip(table["first"], table["second"], strict=True)))[:max_pairs]
    figure, axes = plt.subplots(1, len(pairs), figsize=(1.8 + 2.9 * len(pairs), 1.7 + 0.36 * theory.n_dims),
                                sharey=True, sharex=True, squeeze=False, layout="constrained")
    kinds = [(("difference", "low", "high"), "as they are"),
             (("adjusted", "adjusted_low", "adjusted_high"), "refusal and length alike"),
             (("both_answer", "both_answer_low", "both_answer_high"), "neither refuses")]
    for axis, (first, second) in zip(axes[0], pairs, strict=True):
        part = table[(table["first"] == first) & (table["second"] == second)]
        _draw_dots(axis, theory, [(part, columns, name) for columns, name in kinds])
        axis.set(title=f"{first}\n− {second}", xlabel="mean difference")
    return finish(figure, ncols=3)


@styled
def plot_circle(places: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Draw the values where scaling puts them, turned onto the theory's circle, and the fits (`examine_circle`)."""
    tested = table[table.fit.notna()].reset_index(drop=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, max(4.6, 1 + 0.26 * len(tested))), layout="constrained",
                                         width_ratios=(1.1, 1))
    turn = np.linspace(0, 2 * np.pi, 200)
    left.plot(np.cos(turn), np.sin(turn), color=GREY, linewidth=0.8, linestyle=":")
    left.plot(*(places[[f"ideal_{axis}", axis]].to_numpy().T for axis in "xy"), color=PALE, linewidth=0.8, zorder=1)
    left.scatter(places.ideal_x, places.ideal_y, facecolor="white", edgecolor=GREY, s=30, label="the theory's circle")
    left.scatter(places.x, places.y, color=BLUE, s=32, zorder=3, label="scaling of the replies")
    left.set(aspect="equal", xticks=[], yticks=[])
    left.margins(0.22)
    left.spines[:].set_visible(False)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2)
    rows = np.arange(len(tested))
    right.scatter(tested.fit, rows, color=[BLUE if p <= 0.05 else "white" for p in tested.fit_p], s=30, zorder=3,
                  edgecolor=BLUE, label="fit (filled: p ≤ 0.05)")
    right.scatter(tested.fit_null, rows, marker="|", color=BLACK, s=60, label="95 % of shuffled names")
    name_rows(right, tested.subset + ", " + tested.variant + np.where(tested.centred, ", centred", ""),
              "Procrustes fit (R²)")
    right.set_xlim(0, 1)
    right.legend(loc="upper center", bbox_to_anchor=(0.4, -0.1), ncols=2)
    label_points(left, places[["x", "y"]].to_numpy(float), places.value.tolist())
    return figure


def _draw_dots(axis: Axes, theory: Theory, series: list[tuple[pd.DataFrame, tuple[str, str, str], str]]) -> None:
    """Draw series (table by value, columns, name) of intervals a row a value, shifted so that none covers another."""
    for k, (table, columns, name) in enumerate(series):
        draw_intervals(axis, table.set_index("value").reindex(theory.dimensions),
                       np.arange(theory.n_dims) + (k - (len(series) - 1) / 2) * 0.22, columns, COLOURS[k], MARKERS[k],
                       name, k == 0)
    axis.axvline(0, color=BLACK, linewidth=0.8)
    name_rows(axis, theory.dimensions)


def _shorten(category: str, share: float) -> str:
    """Return a category without its list of synonyms, and its share."""
    return f"{category.split(',')[0].replace('_', ' ')} {share:.0%}" if share > 0 else "no known category"
