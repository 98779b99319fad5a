"""Figures of the data set: prevalence, coverage of the prompt pool, agreement, margins. Data in, Figure out."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fulcra_utils.plots.style import finish

BLUE, ORANGE, GREY, GREEN = "#0072B2", "#D55E00", "#999999", "#009E73"  # Okabe and Ito's colour-blind safe set


def plot_prevalence(prevalence: pd.DataFrame, published: pd.DataFrame | None = None, title: str = "") -> Figure:
    """Draw the share of replies that support (right) and oppose (left) each dimension, with the published bars.

    Parameters
    ----------
    prevalence : DataFrame
        dimension, aligned, opposed (per cent), from `measure_prevalence`.
    published : DataFrame, optional
        dimension, aligned, opposed, mentioned (per cent); nan where nothing is published.
    title : str

    Returns
    -------
    Figure
    """
    n_dims = len(prevalence)
    figure, axes = plt.subplots(figsize=(7.5, 1.4 + 0.42 * n_dims), layout="constrained")
    rows, height = np.arange(n_dims), 0.38 if published is not None else 0.7
    shift = height / 2 if published is not None else 0.0
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
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(rows, prevalence.dimension)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g} %")
    axes.set_xlabel("← opposed   share of replies   supported →")
    axes.set_title(title)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14 - 0.25 / n_dims), ncols=2, frameon=False)
    return finish(figure)


def plot_coverage(summary: pd.DataFrame, measures: dict[str, str], title: str = "") -> Figure:
    """Draw how far each method of choosing prompts differs from random choice, with 95 % intervals.

    Parameters
    ----------
    summary : DataFrame
        method, measure, difference, low, high, from `summarise_selections`.
    measures : dict
        Measure → words; one panel each.
    title : str

    Returns
    -------
    Figure
    """
    methods = [name for name in summary.method.unique() if name != "random"]
    size = (3.4 * len(measures), 1.5 + 0.4 * len(methods))
    figure, panels = plt.subplots(1, len(measures), figsize=size, sharey=True, layout="constrained", squeeze=False)
    for axes, (measure, words) in zip(panels[0], measures.items(), strict=True):
        shown = summary[summary.measure == measure].set_index("method").reindex(methods)
        rows = np.arange(len(methods))
        reach = np.stack([shown.difference - shown.low, shown.high - shown.difference])
        axes.errorbar(shown.difference, rows, xerr=reach, fmt="o", color=BLUE, capsize=3)
        axes.axvline(0, color=GREY, linewidth=1, linestyle="--")
        axes.set_yticks(rows, methods)
        axes.set_ylim(len(methods) - 0.5, -0.5)
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlabel(words)
    return finish(figure, title)


def plot_agreement(agreement: pd.DataFrame, statistics: dict[str, str], title: str = "") -> Figure:
    """Draw agreement statistics for each value with their intervals.

    Parameters
    ----------
    agreement : DataFrame
        name, statistic, value, low, high, from `measure_agreement`.
    statistics : dict
        Statistic → words; at most four.
    title : str

    Returns
    -------
    Figure
        A statistic that is not defined for a value has no point.
    """
    names = list(dict.fromkeys(agreement.name))
    figure, axes = plt.subplots(figsize=(7.5, 1.6 + 0.38 * len(names)), layout="constrained")
    rows, step = np.arange(len(names)), 0.7 / len(statistics)
    looks = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), ("black", "D"))
    for k, ((statistic, words), (color, marker)) in enumerate(zip(statistics.items(), looks, strict=False)):
        shown = agreement[agreement.statistic == statistic].set_index("name").reindex(names)
        reach = np.stack([shown.value - shown.low, shown.high - shown.value]).clip(min=0)
        axes.errorbar(shown.value, rows + (k - (len(statistics) - 1) / 2) * step, xerr=reach, fmt=marker, color=color,
                      capsize=2, markersize=5, label=words)
    axes.axvline(0, color=GREY, linewidth=1, linestyle="--")
    axes.set_yticks(rows, names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(right=1.02)
    axes.set_xlabel("agreement (0 = chance, 1 = perfect)")
    axes.set_title(title)
    below = (0.5, -0.16 - 0.3 / len(names))
    axes.legend(loc="upper center", bbox_to_anchor=below, ncols=len(statistics), frameon=False)
    return finish(figure)


def plot_queue(queue: pd.DataFrame, title: str = "") -> Figure:
    """Draw how many cases of a review queue each value has, by why they are in it.

    Parameters
    ----------
    queue : DataFrame
        name, why, from `build_queue`.
    title : str

    Returns
    -------
    Figure
    """
    counts = queue.groupby(["name", "why"]).size().unstack(fill_value=0)
    counts = counts.loc[counts.sum(axis=1).sort_values(ascending=False).index]
    figure, axes = plt.subplots(figsize=(7.5, 1.6 + 0.32 * max(len(counts), 1)), layout="constrained")
    left = np.zeros(len(counts))
    looks = {"opposite signs": (ORANGE, ""), "nobody could label it": (GREY, ".."), "they disagree": (BLUE, "//")}
    for why, (color, hatch) in looks.items():
        if why in counts:
            axes.barh(counts.index, counts[why], left=left, color=color, hatch=hatch, edgecolor="white", label=why)
            left += counts[why].to_numpy()
    axes.invert_yaxis()
    axes.set_xlabel("cases in the queue")
    axes.set_title(title)
    if len(counts):
        axes.legend(frameon=False, loc="lower right")
    return finish(figure)
