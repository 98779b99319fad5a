"""Figures of the data set: prevalence, coverage of the prompt pool, agreement, margins. Data in, Figure out."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fulcra_utils.plots.style import BLACK, BLUE, GREEN, GREY, ORANGE, draw_intervals, finish, name_rows, styled


@styled
def plot_prevalence(prevalence: pd.DataFrame, published: pd.DataFrame | None = None, title: str = "") -> Figure:
    """Draw the per cent of replies that support (right) and oppose (left) each dimension, with the published bars."""
    n_dims = len(prevalence)
    figure, axes = plt.subplots(figsize=(7.5, 1.6 + 0.42 * n_dims), layout="constrained")
    rows, height = np.arange(n_dims), 0.7 if published is None else 0.38
    shift = 0 if published is None else height / 2
    axes.barh(rows - shift, prevalence.aligned, height, color=BLUE, label="supported, this run")
    axes.barh(rows - shift, -prevalence.opposed, height, color=ORANGE, label="opposed, this run")
    if published is not None:
        shown = published.set_index("dimension").reindex(prevalence.dimension)
        style = {"facecolor": "none", "hatch": "////", "linewidth": 0.8}
        axes.barh(rows + shift, shown.aligned, height, edgecolor=BLUE, label="supported, published", **style)
        axes.barh(rows + shift, -shown.opposed, height, edgecolor=ORANGE, label="opposed, published", **style)
        if shown.aligned.isna().any():
            axes.barh(rows + shift, shown.mentioned.where(shown.aligned.isna()), height, edgecolor=GREY,
                      label="supported or opposed, published", **style)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    name_rows(axes, prevalence.dimension, "← opposed   share of replies   supported →")
    axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g} %")
    return finish(figure, title, ncols=2)


@styled
def plot_coverage(summary: pd.DataFrame, measures: dict[str, str], title: str = "") -> Figure:
    """Draw how far each method of choosing prompts differs from random choice: a panel for each measure → words."""
    methods = [name for name in summary.method.unique() if name != "random"]
    size = (3.4 * len(measures), 1.5 + 0.4 * len(methods))
    figure, panels = plt.subplots(1, len(measures), figsize=size, sharey=True, layout="constrained", squeeze=False)
    for axes, (measure, words) in zip(panels[0], measures.items(), strict=True):
        shown = summary[summary.measure == measure].set_index("method").reindex(methods)
        draw_intervals(axes, shown, np.arange(len(methods)), ("difference", "low", "high"))
        axes.axvline(0, color=GREY, linewidth=1, linestyle="--")
        name_rows(axes, methods, words)
        axes.locator_params(axis="x", nbins=4)
    return finish(figure, title)


@styled
def plot_agreement(agreement: pd.DataFrame, statistics: dict[str, str], title: str = "") -> Figure:
    """Draw up to four agreement statistics (→ words) for each value; one that is not defined has no point."""
    names = list(dict.fromkeys(agreement.name))
    figure, axes = plt.subplots(figsize=(7.5, 1.6 + 0.38 * len(names)), layout="constrained")
    rows, step = np.arange(len(names)), 0.7 / len(statistics)
    looks = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (BLACK, "D"))
    for k, ((statistic, words), (colour, marker)) in enumerate(zip(statistics.items(), looks, strict=False)):
        shown = agreement[agreement.statistic == statistic].set_index("name").reindex(names)
        draw_intervals(axes, shown, rows + (k - (len(statistics) - 1) / 2) * step, colour=colour, marker=marker,
                       label=words)
    axes.axvline(0, color=GREY, linewidth=1, linestyle="--")
    name_rows(axes, names, "agreement (0 = chance, 1 = perfect)")
    axes.set_xlim(right=1.02)
    return finish(figure, title, ncols=len(statistics))


@styled
def plot_queue(queue: pd.DataFrame, title: str = "") -> Figure:
    """Draw how many cases of a review queue each value has, by why they are in it."""
    counts = queue.groupby(["name", "why"]).size().unstack(fill_value=0)
    counts = counts.loc[counts.sum(axis=1).sort_values(ascending=False).index]
    figure, axes = plt.subplots(figsize=(7.5, 1.6 + 0.32 * len(counts)), layout="constrained")
    left = np.zeros(len(counts))
    looks = {"opposite signs": (ORANGE, ""), "nobody could label it": (GREY, ".."), "they disagree": (BLUE, "//")}
    for why, (colour, hatch) in looks.items():
        if why in counts:
            axes.barh(range(len(counts)), counts[why], left=left, color=colour, hatch=hatch, edgecolor="white",
                      label=why)
            left += counts[why].to_numpy()
    name_rows(axes, counts.index, "cases in the queue")
    axes.legend(loc="lower right")
    return finish(figure, title)
