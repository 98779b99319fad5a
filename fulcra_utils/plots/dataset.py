"""Figures of the data set: prevalence, coverage of the prompt pool, agreement, margins. Data in, Figure out."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fulcra_utils.plots.parts import draw_series, finish, name_rows, open_panels
from fulcra_utils.plots.style import BLACK, BLUE, GREY, ORANGE, styled


@styled
def plot_prevalence(prevalence: pd.DataFrame, published: pd.DataFrame | None = None, title: str = "") -> Figure:
    """Draw the per cent of replies that support (right) and oppose (left) each dimension, with the published bars."""
    figure, axes = plt.subplots(figsize=(7.5, 1.6 + 0.42 * len(prevalence)))
    rows, height = np.arange(len(prevalence)), 0.7 if published is None else 0.38
    bars = [(prevalence.aligned, BLUE, "supported, this run"), (-prevalence.opposed, ORANGE, "opposed, this run")]
    for widths, colour, label in bars:
        axes.barh(rows - (published is not None) * height / 2, widths, height, color=colour, label=label)
    if published is not None:
        shown = published.set_index("dimension").reindex(prevalence.dimension)
        bars = [(shown.aligned, BLUE, "supported"), (-shown.opposed, ORANGE, "opposed"),
                (shown.mentioned.where(shown.aligned.isna()), GREY, "supported or opposed")]
        for widths, colour, label in bars if shown.aligned.isna().any() else bars[:2]:
            axes.barh(rows + height / 2, widths, height, edgecolor=colour, label=f"{label}, published",
                      facecolor="none", hatch="////", linewidth=0.8)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    name_rows(axes, prevalence.dimension, "← opposed   share of replies   supported →")
    axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g} %")
    return finish(figure, title, ncols=2)


@styled
def plot_coverage(summary: pd.DataFrame, measures: dict[str, str], title: str) -> Figure:
    """Draw how far each method of choosing prompts differs from random choice: a panel for each measure → words."""
    methods = [name for name in summary.method.unique() if name != "random"]
    figure, panels = open_panels(len(measures), 3, 1.5 + 0.4 * len(methods), sharey=True)
    for axes, (measure, words) in zip(panels, measures.items(), strict=True):
        shown = summary[summary.measure == measure].set_index("method").reindex(methods)
        draw_series(axes, methods, {"": shown}, ("difference", "low", "high"), words)
        axes.locator_params(axis="x", nbins=4)
    return finish(figure, title)


@styled
def plot_agreement(agreement: pd.DataFrame, statistics: dict[str, str], title: str) -> Figure:
    """Draw agreement statistics (→ words) for each value; one that is not defined has no point."""
    names = list(dict.fromkeys(agreement.name))
    figure, axes = plt.subplots(figsize=(7.5, 1.6 + 0.38 * len(names)))
    series = {words: agreement[agreement.statistic == name].set_index("name") for name, words in statistics.items()}
    draw_series(axes, names, series, ("value", "low", "high"), "agreement (0 = chance, 1 = perfect)")
    axes.set_xlim(right=1.02)
    return finish(figure, title, ncols=len(statistics))


@styled
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
