"""Figures of the data set and of the value analysis: table in, Figure out.

Nothing is computed here that a reader would want to check; an empty table draws nothing. Colour is never alone where
two series overlap: markers differ too.
"""

from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fulcra_utils.plots.parts import (
    draw_matrix,
    finish,
    label_points,
    name_rows,
    name_spokes,
    open_panels,
    plot_matrix,
    plot_series,
)
from fulcra_utils.plots.style import BLACK, BLUE, COLOURS, GREY, MARKERS, ORANGE, PALE, style_plots
from fulcra_utils.theory.theory import Theory


def plot_prevalence(prevalence: pd.DataFrame, published: pd.DataFrame | None = None, title: str = "") -> Figure:
    """Draw the per cent of replies that support (right) and oppose (left) each dimension, with the published bars.

    Takes the table of `measure_prevalence`, or of `tabulate_prevalence`, whose intervals are drawn.
    """
    if is_counted := "sign" in prevalence:
        every = prevalence[prevalence.by == "all"]
        shares = 100 * every.pivot(index="value", columns="sign")[["share", "low", "high"]].loc[every.value.unique()]
        prevalence = shares.share.rename(columns={"supported": "aligned"}).reset_index(names="dimension")
    bars = [(-1, prevalence.aligned, BLUE, "supported, this run"),
            (-1, -prevalence.opposed, ORANGE, "opposed, this run")]
    if published is not None:
        shown = published.set_index("dimension").reindex(prevalence.dimension)
        bars += [(1, shown.aligned, BLUE, "supported, published"), (1, -shown.opposed, ORANGE, "opposed, published"),
                 (1, shown.mentioned.where(shown.aligned.isna()), GREY, "supported or opposed, published")]
    figure, axes = plt.subplots(figsize=(7.5, 1.6 + 0.42 * len(prevalence)))
    rows, height, shift = np.arange(len(prevalence)), *((0.7, 0) if published is None else (0.38, 0.19))
    for side, widths, colour, label in bars:
        look = {"hatch": "////", "facecolor": "none", "linewidth": 0.8} if side > 0 else {"facecolor": colour}
        axes.barh(rows + side * shift, widths, height, edgecolor=colour, label=label, **look)
    for sign, side in (("supported", 1), ("opposed", -1)) if is_counted else ():
        axes.hlines(rows - shift, side * shares.low[sign], side * shares.high[sign], color=BLACK, linewidth=0.9)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    name_rows(axes, prevalence.dimension, "← opposed   share of replies   supported →")
    axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g} %")
    return finish(figure, title, ncols=2)


def plot_coverage(summary: pd.DataFrame, measures: dict[str, str], title: str) -> Figure:
    """Draw how far each method of choosing prompts differs from random choice: a panel for each measure → words."""
    shown = summary[summary.method != "random"].set_index("method")
    panels = {words: {"": shown[shown.measure == measure]} for measure, words in measures.items()}
    return plot_series(shown.index.unique(), panels, "difference", title, width=3)


def plot_agreement(agreement: pd.DataFrame, statistics: dict[str, str], title: str) -> Figure:
    """Draw agreement statistics (→ words) for each value; one that is not defined has no point."""
    series = {words: agreement[agreement.statistic == name].set_index("name") for name, words in statistics.items()}
    return plot_series(agreement["name"].unique(), {"agreement (0 = chance, 1 = perfect)": series}, "value", title,
                       limits=(None, 1.02))


def plot_queue(queue: pd.DataFrame, title: str) -> Figure:
    """Draw how many cases of a review queue each value has, by why they are in it."""
    looks = {"opposite signs": ORANGE, "nobody could label it": GREY, "they disagree": BLUE}
    counts = pd.crosstab(queue["name"], queue["why"]).filter(looks)
    counts = counts.loc[counts.sum(axis=1).sort_values(ascending=False).index]
    figure, axes = plt.subplots(figsize=(7.5, 1.6 + 0.32 * len(counts)))
    counts.rename_axis(None).plot.barh(stacked=True, ax=axes, color=looks, width=0.8)
    name_rows(axes, counts.index, "cases in the queue")
    axes.legend(loc="lower right")
    return finish(figure, title)


def plot_risks(table: pd.DataFrame, theory: Theory, risks: dict[str, str]) -> Figure:
    """Draw the value x risk table of one way of correlating (risk → title): ours, the published one, the difference.

    A star marks an adjusted p below 0.05, a frame a cell whose whole interval lies outside the tolerance.
    """
    ours, published, tolerance, low, high, p = (
        table.pivot(index="value", columns="risk", values=name).reindex(theory.dimensions)[list(risks)]
        for name in ("r", "reported", "tolerance", "low", "high", "p_adjusted"))
    panels = [("this run", ours)]
    if published.notna().any(axis=None):
        panels += [("published", published), ("this run − published", ours - published)]
    figure, axes = open_panels(len(panels), 3, 2.6 + 0.3 * theory.n_dims, sharey=True)
    for axis, (title, values) in zip(axes, panels, strict=True):
        stars = (p < 0.05).map({True: "*", False: ""}.get) if title == "this run" else ""
        image = draw_matrix(axis, values, values.map("{:+.2f}".format) + stars, 0.6)
        axis.set_xticks(range(len(risks)), [fill(r, 12, break_long_words=False) for r in risks.values()], rotation=90)
        axis.set_title(title)
    figure.colorbar(image, ax=axis, label="correlation")
    for row, column in np.argwhere(((high < published - tolerance) | (low > published + tolerance)).to_numpy()):
        axis.add_patch(plt.Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=BLACK, linewidth=1.6))
    return figure


def plot_space(table: pd.DataFrame) -> Figure:
    """Draw the value space (`project_replies`): the first projection large by risk, with the published profiles.

    Below, small: the same by model, refusal and reward, then each further projection by risk, refusal and reward.
    """
    table = table.replace({"method": {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}})
    first, *further = table.method.unique()
    small = [[f"{first}, by {column}" for column in ("model", "refusal", "reward")],
             *([f"{method}, by {column}" for column in ("risk", "refusal", "reward")] for method in further)]
    figure, panels = plt.subplot_mosaic([[f"{first}, by risk"] * 3, *small], figsize=(9, 5.6 + 3 * len(small)),
                                        height_ratios=[1.9, *[1] * len(small)])
    large = panels[f"{first}, by risk"]
    for title, axes in panels.items():
        method, column = title.split(", by ")
        points, size = table[table.method == method], 3 if axes is large else 1
        replies, poles = points[points.pole == ""], points[points.pole != ""]
        _scatter(axes, replies, column, size)
        axes.scatter(poles.x, poles.y, marker="X", s=40 * size, color=BLACK, edgecolor="white", linewidth=0.8, zorder=4)
        axes.set(xticks=[], yticks=[], title=title)
        axes.spines[:].set_visible(False)
        if axes is large or method == first and column != "reward":
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=1 + size, markerscale=1.6)
    poles = table[(table.method == first) & (table.pole != "")]
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
        drawn = axes.scatter(replies.x, replies.y, s=7 * size, c=replies.reward, alpha=0.7, vmin=low, vmax=high,
                             rasterized=True)
        axes.figure.colorbar(drawn, ax=axes, label="reward", shrink=0.8)
        return
    dull = {"several risks": "#bbbbbb", **dict.fromkeys(("no listed risk", "not known", "nan", "None"), PALE)}
    names = replies[column].value_counts().index
    for k, name in enumerate(sorted(names, key=lambda name: name not in dull)):   # the dull ones below
        part = replies[replies[column] == name]
        axes.scatter(part.x, part.y, s=7 * size, alpha=0.75, linewidth=0, rasterized=True,
                     color=dull.get(name, COLOURS[k % 10]), marker=MARKERS[k % 10], label=fill(str(name), 22))


def plot_probes(table: pd.DataFrame) -> Figure:
    """Draw what each feature set tells of preference, risk and reward (`probe_replies`), beside chance and null."""
    labels = {"preference": "which reply is preferred\n(accuracy)", "risk": "risk of the prompt\n(balanced accuracy)",
              "reward": "reward\n(cross-validated R²)"}
    parts = {words: part.set_index("features") for task, words in labels.items()
             if len(part := table[table.task == task])}
    panels = {words: {"all replies": part[part.rows == "all"], "non-refusals only": part[part.rows != "all"]}
              for words, part in parts.items()}
    return plot_series(table.features.unique(), panels, "score", line=[part.chance.iloc[0] for part in parts.values()],
                       null="95 % of permutations", width=3)


def plot_weights(table: pd.DataFrame, theory: Theory) -> Figure:
    """Draw the preference probe's weight of each value (`weigh_values`), alone and with refusal and length fixed."""
    series = {name: part.set_index("value") for name, part in table.groupby("with", sort=False)}
    return plot_series(theory.dimensions, {"log-odds of being preferred, value 0 → 1": series}, "weight")


def plot_clusters(table: pd.DataFrame, theory: Theory) -> Figure:
    """Draw the clusters' centres (`find_unknown_risks`) as a heat map, candidates first and marked: at most 30."""
    shown = table.head(30)
    known = shown.category.str.split(",").str[0].str.replace("_", " ") + shown.purity.map(" {:.0%}".format)
    shown = shown.assign(known=known.where(shown.purity > 0, "no known category"))
    words = [f"{'► ' if r.is_candidate else ''}{r.size:,} replies, {r.n_prompts:,} prompts; {r.known}; "
             f"J = {r.stability:.2f}" for r in shown.itertuples()]
    return plot_matrix(shown[list(theory.dimensions)].set_axis(words), "", "mean score")


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
    panels = {"all": "all replies"} | ({"non-refusals": "non-refusals only"} if (table.rows != "all").any() else {})
    size = 4.4 + 0.12 * max(0, len(order) - 10)
    circular = {"projection": "polar", "theta_offset": np.pi / 2, "theta_direction": -1}
    figure, axes = open_panels(len(panels), size, size, subplot_kw=circular)
    models, close = list(dict.fromkeys(table.model)), [*range(len(order)), 0]
    for axis, rows in zip(axes, panels, strict=True):
        for k, model in enumerate(models):
            part = table[(table.model == model) & (table.rows == rows)].set_index("quantity").reindex(order).iloc[close]
            axis.plot(angles[close], part["mean"], color=COLOURS[k % 10], linewidth=1.4, marker=MARKERS[k % 10],
                      markersize=4, label=model)
            axis.fill_between(angles[close], part.low, part.high, alpha=0.2, color=COLOURS[k % 10], linewidth=0)
        name_spokes(axis, order, 8)
        low = np.nanmin([-0.25, *table["mean"], *table.low])
        axis.set(ylim=(max(-1, low), 1), yticks=[v for v in (-0.5, 0, 0.5, 1) if v >= low])
        axis.plot(np.linspace(0, 2 * np.pi, 100), np.zeros(100), color=BLACK, linewidth=0.8)
        axis.set_title(panels[rows], pad=16)
    return finish(figure, ncols=min(5, len(models)))


def plot_differences(table: pd.DataFrame, theory: Theory) -> Figure:
    """Draw paired differences of models (`compare_models`): as they are, refusal and length alike, where both answer.

    Pairs beyond four stand in the table only.
    """
    kinds = {"as they are": "difference", "refusal and length alike": "adjusted", "neither refuses": "both_answer"}
    table, panels = table.rename(columns={"low": "difference_low", "high": "difference_high"}).set_index("value"), {}
    for (first, second), part in list(table.groupby(["first", "second"], sort=False))[:4]:
        panels[f"{first}\n− {second}"] = {
            words: part[[name, f"{name}_low", f"{name}_high"]].set_axis(["mean", "low", "high"], axis=1)
            for words, name in kinds.items()}
    return plot_series(theory.dimensions, panels, "mean", "Difference of the mean value scores", width=3)


def plot_circle(places: pd.DataFrame, table: pd.DataFrame, theory: Theory) -> Figure:
    """Draw the values where scaling puts them, turned onto the theory's circle, and the fits (`examine_circle`).

    Values of the theory without a place are named.
    """
    tested = table[table.fit.notna()].reset_index(drop=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, max(4.6, 1 + 0.26 * len(tested))), width_ratios=(1.1, 1))
    left.add_patch(plt.Circle((0, 0), 1, fill=False, color=GREY, linewidth=0.8, linestyle=":"))
    left.plot(*(places[[f"ideal_{axis}", axis]].to_numpy().T for axis in "xy"), color=GREY, linewidth=0.8, zorder=1)
    left.scatter(places.ideal_x, places.ideal_y, facecolor="white", edgecolor=GREY, s=30, label="the theory's circle")
    left.scatter(places.x, places.y, color=BLUE, s=32, zorder=3, label="scaling of the replies")
    left.set(aspect="equal", xticks=[], yticks=[])
    left.margins(0.22)
    if rare := [name for name in theory.dimensions if name not in set(places.value)]:
        left.set_title(f"too rare for a place: {', '.join(rare)}")
    left.spines[:].set_visible(False)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2)
    rows = np.arange(len(tested))
    right.scatter(tested.fit, rows, color=[BLUE if p <= 0.05 else "white" for p in tested.p_adjusted], s=30,
                  zorder=3, edgecolor=BLUE, label="fit (filled: fit and order beat chance, corrected for all rows)")
    right.scatter(tested.fit_null, rows, marker="|", color=BLACK, s=60, label="95 % of shuffled names")
    name_rows(right, tested.subset + ", " + tested.variant + np.where(tested.centred, ", centred", ""),
              "Procrustes fit (R²)")
    right.set_xlim(0, 1)
    right.legend(loc="upper center", bbox_to_anchor=(0.4, -0.1))
    marks = np.vstack([places[["x", "y"]], places[["ideal_x", "ideal_y"]]]).astype(float)
    label_points(left, marks, [*places.value, *[""] * len(places)])     # no name lies on a hollow mark
    return figure


style_plots(globals())
